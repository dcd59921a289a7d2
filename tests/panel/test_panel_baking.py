"""Bake my prompt, as the page meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.recipe.grammar import ALL_RANKS
from tests.hosts.fake import FakeHost
from tests.panel.panelhost import Browser

PROMPT = "a cat, <lora:pastry:0.6:1.2>, by <lora:ink:-0.4:lbw=OUTALL>, fog"


def delta(path: Path, stem: str) -> np.ndarray:
    tensors = {key: values.astype(np.float64) for key, values in load_file(path).items() if key.startswith(stem)}
    down = tensors[f"{stem}.lora_down.weight"]
    scale = float(tensors.get(f"{stem}.alpha", len(down))) / len(down)
    return scale * tensors[f"{stem}.lora_up.weight"].reshape(-1, len(down)) @ down.reshape(len(down), -1)


def stems(path: Path) -> set[str]:
    return {key.split(".")[0] for key in load_file(path)}


def test_a_prompt_becomes_one_file_and_its_tags_one_tag(browser: Browser, root: Path) -> None:
    answer = browser.ask("read_prompt", prompt=PROMPT)
    assert answer["ok"]
    assert [one["troubles"] for one in answer["tags"]] == [[], []]
    assert answer["name"] == "pastry+ink"
    answer = browser.ask("bake", prompt=PROMPT, name="my mix")
    result = browser.done(answer["job"])
    assert answer["left"] == []
    assert (result["output"], result["state"], result["retention"]) == ("my mix", "there", 1.0)
    made = root / "my mix.safetensors"
    for stem in stems(root / "pastry.safetensors"):
        out = next((n for n in ("output_blocks_3", "output_blocks_4", "output_blocks_5") if n in stem), None)
        wanted = 1.2 * delta(root / "pastry.safetensors", stem)
        wanted += (-0.4 if out else 0) * delta(root / "ink.safetensors", stem)
        assert np.linalg.norm(delta(made, stem) - wanted) <= 2e-3 * np.linalg.norm(wanted)
    into = browser.ask("bake_into", result=result["result"], prompt=f"{PROMPT} <lora:else:1>")
    assert into["prompt"] == "a cat, <lora:my mix:1>, by, fog <lora:else:1>"
    assert into["replaced"] == 2


def test_it_can_be_undone_and_restored_like_any_result(browser: Browser, root: Path) -> None:
    result = browser.done(browser.ask("bake", prompt=PROMPT, name="mix")["job"])
    assert browser.ask("undo", result=result["result"])["result"]["state"] == "trashed"
    assert not (root / "mix.safetensors").exists()
    again = browser.done(browser.ask("bake", prompt=PROMPT, name="mix")["job"])
    assert again["output"] == "mix_2"  # the first one may come back
    assert browser.ask("restore", result=result["result"])["result"]["state"] == "there"
    tag = browser.ask("prompt_tag", result=result["result"])
    assert (tag["tag"], tag["old_names"]) == ("<lora:mix:1>", [])


@pytest.mark.parametrize("target", [{"preset": "low"}, {"rank": 2}, {"size": 0.3}, {"retention": 0.9}])
def test_a_target_resizes_what_was_baked(browser: Browser, root: Path, target: dict[str, object]) -> None:
    whole = browser.done(browser.ask("bake", prompt=PROMPT, name="whole")["job"])
    small = browser.done(browser.ask("bake", prompt=PROMPT, name="small", target=target)["job"])
    assert small["bytes_after"] < whole["bytes_after"]
    assert small["bytes_after"] == (root / "small.safetensors").stat().st_size


def test_tags_that_cannot_be_baked_stay_and_are_reported_before(browser: Browser) -> None:
    prompt = "<lora:pastry:1> [<lora:ink:1>:10] <lora:nobody:1> <lora:ink:0.1@1,1@9>"
    answer = browser.ask("read_prompt", prompt=prompt)
    assert answer["ok"]
    assert [bool(one["troubles"]) for one in answer["tags"]] == [False, True, True, True]
    assert answer["tags"][2]["lora"] is None
    answer = browser.ask("bake", prompt=prompt)
    assert answer["left"] == ["<lora:ink:1>", "<lora:nobody:1>", "<lora:ink:0.1@1,1@9>"]
    result = browser.done(answer["job"])
    into = browser.ask("bake_into", result=result["result"], prompt=prompt)
    assert into["prompt"] == f"{into['tag']} [<lora:ink:1>:10] <lora:nobody:1> <lora:ink:0.1@1,1@9>"


def test_a_prompt_that_cannot_be_read_is_reported_with_its_column(browser: Browser) -> None:
    answer = browser.ask("read_prompt", prompt="a <lora:pastry:much>")
    assert (answer["ok"], answer["column"]) == (False, 16)
    error = browser.error("bake", prompt="a <lora:pastry:much>")
    assert (error["kind"], error["column"]) == ("prompt", 16)


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"prompt": "nothing"}, "file"),
        ({"prompt": "<lora:nobody:1>"}, "file"),
        ({"prompt": PROMPT, "name": "a/b"}, "request"),
        ({"prompt": PROMPT, "name": "a:b"}, "request"),
        ({"prompt": PROMPT, "recipe": "medium:low"}, "recipe"),
        ({"prompt": PROMPT, "options": {"folder": "../x"}}, "request"),
        ({"prompt": PROMPT, "recipe": "fro_ckpt=1,thr=-3"}, "reference"),
    ],
)
def test_what_cannot_be_is_refused_before_any_job(browser: Browser, params: dict[str, object], kind: str) -> None:
    assert browser.error("bake", **params)["kind"] == kind
    assert browser.ask("status")["queue"] == []


def test_families_that_differ_are_warned_of_and_refused(browser: Browser, root: Path) -> None:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_{}"
    factors = {"lora_up.weight": np.ones((320, 2), np.float32), "lora_down.weight": np.ones((2, 320), np.float32)}
    old = {f"{stem.format(part)}.{suffix}": values for part in "qkv" for suffix, values in factors.items()}
    save_file(old, root / "old.safetensors")
    prompt = "<lora:pastry:1> <lora:old:1>"
    (warning,) = browser.ask("read_prompt", prompt=prompt)["warnings"]
    assert warning["kind"] == "other_family"
    job = browser.wait(browser.ask("bake", prompt=prompt)["job"])
    assert (job["state"], job["error"]["kind"]) == ("failed", "file")
    assert "SDXL" in job["error"]["message"]
    assert str(root) not in job["error"]["message"]


def test_a_file_that_cannot_be_merged_fails_with_the_reason_and_leaves_nothing(browser: Browser, root: Path) -> None:
    write_lora(root / "dora.safetensors", LoraOptions(rank=2, text_encoders=False, dora=True))
    before = set(root.iterdir())
    job = browser.wait(browser.ask("bake", prompt="<lora:pastry:1> <lora:dora:0.5>")["job"])
    assert job["state"] == "failed"
    assert "DoRA" in job["error"]["message"]
    assert set(root.iterdir()) == before


def test_presets_of_the_extension_for_block_weights_are_known(
    browser: Browser, root: Path, tmp_path: Path, host
) -> None:
    prompt = "<lora:pastry:1:lbw=MINE>, <lora:ink:1:MINE>"
    before = browser.ask("read_prompt", prompt="<lora:pastry:1:lbw=MINE>")
    assert "not known" in before["tags"][0]["troubles"][0]
    host.presets = tmp_path / "lbwpresets.txt"
    host.presets.write_text("MINE:1,0,0,0,0,1,0,0,0,0,0,0\n", "utf-8")
    assert [one["troubles"] for one in browser.ask("read_prompt", prompt=prompt)["tags"]] == [[], []]
    result = browser.done(browser.ask("bake", prompt=prompt, name="mine")["job"])
    made = root / "mine.safetensors"
    assert all("te" in stem.split("_")[1] or "middle" in stem for stem in stems(made))
    assert any("middle" in stem for stem in stems(made))
    assert browser.ask("bake_into", result=result["result"], prompt=prompt)["replaced"] == 2


@pytest.fixture
def rotated(root: Path, tmp_path: Path, host) -> Path:
    """A file of nothing but rotations, and the model that they turn in the host's list."""
    chance = np.random.default_rng(5)
    weights = {f"diffusion_model.{i}.weight": chance.standard_normal((24, 16)).astype(np.float32) for i in range(3)}
    turns = {f"lora_unet_{i}.oft_diag": np.stack([np.eye(12, dtype=np.float32)[::-1]] * 2) for i in range(3)}
    save_file(turns, root / "turned.safetensors")
    model = tmp_path / "one.safetensors"
    host.checkpoint_files = [model]
    save_file(weights, model)
    return model


def test_rotations_are_baked_with_the_reference(browser: Browser, rotated: Path, root: Path) -> None:
    """Alone they are listed as what cannot be resized, which does not keep them out of a prompt."""
    prompt = "<lora:turned:0.5>"
    answer = browser.ask("read_prompt", prompt=prompt)
    assert (answer["ok"], answer["tags"][0]["troubles"]) == (True, [])
    options = {"reference": "one.safetensors", "dtype": "32"}
    browser.done(browser.ask("bake", prompt=prompt, name="new", recipe=ALL_RANKS, options=options)["job"])
    found, weights = load_file(root / "new.safetensors"), load_file(rotated)
    for i in range(3):
        weight = weights[f"diffusion_model.{i}.weight"]
        turned = weight.reshape(2, 12, 16)[:, ::-1].reshape(24, 16)
        made = found.get(f"lora_unet_{i}.diff")
        made = delta(root / "new.safetensors", f"lora_unet_{i}") if made is None else made
        assert np.linalg.norm(made - 0.5 * (turned - weight)) < 1e-5 * np.linalg.norm(turned - weight)


def test_rotations_without_a_reference_fail_with_a_remedy(browser: Browser, rotated: Path, root: Path) -> None:
    before = set(root.iterdir())
    order = {"prompt": "<lora:turned:0.5>", "name": "new", "options": {"reference": "none"}}
    job = browser.wait(browser.ask("bake", **order)["job"])
    assert job["state"] == "failed"
    assert "Name the checkpoint" in job["error"]["message"]
    assert set(root.iterdir()) == before


def test_a_bake_is_not_larger_than_its_parts_together_unless_a_recipe_wants_that(
    browser: Browser, rotated: Path, root: Path
) -> None:
    options = {"reference": "one.safetensors", "dtype": "32"}
    order = {"prompt": "<lora:turned:0.5> <lora:turned:0.25>", "options": options}
    parts = (root / "turned.safetensors").stat().st_size  # of one file, though two tags name it
    planned = browser.done(browser.ask("bake_plan", **order, name="new")["job"])
    assert planned["bytes_before"] == parts
    assert planned["bytes_after"] <= parts
    assert "more than its parts together" in " ".join(planned["notes"])
    made = browser.done(browser.ask("bake", **order, name="new")["job"])
    assert made["bytes_after"] == planned["bytes_after"] == (root / "new.safetensors").stat().st_size
    assert made["notes"] == planned["notes"]
    whole = browser.done(browser.ask("bake", **order, name="whole", recipe=ALL_RANKS)["job"])
    assert whole["bytes_after"] > parts


@pytest.mark.parametrize("target", [None, {"preset": "low"}, {"rank": 2}])
def test_the_plan_of_a_bake_is_what_is_written_then_and_writes_nothing(
    browser: Browser, root: Path, target: dict[str, object] | None
) -> None:
    order = {"prompt": PROMPT, "name": "mix", **({} if target is None else {"target": target})}
    before = set(root.iterdir())
    planned = browser.done(browser.ask("bake_plan", **order)["job"])
    assert set(root.iterdir()) == before
    assert browser.ask("results")["results"] == []
    made = browser.done(browser.ask("bake", **order)["job"])
    assert {name: made[name] for name in planned} == planned


def test_the_plan_of_a_prompt_without_loras_is_refused(browser: Browser) -> None:
    assert browser.error("bake_plan", prompt="a cat")["kind"] == "file"


@pytest.mark.parametrize(("features", "count"), [({"parts_in_tags"}, 0), (set(), 1)])
def test_the_remarks_on_a_tag_are_those_of_its_host(
    features: set[str], count: int, browser: Browser, host: FakeHost
) -> None:
    """`in`, `mid` and `out` are SD.Next's own."""
    host.features |= features
    (tag,) = browser.ask("read_prompt", prompt="<lora:pastry:0.6:in=0>")["tags"]
    assert len(tag["remarks"]) == count


def test_a_bake_leaves_out_the_text_encoder_layers_that_a_host_ignores(
    browser: Browser, host: FakeHost, root: Path
) -> None:
    def ignored(name: str) -> Any:
        job = browser.ask("analyse", names=[name])["job"]
        (file,) = browser.done(job)["files"]
        plan = browser.ask("plan", name=name, target={"preset": "medium"})
        kinds = [[one for one in found["warnings"] if one["kind"] == "ignored_text_encoders"] for found in (file, plan)]
        assert kinds[0] == kinds[1]
        return kinds[0]

    write_lora(root / "whole.safetensors", LoraOptions(rank=4, seed=5))
    assert ignored("whole") == []
    host.features |= {"ignores_text_encoders"}
    te = {stem for stem in stems(root / "whole.safetensors") if stem.startswith("lora_te")}
    (warning,) = ignored("whole")
    assert warning["values"] == {
        "count": str(len(te)), "all": str(len(stems(root / "whole.safetensors"))), "host": host.name,
    }  # fmt: skip
    browser.done(browser.ask("bake", prompt="<lora:whole:te=0:unet=1>", name="bare", recipe=ALL_RANKS)["job"])
    assert stems(root / "bare.safetensors") == stems(root / "whole.safetensors") - te
    assert ignored("bare") == []

"""Every kind of adapter that LyCORIS writes keeps the delta that LyCORIS itself applies, at any rank, in any form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lycoris")

import torch
from safetensors.torch import load_file, save_file

from lib_resize import Outcome
from lib_resize.adapters.write.style import DTYPES, Style
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.errors import UnsupportedError
from lib_resize.plans import Plan
from lib_resize.prompts.sources import Member, Source
from lib_resize.recipe.grammar import parse_recipes
from tests.readers.host_rules import RefusedError, SkippedError, a1111_layers, comfyui_layers
from tests.readers.lora_material import Matrix, difference, load, output
from tests.readers.lycoris_material import CARRIED, CASES, PREFIX, base_weights, forward_deltas, shapes, write_lycoris

pytestmark = pytest.mark.filterwarnings("ignore")  # those of third parties are not our business

EXACT = {"32": 1e-6, "16": 1e-3}
PLAIN = [name for name in CASES if name != "glora"]
UNREADABLE = {"dylora", "lokr_tucker"}
"""LyCORIS 4.1.3 writes these and cannot load them: an up of two dimensions with a convolution, and the rank of a
LoKr with a core, which it takes from the wrong side. The hosts load both."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lycoris")
    return {name: write_lycoris(folder / f"{name}.safetensors", case) for name, case in {**CASES, **CARRIED}.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """The network that LyCORIS wrapped, under the names that its LoRAs' names are made of."""
    path: Path = tmp_path_factory.mktemp("base") / "base.safetensors"
    made = base_weights()
    tensors = {f"diffusion_model.blk.{name}.weight": made[name].reshape(shape) for name, shape in shapes().items()}
    save_file({key: torch.from_numpy(value).float() for key, value in tensors.items()}, str(path))
    return path


def run(source: Path, recipe: str, folder: Path, *, dtype: str = "32", convert: str = "none", base=None) -> Outcome:
    settings = Settings(
        recipes=parse_recipes(recipe), output=folder, base=base, style=Style(DTYPES[dtype], convert=convert), threads=1
    )
    (outcome,) = resize([Source((Member(source),))], settings)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def plan_of(outcome: Outcome) -> Plan:
    assert outcome.plan is not None
    return outcome.plan


def by_hosts(path: Path) -> list[dict[str, Matrix]]:
    """What A1111 and ComfyUI add, by their rules."""
    return [rule(load(path), PREFIX, base_weights()) for rule in (a1111_layers, comfyui_layers)]


def true_deltas(name: str, path: Path) -> dict[str, Matrix]:
    """By LyCORIS' own forward, or by ComfyUI's rule where it cannot load what it wrote."""
    found: dict[str, Matrix] = (
        comfyui_layers(load(path), PREFIX, base_weights()) if name in UNREADABLE else forward_deltas(path)
    )
    return found


@pytest.mark.parametrize("dtype", ["32", "16"])
@pytest.mark.parametrize("name", PLAIN)
def test_at_full_rank_nothing_changes(files, tmp_path, name, dtype) -> None:
    found = output(run(files[name], "retain=1", tmp_path, dtype=dtype))
    before, after = true_deltas(name, files[name]), true_deltas(name, found)
    assert set(before) == {"lin", "conv", "one"}
    for layer, delta in before.items():
        assert difference(after[layer], delta) < EXACT[dtype], layer


@pytest.mark.parametrize("name", [name for name in PLAIN if not name.startswith("dora")])
def test_hosts_agree_with_lycoris_before_and_after(files, tmp_path, name) -> None:
    """So that their rules, as we have them, are what they are taken for."""
    found = output(run(files[name], "retain=1", tmp_path))
    before = true_deltas(name, files[name])
    for path in (files[name], found):
        for deltas in by_hosts(path):
            for layer, delta in before.items():
                assert difference(deltas[layer], delta) < 2e-6, layer


@pytest.mark.parametrize("convert", ["none", "lora"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name in PLAIN if not name.startswith("dora")])
def test_the_error_is_what_the_report_says(files, tmp_path, name, rank, convert) -> None:
    outcome = run(files[name], f"rank={rank}", tmp_path, convert=convert)
    before, plans = true_deltas(name, files[name]), {plan.name: plan for plan in plan_of(outcome).layers}
    for deltas in by_hosts(output(outcome)):
        for layer, delta in before.items():
            error = difference(deltas[layer], delta)
            assert error == pytest.approx(plans[PREFIX + layer].error_lora, abs=2e-6), layer
    assert plan_of(outcome).bytes_after == output(outcome).stat().st_size


@pytest.mark.parametrize("name", ["tucker", "loha", "loha_tucker", "lokr", "lokr_full", "full"])
def test_lycoris_loads_the_smaller_file_with_that_error(files, tmp_path, name) -> None:
    outcome = run(files[name], "rank=1", tmp_path)
    before, after = true_deltas(name, files[name]), forward_deltas(output(outcome))
    for plan in plan_of(outcome).layers:
        layer = plan.name.removeprefix(PREFIX)
        assert difference(after[layer], before[layer]) == pytest.approx(plan.error_lora, abs=2e-6)
        assert 0 <= plan.error_lora < 1


@pytest.mark.parametrize("name", ["tucker", "loha", "loha_tucker", "lokr", "lokr_full", "lokr_both", "lokr_tucker"])
def test_converted_to_lora_the_delta_is_the_same(files, tmp_path, name) -> None:
    outcome = run(files[name], "retain=1", tmp_path, convert="lora")
    found, before = load(output(outcome)), true_deltas(name, files[name])
    assert {key.partition(".")[2] for key in found} <= {"lora_up.weight", "lora_down.weight", "alpha", "diff"}
    for deltas in by_hosts(output(outcome)):
        for layer, delta in before.items():
            assert difference(deltas[layer], delta) < 2e-6
    assert any("as requested" in note for note in plan_of(outcome).notes)


@pytest.mark.parametrize("name", ["loha", "loha_tucker"])
@pytest.mark.parametrize("recipe", ["retain=0.9", "fro_lora=1,size=0.02"])
def test_loha_comes_out_in_the_better_form_and_the_note_says_why(files, tmp_path, name, recipe) -> None:
    both = [plan_of(run(files[name], recipe, tmp_path / word, convert=word)) for word in ("none", "lora")]
    taken = plan_of(run(files[name], recipe, tmp_path / "auto", convert="auto"))
    if recipe.startswith("retain"):
        assert taken.bytes_after <= min(plan.bytes_after for plan in both) + 64  # the length of the recipe's record
    else:
        assert taken.retention == pytest.approx(max(plan.retention for plan in both))
    assert any("which is better here" in note for note in taken.notes)


# DoRA -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dora", "dora_loha", "dora_lokr"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_dora_keeps_its_magnitudes_and_its_error_is_that_of_the_normalised_weight(
    files, checkpoint, tmp_path, name, rank
) -> None:
    outcome = run(files[name], f"rank={rank}", tmp_path, base=checkpoint)
    source, found = load(files[name]), load(output(outcome))
    before, after = true_deltas(name, files[name]), forward_deltas(output(outcome))
    for plan in plan_of(outcome).layers:
        layer = plan.name.removeprefix(PREFIX)
        np.testing.assert_array_equal(found[f"{plan.name}.dora_scale"], source[f"{plan.name}.dora_scale"])
        assert difference(after[layer], before[layer]) == pytest.approx(plan.error_lora, rel=1e-3, abs=1e-6)
        lost = np.linalg.norm(after[layer] - before[layer]) / np.linalg.norm(base_weights()[layer])
        assert lost == pytest.approx(plan.error_ckpt, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("algo", ["locon", "loha", "lokr"])
def test_dora_over_inputs_as_onetrainer_has_it(tmp_path, checkpoint, algo) -> None:
    """LyCORIS writes it and cannot load it: the judge is A1111's rule, which is right for this axis."""
    from tests.readers.lycoris_material import Case

    options = {"algo": algo, "dora_wd": True, "wd_on_output": False, **({"factor": 4} if algo == "lokr" else {})}
    path = write_lycoris(tmp_path / "x.safetensors", Case(options, conv_dim=2 if algo == "lokr" else 4))
    outcome = run(path, "rank=2", tmp_path / "out", base=checkpoint)
    before, after = (a1111_layers(load(one), PREFIX, base_weights(), shapes()) for one in (path, output(outcome)))
    for plan in plan_of(outcome).layers:
        layer = plan.name.removeprefix(PREFIX)
        assert difference(after[layer], before[layer]) == pytest.approx(plan.error_lora, rel=1e-3, abs=1e-6)


# GLoRA ------------------------------------------------------------------------------------------------------


def old_layout(path: Path, to: Path) -> Path:
    """The mirrored shapes of the first GLoRA files."""
    swapped = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}
    tensors = load_file(str(path))
    renamed = {}
    for key, value in tensors.items():
        name, _, part = key.partition(".")
        role = part.removesuffix(".weight")
        renamed[f"{name}.{swapped[role]}.weight" if role in swapped else key] = value
    save_file(renamed, str(to))
    return to


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_glora_is_resized_with_its_base(files, checkpoint, tmp_path, rank) -> None:
    outcome = run(files["glora"], f"rank={rank}", tmp_path, base=checkpoint)
    before, after = forward_deltas(files["glora"]), forward_deltas(output(outcome))
    for plan in plan_of(outcome).layers:
        layer = plan.name.removeprefix(PREFIX)
        assert difference(after[layer], before[layer]) == pytest.approx(plan.error_lora, abs=3e-6)
    comfy = comfyui_layers(load(output(outcome)), PREFIX, base_weights())
    assert all(difference(comfy[layer], after[layer]) < 3e-6 for layer in after)


@pytest.mark.parametrize("rank", [2, 4])
def test_glora_of_the_old_layout_stays_in_it(files, checkpoint, tmp_path, rank) -> None:
    source = old_layout(files["glora"], tmp_path / "old.safetensors")
    outcome = run(source, f"rank={rank}", tmp_path / "out", base=checkpoint)
    before = comfyui_layers(load(source), PREFIX, base_weights())
    for rule in (a1111_layers, comfyui_layers):
        after = rule(load(output(outcome)), PREFIX, base_weights())
        for plan in plan_of(outcome).layers:
            layer = plan.name.removeprefix(PREFIX)
            assert difference(after[layer], before[layer]) == pytest.approx(plan.error_lora, abs=3e-6)


def test_glora_without_its_base_is_refused_with_a_remedy(files, tmp_path) -> None:
    with pytest.raises(UnsupportedError, match=r"glora\.safetensors: layer .* is GLoRA.*--base"):
        run(files["glora"], "rank=2", tmp_path)


def test_glora_with_a_base_that_lacks_its_layer_is_refused(files, tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"diffusion_model.blk.other.weight": torch.ones(4, 4)}, str(path))
    with pytest.raises(UnsupportedError, match="has no such layer"):
        run(files["glora"], "rank=2", tmp_path / "out", base=path)


def test_inspect_takes_the_base_for_glora(files, checkpoint, tmp_path, capsys) -> None:
    from lib_resize.cli.main import main

    assert main(["inspect", str(files["glora"])]) == 1
    assert "--base" in capsys.readouterr().err
    assert main(["inspect", "--json", "--base", str(checkpoint), str(files["glora"])]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    outcome = run(files["glora"], "fro_lora=1,min_rank=1,retain=0.88", tmp_path, dtype="16", base=checkpoint)
    assert (found["kind"], found["layers"]) == ("GLoRA", 3)
    assert found["predicted"]["0.88"] == pytest.approx(output(outcome).stat().st_size, rel=0.01)


# Carried ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CARRIED))
def test_what_lycoris_writes_without_ranks_is_refused_alone_and_copied_with_others(files, tmp_path, name) -> None:
    with pytest.raises(UnsupportedError, match="nothing to resize"):
        run(files[name], "rank=2", tmp_path)
    alone = {f"lora_unet_{key}": value for key, value in load_file(str(files[name])).items()}
    save_file({**alone, **load_file(str(files["lora"]))}, str(tmp_path / "both.safetensors"))
    outcome = run(tmp_path / "both.safetensors", "rank=2", tmp_path / "out")
    found = load_file(str(output(outcome)))
    for key, value in alone.items():
        assert torch.equal(found[key], value), key


def test_tlora_is_refused_by_name(tmp_path) -> None:
    from tests.readers.lycoris_material import Case

    path = write_lycoris(tmp_path / "x.safetensors", Case({"algo": "tlora"}))
    with pytest.raises(UnsupportedError, match=r"T-LoRA .* with LyCORIS"):
        run(path, "rank=2", tmp_path / "out")


# Mixed and merged -------------------------------------------------------------------------------------------


def test_a_file_may_mix_kinds_layer_by_layer(files, tmp_path) -> None:
    wanted = {"lin": "loha", "conv": "tucker", "one": "full"}
    tensors = {
        key: value
        for layer, name in wanted.items()
        for key, value in load_file(str(files[name])).items()
        if key.startswith(f"{PREFIX}{layer}.")
    }
    save_file(tensors, str(tmp_path / "mixed.safetensors"))
    outcome = run(tmp_path / "mixed.safetensors", "rank=2", tmp_path / "out")
    before, after = forward_deltas(tmp_path / "mixed.safetensors"), by_hosts(output(outcome))
    for plan in plan_of(outcome).layers:
        layer = plan.name.removeprefix(PREFIX)
        for deltas in after:
            assert difference(deltas[layer], before[layer]) == pytest.approx(plan.error_lora, abs=2e-6)


MERGES = [("lora", "loha"), ("lokr", "tucker"), ("lokr_full", "loha"), ("loha_tucker", "lokr_both"), ("full", "dylora")]


@pytest.mark.parametrize("others", MERGES, ids=" ".join)
def test_kinds_merge_by_their_exact_deltas(files, tmp_path, others) -> None:
    weights = (0.6, -1.5)
    members = tuple(Member(files[name], weight) for name, weight in zip(others, weights, strict=True))
    settings = Settings(recipes=parse_recipes("retain=1"), output=tmp_path, style=Style("F32"), threads=1)
    (outcome,) = resize([Source(members)], settings)
    assert outcome.error is None, outcome.error
    before = [true_deltas(name, files[name]) for name in others]
    for deltas in by_hosts(output(outcome)):
        for layer, found in deltas.items():
            parts = [weight * deltas[layer] for weight, deltas in zip(weights, before, strict=True)]
            assert difference(found, np.sum(parts, axis=0)) < 3e-6


def test_what_rests_on_the_base_meets_no_other_in_a_merge_without_it(files, tmp_path) -> None:
    for name, word in (("glora", "GLoRA"), ("dora", "DoRA magnitude")):
        members = (Member(files[name], 0.5), Member(files["lora"], 0.5))
        settings = Settings(recipes=parse_recipes("rank=2"), output=tmp_path, threads=1)
        (outcome,) = resize([Source(members)], settings)
        assert isinstance(outcome.error, UnsupportedError)
        assert word in str(outcome.error)
        assert "Name the checkpoint" in str(outcome.error)
    assert list(tmp_path.iterdir()) == []


GROUNDED = [("glora", "lora"), ("dora", "loha"), ("dora_loha", "glora"), ("dora_lokr", "tucker"), ("glora", "glora")]


@pytest.mark.parametrize("others", GROUNDED, ids=" ".join)
def test_what_rests_on_the_base_is_merged_where_that_is_known(files, checkpoint, tmp_path, others) -> None:
    """By what LyCORIS' own forward makes of each; a DoRA at strength w adds w of its change of the weight."""
    weights = (0.6, -1.5)
    members = tuple(Member(files[name], weight) for name, weight in zip(others, weights, strict=True))
    style = Style("F32")
    settings = Settings(recipes=parse_recipes("retain=1"), output=tmp_path, base=checkpoint, style=style, threads=1)
    (outcome,) = resize([Source(members)], settings)
    assert outcome.error is None, outcome.error
    assert any("fit only that model" in note for note in plan_of(outcome).notes)
    before = [true_deltas(name, files[name]) for name in others]
    for deltas in by_hosts(output(outcome)):
        assert set(deltas) == {"lin", "conv", "one"}
        for layer, found in deltas.items():
            parts = [weight * deltas[layer] for weight, deltas in zip(weights, before, strict=True)]
            assert difference(found, np.sum(parts, axis=0)) < 3e-6


def test_the_rules_of_hosts_refuse_what_hosts_refuse() -> None:
    with pytest.raises(RefusedError):
        a1111_layers({f"{PREFIX}lin.alpha": np.ones(())}, PREFIX, base_weights())
    with pytest.raises(SkippedError):
        comfyui_layers({f"{PREFIX}lin.weight": np.ones(64), f"{PREFIX}lin.on_input": np.zeros(())}, PREFIX,
                       base_weights())  # fmt: skip

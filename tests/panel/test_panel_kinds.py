"""The panel plans and resizes other kinds than LoRA: what it keeps of a file is enough for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lib_resize.adapters.forms.form import Absent
from tests.panel.panelhost import Browser


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


KINDS = {
    "loha": {"hada_w1_a": random(96, 6), "hada_w1_b": random(6, 80), "hada_w2_a": random(96, 6, seed=1),
             "hada_w2_b": random(6, 80, seed=1)},
    "lokr": {"lokr_w1": random(4, 4), "lokr_w2": random(24, 20, seed=1)},
    "lokr core": {"lokr_w1": random(4, 4), "lokr_t2": random(5, 5, 3, 3), "lokr_w2_a": random(5, 24),
                  "lokr_w2_b": random(5, 20)},
    "tucker": {"lora_up.weight": random(96, 6, 1, 1), "lora_mid.weight": random(6, 6, 3, 3),
               "lora_down.weight": random(6, 80, 1, 1)},
    "full": {"diff": random(48, 40)},
}  # fmt: skip


@pytest.fixture
def kinds(root: Path) -> Path:
    for name, parts in KINDS.items():
        layers = {f"lora_unet_{i}.{role}": value * (i + 1) for i in range(3) for role, value in parts.items()}
        layers |= {f"lora_unet_{i}.alpha": np.array(1.0, np.float32) for i in range(3)}
        save_file(layers, str(root / f"{name}.safetensors"))
    return root


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("target", [{"preset": "medium"}, {"rank": 2}], ids=str)
def test_a_plan_made_of_kept_facts_is_what_is_written(browser: Browser, kinds: Path, name: str, target) -> None:
    shown = browser.analysed(name)["files"][0]
    assert shown["layers"] == 3
    kept = browser.service.desk.analyses.get(browser.service.desk.host.resolve(name))
    assert kept is not None
    assert Absent.__name__ in repr(kept.analysis.adapter.layers[0].form)
    assert "Stored" not in repr(kept.analysis)
    plan = browser.ask("plan", name=name, target=target)
    result = browser.resized(name, target=target)
    assert result["bytes_after"] == plan["bytes_after"]
    assert plan["retention"] == pytest.approx(result["retention"])


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"loha"}))
def test_every_point_of_the_table_has_the_bytes_that_its_plan_has(browser: Browser, kinds: Path, name: str) -> None:
    table = browser.analysed(name)["files"][0]["table"]
    for point in table[:: max(1, len(table) // 6)]:
        plan = browser.ask("plan", name=name, target={"retention": point["retention"]})
        assert point["bytes"] == pytest.approx(plan["bytes_after"], rel=0.01, abs=200)


def test_the_table_of_a_loha_is_that_of_the_form_that_medium_takes(browser: Browser, kinds: Path) -> None:
    shown = browser.analysed("loha")["files"][0]
    nearest = min(shown["table"], key=lambda point: abs(point["retention"] - 0.92))
    plan = browser.ask("plan", name="loha", target={"retention": nearest["retention"]})
    assert nearest["bytes"] == pytest.approx(plan["bytes_after"], rel=0.01, abs=200)


def test_conversion_is_analysed_when_it_is_asked_for(browser: Browser, kinds: Path) -> None:
    browser.analysed("tucker")
    options = {"convert": "lora"}
    assert browser.error("plan", name="tucker", target={"rank": 2}, options=options)["kind"] == "not_analysed"
    browser.analysed("tucker", convert="lora")
    plan = browser.ask("plan", name="tucker", target={"rank": 2}, options=options)
    assert any("as requested" in note for note in plan["notes"])
    result = browser.resized("tucker", target={"rank": 2}, options=options)
    found = load_file(str(next(path for path in kinds.rglob("*.safetensors") if path.stem == result["output"])))
    assert {key.partition(".")[2] for key in found} == {"lora_up.weight", "lora_down.weight", "alpha"}


def test_a_wrong_word_for_conversion_is_refused(browser: Browser) -> None:
    assert browser.error("analyse", names=["pastry"], convert="sideways")["kind"] == "request"
    error = browser.error("plan", name="pastry", target={"rank": 1}, options={"convert": "sideways"})
    assert error["kind"] == "request"


CALLED = {"loha": "LoHa", "lokr": "LoKr", "tucker": "Tucker LoCon", "full": "weight difference"}


@pytest.mark.parametrize(("name", "kind"), CALLED.items())
def test_the_list_shows_the_kind_and_the_rank(browser: Browser, kinds: Path, name: str, kind: str) -> None:
    listed = browser.listed()[name]
    assert (listed["kind"], listed["problem"]) == (kind, None)
    assert listed["rank"] == {"loha": 6, "lokr": 20, "tucker": 6, "full": 40}[name]

"""PEFT's own adapters, as its `save_pretrained` leaves them, keep the delta that PEFT itself computes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch

from lib_resize import LayerError, Outcome
from tests.readers.lora_material import (
    Exact,
    How,
    Matrix,
    Tensors,
    difference,
    load,
    make_factors,
    output,
    resized,
    save,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # those of third parties are not our business

HALF = 1e-3  # rounding of both factors to float16
ROOT = "base_model.model."


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = torch.nn.Linear(24, 40)
        self.to_k = torch.nn.Linear(24, 40)
        self.to_out = torch.nn.ModuleList([torch.nn.Linear(40, 24)])


class Model(torch.nn.Module):
    """Two blocks of attention, a convolution of 3x3 and one of 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Attention(), Attention()])
        self.conv = torch.nn.Conv2d(12, 20, 3)
        self.skip = torch.nn.Conv2d(12, 20, 1)


TARGETS = ["to_q", "to_k", "to_out.0", "conv", "skip"]


@dataclass(frozen=True)
class Saved:
    """An adapter on disk, and PEFT's model of it."""

    path: Path
    model: Any

    @property
    def layers(self) -> dict[str, Any]:
        """Name as in the file, without PEFT's prefix, and PEFT's layer."""
        found = {name: module for name, module in self.model.named_modules() if hasattr(module, "lora_A")}
        return {name.removeprefix(ROOT): module for name, module in found.items()}

    @property
    def true(self) -> dict[str, Exact]:
        return {name: Exact(delta_of(layer)) for name, layer in self.layers.items()}


def delta_of(layer: Any) -> Matrix:
    """What PEFT adds to the weight, flattened."""
    with torch.no_grad():
        delta = layer.get_delta_weight("default")
    return np.asarray(delta.double().reshape(len(delta), -1).numpy())


def saved(folder: Path, *, edit: Callable[[Any], None] | None = None, **settings: Any) -> Saved:
    """Trains an adapter, so to say, and has PEFT save it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(**{"r": 8, "lora_alpha": 8, "target_modules": TARGETS, **settings})
    model = get_peft_model(Model(), config)
    for index, module in enumerate(module for module in model.modules() if hasattr(module, "lora_A")):
        _fill(module, index)
    if edit is not None:
        edit(model)
    model.save_pretrained(str(folder))
    return Saved(folder / "adapter_model.safetensors", model)


def _fill(layer: Any, seed: int) -> None:
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    made = make_factors((len(up), *down.shape[1:]), len(down), [seed])
    with torch.no_grad():
        down.copy_(torch.from_numpy(made.down).reshape(down.shape))
        up.copy_(torch.from_numpy(made.up).reshape(up.shape))


def deltas(path: Path) -> dict[str, Matrix]:
    """``B @ A`` of each layer: there is no configuration next to the result that could scale it."""
    tensors = load(path)
    found = {}
    for key in tensors:
        if ".lora_B." in key and key.endswith(".weight"):
            up, down = tensors[key], tensors[key.replace(".lora_B.", ".lora_A.")]
            name = key.partition(".lora_B.")[0].removeprefix(ROOT)
            found[name] = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
    return found


def ranks(outcome: Outcome) -> dict[str, int]:
    assert outcome.plan is not None
    return {layer.name.removeprefix(ROOT): layer.new_rank for layer in outcome.plan.layers}


def check(outcome: Outcome, true: dict[str, Exact]) -> None:
    found = deltas(output(outcome))
    assert found.keys() == true.keys()
    for name, rank in ranks(outcome).items():
        assert difference(found[name], true[name].truncation(rank)) < HALF, name


SETTINGS: dict[str, dict[str, Any]] = {
    "alpha is rank": {},
    "alpha above rank": {"lora_alpha": 20},
    "alpha below rank": {"lora_alpha": 1},
    "rslora": {"lora_alpha": 6, "use_rslora": True},
    "rank pattern": {"rank_pattern": {"to_q": 4, r"blocks\.1\.to_k": 6, "conv": 3}},
    "alpha pattern": {"lora_alpha": 4, "alpha_pattern": {"to_q": 12, "blocks.0.to_k": 1}},
    "both, and rslora": {
        "lora_alpha": 5,
        "use_rslora": True,
        "rank_pattern": {"to_k": 4, "^conv": 5},
        "alpha_pattern": {"to_out.0": 3, "to_k": 9},
    },
    "all linear": {"target_modules": "all-linear", "lora_alpha": 16},
}


@pytest.mark.parametrize("recipe", ["rank=9999", "fro_lora=1,retain=1"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_full_rank_is_the_delta_of_peft(settings: str, recipe: str, tmp_path: Path) -> None:
    adapter = saved(tmp_path / "adapter", **SETTINGS[settings])
    found = deltas(output(resized(adapter.path, recipe, tmp_path / "out")))
    assert found.keys() == adapter.true.keys()
    for name, true in adapter.true.items():
        assert difference(found[name], true.delta) < HALF, name


@pytest.mark.parametrize("recipe", ["rank=3", "params=1,retain=0.9,min_rank=1", "sv_fro=0.9"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_fewer_dimensions_are_the_best_approximation(settings: str, recipe: str, tmp_path: Path) -> None:
    adapter = saved(tmp_path / "adapter", **SETTINGS[settings])
    outcome = resized(adapter.path, recipe, tmp_path / "out")
    assert min(ranks(outcome).values()) < 8
    check(outcome, adapter.true)


def test_the_scales_of_these_adapters_are_not_all_one(tmp_path: Path) -> None:
    """Else the tests above would say nothing of the configuration."""
    adapter = saved(tmp_path, **SETTINGS["both, and rslora"])
    scales = {round(layer.scaling["default"], 6) for layer in adapter.layers.values()}
    assert len(scales) > 3
    for name, delta in deltas(adapter.path).items():
        assert difference(delta, adapter.true[name].delta) > 0.05, name


def test_names_of_the_adapter_that_leak_into_keys_are_understood(tmp_path: Path) -> None:
    adapter = saved(tmp_path / "adapter", lora_alpha=20)
    leaked = {key.replace(".weight", ".default.weight"): values for key, values in load(adapter.path).items()}
    save(adapter.path, leaked, "F32")
    outcome = resized(adapter.path, "rank=3", tmp_path / "out")
    assert load(output(outcome)).keys() == leaked.keys()
    check(outcome, adapter.true)


@pytest.mark.parametrize("settings", ["alpha above rank", "both, and rslora"])
def test_peft_itself_loads_the_result(settings: str, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel

    adapter = saved(tmp_path / "adapter", **SETTINGS[settings])
    outcome = resized(adapter.path, "params=1,retain=0.9,min_rank=1", tmp_path / "out")
    target = tmp_path / "loaded"
    by_layer = {f"^{name}": rank for name, rank in ranks(outcome).items()}
    config = LoraConfig(
        r=8, lora_alpha=8, target_modules=TARGETS, rank_pattern=by_layer, alpha_pattern=copy.copy(by_layer)
    )
    config.save_pretrained(str(target))
    output(outcome).rename(target / "adapter_model.safetensors")
    model = PeftModel.from_pretrained(Model(), str(target))
    for name, true in adapter.true.items():
        layer = model.get_submodule(ROOT + name)
        assert difference(delta_of(layer), true.truncation(ranks(outcome)[name])) < HALF, name


def test_a_result_next_to_the_configuration_of_its_source_is_not_scaled_again(tmp_path: Path) -> None:
    adapter = saved(tmp_path, lora_alpha=32)
    once = resized(adapter.path, "rank=5", tmp_path)
    assert output(once).parent == adapter.path.parent
    again = resized(output(once), "rank=3", tmp_path)
    check(again, adapter.true)


def test_a_configuration_of_other_ranks_than_the_file_keeps_the_scale_of_training(tmp_path: Path) -> None:
    """Somebody has cut the tensors and left the configuration."""
    adapter = saved(tmp_path / "adapter", lora_alpha=32)
    cut: Tensors = {}
    for key, values in load(adapter.path).items():
        if ".lora_B." in key:
            other = key.replace(".lora_B.", ".lora_A.")
            down = load(adapter.path)[other]
            exact = Exact(values.reshape(len(values), -1) @ down.reshape(len(down), -1))
            u, s, vt = exact.svd
            cut[key] = (u[:, :4] * s[:4]).reshape(len(u), 4, *values.shape[2:])
            cut[other] = vt[:4].reshape(4, *down.shape[1:])
    save(adapter.path, cut, "F32")
    outcome = resized(adapter.path, "rank=4", tmp_path / "out")
    check(outcome, adapter.true)


def test_without_a_configuration_the_scale_is_one(tmp_path: Path) -> None:
    adapter = saved(tmp_path / "adapter", lora_alpha=32)
    true = {name: Exact(delta) for name, delta in deltas(adapter.path).items()}
    (adapter.path.parent / "adapter_config.json").unlink()
    check(resized(adapter.path, "rank=3", tmp_path / "out"), true)


@pytest.mark.parametrize("fields", [{"lora_alpha": "much"}, {"lora_alpha": None}, {"r": 0, "lora_alpha": 8}], ids=str)
def test_a_configuration_without_sense_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    adapter = saved(tmp_path / "adapter")
    adapter.path.with_name("adapter_config.json").write_text(json.dumps(fields), "utf-8")
    with pytest.raises(LayerError, match=r"adapter_model\.safetensors: layer .*adapter_config\.json"):
        resized(adapter.path, "rank=3", tmp_path / "out")


@pytest.mark.parametrize("alpha", [8, 20])
@pytest.mark.parametrize("recipe", ["rank=3", "rank=3,rescale=0.5"])
def test_biases_of_up_act_as_they_did(alpha: int, recipe: str, tmp_path: Path) -> None:
    """PEFT scales the bias with the layer: ``scaling * (B A x + b)``."""

    def fill(model: Any) -> None:
        for layer in model.modules():
            if hasattr(layer, "lora_A"):
                torch.nn.init.normal_(layer.lora_B["default"].bias)

    adapter = saved(tmp_path / "adapter", lora_alpha=alpha, lora_bias=True, edit=fill)
    outcome = resized(adapter.path, recipe, tmp_path / "out")
    strength = 0.5 if "rescale" in recipe else 1.0
    found = load(output(outcome))
    for name, layer in adapter.layers.items():
        wanted = strength * layer.scaling["default"] * layer.lora_B["default"].bias.detach().double().numpy()
        assert difference(found[f"{ROOT}{name}.lora_B.bias"], wanted) < HALF, name
    check(outcome, {name: true.times(strength) for name, true in adapter.true.items()})


def test_magnitudes_of_dora_stay_as_they_are(tmp_path: Path) -> None:
    adapter = saved(tmp_path / "adapter", lora_alpha=20, use_dora=True)
    before = load(adapter.path)
    outcome = resized(adapter.path, "rank=3", tmp_path / "out")
    after = load(output(outcome))
    magnitudes = [key for key in before if "magnitude" in key]
    assert len(magnitudes) == len(adapter.layers)
    assert all(np.array_equal(before[key], after[key]) for key in magnitudes)
    check(outcome, adapter.true)


def test_modules_that_were_trained_whole_go_along(tmp_path: Path) -> None:
    adapter = saved(tmp_path / "adapter", target_modules=["to_q", "to_k"], modules_to_save=["skip"], lora_alpha=20)
    before = load(adapter.path)
    outcome = resized(adapter.path, "rank=3", tmp_path / "out")
    after = load(output(outcome))
    whole = [key for key in before if "lora_" not in key]
    assert whole
    assert outcome.plan is not None
    assert {key for key, _ in outcome.plan.copied} == set(whole)
    assert all(np.array_equal(before[key], after[key]) for key in whole)


@pytest.mark.parametrize("dtype", ["16", "32", "bf16", "same"])
def test_every_dtype_keeps_the_delta(dtype: str, tmp_path: Path) -> None:
    adapter = saved(tmp_path / "adapter", lora_alpha=20)
    found = deltas(output(resized(adapter.path, "rank=9999", tmp_path / "out", How(dtype))))
    tolerance = {"16": HALF, "bf16": 1e-2}.get(dtype, 1e-5)
    for name, true in adapter.true.items():
        assert difference(found[name], true.delta) < tolerance, name

"""diffusers' own loader on a tiny SDXL pipeline applies what we mean, in every spelling that it reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

import torch

from lib_resize import Outcome
from lib_resize.prompts.sources import Member, Source
from tests.readers import tiny_sdxl
from tests.readers.lora_material import (
    Exact,
    How,
    Key,
    Lora,
    Tensors,
    constant,
    difference,
    diffusers_export,
    dotted_stem,
    exact,
    halves,
    kohya,
    kohya_diffusers_stem,
    load,
    make_factors,
    make_lora,
    metadata_of,
    old_processors,
    output,
    peft_style,
    resized,
    save,
    unscaled,
)
from tests.readers.tiny_sdxl import Applied, applied

pytestmark = pytest.mark.filterwarnings("ignore")  # those of third parties are not our business

HALF = 1e-3  # rounding of both factors to float16
KOHYA_METADATA = {"ss_base_model_version": "sdxl_base_v1-0", "ss_network_dim": "8", "ss_network_alpha": "4.0"}


@dataclass(frozen=True)
class Spelling:
    write: Callable[[Lora], Tensors]
    has_alpha: bool = False
    attention_only: bool = False

    def lora(self, lora: Lora) -> Lora:
        """What this spelling can hold of a LoRA."""
        kept = {
            key: f for key, f in lora.items() if not self.attention_only or (key[0] == "unet" and ".attn" in key[1])
        }
        return kept if self.has_alpha else unscaled(kept)


SPELLINGS = {
    "kohya": Spelling(kohya, has_alpha=True),
    "kohya-diffusers": Spelling(lambda lora: kohya(lora, kohya_diffusers_stem), has_alpha=True),
    "diffusers": Spelling(diffusers_export),
    "old-processor": Spelling(old_processors, attention_only=True),
    "peft-style": Spelling(peft_style),
}


@dataclass(frozen=True)
class Case:
    """A LoRA on disk, and its true deltas."""

    path: Path
    true: dict[Key, Exact]


class Cases:
    """One LoRA in all spellings, over all layers or over a few of each kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str, bool], Case] = {}

    def few(self, spelling: str) -> Case:
        return self._case(spelling, False)

    def whole(self, spelling: str) -> Case:
        return self._case(spelling, True)

    def _case(self, spelling: str, whole: bool) -> Case:
        if (spelling, whole) not in self.made:
            lora = SPELLINGS[spelling].lora(make_lora(tiny_sdxl.shapes(conv=True) if whole else tiny_sdxl.few_shapes()))
            path = self.folder / f"{spelling}_{whole}.safetensors"
            save(path, SPELLINGS[spelling].write(lora), metadata=KOHYA_METADATA)
            self.made[spelling, whole] = Case(path, exact(lora))
        return self.made[spelling, whole]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cases]:
    yield Cases(tmp_path_factory.mktemp("sources"))
    tiny_sdxl.unload()


def check(found: dict[Key, Applied], true: Mapping[Key, Exact], outcome: Outcome, tolerance: float = HALF) -> None:
    """Each layer that diffusers runs is the best approximation of its rank, and the ranks are those of the plan."""
    assert outcome.plan is not None
    assert sorted(a.rank for a in found.values()) == sorted(p.new_rank for p in outcome.plan.layers if p.new_rank)
    for key, layer in found.items():
        assert difference(layer.delta, true[key].truncation(layer.rank)) < tolerance, key


def attention_ranks(found: dict[Key, Applied]) -> set[int]:
    return {layer.rank for key, layer in found.items() if key[0] == "unet" and ".attn" in key[1]}


# Every spelling


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_material_itself_is_applied_as_we_believe(cases: Cases, spelling: str) -> None:
    case = cases.whole(spelling)
    found = applied(case.path)
    assert found.keys() == case.true.keys()
    assert max(difference(layer.delta, case.true[key].delta) for key, layer in found.items()) < 1e-6


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_full_rank_is_the_lora_itself(cases: Cases, spelling: str, tmp_path: Path) -> None:
    case = cases.whole(spelling) if spelling.startswith("kohya") else cases.few(spelling)
    found = applied(output(resized(case.path, "fro_lora=1,retain=1", tmp_path)))
    assert found.keys() == case.true.keys()
    assert max(difference(layer.delta, case.true[key].delta) for key, layer in found.items()) < HALF


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_ranks_that_differ_between_layers_are_applied_at_the_right_strength(
    cases: Cases, spelling: str, tmp_path: Path
) -> None:
    case = cases.few(spelling)
    outcome = resized(case.path, "fro_lora=1,thr=-0.7", tmp_path)
    found = applied(output(outcome))
    assert len(attention_ranks(found)) > 2
    check(found, case.true, outcome)


@pytest.mark.parametrize("spelling", ["diffusers", "peft-style"])
def test_renamed_to_kohya_the_same_is_applied(cases: Cases, spelling: str, tmp_path: Path) -> None:
    case = cases.few(spelling)
    outcome = resized(case.path, "fro_lora=1,thr=-0.7", tmp_path, How(kohya=True))
    assert all(key.startswith("lora_") for key in load(output(outcome)))
    check(applied(output(outcome)), case.true, outcome)


def test_an_adapter_of_peft_renamed_to_kohya_is_applied_with_its_scale(tmp_path: Path) -> None:
    """diffusers reads none of PEFT's own names."""
    unet = {key: shape for key, shape in tiny_sdxl.few_shapes().items() if key[0] == "unet"}
    lora = make_lora(unet, alpha=constant(20.0), seed=9)
    tensors = {key.replace("unet.", "base_model.model.", 1): values for key, values in peft_style(lora).items()}
    source = save(tmp_path / "adapter_model.safetensors", tensors)
    source.with_name("adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": 20}), "utf-8")
    assert not applied(source)
    outcome = resized(source, "fro_lora=1,thr=-0.7", tmp_path / "out", How(kohya=True))
    check(applied(output(outcome)), exact(lora), outcome)


# Every selection and dtype


@pytest.mark.parametrize(
    ("spelling", "recipe"),
    [
        ("kohya", "params=1,size=0.05"),
        ("kohya", "params=1,retain=0.9"),
        ("kohya", "sv_fro=0.9"),
        ("diffusers", "params=1,size=0.05"),
        ("diffusers", "sv_ratio=4"),
    ],
)
def test_every_selection_is_applied_at_the_right_strength(
    cases: Cases, spelling: str, recipe: str, tmp_path: Path
) -> None:
    outcome = resized(cases.few(spelling).path, recipe, tmp_path)
    found = applied(output(outcome))
    assert len(attention_ranks(found)) > 1
    check(found, cases.few(spelling).true, outcome)


@pytest.mark.parametrize(("spelling", "rank"), [("kohya", 3), ("kohya", 9999), ("diffusers", 3)])
def test_uniform_rank_is_the_best_of_that_rank(cases: Cases, spelling: str, rank: int, tmp_path: Path) -> None:
    outcome = resized(cases.few(spelling).path, f"rank={rank}", tmp_path)
    found = applied(output(outcome))
    assert {layer.rank for layer in found.values()} == {min(rank, 8)}
    check(found, cases.few(spelling).true, outcome)


@pytest.mark.parametrize(("dtype", "tolerance"), [("32", 1e-6), ("bf16", 1e-2), ("8", 0.1)])
def test_every_dtype_is_applied_within_its_rounding(cases: Cases, dtype: str, tolerance: float, tmp_path: Path) -> None:
    outcome = resized(cases.few("kohya").path, "fro_lora=1,thr=-0.7", tmp_path, How(dtype))
    check(applied(output(outcome)), cases.few("kohya").true, outcome, tolerance)


def test_all_ranks_in_float8_are_applied_in_their_rotated_gauge(cases: Cases, tmp_path: Path) -> None:
    """Closer than a cast of the factors, which changes a delta by 0.037 of its norm."""
    outcome = resized(cases.few("kohya").path, "rank=8", tmp_path, How("8"))
    found = applied(output(outcome))
    off = [difference(layer.delta, cases.few("kohya").true[key].delta) for key, layer in found.items()]
    assert found.keys() == cases.few("kohya").true.keys()
    assert sum(off) / len(off) < 0.03
    check(found, cases.few("kohya").true, outcome, 0.036)


def test_rescale_is_baked_in(cases: Cases, tmp_path: Path) -> None:
    outcome = resized(cases.few("kohya").path, "fro_lora=1,rescale=0.6,thr=-0.7", tmp_path)
    check(applied(output(outcome)), {key: true.times(0.6) for key, true in cases.few("kohya").true.items()}, outcome)


def test_layers_that_have_lost_all_dimensions_do_not_stop_diffusers(cases: Cases, tmp_path: Path) -> None:
    outcome = resized(cases.few("kohya").path, "params=1,thr=-2.5", tmp_path)
    assert outcome.plan is not None
    assert outcome.plan.dropped
    check(applied(output(outcome)), cases.few("kohya").true, outcome)


# Alpha


@pytest.fixture(scope="module")
def per_layer() -> Lora:
    """Ranks and alphas that differ between layers, as kohya's dynamic resize leaves them."""
    ranks = [2, 3, 5, 8, 4, 7]
    rank = [ranks[i * i % 6] for i in range(1000)]
    return make_lora(tiny_sdxl.few_shapes(), lambda i: rank[i], lambda i: rank[i] * 0.75, seed=1)


def test_alpha_that_differs_between_layers_is_misread_by_diffusers(per_layer: Lora, tmp_path: Path) -> None:
    """The reason for our constant alpha, and the proof that the comparisons here can fail."""
    found = applied(save(tmp_path / "dynamic.safetensors", kohya(per_layer)))
    wrong = {key for key, layer in found.items() if difference(layer.delta, per_layer[key].delta) > 0.1}
    assert len(wrong) > 20
    assert all(".attn" in key[1] for key in wrong if key[0] == "unet")


def test_a_source_with_such_alphas_comes_out_right(per_layer: Lora, tmp_path: Path) -> None:
    source = save(tmp_path / "dynamic.safetensors", kohya(per_layer))
    outcome = resized(source, "fro_lora=1,retain=1", tmp_path / "out")
    found = applied(output(outcome))
    assert len(attention_ranks(found)) > 3
    check(found, exact(per_layer), outcome)


def test_a_source_that_lacks_some_alphas_comes_out_right(tmp_path: Path) -> None:
    lora = make_lora(tiny_sdxl.few_shapes(), alpha=lambda i: None if i % 3 else 2.0, seed=2)
    source = save(tmp_path / "part.safetensors", kohya(lora))
    outcome = resized(source, "fro_lora=1,thr=-0.7", tmp_path / "out")
    check(applied(output(outcome)), exact(lora), outcome)


def test_merges_of_two_key_formats_are_the_weighted_sum(cases: Cases, per_layer: Lora, tmp_path: Path) -> None:
    one, other = cases.few("kohya"), unscaled(per_layer)
    path = save(tmp_path / "other.safetensors", diffusers_export(other))
    outcome = resized(Source((Member(one.path, 0.6), Member(path, -0.4))), "rank=9999", tmp_path)
    found = applied(output(outcome))
    assert found.keys() == one.true.keys()
    for key, layer in found.items():
        assert difference(layer.delta, 0.6 * one.true[key].delta - 0.4 * other[key].delta) < HALF


def _with_projection(tmp_path: Path) -> tuple[Lora, Path]:
    shapes = {**tiny_sdxl.few_shapes(), ("te2", "text_projection"): (32, 32)}
    lora = make_lora(shapes, alpha=constant(8.0), seed=3)
    return lora, save(tmp_path / "projection.safetensors", kohya(lora))


def test_a_text_projection_loads_with_layers_of_the_same_rank(tmp_path: Path) -> None:
    lora, source = _with_projection(tmp_path)
    outcome = resized(source, "rank=3", tmp_path / "out")
    found = applied(output(outcome))
    assert ("te2", "text_projection") in found
    check(found, exact(lora), outcome)


def test_a_text_projection_of_another_rank_is_beyond_diffusers(tmp_path: Path) -> None:
    """A known limit of docs/formats.md: diffusers finds the ranks of text encoders by the names of attention and
    MLP layers only, and takes this one for the commonest of them."""
    _, source = _with_projection(tmp_path)
    outcome = resized(source, "fro_lora=1,retain=0.8", tmp_path / "out")
    with pytest.raises(RuntimeError, match="mismatched"):
        applied(output(outcome))


def test_a_text_encoder_that_keeps_q_without_out_is_beyond_diffusers(tmp_path: Path) -> None:
    """A known limit of docs/formats.md: diffusers refuses a whole file in kohya's names if a text encoder has q,
    k or v, but out nowhere."""
    lora = make_lora(tiny_sdxl.few_shapes(), seed=8)
    for key, factors in lora.items():
        if key[0] == "te1":
            weak = 0.01 if "out_proj" in key[1] or ".mlp." in key[1] else 3.0
            lora[key] = replace(factors, up=halves(weak * factors.up))
    source = save(tmp_path / "weak_out.safetensors", kohya(lora))
    outcome = resized(source, "params=1,thr=-2.5", tmp_path / "out")
    with pytest.raises(ValueError, match="infer state dict type"):
        applied(output(outcome))
    outcome = resized(source, "params=1,min_rank=1,thr=-2.5", tmp_path / "out")
    check(applied(output(outcome)), exact(lora), outcome)


# Configurations in the metadata


@dataclass(frozen=True)
class Trained:
    """One way to set up training in PEFT."""

    rank: int = 8
    alpha: float = 8
    rslora: bool = False
    ranks: bool = False
    """Some layers have a rank and an alpha of their own."""


TRAINED = {
    "alpha above rank": Trained(alpha=20),
    "alpha below rank": Trained(alpha=2),
    "rslora": Trained(rslora=True),
    "patterns": Trained(alpha=12, ranks=True),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Files that diffusers has written itself, with PEFT's configuration in `lora_adapter_metadata`, and what it
    applies when it reads them again."""
    folder = tmp_path_factory.mktemp("saved")
    paths = {name: _saved(folder / name.replace(" ", "_"), trained) for name, trained in TRAINED.items()}
    return {
        name: Case(path, {key: Exact(layer.delta) for key, layer in applied(path).items()})
        for name, path in paths.items()
    }


def _saved(folder: Path, trained: Trained) -> Path:
    from diffusers import StableDiffusionXLPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    models = tiny_sdxl.components()
    for index, (component, model) in enumerate(models.items()):
        model.add_adapter(_peft_config(component, trained), adapter_name="default")
        _fill(model, index)
    states = {
        component: convert_state_dict_to_diffusers(get_peft_model_state_dict(model))
        for component, model in models.items()
    }
    StableDiffusionXLPipeline.save_lora_weights(
        folder,
        unet_lora_layers=states["unet"],
        text_encoder_lora_layers=states["te1"],
        text_encoder_2_lora_layers=states["te2"],
        **_collate_lora_metadata(
            {"unet": models["unet"], "text_encoder": models["te1"], "text_encoder_2": models["te2"]}
        ),
    )
    tiny_sdxl.unload()
    return folder / "pytorch_lora_weights.safetensors"


def _peft_config(component: str, trained: Trained) -> Any:
    from peft import LoraConfig

    last = ["to_q", "to_k", "to_v", "to_out.0"] if component == "unet" else ["q_proj", "k_proj", "v_proj", "out_proj"]
    targets = [name for name in _linear(tiny_sdxl.components()[component]) if any(few in name for few in tiny_sdxl.FEW)]
    return LoraConfig(
        r=trained.rank,
        lora_alpha=cast("int", trained.alpha),  # PEFT takes fractions too
        use_rslora=trained.rslora,
        target_modules=[name for name in targets if name.endswith(tuple(last))],
        rank_pattern={last[0]: 4, "attn2.to_k": 6} if trained.ranks else {},
        alpha_pattern={last[1]: 3, "attn2.to_v": 16} if trained.ranks else {},
    )


def _linear(model: torch.nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def _weight(adapters: torch.Tensor | torch.nn.Module) -> torch.Tensor:
    assert isinstance(adapters, torch.nn.ModuleDict)
    weight = adapters["default"].weight
    assert isinstance(weight, torch.Tensor)
    return weight


def _fill(model: torch.nn.Module, seed: int) -> None:
    for index, module in enumerate(model.modules()):
        if "default" in getattr(module, "lora_A", {}):
            down, up = _weight(module.lora_A), _weight(module.lora_B)
            made = make_factors((len(up), down.shape[1]), len(down), [seed, index])
            with torch.no_grad():
                down.copy_(torch.from_numpy(made.down))
                up.copy_(torch.from_numpy(made.up))


@pytest.mark.parametrize(
    ("recipe", "naming"), [("fro_lora=1,thr=-0.7", "keep"), ("fro_lora=1,retain=1", "keep"), ("rank=3", "kohya")]
)
@pytest.mark.parametrize("trained", TRAINED)
def test_scales_in_the_metadata_are_kept(
    saved: dict[str, Case], trained: str, recipe: str, naming: str, tmp_path: Path
) -> None:
    case = saved[trained]
    assert "lora_adapter_metadata" in metadata_of(case.path)
    outcome = resized(case.path, recipe, tmp_path, How(kohya=naming == "kohya"))
    check(applied(output(outcome)), case.true, outcome)


def test_the_scale_in_the_metadata_is_more_than_one(saved: dict[str, Case]) -> None:
    """Else the test above would say nothing."""
    case = saved["alpha above rank"]
    tensors = load(case.path)
    key = next(key for key in case.true if key[0] == "unet")
    up, down = (tensors[f"{dotted_stem(key)}.lora.{role}.weight"] for role in ("up", "down"))
    assert difference(case.true[key].delta, 2.5 * up @ down) < 1e-6


def test_metadata_of_ranks_that_the_file_no_longer_has_is_repaired(saved: dict[str, Case], tmp_path: Path) -> None:
    """A tool that resized before us and knew nothing of the field left it: diffusers refuses the file. The scale
    in it, alpha over rank as trained, is still that of the layers."""
    case = saved["alpha above rank"]
    tensors = {key: torch.from_numpy(values) for key, values in load(case.path).items()}
    stale = save(tmp_path / "stale.safetensors", _cut(tensors, 3), metadata=metadata_of(case.path))
    with pytest.raises((RuntimeError, ValueError), match=r"size mismatch|shape"):
        applied(stale)
    outcome = resized(stale, "rank=3", tmp_path / "out")
    for key, layer in applied(output(outcome)).items():
        assert difference(layer.delta, case.true[key].truncation(3)) < 2e-3


def _cut(tensors: dict[str, torch.Tensor], rank: int) -> Tensors:
    """Resized by somebody else."""
    found: Tensors = {}
    for key in tensors:
        if ".up." in key:
            other = key.replace(".up.", ".down.")
            u, s, vt = np.linalg.svd((tensors[key] @ tensors[other]).numpy(), full_matrices=False)
            root = np.sqrt(s[:rank])
            found[key], found[other] = halves(u[:, :rank] * root), halves(root[:, None] * vt[:rank])
    return found


def test_metadata_with_kohya_names_no_longer_stops_diffusers(tmp_path: Path) -> None:
    lora = make_lora(tiny_sdxl.few_shapes(), seed=4)
    settings = json.dumps({"unet.r": 8, "unet.lora_alpha": 32, "unet.target_modules": ["to_q"]})
    source = save(tmp_path / "both.safetensors", kohya(lora), metadata={"lora_adapter_metadata": settings})
    with pytest.raises(ValueError, match="network_alphas"):
        applied(source)
    outcome = resized(source, "fro_lora=1,thr=-0.7", tmp_path / "out")
    check(applied(output(outcome)), exact(lora), outcome)


def test_metadata_that_cannot_be_read_is_not_followed(tmp_path: Path) -> None:
    lora = unscaled(make_lora(tiny_sdxl.few_shapes(), seed=5))
    source = save(tmp_path / "odd.safetensors", diffusers_export(lora), metadata={"lora_adapter_metadata": "{"})
    outcome = resized(source, "fro_lora=1,thr=-0.7", tmp_path / "out")
    check(applied(output(outcome)), exact(lora), outcome)


def test_zero_layers_are_left_out(tmp_path: Path) -> None:
    lora = make_lora(tiny_sdxl.few_shapes(), seed=6)
    dead = next(key for key in lora if key[0] == "te1")
    lora[dead] = replace(lora[dead], up=np.zeros_like(lora[dead].up))
    outcome = resized(save(tmp_path / "dead.safetensors", kohya(lora)), "rank=4", tmp_path / "out")
    found = applied(output(outcome))
    assert lora.keys() - found.keys() == {dead}
    check(found, exact(lora), outcome)


def test_rank_above_the_size_of_a_layer_is_no_harm(tmp_path: Path) -> None:
    shapes = tiny_sdxl.few_shapes()
    lora = make_lora(shapes, rank=lambda _: 48, alpha=constant(48.0), seed=7)
    outcome = resized(save(tmp_path / "wide.safetensors", kohya(lora)), "rank=9999", tmp_path / "out")
    found = applied(output(outcome))
    assert all(layer.rank <= min(layer.delta.shape) for layer in found.values())
    assert found.keys() == lora.keys()
    assert max(difference(layer.delta, lora[key].delta) for key, layer in found.items()) < HALF

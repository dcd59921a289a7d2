"""A1111, ComfyUI and Forge, by their own rules, get from a resized file what they got from its source."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import safetensors.torch
import torch
from safetensors import safe_open

from lib_resize import Outcome
from tests.readers import host_rules
from tests.readers.lora_material import (
    Exact,
    Factors,
    How,
    Key,
    Lora,
    Tensors,
    constant,
    difference,
    exact,
    halves,
    kohya,
    kohya_stem,
    load,
    make_factors,
    make_lora,
    metadata_of,
    output,
    resized,
    save,
    small_shapes,
    unscaled,
)

HALF = 1e-3
ROUNDING = {"32": 1e-6, "16": HALF, "bf16": 1e-2, "8": 0.08}
IN_HALVES = {"32": 2e-3, "16": 2e-3, "bf16": 1e-2, "8": 0.08}
"""The same for hosts that compute in float16, where factors and products are rounded once more."""


def by_stem(lora: Lora) -> dict[str, Exact]:
    return {kohya_stem(key): true for key, true in exact(lora).items()}


def ranks(outcome: Outcome) -> dict[str, int]:
    assert outcome.plan is not None
    return {layer.name: layer.new_rank for layer in outcome.plan.layers if layer.new_rank}


# Deltas


@dataclass(frozen=True)
class Kind:
    """One way in which trainers write alpha, ranks and numbers."""

    lora: Lora
    dtype: str = "F16"


def kinds() -> dict[str, Kind]:
    shapes = small_shapes()
    some = [4, 8, 2, 6, 8, 3]
    return {
        "alpha half of rank": Kind(make_lora(shapes)),
        "no alpha": Kind(unscaled(make_lora(shapes))),
        "alpha here and there": Kind(make_lora(shapes, alpha=lambda i: None if i % 3 else 2.0)),
        "rank and alpha by layer": Kind(make_lora(shapes, lambda i: some[i % 6], lambda i: 0.7 * some[i % 6])),
        "negative alpha": Kind(make_lora(shapes, alpha=lambda i: -3.0 if i % 2 else 3.0)),
        "bfloat16": Kind(make_lora(shapes), "BF16"),
        "float32": Kind(make_lora(shapes), "F32"),
        "float8": Kind(_lifted(make_lora(shapes)), "F8_E4M3"),
    }


def _lifted(lora: Lora) -> Lora:
    """Into the range of float8, the scale in alpha."""
    return {
        key: replace(factors, up=256 * factors.up, down=16 * factors.down, alpha=4.0 / 4096)
        for key, factors in lora.items()
    }


KINDS = kinds()


def written(kind: Kind, folder: Path) -> tuple[Path, dict[str, Exact]]:
    """The source, and its true deltas by the numbers that are really stored in it."""
    path = save(folder / "source.safetensors", kohya(kind.lora), kind.dtype)
    stored = load(path)
    read = {}
    for key, factors in kind.lora.items():
        up, down = (stored[f"{kohya_stem(key)}.lora_{role}.weight"] for role in ("up", "down"))
        alpha = stored.get(f"{kohya_stem(key)}.alpha")
        read[key] = Factors(
            factors.shape,
            up.reshape(len(up), -1),
            down.reshape(len(down), -1),
            None if alpha is None else float(alpha),
        )
    return path, by_stem(read)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("kind", KINDS)
def test_full_rank_acts_as_the_source_in_every_host(kind: str, dtype: str, tmp_path: Path) -> None:
    source, true = written(KINDS[kind], tmp_path)
    result = load(output(resized(source, "rank=9999", tmp_path / "out", How(dtype))))
    for rule, tolerance in ((host_rules.comfyui, ROUNDING), (host_rules.a1111, IN_HALVES)):
        found = rule(result)
        assert found.keys() == true.keys()
        for name, delta in found.items():
            assert difference(delta, true[name].delta) < tolerance[dtype], name


@pytest.mark.parametrize("recipe", ["rank=3", "fro_lora=1,size=0.04", "sv_cumulative=0.7"])
@pytest.mark.parametrize("kind", KINDS)
def test_fewer_dimensions_are_the_best_approximation_in_every_host(kind: str, recipe: str, tmp_path: Path) -> None:
    source, true = written(KINDS[kind], tmp_path)
    outcome = resized(source, recipe, tmp_path / "out")
    result = load(output(outcome))
    for rule, tolerance in ((host_rules.comfyui, HALF), (host_rules.a1111, 2 * HALF)):
        found = rule(result)
        assert found.keys() == ranks(outcome).keys()
        for name, rank in ranks(outcome).items():
            assert difference(found[name], true[name].truncation(rank)) < tolerance, name


def test_all_alphas_of_a_file_are_one_number(tmp_path: Path) -> None:
    for kind in ("alpha half of rank", "rank and alpha by layer", "no alpha"):
        source, _ = written(KINDS[kind], tmp_path)
        mixed = load(output(resized(source, "fro_lora=1,thr=-0.7", tmp_path / "out")))
        assert len({float(values) for key, values in mixed.items() if key.endswith(".alpha")}) == 1
        uniform = load(output(resized(source, "rank=2", tmp_path / "out")))
        assert {float(values) for key, values in uniform.items() if key.endswith(".alpha")} == {2.0}


@pytest.mark.parametrize("first", [1, 2, 3])
def test_the_first_dimensions_are_the_strongest_so_that_fewer_may_be_used(first: int, tmp_path: Path) -> None:
    """A1111's `dyn=N` takes the first N at the scale of all."""
    source, true = written(KINDS["rank and alpha by layer"], tmp_path)
    outcome = resized(source, "sv_fro=0.95", tmp_path / "out")
    for module in host_rules.modules(load(output(outcome))):
        up, down = module.matrices
        preview = module.scale * up[:, :first] @ down[:first]
        assert difference(preview, true[module.name].truncation(min(first, module.rank))) < 2 * HALF, module.name


# Numbers that do not fit


def wild(strengths: tuple[float, ...], up: float, down: float) -> Lora:
    """Layers of these strengths in turn, whose factors are scaled against each other."""
    lora = make_lora(small_shapes(), alpha=constant(8.0))
    return {
        key: replace(f, up=up * strengths[i % len(strengths)] * f.up, down=down * f.down)
        for i, (key, f) in enumerate(lora.items())
    }


WILD = {
    "strong": wild((300.0,), 1, 1),
    "strong next to weak": wild((300.0, 0.1), 1, 1),
    "weak": wild((1e-4,), 1, 1),
    "large up, small down": wild((1.0,), 3e5, 1e-5),
    "small up, large down": wild((1.0,), 1e-6, 1e6),
}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("kind", WILD)
def test_nothing_overflows_or_vanishes_in_any_host(kind: str, dtype: str, tmp_path: Path) -> None:
    source = save(tmp_path / "wild.safetensors", kohya(WILD[kind]), "F32")
    stored = load(source)
    result = load(output(resized(source, "rank=8", tmp_path / "out", How(dtype))))
    true = host_rules.comfyui(stored)
    for name, delta in host_rules.comfyui(result).items():
        assert difference(delta, true[name]) < ROUNDING[dtype] + 1e-6, name
    for name, delta in host_rules.a1111(result).items():
        assert np.isfinite(delta).all(), name
        unavoidable = difference(halves(true[name]), true[name])
        assert difference(delta, true[name]) < IN_HALVES[dtype] + 2 * unavoidable, name


def test_the_sources_of_these_do_overflow_in_a1111(tmp_path: Path) -> None:
    """Else the test above would say nothing."""
    stored = load(save(tmp_path / "wild.safetensors", kohya(WILD["large up, small down"]), "F32"))
    assert not all(np.isfinite(delta).all() for delta in host_rules.a1111(stored).values())


@pytest.mark.parametrize("spread", [1.0, 1e-2])
def test_float8_keeps_weak_layers(spread: float, tmp_path: Path) -> None:
    source = save(tmp_path / "spread.safetensors", kohya(wild((1.0, spread), 1, 1)), "F16")
    path = output(resized(source, "rank=8", tmp_path / "out", How("8")))
    with safe_open(str(path), framework="pt") as file:
        dtypes = {key: file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    assert all(dtype == (torch.float32 if "alpha" in key else torch.float8_e4m3fn) for key, dtype in dtypes.items())
    true = host_rules.comfyui(load(source))
    for name, delta in host_rules.comfyui(load(path)).items():
        assert difference(delta, true[name]) < 0.06, name


# What hosts drop or refuse


@pytest.mark.parametrize("threshold", [-2.0, -2.2, -2.4, -2.6, -2.8, -3.0])
def test_a1111_drops_nothing_of_what_is_left(threshold: float, tmp_path: Path) -> None:
    source = save(tmp_path / "source.safetensors", kohya(make_lora(small_shapes())))
    outcome = resized(source, f"params=1,thr={threshold}", tmp_path / "out")
    result = load(output(outcome))
    assert host_rules.a1111(result).keys() == host_rules.comfyui(result).keys() == ranks(outcome).keys()


def test_layers_fall_away_at_these_thresholds(tmp_path: Path) -> None:
    """Else the test above would say nothing."""
    source = save(tmp_path / "source.safetensors", kohya(make_lora(small_shapes())))
    outcome = resized(source, "params=1,thr=-2.4", tmp_path / "out")
    assert outcome.plan is not None
    assert outcome.job is not None
    assert outcome.plan.dropped
    alone = [
        name for name, scores in zip(
            [layer.name for layer in outcome.plan.layers], outcome.job.choice.scores, strict=True
        ) if name in ranks(outcome) and scores.max() < -2.4
    ]  # fmt: skip
    assert alone
    assert all("te2" in name and "self_attn" in name for name in alone)


def test_a1111_ignores_attention_of_which_a_part_is_missing() -> None:
    tensors = kohya(make_lora(small_shapes()))
    cut = {key: values for key, values in tensors.items() if "te2_text_model_encoder_layers_1_self_attn_v" not in key}
    lost = host_rules.a1111(tensors).keys() - host_rules.a1111(cut).keys()
    assert len(lost) == 4


def test_a1111_refuses_an_orphan() -> None:
    tensors = kohya(make_lora(small_shapes()))
    alone = next(key for key in tensors if key.endswith(".lora_up.weight"))
    cut = {key: values for key, values in tensors.items() if key.partition(".")[0] != alone.partition(".")[0]}
    assert host_rules.a1111(cut)
    with pytest.raises(host_rules.RefusedError):
        host_rules.a1111({**cut, alone.replace("lora_up.weight", "alpha"): np.array(4.0)})


@pytest.mark.parametrize("recipe", ["params=1,thr=-2.4", "params=1,retain=0.5", "rank=2", "fro_lora=1,size=0.02"])
def test_layers_that_go_take_all_their_keys_along(recipe: str, tmp_path: Path) -> None:
    lora = make_lora(small_shapes())
    for key in list(lora)[::5]:
        lora[key] = replace(lora[key], up=np.zeros_like(lora[key].up))
    result = load(output(resized(save(tmp_path / "source.safetensors", kohya(lora)), recipe, tmp_path / "out")))
    names = {key.partition(".")[0] for key in result}
    assert len(result) == 3 * len(names) < 3 * len(lora)
    assert all(0 not in values.shape for values in result.values())
    assert host_rules.a1111(result).keys() <= names


# DoRA


def dora(axis: str, rank: int = 8) -> tuple[Tensors, dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """Tensors, base weights and shapes of a DoRA in kohya's names, magnitudes over outputs or inputs."""
    chance = np.random.default_rng(5)
    lora = make_lora(small_shapes(), lambda _: rank, lambda i: 3.0 + i % 2)
    tensors, weights, shapes = kohya(lora), {}, {}
    for key, factors in lora.items():
        name = kohya_stem(key)
        weight = chance.standard_normal(factors.delta.shape) / math.sqrt(factors.delta.shape[1])
        others = tuple(i for i in range(len(factors.shape)) if i != (0 if axis == "outputs" else 1))
        length = np.sqrt((weight.reshape(factors.shape) ** 2).sum(axis=others, keepdims=True))
        tensors[f"{name}.dora_scale"] = halves(length * (1 + 0.1 * chance.random(length.shape)))
        weights[name], shapes[name] = weight, factors.shape
    return tensors, weights, shapes


RULES = {
    "A1111": host_rules.a1111_dora,
    "ComfyUI and Forge": host_rules.comfyui_dora,
}


@pytest.mark.parametrize("axis", ["outputs", "inputs"])
@pytest.mark.parametrize("rule", RULES)
def test_dora_acts_as_its_source_in_every_host(rule: str, axis: str, tmp_path: Path) -> None:
    tensors, weights, shapes = dora(axis)
    source = save(tmp_path / "dora.safetensors", tensors)
    path = output(resized(source, "rank=9999", tmp_path / "out"))
    before = {module.name: module for module in host_rules.modules(load(source))}
    after = {module.name: module for module in host_rules.modules(load(path))}
    assert before.keys() == after.keys()
    for name, module in after.items():
        weight, shape = weights[name], shapes[name]
        wanted = RULES[rule](before[name], weight, shape) - weight
        assert difference(RULES[rule](module, weight, shape) - weight, wanted) < HALF, name


def test_dora_is_right_in_hosts_that_normalise_before_they_scale(tmp_path: Path) -> None:
    tensors, weights, shapes = dora("inputs")
    source = save(tmp_path / "dora.safetensors", tensors)
    result = load(output(resized(source, "sv_fro=0.9", tmp_path / "out")))
    assert len({module.rank for module in host_rules.modules(result)}) > 1
    for module in host_rules.modules(result):
        weight, shape = weights[module.name], shapes[module.name]
        wanted = host_rules.a1111_dora(module, weight, shape) - weight
        assert difference(host_rules.old_sdnext_dora(module, weight, shape) - weight, wanted) < 1e-6, module.name


def test_such_hosts_are_wrong_where_alpha_is_not_the_rank() -> None:
    tensors, weights, shapes = dora("inputs")
    for module in host_rules.modules(tensors):
        weight, shape = weights[module.name], shapes[module.name]
        wanted = host_rules.a1111_dora(module, weight, shape) - weight
        assert difference(host_rules.old_sdnext_dora(module, weight, shape) - weight, wanted) > 0.1, module.name


@pytest.mark.parametrize("recipe", ["params=1,thr=-2.4", "params=1,retain=0.5"])
def test_magnitudes_are_never_left_alone(recipe: str, tmp_path: Path) -> None:
    tensors, _, _ = dora("outputs")
    dead = "lora_te1_text_model_encoder_layers_2_mlp_fc1"
    tensors[f"{dead}.lora_up.weight"] = np.zeros_like(tensors[f"{dead}.lora_up.weight"])
    result = load(output(resized(save(tmp_path / "dora.safetensors", tensors), recipe, tmp_path / "out")))
    found = {module.name for module in host_rules.modules(result)}
    assert found == {key.partition(".")[0] for key in tensors}
    for key, values in tensors.items():
        if key.endswith(".dora_scale"):
            assert np.array_equal(result[key], values)


# Metadata that hosts read

FULL = {
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_v2": "False",
    "ss_output_name": "source",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "8",
    "ss_network_alpha": "4.0",
    "ss_tag_frequency": json.dumps({"10_菓子": {"a \"quoted\" tag": 3, "é\n": 1}}, ensure_ascii=False),
    "sshs_model_hash": "0123" * 16,
    "sshs_legacy_hash": "01234567",
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
}  # fmt: skip
SOURCES: dict[str, Mapping[str, str] | None] = {
    "full": FULL,
    "none": None,
    "empty": {},
    "partial": {"ss_network_dim": "8", "modelspec.title": "x"},
    "foreign": {"format": "pt"},
}


@pytest.mark.parametrize("metadata", SOURCES)
def test_a1111_shows_the_result_with_sdxl(metadata: str, tmp_path: Path) -> None:
    source = save(tmp_path / "source.safetensors", kohya(make_lora(small_shapes())), metadata=SOURCES[metadata])
    assert metadata == "full" or host_rules.a1111_version(metadata_of(source)) != "SDXL"
    for recipe in ("rank=2", "fro_lora=1,thr=-0.7"):
        result = output(resized(source, recipe, tmp_path / "out"))
        assert host_rules.a1111_version(metadata_of(result)) == "SDXL"


def test_the_alias_is_the_new_name(tmp_path: Path) -> None:
    """Two files with one alias lose it both."""
    source = save(tmp_path / "source.safetensors", kohya(make_lora(small_shapes())), metadata=FULL)
    results = [output(resized(source, recipe, tmp_path / "out")) for recipe in ("rank=2", "rank=3", "medium")]
    aliases = [metadata_of(path)["ss_output_name"] for path in results]
    assert aliases == [path.stem for path in results]
    assert len({*aliases, "source"}) == 4


@pytest.mark.parametrize(
    ("metadata", "dtype"),
    [*((metadata, "16") for metadata in SOURCES), ("full", "bf16"), ("full", "8"), ("none", "32")],
)
def test_hashes_are_those_of_kohyas_algorithm(metadata: str, dtype: str, tmp_path: Path) -> None:
    """Both are taken of what the safetensors library would make of the tensors and the `ss_` fields."""
    source = save(tmp_path / "source.safetensors", kohya(big_lora()), metadata=SOURCES[metadata])
    path = output(resized(source, "sv_fro=0.999", tmp_path / "out", How(dtype)))
    written = metadata_of(path)
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    whole = safetensors.torch.save(tensors, {key: text for key, text in written.items() if key.startswith("ss_")})
    start = 8 + int.from_bytes(whole[:8], "little")
    assert written["sshs_model_hash"] == hashlib.sha256(whole[start:]).hexdigest()
    assert len(whole) > 0x110000
    assert written["sshs_legacy_hash"] == hashlib.sha256(whole[0x100000:0x110000]).hexdigest()[:8]


def big_lora() -> dict[Key, Factors]:
    """More than 1 MiB, where the older hash looks."""
    names = [f"down_blocks.1.attentions.{i}.transformer_blocks.{j}.ff.net.2" for i in (0, 1) for j in (0, 1)]
    return {("unet", name): make_factors((1024, 8192), 34, [i], alpha=16) for i, name in enumerate(names)}


def test_the_hash_that_a1111_trusts_is_not_that_of_the_source(tmp_path: Path) -> None:
    source = save(tmp_path / "source.safetensors", kohya(make_lora(small_shapes())), metadata=FULL)
    written = metadata_of(output(resized(source, "rank=2", tmp_path / "out")))
    assert written["sshs_model_hash"] != FULL["sshs_model_hash"]
    assert json.loads(written["resize_lora"])["source_model_hash"] == FULL["sshs_model_hash"]

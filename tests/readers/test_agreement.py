"""Scores, choices, errors and sizes agree with the recipes' definition, computed densely by other means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import safetensors.torch
import torch

from lib_resize import Analysis, Checkpoint, Outcome, PairingError, Settings, parse_recipes
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.adapters.write.style import Style
from lib_resize.demo.synthetic import LoraOptions, write_checkpoint, write_lora
from lib_resize.demo.synthetic import lora_layers as synthetic_layers
from lib_resize.engine.analysing import analyse
from lib_resize.engine.batch import resize
from lib_resize.engine.job import ResizeJob
from lib_resize.engine.planning import prepare
from lib_resize.engine.runtime import cpu_runtime
from lib_resize.files.reader import SafeFile
from lib_resize.progress import Quiet
from lib_resize.prompts.sources import Member, Source
from tests.readers.dense_definition import (
    DenseLayer,
    KeptIndices,
    Ranking,
    Wish,
    base_weights,
    by_retention,
    by_threshold,
    layer_by_layer,
    lora_layers,
    score,
)
from tests.readers.lora_material import How, difference, load, metadata_of, output, resized, save, sgm_words

MIB = 1 << 20
OPTIONS = LoraOptions(rank=8, conv=True, conv_rank=4, text_projection=True, seed=11)


@dataclass(frozen=True)
class Runtime:
    """The files, what is in them, and what the package has found there."""

    lora: Path
    base: Path
    layers: dict[str, DenseLayer]
    analysis: Analysis

    def plan(self, recipe: str) -> ResizeJob:
        """What a recipe would do."""
        return prepare(self.analysis, parse_recipes(recipe)[0], Style(), lambda stem: Path(f"{stem}.safetensors"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agreement")


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[Runtime]:
    base = write_checkpoint(folder / "base.safetensors")
    lora = write_lora(folder / "lora.safetensors", OPTIONS)
    with analysed(lora, base) as analysis:
        yield Runtime(lora, base, lora_layers(lora, base_weights(base)), analysis)


@contextmanager
def analysed(lora: Path, base: Path) -> Iterator[Analysis]:
    """With all that any recipe could ask for."""
    recipes = parse_recipes("spn_ckpt=1,fro_ckpt=1,subspace=1,thr=0")
    with SafeFile(lora) as file, cpu_runtime(Quiet(), 2) as workers:
        checkpoint = Checkpoint(base)
        yield analyse(read_adapter(file), checkpoint, recipes, workers)
        checkpoint.close()


def job_of(outcome: Outcome) -> ResizeJob:
    assert outcome.job is not None
    return outcome.job


def planned(lora: Path, base: Path, recipe: str, folder: Path) -> ResizeJob:
    return job_of(resized(lora, recipe, folder, How(base=base, dry_run=True)))


def names_of(job: ResizeJob) -> list[str]:
    return [facts.name for facts in job.analysis.layers]


def scores_of(job: ResizeJob) -> dict[str, np.ndarray]:
    return dict(zip(names_of(job), job.choice.scores, strict=True))


def kept_of(job: ResizeJob) -> KeptIndices:
    return {name: [int(i) for i in kept] for name, kept in zip(names_of(job), job.choice.kept, strict=True)}


def check_scores(job: ResizeJob, layers: dict[str, DenseLayer], wish: Wish) -> None:
    found = scores_of(job)
    assert found.keys() == layers.keys()
    for name, layer in layers.items():
        wanted = score(layer, wish)
        alive = wanted > -np.inf
        assert np.array_equal(found[name][: len(wanted)] > -np.inf, alive), name
        assert np.abs(found[name][: len(wanted)][alive] - wanted[alive]).max(initial=0) < 1e-3, name
        assert (found[name][len(wanted) :] == -np.inf).all(), name


# Scores

SCORES = ("spn_ckpt", "spn_lora", "fro_ckpt", "fro_lora", "subspace", "params")
MIXTURES: tuple[dict[str, float], ...] = (
    *({name: 1.0} for name in SCORES),
    {"fro_ckpt": 0.8, "params": 0.2},
    {"fro_ckpt": 3, "spn_lora": 1},
    {"spn_ckpt": 0.5, "subspace": 0.25, "fro_lora": 0.25},
    dict.fromkeys(SCORES, 2.0),
)


def named(weights: dict[str, float]) -> str:
    return ",".join(f"{name}={weight}" for name, weight in weights.items())


every_mixture = pytest.mark.parametrize("weights", MIXTURES, ids=named)


def test_every_layer_of_the_material_has_its_base_weight(runtime: Runtime) -> None:
    for name, layer in runtime.layers.items():
        assert layer.weight is not None, name
        assert layer.weight.shape == layer.delta.shape, name
    q, k, v = (runtime.layers[f"lora_te2_text_model_encoder_layers_1_self_attn_{p}_proj"] for p in "qkv")
    assert q.fro_ckpt > 1.1 * k.fro_ckpt > 1.2 * v.fro_ckpt  # so that taking one for another would show
    projection = runtime.layers["lora_te2_text_projection"]
    assert projection.weight is not None
    turned = replace(projection, weight=projection.weight.T)
    assert np.abs(np.log10(turned.subspace / projection.subspace)).max() > 0.1


@pytest.mark.parametrize("rescale", [1.0, 0.4])
@every_mixture
def test_scores(runtime: Runtime, weights: dict[str, float], rescale: float) -> None:
    wish = Wish(weights, "thr", -9.0, rescale=rescale)
    check_scores(runtime.plan(wish.text), runtime.layers, wish)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_scores_with_checkpoints_of_other_dtypes(runtime: Runtime, dtype: str, tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base.safetensors", dtype=dtype, seed=1)
    lora = write_lora(tmp_path / "lora.safetensors", replace(OPTIONS, conv=False))
    layers = lora_layers(lora, base_weights(base))
    for weights in ({"spn_ckpt": 1.0}, {"fro_ckpt": 1.0}, {"subspace": 1.0}):
        wish = Wish(weights, "thr", -9.0)
        check_scores(planned(lora, base, wish.text, tmp_path), layers, wish)


def test_scores_with_a_checkpoint_in_diffusers_layout(runtime: Runtime, tmp_path: Path) -> None:
    tensors = load(runtime.base)
    names = [layer.name for layer in synthetic_layers(replace(OPTIONS, spelling="diffusers", text_encoders=False))]
    unet = {}
    for name in (name.removeprefix("unet.") for name in names):
        unet[f"{name}.weight"] = tensors[f"model.diffusion_model.{sgm_words(name)}.weight"]
    base = save(tmp_path / "diffusion_pytorch_model.safetensors", unet)
    lora = write_lora(tmp_path / "lora.safetensors", replace(OPTIONS, text_encoders=False))
    layers = {name: layer for name, layer in runtime.layers.items() if name.startswith("lora_unet_")}
    for weights in ({"spn_ckpt": 1.0}, {"fro_ckpt": 1.0}, {"subspace": 1.0}):
        wish = Wish(weights, "thr", -9.0)
        check_scores(planned(lora, base, wish.text, tmp_path), layers, wish)


@pytest.mark.parametrize("spelling", ["kohya-diffusers", "diffusers"])
def test_key_format_changes_nothing(runtime: Runtime, spelling: str, tmp_path: Path) -> None:
    options = replace(OPTIONS, alpha=8.0, alpha_keys=None)
    plain = write_lora(tmp_path / "plain.safetensors", options)
    other = write_lora(tmp_path / "other.safetensors", replace(options, spelling=spelling, conv_rank=8))
    again = write_lora(tmp_path / "again.safetensors", replace(options, conv_rank=8))
    assert plain.stat().st_size < again.stat().st_size
    recipe = "fro_ckpt=0.5,subspace=0.5,thr=-2"
    by_name = [
        sorted(
            tuple(np.round(scores, 6)) for scores in scores_of(planned(path, runtime.base, recipe, tmp_path)).values()
        )
        for path in (other, again)
    ]
    assert by_name[0] == by_name[1]


# Choices


def quantile(runtime: Runtime, wish: Wish, share: float) -> float:
    scores = np.concatenate([score(layer, wish) for layer in runtime.layers.values()])
    return round(float(np.quantile(scores[scores > -np.inf], share)), 4)


def ties(wish: Wish) -> float:
    """Return the distance from the threshold within which a score counts as equal to it. How a base weight acts along a
    dimension is measured in float32."""
    return 1e-4 if "subspace" in wish.weights else 1e-6


def check_choice(job: ResizeJob, ranking: Ranking, wanted: KeptIndices, threshold: float | None = None) -> None:
    """The same dimensions, except those whose score is equal to the threshold within this distance."""
    found = kept_of(job)
    assert found.keys() == wanted.keys()
    for name, kept in found.items():
        different = set(kept) ^ set(wanted[name])
        if threshold is not None:
            different = {i for i in different if abs(ranking.scores[name][i] - threshold) > ties(ranking.wish)}
        assert not different, name
    check_plan(job, ranking)


def check_plan(job: ResizeJob, ranking: Ranking) -> None:
    """Ranks, both errors of every layer, and retention. What rounding to float8 adds is estimated in a plan; at most
    0.06 of the delta is."""
    plan, kept = job.plan, kept_of(job)
    rounding = 0.06 if job.selection.style.dtype == "F8_E4M3" else 0.0
    for line in plan.layers:
        layer = ranking.layers[line.name]
        lost = float(np.linalg.norm(np.delete(layer.s, kept[line.name])))
        whole = float(np.linalg.norm(layer.delta))
        assert (line.old_rank, line.new_rank) == (layer.rank, len(kept[line.name]))
        error = lost / whole if whole else 1.0
        assert error - 1e-6 <= line.error_lora <= math.hypot(error, rounding) + 1e-6
        if layer.weight is not None and ranking.wish.rescale == 1.0:
            least, most = lost / layer.fro_ckpt, math.hypot(error, rounding) * whole / layer.fro_ckpt
            assert line.error_ckpt is not None
            assert least * (1 - 1e-4) - 1e-9 <= line.error_ckpt <= most * (1 + 1e-4) + 1e-9
    total = sum(float(layer.s @ layer.s) for layer in ranking.layers.values())
    held = sum(float(layer.s[kept[name]] @ layer.s[kept[name]]) for name, layer in ranking.layers.items())
    retention = math.sqrt(held / total)
    assert retention * (1 - rounding**2) - 1e-7 <= plan.retention <= retention + 1e-7
    assert set(plan.dropped) == {name for name, dimensions in kept.items() if not dimensions}


@pytest.mark.parametrize("share", [0.3, 0.95])
@every_mixture
def test_thr_keeps_exactly_the_dimensions_at_or_above_it(
    runtime: Runtime, weights: dict[str, float], share: float
) -> None:
    wish = Wish(weights, "thr", 0.0)
    wish = replace(wish, value=quantile(runtime, wish, share))
    ranking = Ranking(runtime.layers, wish)
    job = runtime.plan(wish.text)
    check_choice(job, ranking, by_threshold(ranking), wish.value)
    assert job.plan.threshold == wish.value


def test_a_dimension_whose_score_is_the_threshold_stays(runtime: Runtime) -> None:
    scores = scores_of(runtime.plan("fro_ckpt=1,thr=-9"))
    some = sorted(float(x) for values in scores.values() for x in values)[1500:1600:9]
    for threshold in some:
        job = runtime.plan(f"fro_ckpt=1,thr={threshold!r}")
        at_or_above = sum(int((values >= threshold).sum()) for values in scores.values())
        kept, restored = kept_of(job), 0
        for name, dimensions in kept.items():
            restored += sum(scores[name][i] < threshold for i in dimensions)
        assert sum(map(len, kept.values())) - restored == at_or_above


@pytest.mark.parametrize("share", [0.6, 0.97])
@every_mixture
def test_retain_keeps_the_fewest_by_score(runtime: Runtime, weights: dict[str, float], share: float) -> None:
    ranking = Ranking(runtime.layers, Wish(weights, "retain", share))
    job = runtime.plan(ranking.wish.text)
    assert job.plan.retention >= share
    check_choice(job, ranking, by_retention(ranking), job.plan.threshold)


@pytest.mark.parametrize(
    ("selection", "value"),
    [
        *(("rank", rank) for rank in (1, 3, 9999)),
        *(("sv_ratio", ratio) for ratio in (1, 2, 20)),
        *(("sv_fro", share) for share in (0.8, 0.99, 1)),
        *(("sv_cumulative", share) for share in (0.5, 0.95, 1)),
    ],
)
def test_selections_layer_by_layer(runtime: Runtime, selection: str, value: float) -> None:
    ranking = Ranking(runtime.layers, Wish({}, selection, value))
    job = runtime.plan(ranking.wish.text)
    check_choice(job, ranking, layer_by_layer(ranking))


LIMITS = (
    {"max_rank": 3},
    {"max_conv_rank": 1},
    {"max_rank": 2, "max_conv_rank": 4},
    {"min_rank": 2},
    {"min_rank": 1, "max_rank": 5, "max_conv_rank": 2},
    {"rescale": 0.25},
    {"rescale": 3.0, "min_rank": 1},
)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("weights", [MIXTURES[2], MIXTURES[4], MIXTURES[6]], ids=named)
def test_limits_with_thr_and_retain(runtime: Runtime, weights: dict[str, float], limits: dict[str, Any]) -> None:
    wish = Wish(weights, "thr", 0.0)
    ranking = Ranking(runtime.layers, replace(wish, value=quantile(runtime, wish, 0.8), **limits))
    job = runtime.plan(ranking.wish.text)
    check_choice(job, ranking, by_threshold(ranking), ranking.wish.value)
    ranking = Ranking(runtime.layers, Wish(weights, "retain", 0.6, **limits))
    job = runtime.plan(ranking.wish.text)
    check_choice(job, ranking, by_retention(ranking), job.plan.threshold)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize(("selection", "value"), [("rank", 4), ("sv_ratio", 1.5), ("sv_fro", 0.7)])
def test_limits_with_selections_layer_by_layer(
    runtime: Runtime, selection: str, value: float, limits: dict[str, Any]
) -> None:
    ranking = Ranking(runtime.layers, Wish({}, selection, value, **limits))
    job = runtime.plan(ranking.wish.text)
    check_choice(job, ranking, layer_by_layer(ranking))


def test_the_error_relative_to_the_base_is_that_of_the_lora_as_it_is_written(runtime: Runtime) -> None:
    """Singular values are multiplied by `rescale` before all else."""
    job = runtime.plan("fro_ckpt=1,rescale=0.25,retain=0.8")
    for line in job.plan.layers:
        layer = runtime.layers[line.name]
        lost = 0.25 * float(np.linalg.norm(np.delete(layer.s, kept_of(job)[line.name])))
        assert line.error_ckpt == pytest.approx(lost / layer.fro_ckpt, rel=1e-4, abs=1e-9)


def test_completions_happen_in_this_material(runtime: Runtime) -> None:
    """Else agreement on them would say nothing."""
    wish = Wish({"fro_ckpt": 1.0}, "thr", 0.0)
    ranking = Ranking(runtime.layers, replace(wish, value=quantile(runtime, wish, 0.9)))
    kept = by_threshold(ranking)
    alone = [name for name, found in kept.items() if found and ranking.scores[name][found[0]] < ranking.wish.value]
    assert alone
    assert all("te2" in name for name in alone)


# Sizes


def file_of(kept: KeptIndices, like: Path, source: Path) -> int:
    """Bytes of a file of these ranks with the dtype and the metadata of another, by the safetensors library."""
    with safetensors.safe_open(str(like), framework="pt") as file:
        dtype = next(file.get_tensor(key).dtype for key in file.keys() if "lora_up" in key)  # noqa: SIM118
    shapes = {key: values.shape for key, values in load(source).items()}
    tensors = {}
    for name, dimensions in kept.items():
        if dimensions:
            up, down = shapes[f"{name}.lora_up.weight"], shapes[f"{name}.lora_down.weight"]
            tensors[f"{name}.lora_up.weight"] = torch.zeros(up[0], len(dimensions), *up[2:], dtype=dtype)
            tensors[f"{name}.lora_down.weight"] = torch.zeros(len(dimensions), *down[1:], dtype=dtype)
            tensors[f"{name}.alpha"] = torch.zeros(())
    return len(safetensors.torch.save(tensors, metadata_of(like)))


SLACK = 24
"""Bytes by which the header of the next larger file may differ: digits of threshold and retention."""


@pytest.mark.parametrize(("size", "dtype"), [(0.15, "16"), (0.5, "32"), (0.34567, "8")])
@pytest.mark.parametrize("weights", [{"fro_lora": 1.0}, {"subspace": 1.0}, {"fro_ckpt": 0.8, "params": 0.2}], ids=named)
def test_size_is_met_and_one_more_dimension_would_exceed_it(
    runtime: Runtime, weights: dict[str, float], size: float, dtype: str, tmp_path: Path
) -> None:
    check_size(runtime, Wish(weights, "size", size), dtype, tmp_path)


@pytest.mark.parametrize("limits", LIMITS[::2], ids=str)
def test_size_is_met_with_limits(runtime: Runtime, limits: dict[str, Any], tmp_path: Path) -> None:
    check_size(runtime, Wish({"fro_ckpt": 1.0}, "size", 0.5, **limits), "16", tmp_path)


def check_size(runtime: Runtime, wish: Wish, dtype: str, folder: Path) -> None:
    ranking = Ranking(runtime.layers, wish)
    outcome = resized(runtime.lora, wish.text, folder, How(dtype, base=runtime.base))
    job, path = job_of(outcome), output(outcome)
    kept, size, threshold = kept_of(job), path.stat().st_size, job.plan.threshold
    assert size == job.plan.bytes_after <= wish.value * MIB
    assert size == file_of(kept, path, runtime.lora)  # we reckon as the library does
    assert threshold is not None
    count = sum(score >= threshold - ties(wish) for score, _, _ in ranking.free)
    check_choice(job, ranking, ranking.with_first(count), threshold)
    left = [(name, i) for _, name, i in ranking.free if i not in kept[name]]
    assert left
    name, dimension = left[0]
    larger = ranking.completed({**kept, name: [*kept[name], dimension]})
    assert file_of(larger, path, runtime.lora) > wish.value * MIB - SLACK


def test_size_above_the_source_keeps_all(runtime: Runtime, tmp_path: Path) -> None:
    job = job_of(resized(runtime.lora, "fro_lora=1,size=5", tmp_path))
    alive = {name: int(np.count_nonzero(layer.s)) for name, layer in runtime.layers.items()}
    assert {name: len(kept) for name, kept in kept_of(job).items()} == alive


# Bases that lack layers, and LoRAs of other families

LACKING = (
    "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
    "model.diffusion_model.input_blocks.1.0.in_layers.2.weight",
    "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight",
)


@pytest.fixture(scope="module")
def lacking(runtime: Runtime) -> Iterator[Runtime]:
    tensors = {key: values for key, values in load(runtime.base).items() if key not in LACKING}
    base = save(runtime.base.parent / "lacking.safetensors", tensors)
    layers = {
        name: replace(layer, weight=weight)
        for (name, layer), weight in zip(
            runtime.layers.items(), map(base_weights(base).get, runtime.layers), strict=True
        )
    }
    assert sum(layer.weight is None for layer in layers.values()) == 5
    with analysed(runtime.lora, base) as analysis:
        yield Runtime(runtime.lora, base, layers, analysis)


@pytest.mark.parametrize(
    "weights", [{"fro_ckpt": 0.5, "fro_lora": 0.3, "params": 0.2}, {"subspace": 0.9, "spn_lora": 0.1}], ids=named
)
def test_layers_without_partner_are_scored_by_what_is_left(lacking: Runtime, weights: dict[str, float]) -> None:
    wish = Wish(weights, "thr", 0.0)
    wish = replace(wish, value=quantile(lacking, wish, 0.7))
    ranking = Ranking(lacking.layers, wish)
    job = lacking.plan(wish.text)
    check_scores(job, lacking.layers, wish)
    check_choice(job, ranking, by_threshold(ranking), wish.value)
    alone = {name for name, layer in lacking.layers.items() if layer.weight is None}
    assert {line.name for line in job.plan.layers if line.error_ckpt is None} == alone
    assert any("5 layers" in note and "without the base model" in note for note in job.plan.notes)


@pytest.mark.parametrize("recipe", ["fro_ckpt=1,thr=-3.5", "spn_ckpt=0.7,params=0.3,retain=0.9", "subspace=1,size=0.3"])
def test_recipes_that_need_the_missing_layers_score_them_by_themselves_and_say_so(
    lacking: Runtime, recipe: str
) -> None:
    job = lacking.plan(recipe)
    alone = {name for name, layer in lacking.layers.items() if layer.weight is None}
    assert {line.name for line in job.plan.layers if line.error_ckpt is None} == alone
    (note,) = [note for note in job.plan.notes if "without the base model" in note]
    assert f"{len(alone)} layers" in note
    assert "lacking.safetensors" in note


def test_recipes_that_need_no_base_do_not_mind(lacking: Runtime) -> None:
    ranking = Ranking(lacking.layers, Wish({"fro_lora": 1.0}, "retain", 0.9))
    job = lacking.plan(ranking.wish.text)
    check_choice(job, ranking, by_retention(ranking), job.plan.threshold)


def sd15_lora(path: Path) -> Path:
    tensors = {}
    for block, width in ((0, 320), (1, 640)):
        for part in ("q", "k", "v", "out_0"):
            stem = f"lora_unet_down_blocks_{block}_attentions_0_transformer_blocks_0_attn1_to_{part}"
            tensors[f"{stem}.lora_down.weight"] = np.full((4, width), 0.01)
            tensors[f"{stem}.lora_up.weight"] = np.full((width, 4), 0.01)
            tensors[f"{stem}.alpha"] = np.array(4.0)
    saved: Path = save(path, tensors)
    return saved


def test_a_lora_of_another_family_is_reported(runtime: Runtime, tmp_path: Path) -> None:
    lora = sd15_lora(tmp_path / "sd15.safetensors")
    with pytest.raises(PairingError) as error:
        resized(lora, "fro_ckpt=1,thr=-3.5", tmp_path, How(base=runtime.base))
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q" in str(error.value)
    assert "another model family" in str(error.value)


# What is written is what was chosen


@pytest.mark.parametrize("recipe", ["subspace=1,retain=0.8", "fro_ckpt=0.8,params=0.2,rescale=0.5,size=0.3"])
def test_the_written_delta_is_the_sum_of_the_chosen_dimensions(runtime: Runtime, recipe: str, tmp_path: Path) -> None:
    outcome = resized(runtime.lora, recipe, tmp_path, How(base=runtime.base))
    written, kept = lora_layers(output(outcome), {}), kept_of(job_of(outcome))
    strength = 0.5 if "rescale" in recipe else 1.0
    assert written.keys() == {name for name, dimensions in kept.items() if dimensions}
    for name, layer in written.items():
        u, s, vt = runtime.layers[name].svd
        chosen = kept[name]
        assert difference(layer.delta, strength * (u[:, chosen] * s[chosen]) @ vt[chosen]) < 1e-3, name
    if "subspace" in recipe:
        assert any(dimensions != list(range(len(dimensions))) for dimensions in kept.values())


def test_the_default_is_that_of_the_definition(runtime: Runtime, tmp_path: Path) -> None:
    ranking = Ranking(runtime.layers, Wish({"fro_ckpt": 1.0}, "thr", -3.5))
    settings = Settings(base=runtime.base, output=tmp_path, dry_run=True)
    job = job_of(next(iter(resize([Source((Member(runtime.lora),))], settings))))
    check_choice(job, ranking, by_threshold(ranking), -3.5)

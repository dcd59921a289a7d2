"""Fitted factors in the file: written, checked and recorded as those of every other file."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib_resize.adapters.write.style import Style
from lib_resize.engine.batch import resize
from lib_resize.engine.fitting_job import with_fit
from lib_resize.engine.job import ResizeJob
from lib_resize.engine.measuring import measured
from lib_resize.engine.planning import prepare
from lib_resize.engine.runtime import Runtime
from lib_resize.engine.settings import Settings
from lib_resize.engine.writing import execute
from lib_resize.errors import OutputError, UsageError
from lib_resize.files.metadata import RECORD, FitRecord
from lib_resize.files.reader import SafeFile
from lib_resize.fitting.fit import Recorded, Recordings, fit_job, held_out_errors
from lib_resize.fitting.layers import Census, pairs_of, targets_of
from lib_resize.fitting.paired import FitOptions, fit_targets
from lib_resize.linalg.casts import doubles, round_to, singles
from lib_resize.linalg.factor import Pair, Stored
from lib_resize.plans import Plan
from lib_resize.progress import Quiet
from lib_resize.prompts.sources import Member, Source
from lib_resize.recipe.grammar import parse_recipe, parse_recipes
from tests.fitting.small_net import Scene, calls_of, save_lora, scene_of


def deltas(path: Path) -> dict[str, np.ndarray]:
    """By the definition, in float64."""
    found = {}
    with SafeFile(path) as file:
        kinds = {key: entry.dtype for key, entry in file.header.entries.items()}
        for key in kinds:
            stem, _, role = key.partition(".")
            if role == "lora_up.weight":
                up, down = (
                    doubles(file.bits(f"{stem}.lora_{w}.weight"), kinds[f"{stem}.lora_{w}.weight"])
                    for w in ("up", "down")
                )
                up, down = up.reshape(len(up), -1), down.reshape(len(down), -1)
                found[stem] = file.scalar(f"{stem}.alpha") / len(down) * up @ down
    return found


def record_of(path: Path):
    with SafeFile(path) as file:
        return json.loads(file.header.metadata[RECORD])


def made(scene: Scene, dtype: str, recipe: str = "rank=2") -> ResizeJob:
    return fit_job(scene.job(recipe, dtype), scene.recordings(), FitOptions(), scene.runtime)


def write(job: ResizeJob, scene: Scene) -> ResizeJob:
    job = measured(job, scene.runtime)
    execute(job, scene.runtime, ["0" * 64])
    return job


@pytest.mark.parametrize(("dtype", "tolerance"), [("F32", 1e-6), ("F16", 1e-3), ("BF16", 1e-2), ("F8_E4M3", 0.05)])
def test_the_file_has_the_fitted_factors(scene: Scene, dtype: str, tolerance: float) -> None:
    job = write(made(scene, dtype), scene)
    found = deltas(job.path)
    assert len(job.selection.fitted) == 7
    for index, layer in job.selection.fitted.items():
        pair = layer.form.pair
        wanted = np.asarray(pair.up.bits, np.float64) @ pair.down.bits
        stem = job.analysis.adapter.layers[index].stem
        assert np.linalg.norm(found[stem] - wanted) < tolerance * np.linalg.norm(wanted)
    # The others are truncated.
    source = deltas(job.analysis.adapter.paths[0])
    u, s, vt = np.linalg.svd(source["lora_unet_unused"])
    assert np.linalg.norm(found["lora_unet_unused"] - u[:, :2] * s[:2] @ vt[:2]) < tolerance * s[0]


@pytest.mark.parametrize("dtype", ["F16", "F8_E4M3"])
def test_the_figures_are_those_of_the_written_numbers(scene: Scene, dtype: str) -> None:
    job = write(made(scene, dtype), scene)
    source, found = deltas(job.analysis.adapter.paths[0]), deltas(job.path)
    for layer in job.plan.layers:
        off = np.linalg.norm(found[layer.name] - source[layer.name]) / np.linalg.norm(source[layer.name])
        assert layer.error_lora == pytest.approx(off, rel=2e-3)
    whole = math.sqrt(sum(np.sum(one**2) for one in source.values()))
    off = math.sqrt(sum(np.sum((found[stem] - one) ** 2) for stem, one in source.items())) / whole
    assert job.plan.retention == pytest.approx(math.sqrt(1 - off**2), abs=2e-4)
    assert job.path.stat().st_size == job.plan.bytes_after


def test_rescale_applies_to_fitted_factors(scene: Scene) -> None:
    plain, scaled = write(made(scene, "F32"), scene), write(made(scene, "F32", "rank=2,rescale=0.5"), scene)
    one, half = deltas(plain.path), deltas(scaled.path)
    assert all(np.allclose(half[stem], 0.5 * one[stem], atol=1e-6) for stem in one)


def test_the_record_has_the_fit_and_no_prompt(scene: Scene) -> None:
    job = write(made(scene, "F16"), scene)
    fit = record_of(job.path)["fit"]
    plain, own = (fit["errors"]["unet"][word] for word in ("plain", "fitted"))
    assert 0 < own < plain < 1
    assert (fit["images"], fit["steps"], fit["layers"]) == (8, 1, 7)
    assert "fitted to images: 7 of 9 layers" in job.plan.notes
    assert f"unet: error on an image that was not used {own:.3g}, plain truncation {plain:.3g}" in job.plan.notes


def test_a_file_is_checked_against_the_fitted_factors(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not against the truncation, and a fault in a fitted layer is found."""
    from lib_resize.engine import layer_values, writing

    job = measured(made(scene, "F16"), scene.runtime)
    true_values = layer_values.storage_arrays

    def spoiled(*arguments):
        out = true_values(*arguments)
        key = "lora_unet_mlp.lora_up.weight"
        return {**out, key: round_to(singles(out[key], "F16") * np.float32(1.05), "F16")} if key in out else out

    monkeypatch.setattr(writing, "storage_arrays", spoiled)
    with pytest.raises(OutputError, match="layer lora_unet_mlp read back differs"):
        execute(job, scene.runtime, ["0" * 64])
    assert not job.path.exists()


# The comparison ---------------------------------------------------------------------------------------------------


def test_where_the_fit_is_worse_plain_truncation_is_kept(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit to calls of quite another kind."""
    from lib_resize.fitting import moments

    monkeypatch.setattr(moments, "LEAST_TOKENS", 0)
    other = calls_of(1, 40, samples=1)
    other[0].args[0].mul_(0.001)
    other[0].kwargs["context"].mul_(40)
    recordings = Recordings([Recorded(scene.model(), other, calls_of(4, 2))], 1, 1, "")
    job = fit_job(scene.job(), recordings, FitOptions(lam=1e-6), scene.runtime)
    assert job.selection.fitted == {}
    assert any(note.startswith("unet: plain truncation is kept") for note in job.plan.notes)
    assert job.selection.fit is not None
    plain, own = job.selection.fit.errors["unet"]
    assert own >= plain
    path = write(job, scene).path
    fit = record_of(path)["fit"]
    assert fit["layers"] == 0
    assert fit["errors"]["unet"]["fitted"] >= fit["errors"]["unet"]["plain"]
    found, source = deltas(path), deltas(job.analysis.adapter.paths[0])
    u, s, vt = np.linalg.svd(source["lora_unet_mlp"])
    assert np.linalg.norm(found["lora_unet_mlp"] - u[:, :2] * s[:2] @ vt[:2]) < 1e-4


def test_where_the_lora_does_nothing_on_the_held_out_calls_plain_truncation_is_kept(scene: Scene) -> None:
    recorded = replace(scene.recordings().models[0], held_out=[])
    job = fit_job(scene.job(), Recordings([recorded], 8, 1, ""), FitOptions(), scene.runtime)
    assert job.selection.fitted == {}


def test_the_errors_are_those_of_the_definition(scene: Scene) -> None:
    import torch

    job = scene.job()
    (error,) = held_out_errors([job], scene.recordings().models[0])
    calls = calls_of(4, 2)

    def outputs(changes: dict[str, np.ndarray]) -> torch.Tensor:
        modules = dict(scene.net.named_modules())
        weights = {stem: modules[stem.removeprefix("lora_unet_")].weight for stem in changes}
        kept = {stem: weight.clone() for stem, weight in weights.items()}
        for stem, weight in weights.items():
            weight += torch.from_numpy(changes[stem]).float().reshape(weight.shape)
        with torch.no_grad():
            found = torch.stack([scene.net(*call.args, **call.kwargs) for call in calls])
        for stem, weight in weights.items():
            weight.copy_(kept[stem])
        return found

    path = write(job, scene).path
    source = outputs(deltas(job.analysis.adapter.paths[0]))
    wanted = (outputs(deltas(path)) - source).square().sum() / (outputs({}) - source).square().sum()
    assert error == pytest.approx(float(wanted), rel=1e-3)


# The run ----------------------------------------------------------------------------------------------------------


class Refine:
    """What a WebUI or a pipeline gives to a run."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.calls = scene, 0
        self.longest = FitRecord.longest(["unet"])

    def __call__(self, job: ResizeJob, runtime: Runtime) -> ResizeJob:
        self.calls += 1
        return fit_job(job, self.scene.recordings(), FitOptions(), runtime)


def run(scene: Scene, recipe: str, dtype: str = "F16", *, dry_run: bool = False) -> tuple[ResizeJob, Plan, Refine]:
    refine = Refine(scene)
    settings = Settings(
        parse_recipes(recipe), scene.folder / "out", style=Style(dtype), refine=refine, dry_run=dry_run, threads=1
    )
    (outcome,) = resize([Source((Member(scene.analysis.adapter.paths[0]),))], settings)
    assert outcome.error is None
    assert outcome.job is not None
    assert outcome.plan is not None
    return outcome.job, outcome.plan, refine


@pytest.mark.parametrize("dtype", ["F16", "F8_E4M3"])
@pytest.mark.parametrize("size", [0.006, 0.0071, 0.0083])
def test_a_size_is_kept_with_the_record_of_the_fit(scene: Scene, size: float, dtype: str) -> None:
    job, plan, _ = run(scene, f"fro_lora=1,min_rank=1,size={size}", dtype)
    assert job.selection.fitted
    assert Path(plan.output).stat().st_size == plan.bytes_after <= size * (1 << 20)
    _, planned, refine = run(scene, f"fro_lora=1,min_rank=1,size={size}", dtype, dry_run=True)
    assert refine.calls == 0
    assert plan.bytes_after <= planned.bytes_after
    assert [layer.new_rank for layer in planned.layers] == [layer.new_rank for layer in plan.layers]


@pytest.mark.parametrize("recipe", ["rank=2,rsvd", "rank=9,extend", "rank=2,projection"])
def test_a_method_without_the_exact_decomposition_is_refused_before_any_work(scene: Scene, recipe: str) -> None:
    with pytest.raises(UsageError, match="factors are fitted from the exact decomposition"):
        run(scene, recipe)


def test_padding_keeps_the_fitted_delta(scene: Scene) -> None:
    job, plan, _ = run(scene, "rank=2,pad", "F32")
    found = deltas(Path(plan.output))
    for index, layer in job.selection.fitted.items():
        wanted = np.asarray(layer.form.pair.up.bits, np.float64) @ layer.form.pair.down.bits
        assert np.allclose(found[job.analysis.adapter.layers[index].stem], wanted, atol=1e-5)


def test_factors_of_another_rank_are_refused(scene: Scene) -> None:
    job = scene.job()
    pair = Pair(Stored(np.zeros((16, 3), np.float32), "F32"), Stored(np.zeros((3, 16), np.float32), "F32"))
    with pytest.raises(ValueError, match="the rank of the plan"):
        with_fit(job, {0: pair}, FitRecord.longest([]), [], scene.runtime.arrays)


def test_a_fused_layer_that_was_trained_in_pieces_stays_in_pieces(net, tmp_path) -> None:
    """Each piece gets its own rows, moments and rank; a dimension reaches one piece only."""
    path = save_lora(tmp_path / "e.safetensors", {"qkv": (48, 16), "mlp": (24, 16)})
    with SafeFile(path) as file:
        data = {key: (entry.dtype, np.array(file.bits(key))) for key, entry in file.header.entries.items()}
    up = data["lora_unet_qkv.lora_up.weight"][1]
    up[:16, 3:], up[16:32, :3], up[16:32, 6:], up[32:, :6] = 0, 0, 0, 0
    from lib_resize.files.header import TensorSpec, file_order
    from lib_resize.files.writer import write_safetensors

    path = tmp_path / "pieces.safetensors"
    specs = file_order(TensorSpec(key, dtype, bits.shape) for key, (dtype, bits) in data.items())
    write_safetensors(path, specs, {}, (data[spec.name][1] for spec in specs))
    with scene_of(net, path) as scene:
        scene = with_cuts(scene, {"lora_unet_qkv": (16, 32)})
        job, census = scene.job("rank=7"), Census()
        targets = targets_of(job, scene.model(), census)
        fused = [target for target in targets if target.place.rows is not None]
        assert [target.place.rows for target in fused] == [(0, 16), (16, 32), (32, 48)]
        assert sum(target.rank for target in fused) == 7
        fit_targets(scene.model(), targets, (), calls_of(8, 1), FitOptions(), Quiet())
        pairs = pairs_of(job, targets, 0.02, census)
        made = with_fit(job, pairs, FitRecord.longest([]), [], scene.runtime.arrays)
        errors = held_out_errors([job, made], scene.recordings().models[0])
        assert errors[1] < errors[0]
        written = write(made, scene).path
    with SafeFile(written) as file:
        up = singles(file.bits("lora_unet_qkv.lora_up.weight"), "F32").reshape(48, -1)
    used = np.stack([np.any(up[rows : rows + 16] != 0, axis=0) for rows in (0, 16, 32)])
    assert (used.sum(axis=0) == 1).all()


def with_cuts(scene: Scene, cuts: dict[str, tuple[int, ...]]) -> Scene:
    """As the reader has layers of a family whose pieces it knows."""
    from lib_resize.engine.analysing import analyse

    adapter = scene.analysis.adapter
    layers = tuple(
        replace(layer, form=layer.form.with_row_cuts(cuts[layer.stem])) if layer.stem in cuts else layer
        for layer in adapter.layers
    )
    return replace(scene, analysis=analyse(replace(adapter, layers=layers), None, [], scene.runtime))


# float8 without dropped dimensions --------------------------------------------------------------------------------


def rounding(scene: Scene, recipe: str) -> dict[str, float]:
    """Squared relative rounding error of each layer, over what the dtype alone would give."""
    path_for = lambda stem: scene.folder / f"{stem}.safetensors"  # noqa: E731
    job = write(prepare(scene.analysis, parse_recipe(recipe), Style("F8_E4M3"), path_for), scene)
    source, found = deltas(job.analysis.adapter.paths[0]), deltas(job.path)
    k = job.choice.ranks[0]
    result = {}
    for stem, true in source.items():
        u, s, vt = np.linalg.svd(true, full_matrices=False)
        kept = u[:, :k] * s[:k] @ vt[:k]
        result[stem] = float(np.sum((found[stem] - kept) ** 2) / np.sum(kept**2))
    return result


@pytest.mark.parametrize(("recipe", "decades"), [("rank=8", 0.3), ("rank=8", 2.0), ("rank=7", 2.0)])
def test_a_plan_estimates_the_rounding_that_is_measured(net, tmp_path, recipe: str, decades: float) -> None:
    shapes = {f"l{i}": (200, 160) for i in range(4)}
    with scene_of(net, save_lora(tmp_path / "g.safetensors", shapes, decades=decades)) as scene:
        job = scene.job(recipe, "F8_E4M3")
        planned = [layer.error_lora for layer in job.plan.layers]
        found = [layer.error_lora for layer in measured(job, scene.runtime).plan.layers]
    assert found == pytest.approx(planned, rel=0.25)


def test_all_ranks_in_float8_are_rotated_and_fewer_are_not(tmp_path, net) -> None:
    shapes = {f"l{i}": (200, 160) for i in range(4)}
    with scene_of(net, save_lora(tmp_path / "f.safetensors", shapes, decades=2)) as scene:
        whole, fewer = rounding(scene, "rank=8"), rounding(scene, "rank=7")
    assert np.mean(list(fewer.values())) == pytest.approx(1.4e-3, rel=0.15)
    assert np.mean(list(whole.values())) < 0.35 * np.mean(list(fewer.values()))

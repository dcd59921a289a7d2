"""Laws of fp8: values are scaled into its range for any alpha, and reported figures are those of the written values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lib_resize.adapters.write.style import Style
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Outcome, Settings
from lib_resize.errors import ResizeError
from lib_resize.files.header import TensorSpec, file_order
from lib_resize.files.reader import SafeFile
from lib_resize.files.writer import write_safetensors
from lib_resize.linalg.casts import doubles, round_to, singles
from lib_resize.prompts.sources import Member, Source
from lib_resize.recipe.grammar import parse_recipes

N, M, RANK = 96, 80, 8
STEMS = ("lora_unet_first", "lora_unet_second")


def save(path: Path, alpha: float | None, spread: float, kind: str = "F8_E4M3", suffixes: str = "kohya") -> Path:
    """A LoRA of two layers, its entries near `spread`, after rounding to fp8."""
    rng = np.random.default_rng(3)
    up, down = ("lora_up.weight", "lora_down.weight") if suffixes == "kohya" else ("lora_B.weight", "lora_A.weight")
    data: dict[str, tuple[str, np.ndarray]] = {}
    for stem in STEMS:
        for name, shape in ((up, (N, RANK)), (down, (RANK, M))):
            values = (rng.standard_normal(shape) * spread).astype(np.float32)
            bits = round_to(values, "F8_E4M3")
            if kind == "F8_E5M2":  # the same numbers in range: as float16 without its last byte
                bits = (values.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8)
            data[f"{stem}.{name}"] = kind, bits
        if alpha is not None:
            data[f"{stem}.alpha"] = "F32", np.array(alpha, np.float32)
    specs = file_order(TensorSpec(name, dtype, bits.shape) for name, (dtype, bits) in data.items())
    write_safetensors(path, specs, {}, (data[spec.name][1] for spec in specs))
    return path


def deltas(path: Path) -> dict[str, np.ndarray]:
    """By the definition, in float64."""
    found = {}
    with SafeFile(path) as file:
        kinds = {key: entry.dtype for key, entry in file.header.entries.items()}
        for stem in STEMS:
            up, down = (
                doubles(file.bits(f"{stem}.lora_{w}.weight"), kinds[f"{stem}.lora_{w}.weight"]) for w in ("up", "down")
            )
            found[stem] = file.scalar(f"{stem}.alpha") / len(down) * up @ down
    return found


def run(path: Path, recipe: str, folder: Path, dtype: str | None = None, *, dry_run: bool = False) -> Outcome:
    settings = Settings(
        recipes=parse_recipes(recipe), output=folder, style=Style(dtype=dtype), threads=1, dry_run=dry_run
    )
    (outcome,) = resize([Source((Member(path),))], settings)
    return outcome


def norm(found: dict[str, np.ndarray]) -> float:
    return math.sqrt(sum(float(np.sum(one**2)) for one in found.values()))


@pytest.mark.parametrize(
    "recipe", ["rank=12,extend", "rank=5", "fro_lora=1,retain=0.9", "rank=4,rescale=0.25", "rank=4,rsvd"]
)
@pytest.mark.parametrize(("alpha", "spread"), [(0.1, 0.05), (8.0, 0.3), (1.0, 4.0), (1024.0, 2.0), (-2.0, 0.1)])
@pytest.mark.parametrize("dtype", [None, "F8_E4M3"])
def test_figures_are_those_of_the_written_numbers(tmp_path, recipe, alpha, spread, dtype):
    source = save(tmp_path / "a.safetensors", alpha, spread)
    planned = run(source, recipe, tmp_path / "out", dtype, dry_run=True).plan
    plan = run(source, recipe, tmp_path / "out", dtype).plan
    assert plan is not None
    assert planned == plan
    rescale = 0.25 if "rescale" in recipe else 1.0
    old, new = deltas(source), {stem: one / rescale for stem, one in deltas(Path(plan.output)).items()}
    lost = {stem: new[stem] - old[stem] for stem in STEMS}
    for layer in plan.layers:
        found = np.linalg.norm(lost[layer.name]) / np.linalg.norm(old[layer.name])
        assert layer.error_lora == pytest.approx(found, rel=1e-3, abs=1e-6)
    off = norm(lost) / norm(old)
    assert plan.retention == pytest.approx(math.sqrt(max(0.0, 1 - off**2)), abs=1e-5)
    assert Path(plan.output).stat().st_size == plan.bytes_after
    if "extend" in recipe:
        assert off < 0.06


@pytest.mark.parametrize("size", [0.002, 0.0025, 0.003, 0.004])
def test_a_size_is_kept_although_the_record_is_not_known_yet(tmp_path, size):
    source = save(tmp_path / "a.safetensors", 8.0, 0.3)
    plan = run(source, f"fro_lora=1,size={size}", tmp_path / "out").plan
    assert plan is not None
    assert Path(plan.output).stat().st_size == plan.bytes_after <= size * (1 << 20)


@pytest.mark.parametrize("alpha", [0.1, 8.0])
def test_e5m2_becomes_float16_and_keeps_its_numbers(tmp_path, alpha):
    source = save(tmp_path / "a.safetensors", alpha, 0.05, "F8_E5M2")
    plan = run(source, "rank=12,extend", tmp_path / "out").plan
    assert plan is not None
    old, new = deltas(source), deltas(Path(plan.output))
    for stem in STEMS:
        assert np.linalg.norm(new[stem] - old[stem]) < 1e-3 * np.linalg.norm(old[stem])


def test_fp8_in_a_key_format_without_alpha_is_refused_with_a_remedy(tmp_path):
    source = save(tmp_path / "a.safetensors", None, 0.05, suffixes="peft")
    error = run(source, "rank=4", tmp_path / "out").error
    assert isinstance(error, ResizeError)
    assert "-t same" in str(error)
    assert "-t 16" in str(error)
    assert run(source, "rank=4", tmp_path / "out", "F16").error is None


def test_a_layer_far_below_the_others_is_written_and_its_error_reported(tmp_path):
    """fp8 cannot hold it next to the strongest."""
    data = {}
    for stem, strength in zip(STEMS, (1.0, 3e-7), strict=True):
        rng = np.random.default_rng(5)
        for role, shape in (("up", (N, RANK)), ("down", (RANK, M))):
            data[f"{stem}.lora_{role}.weight"] = (
                rng.standard_normal(shape).astype(np.float32) * np.float32(strength) ** 0.5
            )
    specs = file_order(TensorSpec(name, "F32", values.shape) for name, values in data.items())
    path = tmp_path / "a.safetensors"
    write_safetensors(path, specs, {}, (data[spec.name] for spec in specs))
    outcome = run(path, "rank=4", tmp_path / "out", "F8_E4M3")
    plan = outcome.plan
    assert plan is not None
    found = deltas(Path(plan.output))[STEMS[1]]
    mine = data[f"{STEMS[1]}.lora_up.weight"].astype(float) @ data[f"{STEMS[1]}.lora_down.weight"]
    assert plan.layers[1].error_lora == pytest.approx(np.linalg.norm(found - mine) / np.linalg.norm(mine), rel=1e-2)


@pytest.mark.parametrize("place", range(0, 24, 5))
def test_every_layer_is_compared_with_what_was_meant(tmp_path, monkeypatch, place):
    """Not a sample: a fault in any one layer is found, although the bytes are those that were written."""
    from lib_resize.engine import layer_values, writing

    rng = np.random.default_rng(1)
    stems = [f"lora_unet_layer{i:02}" for i in range(24)]
    data = {}
    for stem in stems:
        data[f"{stem}.lora_up.weight"] = rng.standard_normal((N, RANK)).astype(np.float16)
        data[f"{stem}.lora_down.weight"] = rng.standard_normal((RANK, M)).astype(np.float16)
    specs = file_order(TensorSpec(name, "F16", values.shape) for name, values in data.items())
    path = tmp_path / "a.safetensors"
    write_safetensors(path, specs, {}, (data[spec.name] for spec in specs))
    true_factors = layer_values.storage_arrays

    def spoiled(job, group, runtime):
        out = true_factors(job, group, runtime)
        key = f"{stems[place]}.lora_up.weight"
        if key in out:
            values = singles(out[key], "F16")
            out[key] = round_to(values * np.float32(1.05), "F16")
        return out

    assert run(path, "rank=4", tmp_path / "right", "F16").error is None
    monkeypatch.setattr(writing, "storage_arrays", spoiled)
    error = run(path, "rank=4", tmp_path / "out", "F16").error
    assert f"layer {stems[place]} read back differs by" in str(error)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F8_E4M3"])
def test_no_bound_grows_with_how_badly_numbers_fit(tmp_path, monkeypatch, dtype):
    """Factors that are moved out of their dtype's range are refused, however the rounding explains the error."""
    from lib_resize.adapters.write import layout as write

    source = save(tmp_path / "a.safetensors", 8.0, 0.3)
    assert run(source, "rank=4", tmp_path / "right", dtype).error is None
    monkeypatch.setattr(write, "_common_alpha", lambda *_: 2.0**40)
    error = run(source, "rank=4", tmp_path / "out", dtype).error
    assert (error is None) is (dtype in ("BF16", "F32"))  # whose range is wide enough


def test_a_plan_is_refused_before_anything_is_written_where_fp8_cannot_hold_a_layer(tmp_path, monkeypatch):
    from lib_resize.adapters.write import layout

    source = save(tmp_path / "a.safetensors", 8.0, 0.3)
    assert run(source, "rank=4", tmp_path, "F8_E4M3", dry_run=True).error is None
    monkeypatch.setattr(layout, "_common_alpha", lambda *_: 2.0**40)
    assert "fp8 would change it by" in str(run(source, "rank=4", tmp_path, "F8_E4M3", dry_run=True).error)


def test_what_the_library_does_not_read_as_meant_gets_no_name(tmp_path, monkeypatch):
    """A file is opened by the safetensors library, too, before it gets its name."""
    from lib_resize.files import writer

    source = save(tmp_path / "a.safetensors", 8.0, 0.3)
    true_shapes = writer._shapes_by_library
    monkeypatch.setattr(writer, "_shapes_by_library", lambda path: {**true_shapes(path), "another": (1,)})
    error = run(source, "rank=4", tmp_path / "out").error
    assert "the written file was read back and differs: tensor 'another'" in str(error)
    assert list((tmp_path / "out").iterdir()) == []

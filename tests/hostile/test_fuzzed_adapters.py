"""Random damage to headers and tensors of every kind of adapter: no crash, no hang, no partial output, and a refusal
names the file, the key and the reason. The examples are the same in every run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from lib_resize.adapters.write.style import Style
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.errors import InternalError, OutputError, ResizeError
from lib_resize.files.header import read_header
from lib_resize.prompts.sources import Member, Source
from lib_resize.recipe.grammar import parse_recipes
from lib_resize.studies.inspection import describe
from tests.material import plan_of

N, M, R = 10, 8, 3
SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "lora": {"lora_up.weight": (N, R), "lora_down.weight": (R, M), "alpha": ()},
    "locon": {"lora_up.weight": (N, R, 1, 1), "lora_down.weight": (R, M, 3, 3), "alpha": ()},
    "peft": {"lora_B.weight": (N, R), "lora_A.weight": (R, M), "lora_B.bias": (N,)},
    "tucker": {"lora_up.weight": (N, R, 1, 1), "lora_mid.weight": (R, R, 3, 3), "lora_down.weight": (R, M, 1, 1),
               "alpha": ()},
    "loha": {"hada_w1_a": (N, R), "hada_w1_b": (R, M), "hada_w2_a": (N, R), "hada_w2_b": (R, M), "alpha": ()},
    "loha core": {"hada_t1": (R, R, 3, 3), "hada_w1_a": (R, N), "hada_w1_b": (R, M), "hada_t2": (R, R, 3, 3),
                  "hada_w2_a": (R, N), "hada_w2_b": (R, M), "alpha": ()},
    "lokr": {"lokr_w1": (2, 2), "lokr_w2": (5, 4), "alpha": ()},
    "lokr pairs": {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (5, 2), "lokr_w2_b": (2, 4), "alpha": ()},
    "lokr core": {"lokr_w1": (2, 2), "lokr_t2": (2, 2, 3, 3), "lokr_w2_a": (2, 5), "lokr_w2_b": (2, 4), "alpha": ()},
    "glora": {"a1.weight": (M, R), "a2.weight": (R, M), "b1.weight": (N, R), "b2.weight": (R, M), "alpha": ()},
    "glora old": {"a1.weight": (R, M), "a2.weight": (M, R), "b1.weight": (R, M), "b2.weight": (N, R), "alpha": ()},
    "full": {"diff": (N, M), "diff_b": (N,)},
    "ia3": {"weight": (M,), "on_input": ()},
    "ia3 peft": {"ia3_l": (1, M)},
    "oft": {"oft_blocks": (2, 5, 5), "alpha": (), "rescale": (N, 1)},
    "oft old": {"oft_diag": (2, 5, 5)},
    "boft": {"oft_blocks": (1, 5, 2, 2), "alpha": ()},
    "boft peft": {"boft_R": (1, 2, M // 2, M // 2), "boft_s": (N, 1)},
    "norm": {"w_norm": (N,), "b_norm": (N,)},
    "dora": {"lora_up.weight": (N, R), "lora_down.weight": (R, M), "alpha": (), "dora_scale": (N, 1)},
    "dora in": {"lora_up.weight": (N, R), "lora_down.weight": (R, M), "dora_scale": (1, M)},
    "dora peft": {"lora_B.weight": (N, R, 1, 1), "lora_A.weight": (R, M, 3, 3),
                  "lora_magnitude_vector": (1, N, 1, 1)},
    "dora loha": {"hada_w1_a": (N, R), "hada_w1_b": (R, M), "hada_w2_a": (N, R), "hada_w2_b": (R, M),
                  "dora_scale": (N, 1)},
    "control": {"up": (N, R), "down": (R, M)},
}  # fmt: skip
KERNELS = {"locon", "tucker", "loha core", "lokr core", "dora peft"}
RESTING = {"glora", "glora old"}
"""Their deltas are not known without the base model."""
SUFFIXES = sorted({suffix for shapes in SHAPES.values() for suffix in shapes})

layers = st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=3)
sides = st.integers(0, 6)
damages = st.lists(
    st.one_of(
        st.tuples(st.just("drop"), st.integers(0, 30)),
        st.tuples(st.just("shape"), st.integers(0, 30), st.lists(sides, max_size=5)),
        st.tuples(st.just("rename"), st.integers(0, 30), st.sampled_from(SUFFIXES)),
        st.tuples(st.just("value"), st.integers(0, 30), st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0])),
        st.tuples(
            st.just("dtype"), st.integers(0, 30), st.sampled_from(["float16", "float64", "int8", "bool", "int64"])
        ),
        st.tuples(st.just("marker")),
    ),
    max_size=3,
)


def stem(i: int, kind: str) -> str:
    """A name without the words of adapters, which no base model has."""
    return f"lora_unet_layer{i}_{sorted(SHAPES).index(kind)}"


def base_of(kinds: list[str]) -> dict[str, np.ndarray]:
    """A base model that has a weight for every layer."""
    rng = np.random.default_rng(1)
    found = {}
    for i, kind in enumerate(kinds):
        shape = (2 * N, 2 * M) if kind == "lokr pairs" else (N, M, *((3, 3) if kind in KERNELS else ()))
        key = f"diffusion_model.{stem(i, kind).removeprefix('lora_unet_')}.weight"
        found[key] = rng.standard_normal(shape).astype(np.float32)
    return found


def intact(kinds: list[str]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(kinds))
    return {
        f"{stem(i, kind)}.{suffix}": np.asarray(rng.standard_normal(shape), np.float32)
        for i, kind in enumerate(kinds)
        for suffix, shape in SHAPES[kind].items()
    }


def damaged(tensors: dict[str, np.ndarray], damage: tuple[Any, ...]) -> dict[str, np.ndarray]:
    word, *what = damage
    if word == "marker":
        return tensors | {"lora_controlnet": np.zeros(0, np.float32)}
    if not tensors:
        return tensors
    key = sorted(tensors)[what[0] % len(tensors)]
    value = tensors.pop(key)
    if word == "shape":
        tensors[key] = np.ones(what[1], np.float32)
    elif word == "rename":
        tensors[f"{key.partition('.')[0]}.{what[1]}"] = value
    elif word == "value":
        flat = value.copy().reshape(-1)
        with np.errstate(all="ignore"):
            flat[:1] = what[1] if value.dtype.kind == "f" else 1
        tensors[key] = flat.reshape(value.shape)
    elif word == "dtype":
        with np.errstate(all="ignore"):
            tensors[key] = np.nan_to_num(value).astype(what[1])
    return tensors


def outcome_of(path: Path, out: Path, **style: Any):
    options = Settings(
        recipes=parse_recipes("fro_lora=1,min_rank=1,retain=0.7"), output=out, style=Style(**style), threads=1
    )
    (outcome,) = resize([Source((Member(path),))], options)
    return outcome


def check(content: bytes, **style: Any) -> None:
    """Either a whole file or a refusal that begins with the path or names the layer; never anything else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, out = folder / "x.safetensors", folder / "out"
        path.write_bytes(content)
        outcome = outcome_of(path, out, **style)
        files = [file for file in out.rglob("*") if file.is_file()] if out.exists() else []
        if outcome.error is None:
            assert [str(file) for file in files] == [outcome.plan.output]
            assert outcome.plan.bytes_after == files[0].stat().st_size
            read_header(files[0])
        else:
            assert isinstance(outcome.error, ResizeError)
            assert not isinstance(outcome.error, InternalError)
            assert not isinstance(outcome.error, OutputError)  # what is written reads back as what was meant
            assert files == []
            message = str(outcome.error)
            assert message.startswith((str(path), "x: layer ", "layer ", "x: ", str(out), "recipe ")), message
            assert len(message) > 30
        assert path.read_bytes() == content
        try:
            describe(path, threads=1)
        except ResizeError as error:
            assert str(error)


fuzzed = settings(max_examples=150, derandomize=True, suppress_health_check=list(HealthCheck))


@fuzzed
@given(kinds=layers, harm=damages, convert=st.sampled_from(["auto", "lora", "none"]))
def test_damaged_layers_are_resized_or_refused_and_nothing_else(kinds, harm, convert) -> None:
    tensors = intact(kinds)
    for damage in harm:
        tensors = damaged(tensors, damage)
    check(save({key: np.ascontiguousarray(value) for key, value in tensors.items()}), convert=convert)


@fuzzed
@given(
    kind=st.sampled_from(sorted(SHAPES)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_flipped_bytes_are_survived(kind, changes) -> None:
    content = bytearray(save(intact([kind, "lora"])))
    for place, byte in changes:
        content[min(int(place * len(content)), len(content) - 1)] = byte
    check(bytes(content))


@fuzzed
@given(kind=st.sampled_from(sorted(SHAPES)), cut=st.floats(0, 1))
def test_files_that_end_too_soon_are_refused(kind, cut) -> None:
    content = save(intact([kind, "lora"]))
    check(content[: int(cut * len(content))])


@fuzzed
@given(
    kind=st.sampled_from(sorted(SHAPES)),
    field=st.sampled_from(["shape", "dtype", "data_offsets"]),
    value=st.one_of(
        st.integers(-2, 1 << 40), st.text(max_size=4), st.none(), st.lists(st.integers(-2, 1 << 40), max_size=5)
    ),
)
def test_false_headers_are_refused(kind, field, value) -> None:
    content = save(intact([kind, "lora"]))
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    first = next(key for key in header if key != "__metadata__")
    header[first][field] = value
    raw = json.dumps(header).encode()
    check(len(raw).to_bytes(8, "little") + raw + content[8 + size :])


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_every_kind_of_this_fuzzer_is_intact_to_begin_with(tmp_path, kind) -> None:
    """So that damage is what is tested."""
    marker = {"lora_controlnet": np.zeros(0, np.float32)} if kind == "control" else {}
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(intact([kind, "lora"]) | marker))
    outcome = outcome_of(path, tmp_path / "out", convert="none")
    assert (outcome.error is None) == (kind not in RESTING), outcome.error


WITH_BASE = ["fro_ckpt=1,thr=-1", "spn_ckpt=1,size=0.004", "subspace=1,min_rank=1,thr=0", "rank=2"]


@fuzzed
@given(kinds=layers, harm=damages, base_harm=damages, recipe=st.sampled_from(WITH_BASE), merged=st.booleans())
def test_damaged_layers_with_a_damaged_base(kinds, harm, base_harm, recipe, merged) -> None:
    """GLoRA, DoRA and the scores of a base model; alone, and merged with an intact LoRA of the same layers."""
    tensors, base = intact(kinds), base_of(kinds)
    for damage in harm:
        tensors = damaged(tensors, damage)
    for damage in base_harm:
        base = damaged(base, damage) if damage[0] in ("drop", "shape", "value") else base
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / "x.safetensors", folder / "y.safetensors", folder / "base.safetensors"]
        for path, content in zip(paths, (tensors, intact(kinds[::-1]), base), strict=True):
            path.write_bytes(save({key: np.ascontiguousarray(value) for key, value in content.items()}))
        members = tuple(Member(path, -0.5) for path in paths[:2]) if merged else (Member(paths[0]),)
        check_with_base(folder, members, recipe)


def check_with_base(folder: Path, members: tuple[Member, ...], recipe: str) -> None:
    """Check the same for results that are made with `base.safetensors`."""
    out = folder / "out"
    options = Settings(recipes=parse_recipes(recipe), output=out, base=folder / "base.safetensors", threads=1)
    try:
        (outcome,) = resize([Source(members)], options)
    except ResizeError as error:  # of a base model that is none any more
        assert str(error).startswith(str(folder / "base.safetensors"))
        return
    files = [file for file in out.rglob("*") if file.is_file()] if out.exists() else []
    if outcome.error is None:
        plan = plan_of(outcome)
        assert [str(file) for file in files] == [plan.output]
        assert plan.bytes_after == files[0].stat().st_size
    else:
        assert not isinstance(outcome.error, (OutputError, InternalError)), outcome.error
        assert files == []
        assert len(str(outcome.error)) > 30


@pytest.mark.parametrize("kind", sorted(SHAPES.keys() - {"norm", "control"}))
@pytest.mark.parametrize("merged", [False, True])
def test_every_kind_is_intact_with_its_base_to_begin_with(tmp_path, kind, merged) -> None:
    contents = {"x": intact([kind, "lora"]), "y": intact([kind, "lora"]), "base": base_of([kind, "lora"])}
    for name, tensors in contents.items():
        (tmp_path / f"{name}.safetensors").write_bytes(save(tensors))
    members = tuple(
        Member(tmp_path / f"{name}.safetensors", 0.5 if merged else 1.0) for name in ("xy" if merged else "x")
    )
    options = Settings(
        recipes=parse_recipes("rank=2"), output=tmp_path / "out", base=tmp_path / "base.safetensors", threads=1
    )
    (outcome,) = resize([Source(members)], options)
    assert outcome.error is None, outcome.error


# What long runs of this fuzzer found ------------------------------------------------------------------------


def test_a_core_without_dimensions_is_refused_by_layer(tmp_path) -> None:
    tensors = intact(["tucker"])
    tensors[f"{stem(0, 'tucker')}.lora_down.weight"] = np.ones((0, 0), np.float32)
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(tensors))
    assert f"layer {stem(0, 'tucker')} has rank 0" in str(outcome_of(path, tmp_path / "out").error)


def test_a_part_that_is_there_in_full_and_in_factors_is_refused_by_key(tmp_path) -> None:
    tensors = intact(["lokr"]) | {f"{stem(0, 'lokr')}.lokr_w2_a": np.ones((5, 2), np.float32)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(tensors))
    message = str(outcome_of(path, tmp_path / "out").error)
    assert message.startswith(f"{path}: layer {stem(0, 'lokr')} has {stem(0, 'lokr')}.lokr_w2_a and other tensors")


def test_numbers_that_are_finite_until_they_are_multiplied_are_reported_by_layer(tmp_path) -> None:
    tensors = intact(["lokr pairs"])
    for suffix in ("alpha", "lokr_w1_a"):
        tensors[f"{stem(0, 'lokr pairs')}.{suffix}"] = np.full(SHAPES["lokr pairs"][suffix], 3e38, np.float32)
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(tensors))
    assert f"layer {stem(0, 'lokr pairs')}: " in str(outcome_of(path, tmp_path / "out").error)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F8_E4M3"])
def test_a_layer_far_below_the_others_is_no_fault_of_the_disk(tmp_path, dtype) -> None:
    """An alpha of 1e-38 leaves a layer that float16 cannot hold with the alpha of the others."""
    tensors = intact(["lora", "lora"])
    tensors[f"{stem(1, 'lora')}.alpha"] = np.array(1.2e-38, np.float32)
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(tensors))
    outcome = outcome_of(path, tmp_path / "out", dtype=dtype)
    assert outcome.error is None, outcome.error


def test_a_base_weight_without_numbers_is_none(tmp_path) -> None:
    base = base_of(["ia3", "lora"]) | {key: np.ones((0, 0, 0), np.float32) for key in base_of(["ia3"])}
    (tmp_path / "base.safetensors").write_bytes(save(base))
    (tmp_path / "x.safetensors").write_bytes(save(intact(["ia3"])))
    options = Settings(output=tmp_path / "out", base=tmp_path / "base.safetensors", threads=1)
    (outcome,) = resize([Source((Member(tmp_path / "x.safetensors", 0.5),))], options)
    assert "base.safetensors has no such layer" in str(outcome.error)

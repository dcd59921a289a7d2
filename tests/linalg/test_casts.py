"""Conversions give the same bits as the libraries that define them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_resize.linalg import casts

ROOT = Path(__file__).parents[2]
ALL_HALVES = np.arange(65536, dtype=np.uint16)
TORCH = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def torch_values(bits: np.ndarray, kind: str) -> np.ndarray:
    carrier = torch.from_numpy(bits.view(np.int16 if bits.dtype == np.uint16 else np.uint8).copy())
    return carrier.view(TORCH[kind]).float().numpy()


@pytest.mark.parametrize("kind", ["F16", "BF16", "F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("wide", [np.float32, np.float64])
def test_every_code_is_read_exactly(kind: str, wide: type) -> None:
    bits = ALL_HALVES if "8" not in kind else np.arange(256, dtype=np.uint8)
    found = casts.widen(bits, kind, np.empty(bits.shape, wide))
    with np.errstate(invalid="ignore"):
        expected: np.ndarray = torch_values(bits, kind).astype(wide)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("exact", [True, False], ids=["shifted", "looked up"])
@pytest.mark.parametrize("shape", [(0,), (3,), (5, 7), (300, 700)])
def test_halves_have_the_same_bits_in_float32_shifted_and_looked_up(
    exact: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every size, subnormal numbers, zeros of both signs, infinities and NaN among them."""
    monkeypatch.setattr(casts, "shifting_is_exact", lambda: exact)
    bits = np.resize(np.random.default_rng(3).permutation(ALL_HALVES), shape)
    finite = np.where(np.isfinite(bits.view(np.float16)), bits, 0).astype(np.uint16)
    for given_bits in (bits, finite):
        found = casts.singles(given_bits, "F16")
        expected = torch_values(given_bits, "F16")
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


FLUSHED = """
import sys, numpy as np, torch
from lib_resize.linalg import casts
from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.linalg.factor import Stored, gram_of_rows
if not torch.set_flush_denormal(sys.argv[1] == "flush"):
    sys.exit("this processor has no such mode")
bits = np.arange(0x8400, dtype=np.uint16).reshape(33, 1024)[[0, 32]]
assert not np.isnan(bits.view(np.float16)).any()
print(casts.shifting_is_exact(), casts.singles(bits, "F16").view(np.int32).sum())
print(gram_of_rows(Stored(bits, "F16"), NumpyArrays()).tolist())
"""


def test_small_numbers_survive_where_the_processor_reads_subnormal_ones_as_zero() -> None:
    """As libraries compiled with ``-ffast-math`` leave it in the threads of a WebUI."""
    run = [
        subprocess.run([sys.executable, "-c", FLUSHED, mode], cwd=ROOT, capture_output=True, text=True, check=False)
        for mode in ("usual", "flush")
    ]
    if run[1].stderr.startswith("this processor"):
        pytest.skip(run[1].stderr)
    usual, flush = (one.stdout.splitlines() for one in run)
    assert flush[0].split()[0] == "False"
    assert usual[0].split()[1] == flush[0].split()[1]
    assert usual[1] == flush[1]


@pytest.mark.parametrize("shape", [(65536,), (256, 256), (2, 32768)])
def test_shifted_halves_times_their_unit_are_the_numbers(shape: tuple[int, ...]) -> None:
    """Subnormal numbers and zeros of both signs too; what is not finite becomes larger than every finite number."""
    bits = ALL_HALVES.reshape(shape)
    found = casts.widen_shifted(bits, np.empty(shape)) * casts.SHIFTED_UNIT
    expected = casts.doubles(bits, "F16")
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[finite].view(np.int64), expected[finite].view(np.int64))
    assert (np.abs(found[~finite]) >= 2.0**16).all()
    assert finite.sum() == 65536 - 2048


@pytest.mark.parametrize("wide", [np.float32, np.float64])
def test_a_strided_piece_of_bfloat16_is_read_too(wide: type) -> None:
    bits = np.random.default_rng(0).integers(0, 0x7F00, (64, 300), dtype=np.uint16)
    found = casts.widen(bits[:, 10:200], "BF16", np.empty((64, 190), wide))
    np.testing.assert_array_equal(found, torch_values(bits, "BF16")[:, 10:200].astype(wide))


def test_reading_a_strided_piece_equals_reading_the_whole() -> None:
    bits = np.random.default_rng(0).integers(0, 0x7BFF, (64, 3000), dtype=np.uint16)
    whole = casts.doubles(bits, "F16")
    np.testing.assert_array_equal(casts.doubles(bits[:, 100:2100], "F16"), whole[:, 100:2100])


def awkward_values() -> np.ndarray:
    """Numbers of every size, every float16 and float8 value, their middles and the neighbours of those."""
    rng = np.random.default_rng(1)
    spread = rng.standard_normal(200_000) * 10.0 ** rng.uniform(-9, 4.7, 200_000)
    codes = np.concatenate([torch_values(ALL_HALVES, "F16"), torch_values(np.arange(256, dtype=np.uint8), "F8_E4M3")])
    grid = np.unique(codes[np.isfinite(codes)].astype(np.float64))
    middles = (grid[1:] + grid[:-1]) / 2
    exact = np.concatenate([grid, middles, [464.0, 447.9, 480.0, 500.0, 65519.9, -0.0]]).astype(np.float32)
    near = [np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))]
    return np.concatenate([spread.astype(np.float32), exact, *near])


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_rounding_to_halves_gives_the_bits_of_torch(kind: str) -> None:
    values = awkward_values()
    expected = torch.from_numpy(values).to(TORCH[kind]).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(casts.round_to(values, kind), expected)


def test_rounding_to_f8_gives_the_bits_of_torch_where_it_fits() -> None:
    values = awkward_values()
    values = values[np.abs(values) <= 448]
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(casts.round_to(values, "F8_E4M3"), expected)


@pytest.mark.parametrize(("kind", "limit"), [("F16", 65520.0), ("F8_E4M3", 464.0)])
def test_overflow_is_never_a_number(kind: str, limit: float) -> None:
    values = np.array([limit * 1.01, -limit * 3, np.inf, np.nan], np.float32)
    assert not np.isfinite(torch_values(casts.round_to(values, kind), kind)).any()


@given(st.integers(0, 2**16 - 1), st.sampled_from(["F16", "BF16", "F8_E4M3"]))
def test_rounding_what_was_read_changes_nothing(code: int, kind: str) -> None:
    bits = np.array([code if "8" not in kind else code & 255], casts.STORAGE[kind])
    if np.isfinite(casts.singles(bits, kind)).all():
        np.testing.assert_array_equal(casts.round_to(casts.singles(bits, kind), kind), bits)


def test_largest_magnitude_sees_both_signs_and_nan() -> None:
    assert casts.largest_magnitude(np.array([1.0, -3.0], np.float32)) == 3.0
    assert np.isnan(casts.largest_magnitude(np.array([1.0, np.nan], np.float32)))
    assert casts.largest_magnitude(np.zeros(0, np.float32)) == 0.0

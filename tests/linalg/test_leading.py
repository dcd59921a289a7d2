"""The strongest dimensions of full matrices, compared with LAPACK's decomposition in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lib_resize.errors import LayerError
from lib_resize.linalg.arrays import Arrays, NumpyArrays, TorchArrays
from lib_resize.linalg.truncated_svd import SMALL, truncated_svd

ARRAYS = NumpyArrays()


def matrix(n: int, m: int, s: np.ndarray, seed: int = 0) -> np.ndarray:
    chance = np.random.default_rng(seed)
    left = np.linalg.qr(chance.standard_normal((n, len(s))))[0]
    right = np.linalg.qr(chance.standard_normal((m, len(s))))[0]
    found: np.ndarray = ((left * s) @ right.T).astype(np.float32)
    return found


SPECTRA = {
    "flat": lambda k: np.ones(k),
    "noise": lambda k: np.linspace(1.0, 0.05, k),
    "slow": lambda k: (1.0 + np.arange(k)) ** -0.5,
    "power": lambda k: (1.0 + np.arange(k)) ** -1.5,
    "steep": lambda k: np.geomspace(1, 1e-6, k),
    "steps": lambda k: np.where(np.arange(k) < 40, 1.0, 0.9),
    "low rank": lambda k: np.where(np.arange(k) < 20, 1.0, 0.0),
    "low rank and noise": lambda k: np.where(np.arange(k) < 20, 1.0, 0.02),
}


@pytest.fixture(params=["numpy", "torch"])
def arrays(request: pytest.FixtureRequest) -> Arrays:
    """numpy, and torch on the CPU, which runs what runs on a device."""
    return ARRAYS if request.param == "numpy" else TorchArrays("cpu")


SHAPES = [(330, 290), (280, 700), (100, 90), (SMALL, 300)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("count", [4, 64])
def test_what_is_lost_is_known_and_hardly_more_than_the_best_loses(
    shape: tuple[int, int], name: str, count: int, arrays: Arrays
) -> None:
    x = matrix(*shape, SPECTRA[name](min(shape)))
    found = truncated_svd(x, count, arrays)
    true = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    norm, best = float(np.linalg.norm(true)), float(np.linalg.norm(true[count:]))
    rest = x.astype(np.float64) - found.up.astype(np.float64) @ found.down.astype(np.float64)
    lost = float(np.linalg.norm(rest))
    assert lost <= 1.005 * best + 3e-6 * norm
    assert found.lost == pytest.approx(lost, rel=1e-3, abs=3e-4 * norm)
    assert found.lost >= best - 3e-4 * norm


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["power", "steep", "low rank", "low rank and noise"])
def test_singular_values_are_those_of_the_matrix_where_they_are_separated(
    shape: tuple[int, int], name: str, arrays: Arrays
) -> None:
    x = matrix(*shape, SPECTRA[name](min(shape)))
    found = truncated_svd(x, 16, arrays)
    true = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    assert found.s == pytest.approx(true[: len(found.s)], rel=1e-3)
    assert np.all(found.s <= true[: len(found.s)] * (1 + 1e-5))


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_are_balanced_and_orthogonal(shape: tuple[int, int], arrays: Arrays) -> None:
    found = truncated_svd(matrix(*shape, SPECTRA["slow"](min(shape))), 12, arrays)
    for gram in (found.up.T @ found.up, found.down @ found.down.T):
        assert gram == pytest.approx(np.diag(found.s), abs=2e-5 * found.s[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_low_rank_comes_back_whole(shape: tuple[int, int], arrays: Arrays) -> None:
    x = matrix(*shape, np.geomspace(1, 0.01, 10))
    found = truncated_svd(x, 32, arrays)
    assert np.linalg.norm(x - found.up @ found.down) <= 3e-6 * np.linalg.norm(x)


@pytest.mark.parametrize("shape", [(5, 3), (1, 400), (300, 300)])
def test_no_more_dimensions_than_there_are(shape: tuple[int, int], arrays: Arrays) -> None:
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = truncated_svd(x, 10_000, arrays)
    assert len(found.s) == min(shape)
    assert np.linalg.norm(x - found.up @ found.down) <= 1e-5 * np.linalg.norm(x)


def test_a_matrix_of_zeros_has_no_dimensions(arrays: Arrays) -> None:
    for shape in ((40, 30), (500, 600)):
        found = truncated_svd(np.zeros(shape, np.float32), 4, arrays)
        assert (len(found.s), found.lost) == (0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_damaged_numbers_are_refused(value: float, arrays: Arrays) -> None:
    x = np.ones((300, 400), np.float32)
    x[3, 4] = value
    with pytest.raises(LayerError, match="NaN"):
        truncated_svd(x, 4, arrays)


def test_the_same_matrix_gives_the_same_bytes(arrays: Arrays) -> None:
    x = matrix(500, 400, SPECTRA["slow"](400))
    assert truncated_svd(x, 8, arrays).up.tobytes() == truncated_svd(x, 8, arrays).up.tobytes()


def test_torch_gives_the_same() -> None:
    x = matrix(500, 400, SPECTRA["power"](400))
    ours, theirs = truncated_svd(x, 8, ARRAYS), truncated_svd(x, 8, TorchArrays("cpu"))
    assert ours.s == pytest.approx(theirs.s, rel=1e-4)

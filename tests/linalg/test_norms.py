"""Norms of base weights, against LAPACK."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lib_resize.linalg.arrays import Arrays, NumpyArrays, TorchArrays
from lib_resize.linalg.assemble import Assembled, ScaledRows
from lib_resize.linalg.casts import round_to, singles
from lib_resize.linalg.factor import Factor, Stored, decompose
from lib_resize.linalg.norms import frobenius_and_spectral_norm, frobenius_norm, largest_singular_value, subspace_norms
from lib_resize.linalg.row_stripes import load_whole
from tests.linalg.spectra import exact, known, orthonormal, pair_of

CPU = NumpyArrays()


def spectral_norm(weight: Factor, arrays: Arrays) -> float:
    return largest_singular_value(load_whole(weight, arrays), arrays)


def no_gap(n: int, m: int, rng: np.random.Generator) -> np.ndarray:
    """The hardest kind for an iteration: twenty leading singular values all alike."""
    k = min(n, m)
    s = np.concatenate([np.linspace(1, 0.98, min(20, k)), np.linspace(0.9, 0.1, max(k - 20, 0))])[:k]
    found: np.ndarray = (orthonormal(n, k, rng) * s) @ orthonormal(m, k, rng).T
    return found


WEIGHTS = {
    "gaussian": lambda n, m, rng: rng.standard_normal((n, m)),
    "no gap": no_gap,
    "outliers": lambda n, m, rng: (
        rng.standard_normal((n, m)) + 8 * np.outer(rng.standard_normal(n), rng.standard_normal(m))
    ),
    "tiny": lambda n, m, rng: rng.standard_normal((n, m)) * 1e-12,
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (640, 640), (3, 500), (500, 1), (1, 1)])
def test_norms_agree_with_lapack(kind: str, shape: tuple[int, int]) -> None:
    weight = WEIGHTS[kind](*shape, np.random.default_rng(7)).astype(np.float32)
    factor = Stored(weight, "F32")
    assert frobenius_norm(factor, CPU) == pytest.approx(np.linalg.norm(weight.astype(np.float64)), rel=1e-5)
    assert spectral_norm(factor, CPU) == pytest.approx(np.linalg.norm(weight.astype(np.float64), 2), rel=1e-4)


@pytest.mark.parametrize("seed", [125, 302, 312])
def test_a_second_singular_value_close_below_is_not_taken_for_the_first(seed: int) -> None:
    """Lanczos meets the second one first in these matrices, 0.08 % to 0.22 % below."""
    w = np.random.default_rng(seed).standard_normal((640, 640), dtype=np.float32)
    exact = np.linalg.norm(w.astype(np.float64), 2)
    assert largest_singular_value(w, NumpyArrays()) == pytest.approx(exact, rel=1e-5)


def test_a_zero_weight_has_norm_zero() -> None:
    assert spectral_norm(Stored(np.zeros((20, 30), np.float32), "F32"), CPU) == 0.0
    assert frobenius_norm(Stored(np.zeros((20, 30), np.float32), "F32"), CPU) == 0.0


@pytest.mark.parametrize("kind", ["F16", "BF16", "F8_E4M3"])
def test_stored_numbers_are_what_counts(kind: str) -> None:
    bits = round_to(np.random.default_rng(2).standard_normal((50, 40)).astype(np.float32), kind)
    assert frobenius_norm(Stored(bits, kind), CPU) == pytest.approx(np.linalg.norm(singles(bits, kind)), rel=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_subspace_norms_are_the_bilinear_forms(transposed: bool) -> None:
    pair = pair_of(*known(60, 40, np.geomspace(1, 0.05, 6)))
    weight = np.random.default_rng(4).standard_normal((60, 40)).astype(np.float32)
    stored = np.ascontiguousarray(weight.T) if transposed else weight
    found = subspace_norms(pair, decompose([pair], CPU)[0], Stored(stored, "F32"), CPU, transposed=transposed)
    u, _, vt = np.linalg.svd(exact(pair), full_matrices=False)
    expected = [abs(u[:, i] @ weight @ vt[i]) for i in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_torch_on_the_cpu_gives_the_same_norms() -> None:
    weight = Stored(round_to(np.random.default_rng(2).standard_normal((90, 70)).astype(np.float32), "F16"), "F16")
    arrays = TorchArrays("cpu")
    assert frobenius_norm(weight, arrays) == pytest.approx(frobenius_norm(weight, CPU), rel=1e-5)
    assert spectral_norm(weight, arrays) == pytest.approx(spectral_norm(weight, CPU), rel=1e-4)


def test_both_norms_are_those_taken_one_by_one() -> None:
    weight = Stored(round_to(np.random.default_rng(5).standard_normal((700, 300)).astype(np.float32), "F16"), "F16")
    assert frobenius_and_spectral_norm(weight, CPU) == (frobenius_norm(weight, CPU), spectral_norm(weight, CPU))


def test_a_weight_that_is_not_finite_has_no_norms() -> None:
    fro, spn = frobenius_and_spectral_norm(Stored(np.array([[1.0, np.inf]], np.float32), "F32"), CPU)
    assert fro == np.inf
    assert np.isnan(spn)


def assembled(rng: np.random.Generator, heights: tuple[int, ...], columns: int, *, swapped: bool, width: int):
    """Parts with gains of every sort, and the matrix that they are."""
    parts, values = [], []
    for i, height in enumerate(heights):
        bits = round_to(rng.standard_normal((height, columns)).astype(np.float32), "BF16")
        gain = (1.0, -3.0, rng.uniform(0.5, 2.0, height).astype(np.float32))[i % 3]
        parts.append(ScaledRows(Stored(bits, "BF16"), gain))
        values.append(singles(bits, "BF16") * np.reshape(np.float32(gain), (-1, 1)))
    whole = np.concatenate(values)[:, :width]
    whole = np.pad(whole, ((0, 0), (0, width - whole.shape[1])))
    whole = np.concatenate([whole[len(whole) // 2 :], whole[: len(whole) // 2]]) if swapped else whole
    return Assembled(tuple(parts), width, swapped), whole


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("width", [300, 250, 320])
def test_what_is_put_together_has_the_rows_and_norms_of_the_whole(swapped: bool, width: int) -> None:
    weight, whole = assembled(np.random.default_rng(3), (701, 1, 1200, 98), 300, swapped=swapped, width=width)
    np.testing.assert_array_equal(weight.bits, whole)
    for start, stop in ((0, 1), (699, 703), (999, 1001), (1999, 2000), (0, 2000)):
        np.testing.assert_array_equal(weight.rows(start, stop), whole[start:stop])
    assert frobenius_and_spectral_norm(weight, CPU) == pytest.approx(
        (np.linalg.norm(whole), np.linalg.norm(whole, 2)), rel=1e-4
    )
    assert frobenius_norm(weight, CPU) == pytest.approx(np.linalg.norm(whole), rel=1e-5)
    pair = pair_of(*known(2000, width, np.geomspace(1, 0.05, 6)))
    found = subspace_norms(pair, decompose([pair], CPU)[0], weight, CPU)
    u, _, vt = np.linalg.svd(exact(pair), full_matrices=False)
    np.testing.assert_allclose(found, [abs(u[:, i] @ whole @ vt[i]) for i in range(6)], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_a_large_weight_is_in_memory_once_as_float32(gain: float) -> None:
    """However it is stored or put together; norms that need no more than one look keep nothing of it."""
    bits = round_to(np.random.default_rng(3).standard_normal((2900, 3000)).astype(np.float32), "BF16")
    weight = Assembled((ScaledRows(Stored(bits, "BF16"), gain), ScaledRows(Stored(bits, "BF16"), 1.0)), 3000)
    single = 4 * 5800 * 3000
    assert _peak(lambda: spectral_norm(weight, CPU)) < 1.1 * single
    assert _peak(lambda: frobenius_norm(weight, CPU)) < 0.1 * single
    pair = pair_of(*known(5800, 3000, np.ones(2)))
    spectrum = decompose([pair], CPU)[0]
    assert _peak(lambda: subspace_norms(pair, spectrum, weight, CPU)) < 0.1 * single


def _peak(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

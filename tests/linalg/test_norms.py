"""Norms of base weights, against LAPACK."""

from __future__ import annotations

import numpy as np
import pytest
from spectra import exact, known, orthonormal, pair_of

from lib_resize.linalg.arrays import NumpyArrays, TorchArrays
from lib_resize.linalg.casts import round_to, singles
from lib_resize.linalg.factor import Stored, decompose
from lib_resize.linalg.norms import both_norms, frobenius_norm, spectral_norm, subspace_norms

CPU = NumpyArrays()


def no_gap(n: int, m: int, rng: np.random.Generator) -> np.ndarray:
    """The hardest kind for an iteration: twenty leading singular values all alike."""
    k = min(n, m)
    s = np.concatenate([np.linspace(1, 0.98, min(20, k)), np.linspace(0.9, 0.1, max(k - 20, 0))])[:k]
    return (orthonormal(n, k, rng) * s) @ orthonormal(m, k, rng).T


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
    assert both_norms(weight, CPU) == pytest.approx((frobenius_norm(weight, CPU), spectral_norm(weight, CPU)), rel=1e-6)


def test_a_weight_that_is_not_finite_has_no_norms() -> None:
    fro, spn = both_norms(Stored(np.array([[1.0, np.inf]], np.float32), "F32"), CPU)
    assert fro == np.inf
    assert np.isnan(spn)

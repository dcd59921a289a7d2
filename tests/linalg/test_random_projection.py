"""Laws of the coarser ways to a lower rank: right on average, bounded, repeatable, exact where they must be."""

from __future__ import annotations

import numpy as np
import pytest

from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.linalg.factor import Pair, Spectrum, decompose
from lib_resize.linalg.random_projection import (
    approximation_error,
    dense_projection,
    layer_generator,
    projected_spectrum,
    randomised_svd,
    sparse_projection,
)
from tests.linalg.spectra import exact, exact_truncation, known, pair_of

PROJECTIONS = {"dense": dense_projection, "sparse": sparse_projection}
CASES = [(40, 30, 12), (12, 50, 9), (9, 7, 7)]


def pair(shape: tuple[int, int, int], scale: float = 0.5) -> Pair:
    n, m, rank = shape
    made: Pair = pair_of(*known(n, m, np.geomspace(3, 0.05, rank)), "F32", scale)
    return made


def made(source: Pair, spectrum: Spectrum) -> np.ndarray:
    """``B P Q A``, (n, m)."""
    up, down = source.up.bits.astype(np.float64), source.down.bits.astype(np.float64)
    return up @ spectrum.p.astype(np.float64) @ spectrum.q.astype(np.float64) @ down


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_projections_have_the_seeds_scaling_mean_zero_and_variance_one_over_the_rank(kind) -> None:
    r = PROJECTIONS[kind](50, 2000, np.random.default_rng(0))
    assert r.dtype == np.float32
    assert r.shape == (50, 2000)
    assert abs(r.mean()) < 4 / np.sqrt(50 * r.size)
    assert r.var() * 50 == pytest.approx(1.0, abs=0.03)
    assert (r**4).mean() * 50**2 == pytest.approx(3.0, abs=0.15)  # the fourth moment, on which the error rests


def test_two_thirds_of_a_sparse_projection_are_zero_and_the_rest_of_one_size() -> None:
    r = sparse_projection(12, 3000, np.random.default_rng(1))
    assert np.mean(r == 0) == pytest.approx(2 / 3, abs=0.01)
    np.testing.assert_allclose(np.unique(np.abs(r)), [0, 0.5], rtol=1e-6)


@pytest.mark.parametrize("kind", PROJECTIONS)
@pytest.mark.parametrize("scale", [0.5, -2.0])
def test_a_projection_is_right_on_average_and_off_by_what_theory_says(kind, scale) -> None:
    source, rank, draws = pair((20, 16, 8), scale), 4, 4000
    b, a, w = source.up.bits, source.down.bits, exact(source)
    chance = np.random.default_rng(3)
    deltas = [made(source, projected_spectrum(source, PROJECTIONS[kind](rank, 8, chance))) for _ in range(draws)]
    squared = np.mean([np.linalg.norm(one - w) ** 2 for one in deltas])
    expected = scale**2 * (np.linalg.norm(b) ** 2 * np.linalg.norm(a) ** 2 + np.linalg.norm(b @ a) ** 2) / rank
    assert squared == pytest.approx(expected, rel=0.1)
    assert np.linalg.norm(np.mean(deltas, axis=0) - w) < 4 * np.sqrt(expected / draws)


@pytest.mark.parametrize("shape", CASES)
@pytest.mark.parametrize("kind", ["rsvd", *PROJECTIONS])
def test_what_is_lost_is_the_distance_of_the_deltas(kind, shape) -> None:
    source, chance = pair(shape, scale=-0.7), np.random.default_rng(5)
    rank = shape[2] // 2
    one = (
        randomised_svd(source, rank, 1, 2, chance)
        if kind == "rsvd"
        else projected_spectrum(source, PROJECTIONS[kind](rank, shape[2], chance))
    )
    assert approximation_error(source, one, NumpyArrays()) == pytest.approx(
        np.linalg.norm(made(source, one) - exact(source)), rel=1e-5
    )


def test_the_exact_decomposition_loses_its_tail_by_the_same_measure() -> None:
    source = pair((40, 30, 12))
    whole = decompose([source], NumpyArrays())[0]
    cut = Spectrum(whole.s, whole.p[:, :5], whole.q[:5])
    assert approximation_error(source, cut, NumpyArrays()) == pytest.approx(np.linalg.norm(whole.s[5:]), rel=1e-5)


@pytest.mark.parametrize("shape", CASES)
@pytest.mark.parametrize("scale", [1.0, -0.3])
def test_the_randomised_decomposition_is_exact_where_its_directions_reach_the_rank(shape, scale) -> None:
    source = pair(shape, scale=scale)
    for rank in range(1, shape[2] + 1):
        found = made(source, randomised_svd(source, rank, 2, shape[2] - rank, np.random.default_rng(rank)))
        best = exact_truncation(source, rank)
        np.testing.assert_allclose(found, best, atol=2e-5 * np.linalg.norm(best))


@pytest.mark.parametrize("niter", [0, 1, 3])
@pytest.mark.parametrize("oversample", [2, 8])
def test_the_randomised_decomposition_keeps_its_bound_and_never_beats_the_best(niter, oversample) -> None:
    """Halko, Martinsson and Tropp 2011, theorem 10.5: on average at most (1 + k / (p - 1))^1/2 times the tail."""
    s = 1.0 / np.arange(1, 41)
    source = pair_of(*known(120, 90, s, seed=2), "F32")
    rank, tail = 10, float(np.linalg.norm(s[10:]))
    errors = [
        approximation_error(
            source, randomised_svd(source, rank, niter, oversample, np.random.default_rng(draw)), NumpyArrays()
        )
        for draw in range(60)
    ]
    assert min(errors) > tail * (1 - 1e-5)
    # U_k is of rank k: the theorem's basis of k + p columns, then the best k of them: at most twice the tail more.
    assert np.mean(errors) < tail * (np.sqrt(1 + rank / (oversample - 1)) + 1)


def test_power_iterations_and_more_directions_come_nearer_to_the_best() -> None:
    source = pair_of(*known(120, 90, 1.0 / np.arange(1, 41), seed=2), "F32")

    def mean_error(niter: int, oversample: int) -> float:
        draws = [randomised_svd(source, 10, niter, oversample, np.random.default_rng(draw)) for draw in range(20)]
        return float(np.mean([approximation_error(source, one, NumpyArrays()) for one in draws]))

    assert mean_error(0, 0) > mean_error(1, 0) > mean_error(4, 0)
    assert mean_error(0, 0) > mean_error(0, 5) > mean_error(0, 20)


def test_the_randomised_decomposition_survives_deltas_of_a_lower_rank_and_of_zeros() -> None:
    up, down = known(20, 16, np.array([2.0, 1.0, 0.0, 0.0, 0.0, 0.0]))
    source = pair_of(up, down, "F32")
    found = randomised_svd(source, 4, 2, 0, np.random.default_rng(0))
    np.testing.assert_allclose(made(source, found), exact(source), atol=1e-5)
    nothing = randomised_svd(pair_of(np.zeros((9, 4)), down[:4], "F32"), 2, 1, 1, np.random.default_rng(0))
    assert not nothing.s.any()
    assert not nothing.p.any()


def test_chance_belongs_to_the_seed_and_the_layer() -> None:
    def draw(seed: int, name: str) -> bytes:
        return dense_projection(3, 5, layer_generator(seed, name)).tobytes()

    assert draw(0, "a") == draw(0, "a")
    assert len({draw(0, "a"), draw(0, "b"), draw(1, "a"), draw(1, "b")}) == 4

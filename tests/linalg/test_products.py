"""Tucker cores, elementwise and Kronecker products, dense matrices and DoRA: laws, on matrices made for the purpose."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_resize.errors import LayerError
from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.linalg.dense import singular_values, truncated_dense
from lib_resize.linalg.dora import DoraWeight
from lib_resize.linalg.factor import Stored
from lib_resize.linalg.hadamard import NestedTruncations, product_errors
from lib_resize.linalg.lazy import Transposed, hadamard_pair, kronecker_pair, materialise, product_matrix
from lib_resize.linalg.truncate import non_increasing
from lib_resize.linalg.tucker import TuckerFactors, decompose_tucker, truncated_tucker, tucker_as_pair, tucker_product
from tests.linalg.spectra import known, orthonormal, pair_of

ARRAYS = NumpyArrays()


def stored(values: np.ndarray) -> Stored:
    return Stored(np.ascontiguousarray(values, np.float64), "F64")


def core_of(n=20, m=14, ranks=(5, 5), taps=4, seed=0, scale=0.7) -> TuckerFactors:
    rng = np.random.default_rng(seed)
    up, down = rng.standard_normal((n, ranks[0])), rng.standard_normal((ranks[1], m))
    mid = rng.standard_normal((*ranks, taps)) * np.geomspace(1, 0.05, ranks[0])[:, None, None]
    return TuckerFactors(stored(up), stored(mid.reshape(ranks[0], -1)), stored(down), scale)


def dense(core: TuckerFactors) -> np.ndarray:
    a, b = core.up.shape[1], core.down.shape[0]
    mid = core.mid.bits.reshape(a, b, core.taps)
    found: np.ndarray = core.scale * np.einsum("xa,abt,by->xyt", core.up.bits, mid, core.down.bits).reshape(core.size)
    return found


# Tucker -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [(5, 5), (3, 6), (6, 3), (1, 1)])
@pytest.mark.parametrize("size", [(20, 14), (4, 3)])
def test_a_truncated_core_loses_what_its_strengths_say(ranks, size) -> None:
    core = core_of(size[0], size[1], ranks)
    solved, whole = decompose_tucker(core, ARRAYS), dense(core)
    assert np.linalg.norm(solved.s) == pytest.approx(np.linalg.norm(whole))
    for k in range(1, core.rank + 1):
        found = tucker_product(*truncated_tucker(core, solved, k, ARRAYS))
        assert np.linalg.norm(whole - found) == pytest.approx(np.linalg.norm(solved.s[k:]), abs=1e-5 * solved.s[0])


def test_a_core_with_an_exact_small_rank_is_found() -> None:
    small = core_of(ranks=(2, 2), seed=3)
    rng = np.random.default_rng(1)
    up, mid = small.up.bits @ rng.standard_normal((2, 6)), rng.standard_normal((6, 2)) @ small.mid.bits
    mixed = TuckerFactors(stored(up), stored(mid), small.down, 1.0)
    solved = decompose_tucker(mixed, ARRAYS)
    assert np.all(solved.s[2:] < 1e-6 * solved.s[0])


def test_a_core_with_factors_of_any_scale_is_exact() -> None:
    core = core_of()
    lengths = np.geomspace(1e-5, 1e5, 5)
    scaled = TuckerFactors(
        stored(core.up.bits * lengths), stored(core.mid.bits / lengths[:, None]), core.down, core.scale
    )
    np.testing.assert_allclose(decompose_tucker(scaled, ARRAYS).s, decompose_tucker(core, ARRAYS).s, rtol=1e-6)


def test_a_core_as_a_pair_is_the_same_delta() -> None:
    core = core_of(ranks=(3, 5))
    pair = tucker_as_pair(core)
    np.testing.assert_allclose(
        pair.scale * materialise(pair.up) @ materialise(pair.down), dense(core), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("part", ["up", "mid", "down"])
def test_nan_in_a_core_is_found(part) -> None:
    core = core_of()
    getattr(core, part).bits[0, 0] = np.nan
    with pytest.raises(LayerError, match=part):
        decompose_tucker(core, ARRAYS)


# Products ---------------------------------------------------------------------------------------------------


def test_an_elementwise_product_is_a_pair_of_the_product_of_ranks() -> None:
    one, other = (pair_of(*known(9, 7, np.geomspace(1, 0.1, r), seed=r), scale=s) for r, s in ((2, 0.5), (3, -2.0)))
    found = hadamard_pair(one, other, 3.0)
    assert found.rank == 6
    wanted = 3.0 * product_matrix(one).bits * product_matrix(other).bits
    np.testing.assert_allclose(product_matrix(found).bits, wanted, rtol=1e-4, atol=1e-6)


def test_a_kronecker_product_is_a_pair_too() -> None:
    left = stored(np.random.default_rng(0).standard_normal((3, 2)))
    right = pair_of(*known(5, 4, np.array([1.0, 0.2])), scale=0.5)
    found = kronecker_pair(left, right, 2.0)
    assert found.rank == 4
    np.testing.assert_allclose(
        product_matrix(found).bits, 2 * np.kron(left.bits, product_matrix(right).bits), rtol=1e-4, atol=1e-6
    )


def test_a_turned_factor_is_the_transpose() -> None:
    values = np.arange(6.0).reshape(2, 3)
    turned = Transposed(stored(values))
    assert turned.shape == (3, 2)
    np.testing.assert_array_equal(turned.bits, values.T)


def rows_of(down: np.ndarray, k: int) -> np.ndarray:
    return down[:k]


@pytest.mark.parametrize("rows", [3, 5000])
def test_losses_are_measured_at_every_rank_with_any_stripes(rows) -> None:
    rng = np.random.default_rng(0)
    sides = [(rng.standard_normal((rows, 4)).astype(np.float32), rng.standard_normal((4, 60)).astype(np.float32))
             for _ in range(2)]  # fmt: skip
    first, second = (NestedTruncations(up, partial(rows_of, down)) for up, down in sides)
    found = product_errors(first, second, 4)
    products = [np.prod([up[:, :k] @ down[:k] for up, down in sides], axis=0) for k in range(5)]
    np.testing.assert_allclose(found, [np.linalg.norm(products[4] - one) for one in products], rtol=1e-4, atol=1e-3)


# Dense ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(12, 30), (30, 12), (12, 12), (1, 5), (5, 1)])
def test_a_dense_matrix_is_decomposed_from_its_shorter_side(size) -> None:
    matrix = np.random.default_rng(0).standard_normal(size)
    s = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(singular_values(stored(matrix), ARRAYS), s, rtol=1e-8)
    for k in (1, min(size)):
        up, down = truncated_dense(stored(matrix), np.arange(k), ARRAYS, 2.0)
        assert np.linalg.norm(matrix - up @ down / 4) == pytest.approx(np.linalg.norm(s[k:]), abs=1e-5)


def test_any_dimensions_of_a_dense_matrix_can_be_taken() -> None:
    u, v = orthonormal(9, 3, np.random.default_rng(0)), orthonormal(6, 3, np.random.default_rng(1))
    up, down = truncated_dense(stored(u * [3, 2, 1] @ v.T), np.array([0, 2]), ARRAYS)
    np.testing.assert_allclose(up @ down, u[:, [0, 2]] * [3, 1] @ v[:, [0, 2]].T, atol=1e-6)


def test_zeros_and_nan_in_a_dense_matrix() -> None:
    assert not singular_values(stored(np.zeros((3, 4))), ARRAYS).any()
    with pytest.raises(LayerError, match="NaN"):
        singular_values(stored(np.full((3, 4), np.nan)), ARRAYS)


# Strengths that fall ----------------------------------------------------------------------------------------


@settings(derandomize=True)
@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=20))
def test_descending_strengths_fall_hold_as_much_and_never_less_before(values) -> None:
    s = np.array(values)
    found = non_increasing(s)
    assert np.all(np.diff(found) <= 1e-9 * max(found[0], 1))
    held, true = np.cumsum(found**2), np.cumsum(s**2)
    assert held[-1] == pytest.approx(true[-1], rel=1e-9, abs=1e-9)
    assert np.all(held >= true * (1 - 1e-9) - 1e-9)
    np.testing.assert_allclose(non_increasing(np.sort(s)[::-1]), np.sort(s)[::-1], atol=1e-12)


# DoRA -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_input", [False, True])
def test_the_normalised_weight_has_the_lengths_of_its_magnitudes(by_input) -> None:
    rng = np.random.default_rng(0)
    weight, delta = rng.standard_normal((6, 8)).astype(np.float32), rng.standard_normal((6, 8)).astype(np.float32)
    magnitude = (np.arange(4) + 1.0).reshape(1, 4, 1, 1) if by_input else (np.arange(6) + 1.0).reshape(6, 1)
    applied = DoraWeight(weight, magnitude.astype(np.float32)).effective_weight(delta)
    lengths = np.linalg.norm(applied.reshape(6, 4, 2), axis=(0, 2)) if by_input else np.linalg.norm(applied, axis=1)
    np.testing.assert_allclose(lengths, magnitude.reshape(-1), rtol=1e-6)


def test_nothing_is_lost_where_all_is_kept() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    delta = 0.1 * weight[::-1]
    normalised = DoraWeight(weight, np.ones((6, 1), np.float32))
    assert normalised.errors(delta, delta) == (0.0, 0.0)
    assert normalised.errors(delta, 0 * delta)[0] > 0.01

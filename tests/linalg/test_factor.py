"""Laws of the decomposition in factor space, on matrices whose spectrum is known."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_resize.errors import LayerError
from lib_resize.linalg.arrays import NumpyArrays, TorchArrays
from lib_resize.linalg.casts import doubles, round_to, singles
from lib_resize.linalg.factor import Pair, Stored, decompose, gram_of_columns, gram_of_rows
from lib_resize.linalg.truncate import discarded_norm, norm_of_strengths, truncated
from tests.linalg.spectra import exact, exact_truncation, known, pair_of

CPU = NumpyArrays()
ROUNDING = 5e-4  # what storing exact factors in float16 may cost, relative, in the Frobenius norm


def written_delta(pair: Pair, rank: int, arrays=CPU) -> np.ndarray:
    """The delta of the float16 file that a truncation gives (gain 2^k as the writer would choose)."""
    spectrum = decompose([pair], arrays)[0]
    gain = 2.0 ** -np.round(np.log2(max(spectrum.s[0], 1e-30)) / 2)
    up, down = truncated(pair, spectrum, np.arange(rank), arrays, gain)
    halves = [singles(round_to(x, "F16"), "F16").astype(np.float64) for x in (up, down)]
    found: np.ndarray = halves[0] @ halves[1] / gain**2
    return found


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("condition", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("decay", [2, 6, 12])
def test_singular_values_are_the_known_ones(condition: float, decay: int) -> None:
    s = np.logspace(0, -decay / 2, 24)
    spectrum = decompose([pair_of(*known(150, 90, s, condition))], CPU)[0]
    np.testing.assert_allclose(spectrum.s[s > 1e-5], s[s > 1e-5], rtol=1e-6)
    assert np.max(np.abs(spectrum.s - s)) < 1e-5 * s[0]


HARD_CASES = {
    "rank-deficient up": lambda up, down: (np.where(np.arange(16) < 5, up, 0), down),
    "duplicated columns": lambda up, down: (up[:, np.arange(16) % 4], down),
    "duplicated rows": lambda up, down: (up, down[np.arange(16) % 4]),
    "dead rows": lambda up, down: (up, np.where(np.arange(16)[:, None] % 3 > 0, down, 0)),
    "tiny": lambda up, down: (up * 1e-7, down),
    "tiny both": lambda up, down: (up * 1e-7, down * 1e-7),
    "badly scaled": lambda up, down: (up * 1e-4, down * 1e4),
    "badly scaled within": lambda up, down: (
        up * np.geomspace(1e4, 1e-4, 16),
        down * np.geomspace(1e-4, 1e4, 16)[:, None],
    ),
    "one dimension": lambda up, down: (up[:, :1], down[:1]),
}


@pytest.mark.parametrize("case", HARD_CASES)
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_hard_cases_are_as_exact_as_float16_allows(case: str, share: float) -> None:
    up, down = HARD_CASES[case](*known(120, 80, np.geomspace(1, 1e-2, 16)))
    pair = pair_of(up, down, "F32")
    spectrum = decompose([pair], CPU)[0]
    expected = np.linalg.svd(exact(pair), compute_uv=False)[: pair.rank]
    assert np.max(np.abs(spectrum.s - expected)) < 1e-5 * expected[0]
    rank = max(1, int(pair.rank * share))
    assert relative(written_delta(pair, rank), exact_truncation(pair, rank)) < ROUNDING


@pytest.mark.parametrize(("n", "m", "r"), [(8, 100, 32), (100, 8, 32), (6, 6, 64), (1, 1, 4)])
def test_rank_above_the_matrix_size_leaves_exact_zeros(n: int, m: int, r: int) -> None:
    rng = np.random.default_rng(3)
    pair = pair_of(rng.standard_normal((n, r)), rng.standard_normal((r, m)), "F32")
    spectrum = decompose([pair], CPU)[0]
    full = np.linalg.svd(exact(pair), compute_uv=False)
    assert spectrum.effective_rank == min(n, m)
    np.testing.assert_allclose(spectrum.s[: min(n, m)], full, atol=1e-5 * full[0])
    assert relative(written_delta(pair, r), exact(pair)) < ROUNDING


def test_zero_layers_have_effective_rank_zero() -> None:
    up, down = known(40, 30, np.geomspace(1, 0.1, 8))
    for zero in (pair_of(up * 0, down, "F16"), pair_of(up, down * 0, "F16")):
        spectrum = decompose([zero], CPU)[0]
        assert spectrum.effective_rank == 0
        assert np.isfinite(spectrum.p).all()
        assert np.isfinite(spectrum.q).all()


@given(
    n=st.integers(1, 60),
    m=st.integers(1, 60),
    r=st.integers(1, 20),
    kind=st.sampled_from(["F16", "BF16", "F32"]),
    scale=st.sampled_from([1.0, 0.5, -2.0, 1e-3]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_all_dimensions_rebuild_the_delta(n: int, m: int, r: int, kind: str, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pair = pair_of(rng.standard_normal((n, r)), rng.standard_normal((r, m)), kind, scale)
    spectrum = decompose([pair], CPU)[0]
    up, down = truncated(pair, spectrum, np.arange(r), CPU)
    assert relative(up.astype(np.float64) @ down, exact(pair)) < 2e-5
    assert np.all(np.diff(spectrum.s) <= 0)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_error_of_a_truncation_is_the_tail_of_the_spectrum(rank: int) -> None:
    pair = pair_of(*known(70, 50, np.geomspace(1, 1e-3, 8)))
    spectrum = decompose([pair], CPU)[0]
    up, down = truncated(pair, spectrum, np.arange(rank), CPU)
    error = np.linalg.norm(exact(pair) - up.astype(np.float64) @ down)
    assert error == pytest.approx(discarded_norm(spectrum.s, np.arange(rank)), rel=1e-4)
    assert norm_of_strengths(spectrum.s) == pytest.approx(np.linalg.norm(exact(pair)), rel=1e-9)


def test_any_subset_of_dimensions_can_stay() -> None:
    pair = pair_of(*known(70, 50, np.geomspace(1, 1e-2, 8)))
    spectrum = decompose([pair], CPU)[0]
    kept = np.array([0, 2, 5])
    up, down = truncated(pair, spectrum, kept, CPU)
    singular = np.linalg.svd(up.astype(np.float64) @ down, compute_uv=False)[:3]
    np.testing.assert_allclose(singular, spectrum.s[kept], rtol=1e-5)


def test_both_factors_carry_the_root_of_the_singular_values() -> None:
    pair = pair_of(*known(90, 40, np.geomspace(1, 1e-4, 6)))
    spectrum = decompose([pair], CPU)[0]
    up, down = truncated(pair, spectrum, np.arange(6), CPU, gain=4.0)
    np.testing.assert_allclose(np.linalg.norm(up, axis=0), 4 * np.sqrt(spectrum.s), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(down, axis=1), 4 * np.sqrt(spectrum.s), rtol=1e-4)


def test_many_together_equal_one_by_one() -> None:
    pairs = [pair_of(*known(30 + i, 40 - i, np.geomspace(1, 1e-3, 8), seed=i), "F16") for i in range(5)]
    pairs.append(pair_of(np.zeros((9, 8)), np.ones((8, 7)), "F16"))
    for together, pair in zip(decompose(pairs, CPU), pairs, strict=True):
        alone = decompose([pair], CPU)[0]
        np.testing.assert_allclose(together.s, alone.s, rtol=1e-9, atol=1e-12)


def test_long_factors_are_summed_over_blocks() -> None:
    rng = np.random.default_rng(5)
    pair = pair_of(rng.standard_normal((20_000, 8)), rng.standard_normal((8, 30_001)), "F16")
    found = decompose([pair], CPU)[0].s
    from lib_resize.linalg.casts import doubles

    r_up = cast("np.ndarray", np.linalg.qr(doubles(pair.up.bits, "F16"), mode="r"))
    r_down = cast("np.ndarray", np.linalg.qr(doubles(pair.down.bits, "F16").T, mode="r"))
    np.testing.assert_allclose(found, np.linalg.svd(r_up @ r_down.T, compute_uv=False), rtol=1e-10)


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("size", [1e-7, 1e-3, 1.0, 60000.0])
def test_gram_matrices_are_those_of_the_numbers_to_the_last_bit(kind: str, size: float) -> None:
    """Numbers that are loaded over a power of two give the same sums as the numbers themselves."""
    values = (np.random.default_rng(2).uniform(-1, 1, (300, 12)) * size).astype(np.float32)
    bits = round_to(values, kind)
    numbers = doubles(bits, kind)
    np.testing.assert_array_equal(gram_of_columns(Stored(bits, kind), CPU), numbers.T @ numbers)
    turned = np.ascontiguousarray(bits.T)
    numbers = doubles(turned, kind)
    np.testing.assert_array_equal(gram_of_rows(Stored(turned, kind), CPU), numbers @ numbers.T)


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["up", "down"])
def test_nan_and_infinity_stop_the_layer(kind: str, bad: float, where: str) -> None:
    up, down = known(40, 30, np.geomspace(1, 0.1, 4))
    {"up": up, "down": down}[where][3, 2] = bad
    with pytest.raises(LayerError, match=f"{where} holds NaN or inf"):
        decompose([pair_of(up, down, kind)], CPU)


def test_large_but_finite_values_are_welcome() -> None:
    up, down = known(40, 30, np.geomspace(1, 0.1, 4))
    pair = pair_of(up / np.abs(up).max() * 65504, down, "F16")
    assert np.isfinite(decompose([pair], CPU)[0].s).all()


def test_ranks_that_differ_are_named() -> None:
    pair = Pair(Stored(np.zeros((640, 16), np.float32), "F32"), Stored(np.zeros((8, 320), np.float32), "F32"))
    with pytest.raises(LayerError, match=r"\(640, 16\).*\(8, 320\)"):
        decompose([pair], CPU)


def test_torch_on_the_cpu_gives_the_same_as_numpy() -> None:
    arrays = TorchArrays("cpu")
    for kind in ("F16", "BF16", "F32", "F8_E4M3"):
        pair = pair_of(*known(90, 70, np.geomspace(1, 1e-2, 8)), kind, 0.5)
        ours, theirs = decompose([pair], CPU)[0], decompose([pair], arrays)[0]
        np.testing.assert_allclose(theirs.s, ours.s, rtol=1e-9)
        expected = exact_truncation(pair, 4)
        assert relative(written_delta(pair, 4, arrays), expected) < ROUNDING

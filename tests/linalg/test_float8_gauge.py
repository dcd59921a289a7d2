"""Rounding to float8 in the gauge in which it costs least."""

from __future__ import annotations

import numpy as np
import pytest

from lib_resize.linalg.casts import round_to, singles
from lib_resize.linalg.float8_gauge import equal_lengths, feedback_rounded, float8_pair, nearest


def balanced(n: int, m: int, k: int, decades: float, seed: int = 0):
    """Factors as the writer makes them: U sqrt(s) and sqrt(s) V^T, in the range of e4m3."""
    rng = np.random.default_rng(seed)
    s = np.logspace(0, -decades, k)
    u, v = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in (n, m))
    return (64 * u * np.sqrt(s)).astype(np.float32), (64 * (v * np.sqrt(s)).T).astype(np.float32), s


def error(up, down, p, q) -> float:
    """Squared, relative, Frobenius."""
    true = up.astype(np.float64) @ down
    return float(np.sum((p.astype(np.float64) @ q - true) ** 2) / np.sum(true**2))


def is_float8(values) -> bool:
    return bool((singles(round_to(values, "F8_E4M3"), "F8_E4M3") == values).all())


def test_the_nearest_number_is_that_of_the_cast():
    codes = singles(np.arange(127, dtype=np.uint8), "F8_E4M3")
    middles = (codes[1:] + codes[:-1]) / 2
    rng = np.random.default_rng(0)
    anywhere = rng.standard_normal(20000) * 10.0 ** rng.uniform(-6, 2, 20000)
    values = np.concatenate([codes, -codes, middles, -middles, np.nextafter(middles, 0), anywhere]).astype(np.float32)
    values = values[np.abs(values) <= 448]
    assert (nearest(values) == singles(round_to(values, "F8_E4M3"), "F8_E4M3")).all()
    assert (nearest(np.array([449, 1e30, -1e30], np.float32)) == [448, 448, -448]).all()


@pytest.mark.parametrize("s", [[1.0], [3.0, 1.0], [5, 4, 3, 2, 1], [1, 1, 1], np.logspace(0, -6, 40)])
def test_rotated_columns_are_equally_long(s):
    s = np.array(s, np.float64)
    t = equal_lengths(s)
    assert np.allclose(t.T @ t, np.eye(len(s)), atol=1e-12)
    assert np.allclose(np.diagonal(t.T @ np.diag(s) @ t), s.mean(), atol=1e-12 * s.sum())


def test_a_fifth_of_the_rounding_error():
    """640 x 640, rank 16, singular values over two decades; the mean over places in the binade."""
    plain, rotated, both = [], [], []
    for place in range(6):
        up, down, s = balanced(640, 640, 16, 2, seed=place)
        up, down = (values * np.float32(2 ** (place / 6)) for values in (up, down))
        t = equal_lengths(s).astype(np.float32)
        made = float8_pair(up, down)
        assert all(is_float8(values) for values in made)
        plain.append(error(up, down, nearest(up), nearest(down)))
        rotated.append(error(up, down, nearest(up @ t), nearest(t.T @ down)))
        both.append(error(up, down, *made))
    assert np.mean(plain) == pytest.approx(2 * 7.0e-4, rel=0.05)  # 2 eps^2
    assert np.mean(rotated) / np.mean(plain) == pytest.approx(s.sum() ** 2 / 16 / np.sum(s**2), rel=0.1)
    assert np.mean(both) < 0.22 * np.mean(plain)


@pytest.mark.parametrize(
    ("n", "m", "k", "decades"), [(40, 300, 8, 0.0), (300, 40, 8, 1.0), (16, 16, 16, 2.0), (64, 9, 9, 3.0)]
)
def test_no_shape_or_spectrum_is_made_worse(n, m, k, decades):
    up, down, _ = balanced(n, m, k, decades)
    assert error(up, down, *float8_pair(up, down)) < error(up, down, nearest(up), nearest(down))


@pytest.mark.parametrize("shift", range(0, 9))
@pytest.mark.parametrize(("n", "m", "decades"), [(64, 64, 3.0), (64, 128, 5.0), (64, 128, 7.0), (80, 64, 4.0)])
def test_square_factors_with_tiny_singular_values_are_not_blown_up(n, m, decades, shift):
    """The rounded factor is then nearly singular, and a plain least squares fit of the other one explodes."""
    up, down, _ = balanced(n, m, 64, decades, seed=shift)
    up, down = up * np.float32(2.0**-shift), down * np.float32(2.0**-shift)
    assert error(up, down, *float8_pair(up, down)) < 0.25 * error(up, down, nearest(up), nearest(down))


def test_rank_one_and_dimensions_of_zeros():
    up, down, _ = balanced(50, 60, 1, 0)
    assert error(up, down, *float8_pair(up, down)) < 2e-3
    padded = np.pad(up, ((0, 0), (0, 2))), np.pad(down, ((0, 2), (0, 0)))
    p, q = float8_pair(*padded)
    assert p.shape == padded[0].shape
    assert error(up, down, p, q) < 2e-3
    zero = np.zeros((4, 2), np.float32), np.zeros((2, 5), np.float32)
    assert not any(values.any() for values in float8_pair(*zero))


def test_feedback_lowers_the_loss_that_it_is_for():
    rng = np.random.default_rng(2)
    basis = rng.standard_normal((200, 40)) + 2 * rng.standard_normal((200, 1))  # correlated columns
    h, rows = basis.T @ basis, (20 * rng.standard_normal((40, 70))).astype(np.float32)

    def loss(z):
        return float(np.trace((rows - z).T @ h @ (rows - z)))

    found = feedback_rounded(h, rows)
    assert is_float8(found)
    assert loss(found) < 0.5 * loss(nearest(rows))

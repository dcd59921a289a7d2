"""The regression that fitted factors come from: its optimum, its ridge, and its moments."""

from __future__ import annotations

import numpy as np
import pytest

from lib_resize.linalg.regression import rank_k_regression, ridge, with_ridge

N, M, R, T = 30, 24, 6, 400


def problem(seed: int = 0, noise: float = 0.3):
    """up (n, r), orthonormal down (r, m), inputs (T, m) and aims e (T, n)."""
    rng = np.random.default_rng(seed)
    up = rng.standard_normal((N, R)) * np.logspace(0, -1, R)
    down = np.linalg.qr(rng.standard_normal((M, R)))[0].T
    x = rng.standard_normal((T, 9)) @ rng.standard_normal((9, M))
    return up, down, x, x @ down.T @ up.T + noise * x[:, :4] @ rng.standard_normal((4, N))


def solve(up, down, x, e, rank, lam):
    z = x @ down.T
    c, s = z.T @ z, e.T @ z
    pull = ridge(c, lam)
    wide = s + pull * up
    found = rank_k_regression(with_ridge(c, pull), wide.T @ wide, rank)
    return wide @ found.left, found.right, pull


def loss(p, q, up, z, e, pull):
    return np.sum((e - z @ q.T @ p.T) ** 2) + pull * np.sum((up - p @ q) ** 2)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_no_other_factors_of_the_rank_have_a_smaller_loss(rank):
    up, down, x, e = problem()
    p, q, pull = solve(up, down, x, e, rank, 0.02)
    z, rng = x @ down.T, np.random.default_rng(1)
    least = loss(p, q, up, z, e, pull)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(20):
            other = p + size * rng.standard_normal(p.shape), q + size * rng.standard_normal(q.shape)
            assert loss(*other, up, z, e, pull) >= least
    # The minimum by another way: alternating least squares from a random start.
    a = rng.standard_normal((N, rank))
    root = np.linalg.cholesky(z.T @ z + pull * np.eye(R)).T
    wide = np.linalg.solve(root.T, (e.T @ z + pull * up).T).T
    for _ in range(500):
        b = np.linalg.lstsq(a, wide, rcond=None)[0]
        a = np.linalg.lstsq(b.T, wide.T, rcond=None)[0].T
    assert loss(a, np.linalg.solve(root, b.T).T, up, z, e, pull) == pytest.approx(least, rel=1e-6)


def test_all_ranks_of_a_layer_that_sees_the_originals_inputs_give_the_lora_back():
    up, down, x, _ = problem()
    p, q, _ = solve(up, down, x, x @ down.T @ up.T, R, 0.02)
    assert np.linalg.norm(p @ q - up) < 1e-9 * np.linalg.norm(up)


@pytest.mark.parametrize("rank", [1, 4])
def test_a_strong_ridge_gives_the_truncation(rank):
    up, down, x, e = problem()
    u, t, vt = np.linalg.svd(up)
    p, q, _ = solve(up, down, x, e, rank, 1e9)
    assert np.linalg.norm(p @ q - u[:, :rank] * t[:rank] @ vt[:rank]) < 1e-5 * np.linalg.norm(up)


def test_both_factors_get_the_root_of_t():
    up, down, x, e = problem()
    p, q, pull = solve(up, down, x, e, 4, 0.02)
    z = x @ down.T
    c = z.T @ z + pull * np.eye(R)
    assert np.allclose(p.T @ p, q @ c @ q.T, rtol=1e-8, atol=1e-8 * np.abs(p.T @ p).max())


def test_directions_without_inputs_stay_those_of_the_lora():
    up, down, x, _ = problem()
    x = x - x @ down[:1].T @ down[:1]
    p, q, _ = solve(up, down, x, x @ down.T @ up.T, R, 0.02)
    assert np.allclose(p @ q, up, atol=1e-8)


def test_inputs_of_zeros_are_no_division_by_zero():
    up, down, x, _ = problem()
    p, q, _ = solve(up, down, 0 * x, np.zeros((T, N)), 2, 0.02)
    assert np.isfinite(p).all()
    assert np.isfinite(q).all()

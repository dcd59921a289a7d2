"""Round two factors to float8 (e4m3) so that their product changes least, at the same bytes.

The factors of a delta are not unique: ``up @ down = (up T) (T^-1 down)``. Rounding a number to e4m3 changes it by a
relative error of the variance eps^2, so rounding both factors changes the product by

    E |error|_F^2 = 2 eps^2 sum over j of |p_j|^2 |q_j|^2,    p_j and q_j the columns of up and the rows of down.

* Rotation. For balanced factors, ``U sqrt(s)`` and ``sqrt(s) V^T``, the sum is that of s_j^2. An orthogonal T makes
  all columns equally long; then it is (sum of s)^2 / k, the least that is possible (Cauchy and Schwarz). T is a product
  of k - 1 plane rotations (Bendel and Mickey 1978).
* Error feedback. Rotated columns are correlated, so the rounding error of one row of down can be compensated by the
  rows that are not rounded yet. With ``H = up^T up`` and the upper Cholesky factor U of H^-1, the error e of row i
  changes each later row j by ``-U_ij / U_ii e`` (Frantar and others 2022, GPTQ). Then up is fitted to the rounded down
  and rounded in the same way, and so on in turn.
"""

from __future__ import annotations

import math

import numpy as np

from .casts import Double, Single

TURNS = 3
"""Roundings: down, up, down."""
_BLOCK = 32  # rows that are rounded before their errors reach the others, in one product
_DAMPING = 3e-3  # of the diagonal of H: a few times eps^2
_LARGEST = np.float32(448.0)
_SMALLEST_NORMAL = 2.0**-6


def float8_pair(up: Single, down: Single, turns: int = TURNS) -> tuple[Single, Single]:
    """Return numbers of e4m3, up (n, k) and down (k, m), float32, whose product is near ``up @ down``.

    The factors are balanced: column j of up is as long as row j of down, columns are orthogonal, and so are rows.
    """
    strengths = np.einsum("ij,ij->j", up, up, dtype=np.float64)
    alive = strengths > 0
    out = np.zeros_like(up), np.zeros_like(down)
    if alive.any():
        t = equal_lengths(strengths[alive]).astype(np.float32)
        out[0][:, alive], out[1][alive] = _in_turns(up[:, alive] @ t, t.T @ down[alive], turns)
    return out


def equal_lengths(s: Double) -> Double:
    """Return the orthogonal T (k, k) for which all diagonal entries of ``T^T diag(s) T`` are the mean of s, (k,).

    Each rotation of a pair, one entry above the mean and one below, brings one of them to the mean (Bendel and Mickey
    1978).
    """
    m, t, mean = np.diag(s).astype(np.float64), np.eye(len(s)), float(np.mean(s))
    left = set(range(len(s)))
    for _ in range(len(s) - 1):
        high, low = max(left, key=lambda i: m[i, i]), min(left, key=lambda i: m[i, i])
        if min(m[high, high] - mean, mean - m[low, low]) <= 1e-12 * mean:
            break
        _rotate(m, t, high, low, mean)
        left.remove(high)
    return t


def _rotate(m: Double, t: Double, i: int, j: int, mean: float) -> None:
    """Rotate dimensions i and j in place so that entry (i, i) is the mean: a quadratic equation for the tangent."""
    a, b, c = m[i, i], m[j, j], m[i, j]
    tangent = (c + math.copysign(math.sqrt(max(c * c - (a - mean) * (b - mean), 0.0)), c or 1.0)) / (b - mean)
    cosine = 1.0 / math.sqrt(1.0 + tangent * tangent)
    turn = cosine * np.array([[1.0, tangent], [-tangent, 1.0]])
    m[:, [i, j]] = m[:, [i, j]] @ turn
    m[[i, j]] = turn.T @ m[[i, j]]
    t[:, [i, j]] = t[:, [i, j]] @ turn


def _in_turns(up: Single, down: Single, turns: int) -> tuple[Single, Single]:
    """Round one factor after the other, each fitted to the rounded other one; `up` and `down` give the aim."""
    left, right = nearest(up), down
    for turn in range(turns):
        if turn % 2 == 0:
            right = _fitted_rows(left, right, up, down)
        else:
            left = _fitted_rows(right.T, left.T, down.T, up.T).T
    return np.ascontiguousarray(left), np.ascontiguousarray(right)


def _fitted_rows(left: Single, rows: Single, up: Single, down: Single) -> Single:
    """Return the rounded rows (k, m) that make ``left @ rows`` nearest to ``up @ down``, for a rounded left (n, k).

    They are changed from the present `rows` no more than helps: a small eigenvalue of ``left^T left`` would ask for
    rows so large that their own rounding costs more than they win.
    """
    wide = left.astype(np.float64)
    h = wide.T @ wide
    h += _DAMPING * np.diag(np.diagonal(h))
    missing = (wide.T @ up) @ down - (wide.T @ wide) @ rows
    return feedback_rounded(h, (rows + np.linalg.solve(h, missing)).astype(np.float32))


def feedback_rounded(h: Double, rows: Single) -> Single:
    """Return the rows Z (k, m) of e4m3 numbers for a small ``tr (Y - Z)^T H (Y - Z)``, Y the given rows.

    Rows are rounded in the falling order of the diagonal of H (k, k).
    """
    order = np.argsort(-np.diagonal(h), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    shares = (upper / np.diagonal(upper)[:, None]).astype(np.float32)
    left = np.ascontiguousarray(rows[order])
    out = np.empty_like(left)
    for first in range(0, len(left), _BLOCK):
        last = min(first + _BLOCK, len(left))
        errors = np.empty_like(left[first:last])
        for i in range(first, last):
            out[i] = nearest(left[i])
            errors[i - first] = left[i] - out[i]
            left[i + 1 : last] -= shares[i, i + 1 : last, None] * errors[i - first]
        left[last:] -= shares[first:last, last:].T @ errors
    back = np.empty_like(out)
    back[order] = out
    return back


def nearest(values: Single) -> Single:
    """Return the nearest numbers of e4m3, ties to even, as float32; above its largest, 448, that one.

    Adding 1.5 2^(e + 20) makes the unit of the float32 sum 2^(e - 3), that of e4m3 in the binade 2^e.
    """
    values = np.ascontiguousarray(values, np.float32)
    binade = (values.view(np.uint32) & np.uint32(0x7F800000)).view(np.float32)
    shift = np.maximum(binade, np.float32(_SMALLEST_NORMAL)) * np.float32(1.5 * 2.0**20)
    return np.asarray(np.clip((values + shift) - shift, -_LARGEST, _LARGEST), np.float32)

"""Laws of a larger rank: new directions are of length 1, and at right angles to one another and to the old."""

from __future__ import annotations

import numpy as np
import pytest

from lib_resize.errors import LayerError
from lib_resize.linalg.extension import orthonormal_rows


@pytest.mark.parametrize(("rank", "columns", "count"), [(4, 40, 12), (1, 8, 7), (3, 3, 0), (6, 64, 10)])
@pytest.mark.parametrize("strength", [1e-4, 1.0, 50.0])
def test_new_rows_are_orthonormal_and_orthogonal_to_the_old(rank, columns, count, strength) -> None:
    down = (np.random.default_rng(1).standard_normal((rank, columns)) * strength).astype(np.float32)
    new = orthonormal_rows(down, count, np.random.default_rng(0))
    assert new.dtype == np.float32
    assert new.shape == (count, columns)
    np.testing.assert_allclose(new @ new.T, np.eye(count), atol=1e-6)
    np.testing.assert_allclose(new @ down.T / strength, np.zeros((count, rank)), atol=1e-5)


def test_rows_that_depend_on_one_another_or_are_zero_do_not_matter() -> None:
    down = np.outer([1.0, 2.0, 0.0], np.arange(10)).astype(np.float32)
    new = orthonormal_rows(down, 5, np.random.default_rng(0))
    np.testing.assert_allclose(new @ new.T, np.eye(5), atol=1e-6)
    np.testing.assert_allclose(new @ down.T, 0, atol=1e-4)


def test_more_directions_than_inputs_are_refused() -> None:
    with pytest.raises(LayerError, match=r"9 directions .* only 8"):
        orthonormal_rows(np.ones((3, 8), np.float32), 6, np.random.default_rng(0))

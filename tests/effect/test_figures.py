"""Laws of the figure: how much of a LoRA's effect a file keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lib_resize.effect.figures import Distances, effect_figure, shows, squared_difference

POSITIVE = st.floats(1e-6, 1e6)
PAIRS = st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=4)


def distances(*pairs: tuple[float, float]) -> list[Distances]:
    return [Distances(seed, *pair) for seed, pair in enumerate(pairs)]


def test_the_distance_of_known_arrays() -> None:
    one = np.zeros((2, 2, 2), np.float32)
    other = one.copy()
    other[0, 0, 0], other[1, 1, 1] = 3.0, -1.0
    assert squared_difference(one, other) == (9 + 1) / 8
    assert squared_difference(one, one) == 0.0


def test_a_distance_is_summed_in_double_precision() -> None:
    """In float32 the square of a small difference of large numbers, or a long sum, would be lost."""
    one = np.full((1000, 1000), 4096.0, np.float32)
    other = one + np.float32(2.0**-11)
    assert squared_difference(one, other) == 2.0**-22
    assert squared_difference(np.array([6e4], np.float16), np.array([-6e4], np.float16)) == 120000.0**2


def test_arrays_of_different_shapes_have_no_distance() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(1,\)"):  # numpy would repeat the second one
        squared_difference(np.zeros(3), np.zeros(1))


def test_the_ratio_is_of_means_and_the_worst_image_has_the_mean_effect_as_denominator() -> None:
    """The second image hardly shows the LoRA. A mean of ratios would be 1 - (0.1 + 2) / 2 = -0.05."""
    figure = effect_figure(distances((1.0, 10.0), (0.2, 0.1)), 0.0, "latents")
    assert figure.effect == pytest.approx(5.05)
    assert figure.kept == pytest.approx(1 - 0.6 / 5.05)
    assert figure.worst == pytest.approx(1 - 1.0 / 5.05)
    assert (figure.seeds, figure.basis) == ((0, 1), "latents")


@given(PAIRS)
def test_a_single_image_is_its_own_worst_and_the_worst_is_never_above_the_mean(
    pairs: list[tuple[float, float]],
) -> None:
    figure = effect_figure(distances(*pairs), 0.0, "pixels")
    assert figure.kept is not None
    assert figure.worst is not None
    assert figure.worst <= figure.kept + 1e-12 * (1 + abs(figure.kept))  # 1 less a ratio is as exact as the ratio
    if len(pairs) == 1:
        assert figure.worst == figure.kept


@given(PAIRS, st.floats(0.01, 100))
def test_the_unit_of_the_images_does_not_matter(pairs: list[tuple[float, float]], unit: float) -> None:
    one = effect_figure(distances(*pairs), 0.0, "pixels")
    other = effect_figure(distances(*((a * unit, b * unit) for a, b in pairs)), 0.0, "pixels")
    assert one.kept == pytest.approx(other.kept, rel=1e-6, abs=1e-6)


def test_equal_images_keep_everything_and_those_without_the_lora_nothing() -> None:
    assert effect_figure(distances((0.0, 2.0)), 0.0, "latents").kept == 1.0
    assert effect_figure(distances((2.0, 2.0)), 0.0, "latents").kept == 0.0
    assert effect_figure(distances((4.0, 2.0)), 0.0, "latents").kept == -1.0


@pytest.mark.parametrize(("noise", "kept"), [(0.0, 0.5), (0.9, 0.5), (1.0, None), (2.0, None)])
def test_an_effect_of_three_times_the_noise_or_less_gives_no_figure(noise: float, kept: float | None) -> None:
    figure = effect_figure(distances((1.0, 2.0), (2.0, 4.0)), noise, "latents")
    assert figure.effect == 3.0
    assert (figure.kept, figure.worst is None) == (kept, kept is None)
    assert figure.noise == noise


def test_without_an_effect_there_is_no_figure() -> None:
    figure = effect_figure(distances((0.0, 0.0), (1.0, 0.0)), 0.0, "pixels")
    assert (figure.kept, figure.worst, figure.effect) == (None, None, 0.0)


@given(POSITIVE, POSITIVE)
def test_more_noise_never_makes_a_prompt_show_the_lora(effect: float, noise: float) -> None:
    assume(not shows(effect, noise))
    assert not shows(effect, 2 * noise)


def test_no_image_gives_no_figure() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        effect_figure([], 0.0, "latents")

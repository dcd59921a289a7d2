"""Laws of the choice, on spectra made for the purpose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_resize.errors import PairingError, ResizeError
from lib_resize.recipe.grammar import parse_recipe
from lib_resize.recipe.scores import BaseFacts, LayerFacts, check_partners, score, with_estimates
from lib_resize.recipe.select import Choice, SelectionInput, choose, weight_retention
from lib_resize.shown import MIB


def layer(s: list[float], name: str = "a", **facts) -> LayerFacts:
    return LayerFacts(
        name=name, s=np.array(s, float), parameters_per_rank=facts.pop("parameters_per_rank", 100), **facts
    )


def ranks(recipe: str, *layers: LayerFacts, **question) -> list[int]:
    return choose(parse_recipe(recipe), SelectionInput(layers, **question)).ranks


HALVING = layer([8, 4, 2, 1, 0.5, 0.5])


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("sv_ratio=2", 1),  # only 8 is greater than 4
        ("sv_ratio=2.01", 2),
        ("sv_ratio=16.5", 6),
        ("sv_ratio=1", 1),  # at least one
        ("sv_cumulative=0.5", 1),  # 8 of 16
        ("sv_cumulative=0.51", 2),
        ("sv_cumulative=0.87", 3),  # 14 of 16 are 0.875; one more would be the known off-by-one
        ("sv_cumulative=1", 6),
        ("sv_fro=0.86", 1),  # 8 / sqrt(85.5) = 0.865
        ("sv_fro=0.87", 2),
        ("sv_fro=1", 6),
        ("rank=3", 3),
        ("rank=99", 6),
    ],
)
def test_selections_layer_by_layer_keep_no_dimension_too_many(recipe: str, expected: int) -> None:
    assert ranks(recipe, HALVING) == [expected]


def test_thr_keeps_exactly_the_dimensions_at_or_above_it() -> None:
    at = layer([1.0, 0.1, 0.01])
    assert ranks("spn_lora=1,thr=-1", at) == [2]
    assert ranks("spn_lora=1,thr=-0.999", at) == [1]
    assert ranks("spn_lora=1,thr=-2", at) == [3]


def test_scores_are_the_weighted_logarithms_of_ratios() -> None:
    facts = layer(
        [3.0, 0.5], parameters_per_rank=640, base=BaseFacts(fro=20.0, spn=7.0, subspace=np.array([0.3, 0.01]))
    )
    recipe = parse_recipe("fro_ckpt=2,spn_ckpt=1,fro_lora=1,spn_lora=1,subspace=3,params=2,rescale=0.5,thr=-1")
    logs = [2 * np.log10(20), np.log10(7), np.log10(np.hypot(1.5, 0.25)), np.log10(1.5), 2 * np.log10(640)]
    expected = np.log10([1.5, 0.25]) - (sum(logs) + 3 * np.log10([0.3, 0.01])) / 10
    np.testing.assert_allclose(score(recipe, facts), expected, rtol=1e-12)


def test_zero_dimensions_score_minus_infinity_and_never_stay() -> None:
    facts = layer([1.0, 0.0, 0.0])
    assert score(parse_recipe("fro_lora,thr=-99"), facts).tolist()[1:] == [-np.inf, -np.inf]
    for recipe in ("fro_lora,thr=-99", "rank=3", "sv_fro=1", "retain=1", "fro_lora,min_rank=3,thr=9"):
        assert ranks(recipe, facts) == [1]


def test_a_layer_of_zeros_falls_away() -> None:
    assert ranks("rank=2", layer([1, 0.5]), layer([0, 0])) == [2, 0]
    assert ranks("medium", layer([1, 0.5]), layer([0, 0]))[1] == 0


def test_caps_hold_for_every_selection() -> None:
    linear, conv = layer([1, 0.9, 0.8, 0.7]), layer([1, 0.9, 0.8, 0.7], is_conv=True)
    for selection in ("fro_lora,thr=-9", "retain=1", "rank=4", "sv_fro=1", "sv_ratio=99", "sv_cumulative=1"):
        assert ranks(f"{selection},max_rank=3", linear, conv) == [3, 3]
        assert ranks(f"{selection},max_rank=3,max_conv_rank=1", linear, conv) == [3, 1]
        assert ranks(f"{selection},max_conv_rank=2", linear, conv) == [4, 2]


def test_a_conv_rank_may_be_larger_than_the_uniform_one() -> None:
    assert ranks("rank=1,max_conv_rank=3", layer([1, 1, 1, 1]), layer([1, 1, 1, 1], is_conv=True)) == [1, 3]


def test_min_rank_keeps_dimensions_in_every_layer() -> None:
    strong, weak = layer([10, 9, 8]), layer([0.1, 0.05, 0.01])
    assert ranks("spn_ckpt,thr=0", *[with_base(x, 1.0) for x in (strong, weak)]) == [3, 0]
    assert ranks("spn_ckpt,min_rank=2,thr=0", *[with_base(x, 1.0) for x in (strong, weak)]) == [3, 2]


def with_base(facts: LayerFacts, norm: float) -> LayerFacts:
    return LayerFacts(facts.name, facts.s, facts.parameters_per_rank, facts.is_conv, BaseFacts(fro=norm, spn=norm))


def test_layers_that_must_stay_do_even_when_they_are_zero() -> None:
    assert ranks("fro_lora,thr=-1", layer([1, 0.01]), layer([0, 0], min_kept=1)) == [1, 1]
    assert ranks("rank=2", layer([1, 0.01]), layer([0, 0], min_kept=1)) == [2, 1]


def test_layers_that_a_host_applies_together_stay_together() -> None:
    q, k, v, out = (with_base(layer(s), 1.0) for s in ([5.0, 1.0], [0.1, 0.05], [0.0, 0.0], [2.0, 0.01]))
    other = with_base(layer([0.01, 0.005]), 1.0)
    for recipe in ("spn_ckpt,thr=0", "spn_ckpt,size=0.004"):
        kept = ranks(recipe, q, k, v, out, other, together=((0, 1, 2, 3),), size_of=lambda c: 1000 * sum(c.ranks))
        assert kept[1] == kept[2] == 1
        assert kept[0] >= 1
        assert kept[3] >= 1


def test_a_whole_group_may_go() -> None:
    q, k, v, out = (with_base(layer([0.1]), 1.0) for _ in range(4))
    assert ranks("spn_ckpt,thr=0", q, k, v, out, with_base(layer([3]), 1.0), together=((0, 1, 2, 3),)) == [0] * 4 + [1]


def test_retain_keeps_the_smallest_set_that_holds_the_share() -> None:
    layers = [layer([4, 2, 1]), layer([3, 1])]
    for share in (0.3, 0.7, 0.9, 0.97, 1.0):
        choice = choose(parse_recipe(f"fro_lora,retain={share}"), SelectionInput(layers))
        assert weight_retention(layers, choice.kept) >= share - 1e-12
        order = sorted(
            ((sc, i, d) for i, scores in enumerate(choice.scores) for d, sc in enumerate(scores)), reverse=True
        )
        fewer = order[: sum(choice.ranks) - 1]
        kept = [np.array([d for _, i, d in fewer if i == j], int) for j in range(2)]
        assert weight_retention(layers, kept) < share


def test_a_dimension_out_of_order_can_stay_alone() -> None:
    """With `subspace` the reference differs within a layer, so the choice need not be a prefix."""
    facts = layer([1.0, 0.9, 0.8], base=BaseFacts(fro=1.0, subspace=np.array([100.0, 1e-3, 50.0])))
    choice = choose(parse_recipe("subspace,thr=0"), SelectionInput([facts]))
    assert choice.kept[0].tolist() == [1]


spectra = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12).map(lambda s: sorted(s, reverse=True))


@given(
    layers=st.lists(st.tuples(spectra, st.integers(2, 5000)), min_size=1, max_size=8),
    share=st.floats(0.01, 1.2),
    min_rank=st.integers(0, 2),
    score_name=st.sampled_from(["fro_lora", "spn_lora", "fro_lora=0.7,params=0.3"]),
)
def test_size_is_a_promise(layers, share: float, min_rank: int, score_name: str) -> None:
    facts = [layer(s, str(i), parameters_per_rank=n) for i, (s, n) in enumerate(layers)]

    def size_of(choice: Choice) -> int:
        tensors = sum(rank * x.parameters_per_rank * 2 for rank, x in zip(choice.ranks, facts, strict=True))
        names = "".join(
            f"{rank}{x.parameters_per_rank * rank}" for rank, x in zip(choice.ranks, facts, strict=True) if rank
        )
        return tensors + 100 + len(names) + len(str(choice.threshold))  # a header that wobbles

    full = sum(len(x.s) * x.parameters_per_rank * 2 for x in facts) + 200
    budget = full * share
    recipe = parse_recipe(f"{score_name},min_rank={min_rank},size={budget / MIB!r}")
    try:
        choice = choose(recipe, SelectionInput(facts, size_of=size_of))
    except ResizeError as error:
        assert "smallest file" in str(error) or "no dimension would be kept" in str(error)
        return
    assert size_of(choice) <= budget
    flat = sorted((-sc, i, d) for i, scores in enumerate(choice.scores) for d, sc in enumerate(scores))
    left = [(i, d) for _, i, d in flat if d not in choice.kept[i]]
    if left:
        i, d = left[0]
        kept = list(choice.kept)
        kept[i] = np.sort(np.append(kept[i], d))
        assert size_of(Choice(tuple(kept), choice.threshold, choice.scores)) > budget - 40  # the wobble


@given(layers=st.lists(spectra, min_size=1, max_size=6), low=st.floats(-4, 0), high=st.floats(-4, 0))
def test_a_lower_threshold_keeps_at_least_as_much(layers, low: float, high: float) -> None:
    low, high = sorted((low, high))
    facts = [layer(s, str(i)) for i, s in enumerate(layers)]
    kept = [sum(ranks_or_none(f"fro_lora,thr={t}", facts)) for t in (low, high)]
    assert kept[0] >= kept[1]


def ranks_or_none(recipe: str, facts: list[LayerFacts]) -> list[int]:
    try:
        return ranks(recipe, *facts)
    except ResizeError:
        return [0]


def test_a_recipe_that_keeps_nothing_reports_it() -> None:
    with pytest.raises(ResizeError, match="no dimension would be kept"):
        ranks("spn_lora,thr=3", layer([1, 0.5]))


def test_a_size_below_the_smallest_file_says_what_the_smallest_is() -> None:
    with pytest.raises(ResizeError, match=r"has 2\.000 MiB"):
        ranks("size=1", layer([1, 0.5]), size_of=lambda choice: 2 * MIB)


def test_without_partner_the_own_references_decide_alone() -> None:
    facts = layer([1.0, 0.1])
    mixed = score(parse_recipe("fro_ckpt=0.5,spn_lora=0.3,params=0.2,thr=0"), facts)
    alone = score(parse_recipe("spn_lora=0.6,params=0.4,thr=0"), facts)
    np.testing.assert_allclose(mixed, alone)


BASE_ALONE = ["fro_ckpt,thr=-3", "fro_ckpt=0.8,params=0.2,size=5", "subspace,spn_ckpt,thr=1"]


@pytest.mark.parametrize("recipe", BASE_ALONE)
def test_recipes_of_the_base_alone_are_refused_where_most_layers_have_no_partner(recipe: str) -> None:
    layers = [with_base(layer([1], "here"), 1.0), layer([1], "lost"), layer([1], "gone")]
    with pytest.raises(PairingError, match=r"2 of 3 layers .* base\.safetensors: lost, gone"):
        check_partners(parse_recipe(recipe), layers, "base.safetensors")
    assert check_partners(parse_recipe(recipe), layers[:2], "base.safetensors") == ["lost"]


def test_a_lora_of_another_family_is_named_as_the_likely_cause() -> None:
    with pytest.raises(PairingError, match="another model family"):
        check_partners(parse_recipe("fro_ckpt,thr=-3"), [layer([1], str(i)) for i in range(9)], "base")


@pytest.mark.parametrize("recipe", BASE_ALONE)
def test_a_layer_without_partner_is_scored_like_a_typical_one(recipe: str) -> None:
    """A layer whose base norm is the median multiple of its own has the same scores with its partner and without."""
    rule = parse_recipe(recipe)

    def paired(s: list[float], times: float) -> LayerFacts:
        own = layer(s)
        along = np.full(len(s), times * s[0])
        return layer(s, base=BaseFacts(fro=times * own.fro, spn=times * s[0], subspace=along))

    others = [paired([3, 1], 50), paired([2, 1, 0.1], 100), paired([9, 8], 4000), layer([0.0], "zero")]
    *_, lone = with_estimates(rule, [*others, layer([0.7, 0.2, 0.0])])
    np.testing.assert_allclose(score(rule, lone), score(rule, paired([0.7, 0.2, 0.0], 100)))


def test_layers_with_partners_and_recipes_with_own_references_are_not_estimated() -> None:
    layers = [with_base(layer([1], "here"), 1.0), layer([1], "lost")]
    assert with_estimates(parse_recipe("fro_ckpt=0.5,fro_lora=0.5,thr=-1"), layers) is layers
    assert with_estimates(parse_recipe("fro_ckpt,thr=-1"), layers)[0] is layers[0]


def test_recipes_without_base_ask_for_no_partner() -> None:
    assert check_partners(parse_recipe("medium"), [layer([1])], "") == []

"""The language of recipes: what is read, what is refused, and where the fault is said to be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_resize.errors import RecipeError
from lib_resize.recipe.grammar import (
    LIMITS,
    PRESETS,
    SCORED_SELECTIONS,
    SCORES,
    SELECTIONS,
    parse_recipe,
    parse_recipes,
)


def test_weights_are_normalised_to_sum_one() -> None:
    recipe = parse_recipe("fro_ckpt=3,spn_lora=1,thr=-2")
    assert recipe.weights == {"fro_ckpt": 0.75, "spn_lora": 0.25}


def test_a_score_without_number_weighs_one() -> None:
    assert parse_recipe("spn_ckpt,thr=-1.2") == parse_recipe("spn_ckpt=1,thr=-1.2")


def test_a_score_of_weight_zero_is_not_asked_for() -> None:
    assert not parse_recipe("fro_ckpt=0,fro_lora=1,thr=-1").needs_base


def test_several_recipes_are_separated_by_colons() -> None:
    first, second, third = parse_recipes("fro_ckpt=1,thr=-3.5:spn_lora=1,thr=-0.7:spn_ckpt=1,size=32")
    assert (first.selection, first.value) == ("thr", -3.5)
    assert second.weights == {"spn_lora": 1.0}
    assert (third.selection, third.value) == ("size", 32.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_recipes(preset: str) -> None:
    assert parse_recipe(preset) == parse_recipe(PRESETS[preset])
    assert not parse_recipe(preset).needs_base


def test_limits_follow_a_preset_and_replace_its_own() -> None:
    recipe = parse_recipe("medium,max_rank=16,min_rank=2")
    assert (recipe.value, recipe.max_rank, recipe.min_rank) == (0.92, 16, 2)


def test_a_scored_selection_alone_compares_the_lora_with_itself() -> None:
    assert parse_recipe("size=46").weights == {"fro_lora": 1.0}


def test_a_selection_layer_by_layer_needs_no_score() -> None:
    assert parse_recipe("rank=16").weights == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "column 1: an item is empty"),
        ("thr=-1,", "column 8: an item is empty"),
        ("fro_ckpt=1,frob=1,thr=-1", "column 12: unknown word 'frob'"),
        ("fro_ckpt=1", "exactly one selection is needed, found none"),
        ("fro_ckpt=1,thr=-1,size=3", "found thr and size"),
        ("medium,size=46", "found retain and size"),
        ("fro_ckpt=x,thr=-1", "column 1: fro_ckpt='x': must be a weight"),
        ("fro_ckpt=-1,thr=-1", "must be a weight, 0 to 1000000"),
        ("fro_ckpt=0,thr=-1", "weights of the scores sum to 0"),
        ("fro_ckpt=1,thr=nan", "thr='nan': must be a number"),
        ("fro_ckpt=1,thr=inf", "thr='inf': must be a number"),
        ("fro_ckpt=1,size=0", "size='0': must be a size in MiB"),
        ("fro_ckpt=1,size", "'size' needs a number"),
        ("retain=1.5", "must be above 0 and at most 1"),
        ("rank=2.5", "must be a whole number"),
        ("rank=0", "must be a whole number"),
        ("sv_ratio=0.5", "must be a ratio, 1 to 1e9"),
        ("sv_ratio=1e308", "must be a ratio, 1 to 1e9"),
        ("rank=100001", "whole number, 1 to 100000"),
        ("max_rank=1e300,thr=1", "whole number, 1 to 100000"),
        ("thr=1e308", "-1000 to 1000"),
        ("size=1e308", "at most 1e9"),
        ("fro_lora=1e300,thr=1", "must be a weight, 0 to 1000000"),
        ("rescale=1e-300,rank=4", "0.001 to 1000"),
        ("sv_fro=0", "above 0 and at most 1"),
        ("rescale=0,rank=4", "must be a strength, 0.001 to 1000"),
        ("rank=4,min_rank=3,max_rank=2", "min_rank=3 is above max_rank=2"),
        ("thr=-1,thr=-2", "'thr' is given twice"),
        ("fro_lora,fro_lora,thr=-2", "'fro_lora' is given twice"),
        ("rank=4,medium", "preset 'medium' must come first"),
    ],
)
def test_a_bad_recipe_is_refused_with_its_fault(text: str, fault: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    assert fault in str(caught.value)


def test_the_column_counts_from_the_start_of_all_recipes() -> None:
    with pytest.raises(RecipeError, match="column 16: unknown word 'nope'"):
        parse_recipes("medium:rank=4, nope=1")
    with pytest.raises(RecipeError, match="column 16: 'seed' works only with"):
        parse_recipes("medium:rank=4, seed=1")


def test_an_unknown_word_is_answered_with_all_known_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("what=1")
    for word in (*SCORES, *SELECTIONS, *LIMITS, *PRESETS, "rescale"):
        assert word in str(caught.value)


VALUES = {
    "thr": st.floats(-9, 9),
    "size": st.floats(0.01, 1e4),
    "retain": st.floats(0.01, 1),
    "rank": st.integers(1, 500),
    "sv_ratio": st.floats(1, 1e3),
    "sv_fro": st.floats(0.01, 1),
    "sv_cumulative": st.floats(0.01, 1),
}


@given(
    selection=st.sampled_from(list(SELECTIONS)),
    scores=st.dictionaries(st.sampled_from(list(SCORES)), st.floats(0.01, 10), max_size=4),
    limits=st.dictionaries(st.sampled_from(["max_rank", "max_conv_rank"]), st.integers(1, 300)),
    data=st.data(),
)
def test_the_full_text_of_a_recipe_reads_back_the_same(selection, scores, limits, data) -> None:
    value = data.draw(VALUES[selection])
    items = [f"{name}={weight:.4f}" for name, weight in scores.items()]
    items += [f"{name}={limit}" for name, limit in limits.items()]
    recipe = parse_recipe(",".join([*items, f"{selection}={value:.4f}"]))
    again = parse_recipe(str(recipe))
    assert again.value == pytest.approx(recipe.value, abs=1e-6)
    assert (again.selection, again.max_rank, again.max_conv_rank) == (selection, recipe.max_rank, recipe.max_conv_rank)
    assert again.weights == pytest.approx(recipe.weights, abs=1e-5)
    if selection in SCORED_SELECTIONS:
        assert sum(recipe.weights.values()) == pytest.approx(1)


# How rank= gets there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("rank=8", "rank=8"),
        ("rank=8,svd", "rank=8"),
        ("rsvd,rank=8", "rsvd,niter=2,oversample=8,seed=0,rank=8"),
        ("rank=8,rsvd,niter=0,oversample=3,seed=9", "rsvd,niter=0,oversample=3,seed=9,rank=8"),
        ("rank=8,projection,pad", "projection,pad,seed=0,rank=8"),
        ("rank=8,sparse,seed=1,max_conv_rank=4", "max_conv_rank=4,sparse,seed=1,rank=8"),
        ("rank=16,extend", "extend,seed=0,rank=16"),
    ],
)
def test_methods_and_fills_are_written_in_full_and_read_back(text: str, full: str) -> None:
    assert str(parse_recipe(text)) == full
    assert parse_recipe(full) == parse_recipe(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("medium,rsvd", "'rsvd' works only with rank=, found retain="),
        ("sv_fro=0.9,pad", "'pad' works only with rank="),
        ("size=3,seed=1", "'seed' works only with rank="),
        ("rank=8,rsvd,sparse", "'rsvd' and 'sparse': only one is possible"),
        ("rank=8,pad,extend", "'pad' and 'extend': only one is possible"),
        ("rank=8,rsvd,extend", "'extend' reduces no rank"),
        ("rank=8,niter=1", "column 8: 'niter' works only with rsvd, found svd; change the method or remove niter."),
        ("rank=8,projection,oversample=1", "column 19: 'oversample' works only with rsvd, found projection;"),
        ("rank=8,pad,seed=1", "column 12: 'seed' works only with rsvd, projection, sparse or extend, found svd;"),
        ("rank=8,seed=1", "column 8: 'seed' works only with rsvd, projection, sparse or extend, found svd; change"),
        ("seed=0,rank=8", "column 1: 'seed' works only with"),
        ("rank=8,svd,seed=1", "found svd; change the method or remove seed."),
        ("rank=8,rsvd,niter=1.5", "whole number"),
        ("rank=8,rsvd,rsvd", "'rsvd' and 'rsvd'"),
    ],
)
def test_methods_where_they_mean_nothing_are_refused(text: str, fault: str) -> None:
    with pytest.raises(RecipeError, match="column"):
        parse_recipe(text)
    try:
        parse_recipe(text)
    except RecipeError as error:
        assert fault in str(error)

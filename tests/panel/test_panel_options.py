"""What of a recipe the panel takes."""

from __future__ import annotations

import pytest

from lib_resize.errors import RecipeError
from lib_resize.panel.options import Options, read_recipes
from lib_resize.recipe.grammar import parse_recipes
from tests.panel.panelhost import Browser


@pytest.mark.parametrize("recipe", ["rank=8", "rank=8,pad", "medium:size=3"])
def test_exact_recipes_are_taken(recipe: str) -> None:
    assert read_recipes({"recipe": recipe}, Options())


@pytest.mark.parametrize(("recipe", "word"), [("rank=8,rsvd", "rsvd"), ("medium:rank=16,extend", "extend")])
def test_recipes_that_need_the_factors_to_be_planned_are_refused_with_a_remedy(recipe: str, word: str) -> None:
    with pytest.raises(RecipeError, match=f"{word} is for the command line"):
        read_recipes({"recipe": recipe}, Options())


@pytest.mark.parametrize("recipe", ["rank=8,rsvd", "rank=4,projection", "rank=4,sparse", "rank=16,extend"])
def test_the_recipe_box_reports_it_while_one_types(browser: Browser, recipe: str) -> None:
    checked = browser.ask("check_recipe", text=recipe)
    assert (checked["ok"], checked["full"]) == (False, None)
    offered = checked["message"].partition("resize-lora resize FILE -r ")[2].partition(";")[0]
    assert parse_recipes(offered) == parse_recipes(recipe)

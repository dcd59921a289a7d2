"""The name of a result: the source's name, and the recipe in short."""

from __future__ import annotations

from ..recipe.grammar import Recipe, format_number


def output_stem(name: str, recipe: Recipe, threshold: float | None, suffix: str | None) -> str:
    """Return ``my_lora_spnckpt1_size32_th-2.871``: the source's name and the recipe, or the user's own suffix.

    `threshold` is a log10 score, None for recipes that select layer by layer.
    """
    if suffix is not None:
        return name + suffix
    return f"{name}_{recipe_in_name(recipe)}" + ("" if threshold is None else f"_th{format_number(threshold, 3)}")


def recipe_in_name(recipe: Recipe) -> str:
    """Return the recipe as it appears in a file name, without the threshold."""
    parts = [f"{name.replace('_', '')}{format_number(weight, 2)}" for name, weight in sorted(recipe.weights.items())]
    if recipe.rescale != 1.0:
        parts.append(f"scale{format_number(recipe.rescale, 2)}")
    if recipe.selection != "thr":
        parts.append(f"{recipe.selection.replace('_', '')}{format_number(recipe.value, 3)}")
    limits = (("max", recipe.max_rank), ("conv", recipe.max_conv_rank), ("min", recipe.min_rank))
    parts += [f"{word}{limit}" for word, limit in limits if limit]
    usual = {f"{name}={default}" for name, default in (("niter", 2), ("oversample", 8), ("seed", 0))}
    parts += [item.replace("=", "") for item in recipe.method_items if item not in usual]
    return "_".join(parts)

"""Recipes: their grammar, the scores of dimensions, and the selection of dimensions."""

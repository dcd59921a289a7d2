"""What to keep: the language of recipes, the scores of dimensions, and the choice among them."""

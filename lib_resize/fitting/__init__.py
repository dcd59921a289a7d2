"""Fit the factors of a resized LoRA to what the layers of the original do in a model: modules and hooks, no host."""

"""Measurements of speed, memory and accuracy; not part of the installed package."""

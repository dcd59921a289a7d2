"""Runs over a library: many LoRAs resized in place, as one piece of work that survives a restart."""

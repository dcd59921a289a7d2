"""LoRA files: reading their layers, merging them, and laying out smaller files."""

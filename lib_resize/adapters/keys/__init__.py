"""What the keys of a LoRA file mean: suffixes, and the kinds of adapters that they make."""

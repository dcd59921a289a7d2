"""Read a LoRA file: group its keys into layers, find their scales, and refuse what cannot be resized."""

"""LoRA tags of prompts, block weights, and the files that names and patterns stand for."""

"""How much of a LoRA's effect on images a smaller file keeps: arithmetic on arrays, no host and no files."""

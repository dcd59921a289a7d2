"""Lay out a smaller LoRA file: its keys, dtypes and shapes, and the values of its tensors."""

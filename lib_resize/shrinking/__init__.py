"""LoRA files made smaller under their own names: which ones, from what, and one after the other."""

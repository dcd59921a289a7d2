"""Merge several LoRAs, or a LoRA and its base model, into one adapter."""

"""Safetensors files: read lazily, written whole or not at all, and true in what they say of themselves."""

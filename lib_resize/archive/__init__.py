"""Originals that smaller files replaced: kept in an archive outside of the LoRA folders, and moved back on request."""

"""Images that the host makes for this program: with the original LoRA, with a smaller file, and with neither."""

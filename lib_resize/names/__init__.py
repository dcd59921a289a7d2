"""What layers are called: by the architecture, by each family, by each tool that writes LoRA files."""

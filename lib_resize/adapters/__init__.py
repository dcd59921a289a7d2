"""What a LoRA file holds: its keys told apart, its low-rank pairs read, and the same written smaller."""

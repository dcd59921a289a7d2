"""What LoRA files are and hold: headers, spectra, plots, and whole folders. Nothing here writes a LoRA."""

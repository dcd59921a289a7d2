"""Studies of files: facts from headers, spectra, plots, and surveys of whole folders. Nothing here writes a LoRA."""

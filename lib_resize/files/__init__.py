"""Read and write safetensors files: lazy reads, atomic writes, correct metadata and sidecars, safe file names."""

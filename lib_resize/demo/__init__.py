"""Made-up checkpoints and LoRAs of real shapes, for the demo, the tests and the benchmarks."""

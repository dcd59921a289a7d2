"""The largest change that rounding to a dtype may make to a layer's delta, relative, Frobenius; see docs/maths.md."""

ALLOWED = {"F32": 1e-3, "F16": 3e-3, "BF16": 2e-2, "F8_E4M3": 0.06}
"""By safetensors dtype."""
UNBALANCED = 0.06
"""For a full difference in float16, which has no factors to scale: small numbers lose digits."""
NEGLIGIBLE = 1e-4
"""Share of the whole LoRA's norm that does not count: a layer may be nothing next to the others."""

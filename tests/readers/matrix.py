"""The table of kinds and hosts in docs/formats.md, made by letting the hosts' rules load one layer of every kind.

``python tests/readers/matrix.py`` prints it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tests.readers.host_rules import (
    Group,
    RefusedError,
    SkippedError,
    _over_inputs,
    a1111_type,
    applies_bias,
    comfyui_type,
    diffusers_type,
    forge_type,
    over_outputs,
    sdnext_type,
)

N, M, R = 12, 8, 3
KERNEL = (2, 2)


@dataclass(frozen=True)
class Sample:
    """One layer, and the delta that its own trainer applies."""

    kind: str
    parts: Group
    true: Callable[[Group, np.ndarray], np.ndarray] | None = None
    """None where the hosts must agree among themselves: A1111's rule, or ComfyUI's."""
    kernel: bool = False


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape)


def _pair(**others: np.ndarray) -> dict[str, np.ndarray]:
    return {"lora_up.weight": _random(N, R), "lora_down.weight": _random(R, M), **others}


ALPHA = {"alpha": np.array(2.0)}
AB = {"lora_B.weight": _random(N, R), "lora_A.weight": _random(R, M)}
LOHA = {"hada_w1_a": _random(N, R), "hada_w1_b": _random(R, M), "hada_w2_a": _random(N, R) + 1,
        "hada_w2_b": _random(R, M) + 1}  # fmt: skip
LOHA_CORE = {"hada_t1": _random(R, R, *KERNEL), "hada_t2": _random(R, R, *KERNEL) + 1, "hada_w1_a": _random(R, N),
             "hada_w1_b": _random(R, M), "hada_w2_a": _random(R, N) + 1, "hada_w2_b": _random(R, M) + 1}  # fmt: skip
LOKR = {"lokr_w1": _random(2, 2), "lokr_w2_a": _random(6, R), "lokr_w2_b": _random(R, 4)}
LOKR_CORE = {"lokr_w1": _random(2, 2), "lokr_t2": _random(R, R, *KERNEL), "lokr_w2_a": _random(R, 6),
             "lokr_w2_b": _random(R, 4)}  # fmt: skip
GLORA = {"a1.weight": _random(M, R), "a2.weight": _random(R, M), "b1.weight": _random(N, R), "b2.weight": _random(R, M)}
OLD_GLORA = {"a1.weight": _random(R, M), "a2.weight": _random(M, R), "b1.weight": _random(R, M),
             "b2.weight": _random(N, R)}  # fmt: skip


def _core(a: int, b: int) -> dict[str, np.ndarray]:
    return {"lora_up.weight": _random(N, a, 1, 1), "lora_mid.weight": _random(a, b, *KERNEL),
            "lora_down.weight": _random(b, M, 1, 1)}  # fmt: skip


def _normalised(parts: Group, weight: np.ndarray) -> np.ndarray:
    """As LyCORIS, OneTrainer and PEFT train DoRA."""
    delta, magnitude = comfyui_type(parts, weight), parts["dora_scale"]
    found: np.ndarray
    if magnitude.shape[0] == 1:
        found = _over_inputs(delta, magnitude, weight, weight.shape)
    else:
        found = over_outputs(delta, magnitude, weight, weight.shape, "merged")
    return found


def _scaled(parts: Group, weight: np.ndarray) -> np.ndarray:
    return np.asarray(2.0 / R * parts["lora_B.weight"] @ parts["lora_A.weight"])


SAMPLES = (
    Sample("LoRA, LoCon", _pair(**ALPHA)),
    Sample("LoRA without alpha", _pair()),
    Sample("LoRA as `lora_A`, `lora_B` without alpha", AB),
    Sample("LoRA as `lora_A`, `lora_B` with alpha", AB | ALPHA, _scaled),
    Sample("LoRA with bias difference", _pair(**ALPHA, diff_b=_random(N))),
    Sample("Tucker LoCon", _core(R, R) | ALPHA, kernel=True),
    Sample("Tucker LoCon, core not square", _core(R, R + 1) | ALPHA, kernel=True),
    Sample("LoHa", LOHA | ALPHA),
    Sample("LoHa with cores", LOHA_CORE | ALPHA, kernel=True),
    Sample("LoKr", LOKR | ALPHA),
    Sample("LoKr with a core", LOKR_CORE | ALPHA, kernel=True),
    Sample("DoRA over outputs", _pair(alpha=np.array(3.0), dora_scale=np.abs(_random(N, 1)) + 1), _normalised),
    Sample("DoRA over inputs", _pair(alpha=np.array(3.0), dora_scale=np.abs(_random(1, M)) + 1), _normalised),
    Sample("GLoRA", GLORA | {"alpha": np.array(3.0)}),
    Sample("GLoRA, old layout", OLD_GLORA | {"alpha": np.array(3.0)}),
    Sample("IA3", {"weight": _random(N), "on_input": np.zeros(())}),
    Sample("weight difference", {"diff": _random(N, M), "diff_b": _random(N)}),
    Sample("norm", {"w_norm": _random(N), "b_norm": _random(N)}),
    Sample("OFT", {"oft_blocks": _random(3, 4, 4) / 9, "alpha": np.array(0.0)}),
    Sample("OFT with rescale", {"oft_blocks": _random(3, 4, 4) / 9, "alpha": np.array(0.0), "rescale": _random(N, 1)}),
    Sample("OFT with a limit", {"oft_blocks": _random(3, 4, 4), "alpha": np.array(0.05)}),
    Sample("BOFT", {"oft_blocks": _random(2, 3, 4, 4), "alpha": np.array(0.0)}),
    Sample("PEFT's OFT", {"oft_R.weight": _random(3, 6)}),
    Sample("T-LoRA", {"p_layer.weight": _random(N, R), "q_layer.weight": _random(R, M),
                      "lambda_layer": _random(1, R)}),
    Sample("alpha without factors", dict(ALPHA)),
)  # fmt: skip


def _a1111(parts: Group, weight: np.ndarray) -> np.ndarray:
    delta: np.ndarray = a1111_type(parts, weight)
    if "dora_scale" in parts and "lora_A.weight" not in parts:
        delta = _over_inputs(delta, parts["dora_scale"], weight, weight.shape)
    return delta


def _comfyui(parts: Group, weight: np.ndarray) -> np.ndarray:
    return _decomposed(parts, weight, comfyui_type(parts, weight))


def _forge(parts: Group, weight: np.ndarray) -> np.ndarray:
    return _decomposed(parts, weight, forge_type(parts, weight))


def _decomposed(parts: Group, weight: np.ndarray, delta: np.ndarray) -> np.ndarray:
    if "dora_scale" not in parts:
        return delta
    found: np.ndarray
    if len(parts["dora_scale"]) == len(weight):
        found = over_outputs(delta, parts["dora_scale"], weight, weight.shape, "base")
    else:
        found = _over_inputs(delta, parts["dora_scale"], weight, weight.shape)
    return found


def _sdnext(parts: Group, weight: np.ndarray) -> np.ndarray:
    found: np.ndarray
    if "dora_scale" not in parts:
        found = sdnext_type(parts, weight)
        return found
    unscaled = {key: values for key, values in parts.items() if key != "alpha"}
    scale = float(parts["alpha"]) / len(parts["lora_down.weight"])
    found = scale * _over_inputs(sdnext_type(unscaled, weight), parts["dora_scale"], weight, weight.shape)
    return found


HOSTS: Mapping[str, Callable[[Group, np.ndarray], np.ndarray]] = {
    "A1111": _a1111,
    "Forge": _forge,
    "ComfyUI": _comfyui,
    "diffusers": diffusers_type,
    "SD.Next": _sdnext,
}


def verdict(sample: Sample, host: str) -> str:
    """What becomes of a file with such a layer."""
    weight = _random(N, M * (4 if sample.kernel else 1))
    try:
        found = HOSTS[host](sample.parts, weight)
    except RefusedError:
        return "refuses the file"
    except SkippedError:
        return "leaves it out"
    if "diff_b" in sample.parts and not applies_bias(host, sample.parts):
        return "loads, without the bias"
    true = _true(sample, weight)
    return "loads" if np.allclose(found, true, atol=1e-9) else "loads, to another effect"


def _true(sample: Sample, weight: np.ndarray) -> np.ndarray:
    if sample.true is not None:
        return sample.true(sample.parts, weight)
    found: np.ndarray
    try:
        found = a1111_type(sample.parts, weight)
    except SkippedError:
        found = comfyui_type(sample.parts, weight)
    return found


def table() -> str:
    """The table in Markdown."""
    rows = [["kind", *HOSTS], *([one.kind, *(verdict(one, host) for host in HOSTS)] for one in SAMPLES)]
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * (len(HOSTS) + 1) + "|", *body])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")

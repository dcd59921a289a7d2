"""Adapters that LyCORIS itself writes, and what its own modules' forward applies of a file.

Its ``get_diff_weight`` and merging multiply LoHa and LoKr by their scale twice, so only forward is a judge.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from tests.readers.lora_material import Matrix

PREFIX = "lycoris_blk_"


class Blk(nn.Module):
    """A Linear, a convolution of 3x3 and one of 1x1, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(48, 64)
        self.conv = nn.Conv2d(16, 24, 3)
        self.one = nn.Conv2d(16, 24, 1)
        self.norm = nn.LayerNorm(48)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blk = Blk()


@dataclass(frozen=True)
class Case:
    """One algorithm with its options."""

    options: Mapping[str, Any]
    dim: int = 4
    conv_dim: int = 4


CASES: dict[str, Case] = {
    "lora": Case({"algo": "locon"}),
    "tucker": Case({"algo": "locon", "use_tucker": True}),
    "dylora": Case({"algo": "dylora"}),
    "loha": Case({"algo": "loha"}),
    "loha_tucker": Case({"algo": "loha", "use_tucker": True}),
    "lokr": Case({"algo": "lokr", "factor": 4}, conv_dim=2),
    "lokr_full": Case({"algo": "lokr", "factor": 4, "full_matrix": True}),
    "lokr_both": Case({"algo": "lokr", "factor": -1, "decompose_both": True}, dim=3, conv_dim=2),
    "lokr_tucker": Case({"algo": "lokr", "factor": 4, "use_tucker": True}, conv_dim=2),
    "full": Case({"algo": "full"}),
    "norm": Case({"algo": "locon", "train_norm": True}),
    "dora": Case({"algo": "locon", "dora_wd": True}),
    "dora_loha": Case({"algo": "loha", "dora_wd": True}),
    "dora_lokr": Case({"algo": "lokr", "factor": 4, "dora_wd": True}, conv_dim=2),
    "glora": Case({"algo": "glora"}),
}
"""What is resized."""

CARRIED: dict[str, Case] = {
    "ia3": Case({"algo": "ia3"}),
    "oft": Case({"algo": "diag-oft", "rescaled": True, "constraint": 1.0}),
    "boft": Case({"algo": "boft"}, dim=8, conv_dim=8),
}


def write_lycoris(path: Path, case: Case, dtype: torch.dtype = torch.float32, alpha: float = 1.0) -> Path:
    """Has LyCORIS wrap a network, fills its parameters and has it save them."""
    from lycoris import LycorisNetwork, create_lycoris

    network = Net()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        LycorisNetwork.apply_preset({"enable_conv": True, "target_module": ["Blk"], "target_name": []})
        wrapped = create_lycoris(
            network,
            1.0,
            linear_dim=case.dim,
            linear_alpha=alpha,
            conv_dim=case.conv_dim,
            conv_alpha=alpha,
            **case.options,
        )
        wrapped.apply_to()
    _fill(wrapped)
    path.parent.mkdir(parents=True, exist_ok=True)
    wrapped.save_weights(str(path), dtype, {"ss_network_module": "lycoris.kohya"})
    return path


def _fill(wrapped: Any) -> None:
    """Random numbers with dimensions of falling strength; magnitudes near where training starts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "dora_scale" in name:
                parameter.mul_(1 + 0.1 * noise)
            elif parameter.ndim > 1 and min(parameter.shape[:2]) > 1:
                short = int(parameter.shape[1] < parameter.shape[0])
                falling = torch.logspace(0, -1, parameter.shape[short])
                shape = [1] * parameter.ndim
                shape[short] = -1
                parameter.copy_(0.3 * noise * falling.reshape(shape))
            else:
                parameter.copy_(0.05 * noise)


def forward_deltas(path: Path) -> dict[str, Matrix]:
    """Name -> what LyCORIS' module adds to the layer's map: (out, in * height * width), by its own forward."""
    from lycoris.modules import get_module, make_module

    state, found = load_file(str(path)), {}
    for name, layer in _layers().items():
        kind, params = get_module(state, PREFIX + name)
        if kind is None:
            continue
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            params = [None if value is None else value.double() for value in params]
            module = make_module(kind, params, PREFIX + name, layer).double()
        found[name] = _map_of(module, layer)
    return found


def _map_of(module: Any, layer: nn.Module) -> Matrix:
    before = probed(layer)
    module.apply_to()
    after = probed(layer)
    return after - before


def _layers() -> dict[str, Any]:
    blk = copy.deepcopy(Net().blk).double()
    return {"lin": blk.lin, "conv": blk.conv, "one": blk.one}


def base_weights() -> dict[str, Matrix]:
    """Of the network that was wrapped, float64."""
    return {
        name: layer.weight.detach().double().reshape(len(layer.weight), -1).numpy() for name, layer in _layers().items()
    }


def shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(layer.weight.shape) for name, layer in _layers().items()}


def probed(layer: Any) -> Matrix:
    """A layer's linear map with its bias, from its answers to unit inputs."""
    own = layer.forward
    if isinstance(layer, nn.Linear):
        inputs = torch.eye(layer.in_features, dtype=torch.float64)
    else:
        kernel = layer.kernel_size
        count = layer.in_channels * kernel[0] * kernel[1]
        inputs = torch.eye(count, dtype=torch.float64).reshape(count, layer.in_channels, *kernel)
    with torch.no_grad():
        answers = own(inputs) - own(torch.zeros_like(inputs[:1]))
    return np.asarray(answers.reshape(len(inputs), -1).T.double().numpy())

"""Where the layers of a LoRA are in a model in memory, and what is added to the outputs of its modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Place:
    """The module whose weight a layer changes."""

    module: nn.Module
    rows: tuple[int, int] | None = None
    """The half-open range of its outputs that the layer changes, as in a fused q/k/v; None for all."""
    sees_output: bool = True
    """False where only the input of the layer passes a hook: q, k and v of `torch.nn.MultiheadAttention`."""
    batch_dimension: int = 0
    """The dimension of its input that counts samples: 1 where tokens come first, as in OpenCLIP."""

    @property
    def is_supported(self) -> bool:
        """Whether a low-rank delta can be followed through the module, and its moments be taken."""
        module = self.module
        if isinstance(module, nn.Conv2d):
            return module.groups == 1 and module.padding_mode == "zeros"
        return isinstance(module, nn.MultiheadAttention) or is_linear(module)


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear map, also one that is no `torch.nn.Linear`, as in Forge."""
    if isinstance(module, nn.Linear):
        return True
    shape = getattr(module, "out_features", None), getattr(module, "in_features", None)
    return type(module).__name__ == "Linear" and tuple(getattr(module.weight, "shape", ())) == shape


@dataclass(frozen=True)
class FitModel:
    """A model in memory, and the layers of a LoRA in it."""

    name: str
    """For messages, such as ``unet``."""
    module: nn.Module
    """It contains the modules of `places`."""
    places: Mapping[int, Place]
    """Index of a layer in the adapter -> its place."""
    strength: float = 0.0
    """The strength at which the LoRA is merged into the weights; 0 where it is not."""
    where: torch.device | None = None
    """Where its inputs must be, for a host that keeps parameters elsewhere; None: where its parameters are."""
    call: Callable[..., Any] | None = None
    """What runs the module, where that is not a call of itself: another function that uses it."""
    ready: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """Makes it ready to be called, for the time of the context: hosts move their models."""

    @property
    def called(self) -> Callable[..., Any]:
        """What is called with recorded arguments."""
        return self.module if self.call is None else self.call

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.module.parameters()).device if self.where is None else self.where


# Tokens ---------------------------------------------------------------------------------------------------------


def inner_products(place: Place, x: Tensor, down: Tensor) -> Tensor:
    """Return ``z = A x`` of an input as rows, (tokens, r), sample after sample.

    `down` is (r, m); for a convolution its rows are kernels, so no patch is formed.
    """
    module = place.module
    if isinstance(module, nn.Conv2d):
        kernels = down.reshape(len(down), -1, *module.kernel_size)
        kernels = kernels.to(x.dtype)
        return as_tokens(place, functional.conv2d(x, kernels, None, module.stride, module.padding, module.dilation))
    return as_tokens(place, functional.linear(x, down.to(x.dtype)))


def as_tokens(place: Place, output: Tensor) -> Tensor:
    """Return an output as rows, (tokens, n), sample after sample."""
    if isinstance(place.module, nn.Conv2d):
        return output.movedim(1, -1).reshape(-1, output.shape[1])
    return output.movedim(place.batch_dimension, 0).reshape(-1, output.shape[-1])


def as_output(place: Place, tokens: Tensor, like: Tensor) -> Tensor:
    """Return rows (tokens, n) in the shape of an output; the reverse of `as_tokens`."""
    if isinstance(place.module, nn.Conv2d):
        samples, _, height, width = like.shape
        return tokens.reshape(samples, height, width, -1).movedim(-1, 1)
    if place.batch_dimension:
        length, samples, *_ = like.shape
        return tokens.reshape(samples, length, tokens.shape[-1]).movedim(0, 1)
    return tokens.reshape(*like.shape[:-1], tokens.shape[-1])


def add_rows(place: Place, output: Tensor, tokens: Tensor) -> Tensor:
    """Return the output with rows (tokens, n of the layer) added where the layer acts."""
    added = as_output(place, tokens.to(output.dtype), output)
    if place.rows is None:
        return output + added
    total = output.clone()
    _cut(place, total).add_(added)
    return total


def rows_of(place: Place, output: Tensor) -> Tensor:
    """Return the part of an output that the layer changes, as rows (tokens, n of the layer)."""
    return as_tokens(place, _cut(place, output))


def _cut(place: Place, output: Tensor) -> Tensor:
    if place.rows is None:
        return output
    dimension = 1 if isinstance(place.module, nn.Conv2d) else output.dim() - 1
    return output.narrow(dimension, place.rows[0], place.rows[1] - place.rows[0])


# What is added to a model -----------------------------------------------------------------------------------------


class Delta(Protocol):
    """What is added to the output of a module."""

    def add(self, place: Place, x: Tensor, output: Tensor) -> Tensor:
        """Return the output with the delta's share for the input `x`."""
        ...


@dataclass(frozen=True)
class LowRankDelta:
    """``gain * up @ down``, up (n, k) and down (k, m), in the dtype and on the device of the model."""

    up: Tensor
    down: Tensor
    gain: float = 1.0

    def add(self, place: Place, x: Tensor, output: Tensor) -> Tensor:
        """Return the output with the delta's share added."""
        z = inner_products(place, x, self.down)
        return add_rows(place, output, (z * self.gain) @ self.up.T.to(z.dtype))


@dataclass(frozen=True)
class DenseDelta:
    """``gain * delta`` of a layer of another kind, (n, m), also in a grouped convolution."""

    weight: Tensor
    gain: float = 1.0

    def add(self, place: Place, x: Tensor, output: Tensor) -> Tensor:
        """Return the output with the delta's share added."""
        module, weight = place.module, self.weight.to(x.dtype)
        if isinstance(module, nn.Conv2d):
            kernels = weight.reshape(len(weight), -1, *module.kernel_size)
            found = functional.conv2d(x, kernels, None, module.stride, module.padding, module.dilation, module.groups)
        else:
            found = functional.linear(x, weight)
        return add_rows(place, output, as_tokens(place, found) * self.gain)


@contextlib.contextmanager
def applied(deltas: Sequence[tuple[Place, Delta]]) -> Iterator[None]:
    """Add deltas to the outputs of their modules inside of the block. The weights are not changed."""
    by_module: dict[nn.Module, list[tuple[Place, Delta]]] = {}
    for place, delta in deltas:
        if place.sees_output:
            by_module.setdefault(place.module, []).append((place, delta))

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        with without_casts(output.device):
            for place, delta in by_module[module]:
                output = delta.add(place, inputs[0], output)
        return output

    with hooked([(module, hook) for module in by_module]):
        yield


def without_casts(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context without torch's automatic casts, in which hosts run their models: sums need their own dtype."""
    return torch.autocast(device.type, enabled=False) if device.type in ("cpu", "cuda") else contextlib.nullcontext()


@contextlib.contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Register forward hooks for the time of the block; they are gone afterwards, also after an error."""
    handles = []
    try:
        for module, hook in hooks:
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()

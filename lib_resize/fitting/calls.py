"""Calls of a model, recorded during ordinary images and repeated later."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

CONSTANTS = (bool, int, float, str, bytes, type(None), torch.dtype)
"""Types of arguments that are the same for all samples, besides tensors."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call; its tensors are copies on the CPU."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    samples: int
    """The size of the batch: the first dimension of the first tensor."""
    output: Tensor | None = None
    """What it returned, where that was asked for."""


@dataclass(frozen=True)
class Sample:
    """One sample of a recorded call."""

    call: Call
    row: int


@contextlib.contextmanager
def recording(
    module: nn.Module, wanted: Callable[[int], bool] = lambda _: True, *, outputs: bool = False
) -> Iterator[list[Call]]:
    """Record calls of a module inside of the block, and their `outputs` if that is set.

    `wanted` gets the number of a call, from 0, and returns whether to keep it. Calls without a tensor are ignored.
    """
    calls: list[Call] = []
    seen = 0

    def keep_output(_: nn.Module, __: Any, output: Any) -> None:
        if calls and calls[-1].output is None and wanted(seen - 1):
            calls[-1] = replace(calls[-1], output=_copied(outputs_of(output)))

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if wanted(seen - 1):
            calls.extend(_recorded(args, kwargs))

    handles = [module.register_forward_pre_hook(look, with_kwargs=True)]
    try:
        if outputs:
            handles.append(module.register_forward_hook(keep_output))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _recorded(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
    first = next((leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()), None)
    if first is not None:
        yield Call(_mapped(args, _copied), _mapped(kwargs, _copied), int(first.shape[0]))


def samples_of(calls: Iterable[Call]) -> list[Sample]:
    """Return all samples of some calls."""
    return [Sample(call, row) for call in calls for row in range(call.samples)]


def mini_batches(samples: Sequence[Sample], most: int, seed: int) -> list[list[Sample]]:
    """Return the samples in random order, in groups of at most `most` that can be called together.

    Samples are called together if their calls have the same structure and shapes, and the same value of every argument
    that is not of the batch.
    """
    groups: dict[Any, list[Sample]] = {}
    marks: dict[int, Any] = {}
    for i in _shuffled(len(samples), seed):
        call = samples[i].call
        if id(call) not in marks:
            marks[id(call)] = _signature((call.args, dict(call.kwargs)), call.samples)
        groups.setdefault(marks[id(call)], []).append(samples[i])
    found = [group[i : i + most] for group in groups.values() for i in range(0, len(group), most)]
    return [found[i] for i in _shuffled(len(found), seed)]


def call_repeated(module: Callable[..., Any], samples: Sequence[Sample], times: int, device: torch.device) -> Any:
    """Call a module or function with some samples as one batch, which is repeated `times` times: ``[x ; x]`` for 2."""
    first = samples[0].call

    def batch(leaves: Sequence[Any]) -> Any:
        leaf = leaves[0]
        if not isinstance(leaf, Tensor):
            return leaf
        if not _is_batched(leaf, first.samples):
            return leaf.to(device)
        rows = [one[sample.row : sample.row + 1] for one, sample in zip(leaves, samples, strict=True)]
        return torch.cat(rows * times).to(device)

    args = _zipped([sample.call.args for sample in samples], batch)
    kwargs = _zipped([dict(sample.call.kwargs) for sample in samples], batch)
    return module(*args, **kwargs)


def outputs_of(found: Any) -> Tensor:
    """Return the tensor that a model returned: itself, the first of a tuple, or that of diffusers or transformers."""
    while not isinstance(found, Tensor):
        found = found[0]
    return found


def _copied(leaf: Any) -> Any:
    return leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf


def _is_batched(leaf: Tensor, samples: int) -> bool:
    return leaf.dim() > 0 and leaf.shape[0] == samples


def _mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    return _zipped([tree], lambda leaves: change(leaves[0]))


def _zipped(trees: Sequence[Any], change: Callable[[Sequence[Any]], Any]) -> Any:
    """Return a tree of the same structure as all of `trees`, with a value made of each of their leaves."""
    first = trees[0]
    if isinstance(first, dict):
        return {key: _zipped([tree[key] for tree in trees], change) for key in first}
    if type(first) in (list, tuple):
        return type(first)(_zipped(list(parts), change) for parts in zip(*trees, strict=True))
    return change(trees)


def leaves_of(tree: Any) -> Iterator[Any]:
    """Yield what is in nested dictionaries, lists and tuples."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if type(tree) in (list, tuple):
        for part in tree:
            yield from leaves_of(part)
    else:
        yield tree


def _signature(tree: Any, samples: int) -> Any:
    """Return a key that is equal for calls whose samples can be in one batch."""
    if isinstance(tree, dict):
        return tuple((key, _signature(part, samples)) for key, part in tree.items())
    if type(tree) in (list, tuple):
        return tuple(_signature(part, samples) for part in tree)
    if not isinstance(tree, Tensor):
        return tree if isinstance(tree, CONSTANTS) else id(tree)
    if _is_batched(tree, samples):
        return str(tree.dtype), tuple(tree.shape[1:])
    return str(tree.dtype), tuple(tree.shape), tuple(tree.flatten().tolist())


def _shuffled(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()

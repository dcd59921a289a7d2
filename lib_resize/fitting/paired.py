"""Fit all layers of a model from batches of pairs: each sample runs as in the original and as in the small file.

The model is called on ``[x ; x]``. A hook on the module of every layer makes the first half what the original gives and
the second half what the small file gives, and gathers the moments of `moments` from both. Layers are solved in the
order in which the model runs them, so that each sees the inputs that the already fitted ones produce. (All layers at
once, each from the inputs of the plain truncation, is worse than no fit.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DeviceError
from ..linalg.arrays import is_out_of_memory
from ..linalg.regression import RIDGE
from ..progress import Progress
from .calls import Call, call_repeated, mini_batches, samples_of
from .moments import Target
from .places import Delta, FitModel, Place, add_rows, applied, hooked, inner_products, rows_of, without_casts

MANY_TOKENS = 2048
"""Tokens of a call of which all are used."""

Deltas = Sequence[tuple[Place, Delta]]


@dataclass(frozen=True)
class FitOptions:
    """How a fit is computed."""

    lam: float = RIDGE
    """The ridge, see `linalg.regression`."""
    batch: int = 4
    """Samples of a mini-batch; each runs twice. Halved where the memory is not enough."""
    share: float = 0.25
    """The share of tokens that is used of a call with more than `MANY_TOKENS`, drawn at random."""
    growth: float = 1.5
    """A layer is solved again when its tokens have grown by this factor, and in the last mini-batch."""
    seed: int = 0


def fit_targets(
    model: FitModel,
    targets: Sequence[Target],
    others: Deltas,
    calls: Sequence[Call],
    options: FitOptions,
    progress: Progress,
) -> None:
    """Fit the targets from recorded calls of the model; the results are in the targets.

    `others` are layers that are not fitted and not in the weights: they act on both halves. Weights are unchanged and
    hooks are gone afterwards, also after an error. Raises DeviceError where one sample does not fit into memory.
    """

    def run(size: int) -> None:
        for target in targets:
            target.reset()
        batches = mini_batches(samples_of(calls), size, options.seed)
        fit = _Pass(model, targets, options)
        progress.start("fit layers", len(batches))
        with torch.no_grad(), applied(others), hooked(fit.hooks):
            for number, batch in enumerate(batches):
                fit.begin(len(batch), number, last=number + 1 == len(batches))
                call_repeated(model.called, batch, 2, model.device)
                progress.step()

    with_less_memory(run, options.batch, model)


def with_less_memory(run: Callable[[int], None], size: int, model: FitModel) -> None:
    """Call `run` with a number of samples; with half of it where the device is out of memory, down to 1.

    Raises DeviceError where one sample is too much.
    """
    while True:
        try:
            run(size)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise DeviceError(
                    f"{model.name}: {model.device} is out of memory with a mini-batch of one sample. Make smaller "
                    f"images for the fit, or free memory."
                ) from error
        size = max(1, size // 2)
        if model.device.type == "cuda":
            torch.cuda.empty_cache()


class _Pass:
    """The hooks of a fit, and the present mini-batch."""

    def __init__(self, model: FitModel, targets: Sequence[Target], options: FitOptions) -> None:
        self._strength = model.strength
        self._options = options
        self.begin(1, 0, last=False)
        by_module: dict[nn.Module, list[Target]] = {}
        for target in targets:
            by_module.setdefault(target.place.module, []).append(target)
        self.hooks = [(module, self._hook(found)) for module, found in by_module.items()]

    def begin(self, samples: int, number: int, *, last: bool) -> None:
        """Begin a mini-batch of so many samples."""
        self._samples, self._number, self._last = samples, number, last

    def _hook(self, targets: Sequence[Target]) -> Callable[..., Any]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            given = output
            with without_casts(targets[0].original.up.device):
                for target in targets:
                    output = self._followed(target, inputs, given, output)
            return output

        return hook

    def _followed(self, target: Target, inputs: tuple[Any, ...], given: Any, output: Any) -> Any:
        """Gather the moments of one target from the module's own output, and return the output of both halves."""
        place = target.place
        if not inputs or inputs[0].shape[place.batch_dimension] % (2 * self._samples):
            target.unpaired = True
            return output if not inputs or self._strength else self._unchanged(target, inputs[0], output)
        z = inner_products(place, inputs[0], target.original.down)
        half = len(z) // 2
        if not place.sees_output:
            self._gather(target, z[half:], None)
            return output
        original = target.original.output(z)
        rows = rows_of(place, given)
        self._gather(target, z[half:], (original, rows))
        return add_rows(place, output, self._added(original, target.output(z[half:])))

    def _unchanged(self, target: Target, x: Tensor, output: Tensor) -> Tensor:
        return add_rows(
            target.place, output, target.original.output(inner_products(target.place, x, target.original.down))
        )

    def _added(self, original: Tensor, small: Tensor) -> Tensor:
        """Return what both halves get in addition to the module's own output, which has the LoRA if it is merged."""
        first, second = original.chunk(2)
        if not self._strength:
            return torch.cat([first, small])
        return torch.cat([torch.zeros_like(first), self._strength * (small - second)])

    def _gather(self, target: Target, z: Tensor, seen: tuple[Tensor, Tensor] | None) -> None:
        """Add the moments of the second half, and solve. `seen` are the LoRA's output and the module's, (tokens, n)."""
        chosen = self._chosen(len(z), z.device)
        target.add(z[chosen], None if seen is None else self._missing(*seen, chosen))
        due = self._last or target.tokens >= self._options.growth * target.solved_at
        if due and target.is_known and target.tokens > target.solved_at:
            target.solve(self._options.lam)

    def _missing(self, original: Tensor, rows: Tensor, chosen: Any) -> Tensor:
        """Return ``e = y - W x~`` of the chosen tokens, (tokens, n), float32."""
        half = len(rows) // 2
        e = rows[:half][chosen].float() - rows[half:][chosen].float()
        if self._strength:
            return e / self._strength + original[half:][chosen].float()
        return e + original[:half][chosen].float()

    def _chosen(self, tokens: int, device: torch.device) -> Any:
        """Return which tokens of a call are used: a regular stride would be the same columns of every image."""
        if tokens <= MANY_TOKENS:
            return slice(None)
        count = max(MANY_TOKENS, round(tokens * self._options.share))
        drawn = torch.Generator().manual_seed((self._options.seed << 32) + (self._number << 16) + tokens % 65521)
        return torch.randperm(tokens, generator=drawn)[:count].to(device)

"""What the user should know of a difference: what it holds, and what it leaves out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from ..adapters.layer import Layer
from .models import OTHER_LAYOUT, ExtractOptions, Weights
from .tally import Tally, Vectors


def notes(layers: Sequence[Layer], tally: Tally, wish: ExtractOptions) -> Iterator[str]:
    yield _share_held(layers, tally, wish)
    if tally.equal:
        yield f"{tally.equal} layers are equal in both and left out"
    for reason, count in sorted(tally.left_out.items()):
        yield f"{count} layers left out: {reason}"
    if tally.sizes:
        yield f"{len(tally.sizes)} layers differ in size and are left out (first {tally.sizes[0]})"
    if tally.only_one:
        yield f"{tally.only_one} layers are in one of the two checkpoints alone"
    yield from _notes_of_vectors(tally.vectors)


def _notes_of_vectors(vectors: Vectors | None) -> Iterator[str]:
    if vectors is None:
        yield "biases and norms were not compared: the two models do not name them alike"
        return
    if vectors.taken:
        yield (
            f"{len(vectors.taken)} differences of biases and norms included: ComfyUI and Forge apply all of them, "
            f"A1111 only the norms, and diffusers refuses the file"
        )
    if vectors.left:
        yield f"{_count_of(vectors.left)} differ and are left out, since hosts read them differently (see --biases)"
    if vectors.lone:
        yield f"{_count_of(vectors.lone)} differ and are left out: no host finds them in a LoRA of these layers"


def _count_of(keys: Sequence[str]) -> str:
    each = list(dict.fromkeys(keys))
    norms = [key for key in each if "norm" in key or "ln_" in key or re.search(r"(in_layers|out_layers|out)\.0\.", key)]
    return f"{len(each)} biases and norms ({len(norms)} of norms; first {each[0]})"


def _share_held(layers: Sequence[Layer], tally: Tally, wish: ExtractOptions) -> str:
    lost, held = math.fsum(layer.lost**2 for layer in layers), math.fsum(tally.held)
    share = f"{100 * math.sqrt(held / (held + lost)):.1f}"
    if wish.conv_rank in (None, wish.rank):
        return f"rank {wish.rank} holds {share} % of the difference; no recipe can keep more"
    return f"rank {wish.rank} and conv rank {wish.conv_rank} hold {share} % of the difference; no recipe can keep more"


def nothing_differs(tuned: Weights, base: Weights, tally: Tally) -> str:
    """Return why there is no layer: all are equal, or too few could be compared."""
    models = f"{tuned.path} and {base.path}" if tuned.path != base.path else f"{tuned.path}, in memory and as a file"
    missed = [f"{tally.only_one} are in one of the two alone"] if tally.only_one else []
    missed += [f"{len(tally.sizes)} differ in size"] if tally.sizes else []
    missed += [f"{count} layers are {reason}" for reason, count in tally.left_out.items() if reason == OTHER_LAYOUT]
    apart = tally.only_one + len(tally.sizes) + tally.left_out.get(OTHER_LAYOUT, 0)
    others = "; ".join(missed)
    if tally.equal > apart:
        found = f"{models}: no layer differs that a LoRA could hold ({tally.equal} were compared and are equal)."
        return f"{found} Not compared: {others}." if missed else found
    return f"{models}: {_compared(tally.equal, apart)}; of the others, {others or 'none is wanted'}. {_ONE_LAYOUT}"


_ONE_LAYOUT = "Name two checkpoints of one model in one layout."


def _compared(equal: int, apart: int) -> str:
    return (
        f"{equal} of {equal + apart} layers could be compared and are equal" if equal else "no layer could be compared"
    )

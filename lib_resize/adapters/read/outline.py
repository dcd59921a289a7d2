"""The size and rank of a layer from the header alone, for listing many files, and whether a tensor is missing.

Less strict than `adapter`, which checks every shape, and without errors: a listed file may still be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from ...files.header import TensorEntry
from ..keys.registry import Kind
from ..keys.suffixes import ParsedKey

Shapes = Mapping[str, tuple[int, ...]]
"""Role -> shape."""


@dataclass(frozen=True)
class Outline:
    """One layer, from its header."""

    kind: str
    missing: str | None
    """A role that is required but missing; None if the layer is complete."""
    rank: int = 0
    size: tuple[int, int] = (0, 0)
    """(n, m) of its delta."""
    kernel: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()


def outline(kind: Kind, parts: Mapping[str, ParsedKey], entries: Mapping[str, TensorEntry]) -> Outline | None:
    """Return the outline of a layer; None for kinds that are not resized."""
    rule = _RULES.get(kind.name)
    if rule is None:
        return None
    shapes = {role: entries[part.key].shape for role, part in parts.items()}
    needed = rule.needs(shapes)
    missing = next((role for role in needed if role not in shapes or len(shapes[role]) < 2), None)
    if missing is not None:
        return Outline(kind.name, missing)
    rank, size, kernel = rule.measure(shapes)
    return Outline(kind.name, None, rank, size, kernel, tuple(entries[parts[role].key].dtype for role in needed))


@dataclass(frozen=True)
class _KindRule:
    needs: Callable[[Shapes], tuple[str, ...]]
    measure: Callable[[Shapes], tuple[int, tuple[int, int], tuple[int, ...]]]
    """Returns rank, size and kernel."""


def _always(*roles: str) -> Callable[[Shapes], tuple[str, ...]]:
    return lambda _: roles


def _pair(up: str, down: str) -> Callable[[Shapes], tuple[int, tuple[int, int], tuple[int, ...]]]:
    def measure(shapes: Shapes) -> tuple[int, tuple[int, int], tuple[int, ...]]:
        kernel = shapes["mid"][2:] if "mid" in shapes else ()
        rows = prod(shapes[down][1:]) * prod(kernel)
        return shapes[down][0], (shapes[up][0], rows), kernel or shapes[down][2:]

    return measure


def _loha(shapes: Shapes) -> tuple[int, tuple[int, int], tuple[int, ...]]:
    up, down, core = shapes["hada_w1_a"], shapes["hada_w1_b"], shapes.get("hada_t1", ())
    n = up[1] if core else up[0]
    return down[0], (n, prod(down[1:]) * prod(core[2:])), core[2:]


def _lokr_needs(shapes: Shapes) -> tuple[str, ...]:
    sides = ("lokr_w1", "lokr_w2")
    return tuple(role for side in sides for role in ((side,) if side in shapes else (f"{side}_a", f"{side}_b")))


def _lokr(shapes: Shapes) -> tuple[int, tuple[int, int], tuple[int, ...]]:
    n1, m1 = shapes["lokr_w1"][:2] if "lokr_w1" in shapes else (shapes["lokr_w1_a"][0], shapes["lokr_w1_b"][1])
    if "lokr_w2" in shapes:
        n2, *rest = shapes["lokr_w2"]
        return min(n2, prod(rest)), (n1 * n2, m1 * prod(rest)), tuple(rest[1:])
    core = shapes.get("lokr_t2", ())
    up, down = shapes["lokr_w2_a"], shapes["lokr_w2_b"]
    n2, m2 = up[1] if core else up[0], prod(down[1:]) * prod(core[2:])
    return down[0], (n1 * n2, m1 * m2), core[2:]


def _glora(shapes: Shapes) -> tuple[int, tuple[int, int], tuple[int, ...]]:
    old = shapes["b1"][0] == shapes["b2"][1] and shapes["a2"][0] >= shapes["a2"][1]
    up, down = (shapes["b2"], shapes["b1"]) if old else (shapes["b1"], shapes["b2"])
    return down[0], (up[0], prod(down[1:])), down[2:]


def _full(shapes: Shapes) -> tuple[int, tuple[int, int], tuple[int, ...]]:
    n, *rest = shapes["diff"]
    return min(n, prod(rest)), (n, prod(rest)), tuple(rest[1:])


_RULES: Mapping[str, _KindRule] = {
    "LoRA": _KindRule(_always("up", "down"), _pair("up", "down")),
    "Control-LoRA": _KindRule(_always("bare_up", "bare_down"), _pair("bare_up", "bare_down")),
    "Tucker LoCon": _KindRule(_always("up", "mid", "down"), _pair("up", "down")),
    "LoHa": _KindRule(_always("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), _loha),
    "LoKr": _KindRule(_lokr_needs, _lokr),
    "GLoRA": _KindRule(_always("a1", "a2", "b1", "b2"), _glora),
    "weight difference": _KindRule(_always("diff"), _full),
}

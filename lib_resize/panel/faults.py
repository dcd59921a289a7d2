"""Errors as the page is told of them: a kind for the program, a sentence for the person."""

from __future__ import annotations

from typing import Any

from ..errors import (
    Cancelled,
    DeviceError,
    FileError,
    HostError,
    LayerError,
    OutputError,
    PairingError,
    PromptError,
    RecipeError,
    ResizeError,
    UsageError,
)
from ..shown import shown


class Fault(ResizeError):  # noqa: N818 - the page's word, whatever kind it is
    """A call that cannot be answered; `kind` is one of those in docs/panel-protocol.md."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (RecipeError, "recipe"),
    (PromptError, "prompt"),
    (UsageError, "request"),
    (Cancelled, "cancelled"),
    (PairingError, "reference"),
    (OutputError, "output"),
    (FileError, "file"),
    (LayerError, "file"),
    (DeviceError, "unavailable"),
    (HostError, "unavailable"),
    (ResizeError, "refused"),
)


def told(error: BaseException) -> dict[str, Any]:
    """The error as the protocol has it: `kind`, `message`, and `column` for recipes and prompts."""
    if isinstance(error, Fault):
        return {"kind": error.kind, "message": shown(str(error))}
    if isinstance(error, MemoryError):
        return {"kind": "refused", "message": "Out of memory. Close other programs, or take a smaller file first."}
    if isinstance(error, OSError):
        return {"kind": "file", "message": shown(f"{error.filename or 'The disk'}: {error.strerror or error}.")}
    kind = next((kind for tree, kind in _KINDS if isinstance(error, tree)), None)
    if kind is None:
        return {"kind": "internal", "message": shown(f"A fault of ours, tell us: {type(error).__name__}: {error}")}
    found: dict[str, Any] = {"kind": kind, "message": shown(str(error))}
    if isinstance(error, (RecipeError, PromptError)):
        found["column"] = error.column
    return found

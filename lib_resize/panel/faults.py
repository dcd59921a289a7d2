"""Errors as the page gets them: a kind for the program, a sentence for the user."""

from __future__ import annotations

from typing import Any

from ..errors import (
    REPORT_AT,
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


class Fault(ResizeError):  # noqa: N818 - `Error` would read as one kind of it
    """A call that cannot be answered; `kind` is a key of `protocol.errors.ERRORS`."""

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


def error_json(error: BaseException) -> dict[str, Any]:
    """Return the `Error` of the protocol: `kind`, `message`, and `column` for recipes and prompts."""
    if isinstance(error, Fault):
        return {"kind": error.kind, "message": shown(str(error))}
    if isinstance(error, MemoryError):
        return {"kind": "refused", "message": "Out of memory. Close other programs, or try a smaller file first."}
    if isinstance(error, OSError):
        return {"kind": "file", "message": shown(f"{error.filename or 'Disk error'}: {error.strerror or error}.")}
    kind = next((kind for tree, kind in _KINDS if isinstance(error, tree)), None)
    if kind is None:
        return {"kind": "internal", "message": shown(_internal(error))}
    found: dict[str, Any] = {"kind": kind, "message": shown(str(error))}
    if isinstance(error, (RecipeError, PromptError)):
        found["column"] = error.column
    return found


def _internal(error: BaseException) -> str:
    return f"Internal error ({type(error).__name__}: {error}). Please report it: {REPORT_AT}"

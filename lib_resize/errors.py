"""Every error of the package, one tree.

ResizeError                 anything that we refuse or that went wrong; its text is meant for the user
├── UsageError              the command or call makes no sense (exit code 2)
│   ├── RecipeError         a recipe that cannot be read; raised before any file is opened
│   └── PromptError         a LoRA tag of a prompt that cannot be read, or cannot be baked
├── FileError               a file that cannot be used; the message starts with its path
│   ├── DamagedFileError    not a whole, well-formed safetensors file
│   └── UnsupportedError    well-formed, but of a kind that we refuse by name
├── LayerError              one layer of a LoRA cannot be computed (NaN, Inf, ranks that differ)
├── PairingError            the recipe needs the base model and a layer has no partner there
├── DeviceError             the asked device or its library is not there
├── HostError               the WebUI around us could not do what it was asked
├── OutputError             the result cannot be written (exists, no room, not allowed)
└── InternalError           a fault of this program

Cancelled                   the user stopped the job; not a ResizeError, so that no handler takes it for a failure

A caller who wants one handler writes ``except ResizeError as error: print(error)``.
A message says what was found, where, what was expected and what to do.
"""

from __future__ import annotations

import traceback
from pathlib import Path

REPORT_AT = "https://github.com/resize-lora/resize-lora/issues"
"""Where bugs are reported."""


class ResizeError(Exception):
    """Base of all errors that this package raises on purpose."""


class UsageError(ResizeError):
    """The command line or a call asks for something impossible."""


class RecipeError(UsageError):
    """A recipe has an unknown word, a bad number or no single selection."""

    column: int = 0
    """Where in the text, counted from 1; 0 where no place is at fault."""


class PromptError(UsageError):
    """A prompt has a LoRA tag that no host could read, or that cannot become a part of a file."""

    column: int = 0
    """Where in the prompt, counted from 1; 0 where no place is at fault."""


class FileError(ResizeError):
    """A file cannot be used."""


class DamagedFileError(FileError):
    """A file is not a complete, well-formed safetensors file."""


class UnsupportedError(FileError):
    """A file is well-formed, but we do not handle its kind."""


class LayerError(ResizeError):
    """A layer of a LoRA holds values or shapes that cannot be resized."""


class PairingError(ResizeError):
    """A recipe needs the base model's weights and a layer has no partner there."""


class DeviceError(ResizeError):
    """The asked compute device is not available."""


class HostError(ResizeError):
    """The program that the panel lives in could not do what it was asked."""


class OutputError(ResizeError):
    """A result cannot be written."""


class InternalError(ResizeError):
    """This program has a fault."""


def internal(what: str, error: Exception) -> InternalError:
    """The error for an exception that nobody expected while `what` was worked on, with the place that raised it."""
    home = str(Path(__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(home)]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return InternalError(f"{what}: a fault of Resize LoRA, please report it: {type(error).__name__}{place}: {error}")


class Cancelled(Exception):  # noqa: N818 - the user wanted it, so it is no error to him
    """The user stopped the job; nothing was left behind."""

"""All errors of the package, as one tree.

ResizeError                 base of all; the text is meant for the user
├── UsageError              the command line or a call makes no sense (exit status 2)
│   ├── RecipeError         a recipe that cannot be parsed; raised before any file is opened
│   └── PromptError         a LoRA tag of a prompt that cannot be parsed or baked
├── FileError               a file that cannot be used; the message begins with its path
│   ├── DamagedFileError    not a complete, well-formed safetensors file
│   └── UnsupportedError    well-formed, but of a kind that is not supported
├── LayerError              a layer of a LoRA that cannot be computed (NaN, Inf, inconsistent ranks)
├── PairingError            the recipe needs the base model, which lacks some layers
├── DeviceError             the device or its library is not available
├── HostError               the WebUI could not do what it was asked to
├── OutputError             the result cannot be written (exists already, no space, no permission)
└── InternalError           a bug in this program

Cancelled                   the user stopped the job; not a ResizeError, so that no handler treats it as a failure

To handle all of them, write ``except ResizeError as error: print(error)``.
A message says what was found, where, what was expected and what to do.
"""

from __future__ import annotations

REPORT_AT = "https://github.com/resize-lora/resize-lora/issues"
"""Where bugs are reported."""


class ResizeError(Exception):
    """Base of all errors that this package raises on purpose."""


class UsageError(ResizeError):
    """The command line or a call asks for something impossible."""


class RecipeError(UsageError):
    """A recipe has an unknown word, an invalid number or no single selection."""

    column: int = 0
    """Position in the text, from 1; 0 if the error has no position."""


class PromptError(UsageError):
    """A prompt has a LoRA tag that no host can read, or that cannot be baked into a file."""

    column: int = 0
    """Position in the prompt, from 1; 0 if the error has no position."""


class FileError(ResizeError):
    """A file cannot be used."""


class DamagedFileError(FileError):
    """A file is not a complete, well-formed safetensors file."""


class UnsupportedError(FileError):
    """A file is well-formed, but its kind is not supported."""


class LayerError(ResizeError):
    """A layer of a LoRA has values or shapes that cannot be resized."""


class PairingError(ResizeError):
    """A recipe needs the base model's weights, and the base model lacks some layers."""


class DeviceError(ResizeError):
    """The compute device is not available."""


class HostError(ResizeError):
    """The WebUI could not do what it was asked to."""


class OutputError(ResizeError):
    """A result cannot be written."""


class InternalError(ResizeError):
    """This program has a bug."""


def internal(what: str, error: Exception) -> InternalError:
    """Return the error for an unexpected exception while `what` was processed, with the line that raised it."""
    import traceback  # these two are imported here because every command imports this module
    from pathlib import Path

    home = str(Path(__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(home)]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return InternalError(
        f"{what}: internal error ({type(error).__name__}{place}: {error}). Please report it: {REPORT_AT}"
    )


class Cancelled(Exception):  # noqa: N818 - the user asked for it, so it is not an error
    """The user stopped the job; no partial file was left."""

"""The kinds of errors that an answer may have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorKind:
    """One value of an error's `kind`."""

    when: str
    """For docs/panel-protocol.md."""
    status: int
    """Of the HTTP API's answer."""


ERRORS: dict[str, ErrorKind] = {
    "request": ErrorKind("not JSON, unknown method, unknown or wrong parameter: a fault of the page", 400),
    "recipe": ErrorKind(
        "the recipe cannot be parsed; the error has `column` too (1 is the first character, 0 is unknown)", 422
    ),
    "prompt": ErrorKind("the prompt has a LoRA tag that no host can parse; the error has `column` too", 422),
    "file": ErrorKind("no such LoRA or checkpoint; the file is damaged, or of a kind that cannot be resized", 404),
    "not_analysed": ErrorKind(
        "`plan` of a LoRA that is not analysed (any more), or not for what the recipe needs of the reference: "
        "call `analyse` with the same `recipe`, then try again",
        409,
    ),
    "reference": ErrorKind(
        "the recipe or the fit needs a base model, and there is none, or it is of another family", 409
    ),
    "refused": ErrorKind(
        "impossible with these values: no layer is left, the size is too small, the dtype too narrow; too many jobs",
        422,
    ),
    "output": ErrorKind(
        "the result cannot be written or moved: no space, no permission, a file is in the way, the file was changed",
        409,
    ),
    "remote": ErrorKind("a folder was given although the page is served to other machines", 403),
    "unavailable": ErrorKind("this host lacks the feature", 501),
    "gone": ErrorKind("no such job, result, image or trashed file (any more)", 404),
    "stale": ErrorKind("the question's `session` is that of an earlier server; nothing was done", 409),
    "confirm": ErrorKind("the call deletes something and was not confirmed", 400),
    "cancelled": ErrorKind("only in a job: the user stopped it", 409),
    "internal": ErrorKind("a bug in Resize LoRA; the message says where to report it", 500),
}

"""The axis "LoRA resize" of a WebUI's X/Y/Z plot: one LoRA as it was, and every version of it that we made.

In each cell the prompt's ``<lora:NAME:…>`` becomes the cell's version, with its multipliers. The plot works on a copy
of the request for each cell, before prompts are laid out for batches and before their tags are read, so that changing
``prompt`` and ``hr_prompt`` is all there is to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import ResizeError, UsageError
from .names import has_tag, names_in, replace_tags

LABEL = "LoRA resize"
_COST = 0.5  # a change of LoRAs takes longer than one of numbers, and less than one of checkpoints


class Versions(Protocol):
    """What the axis asks of the service."""

    def families(self) -> list[list[str]]:
        """Each original's name, followed by the names of our files made of it; those alone of which there are some."""
        ...

    def family_names(self, name: str) -> frozenset[str]:
        """All that stands for a LoRA in prompts: names and aliases of its original and of all versions."""
        ...

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those that the host would not find."""
        ...


def register(module: Any, versions: Callable[[], Versions | None]) -> bool:
    """Adds the axis to the script's list, once. False where the script has no such list."""
    options, kind = getattr(module, "axis_options", None), getattr(module, "AxisOption", None)
    if not isinstance(options, list) or kind is None:
        return False
    axis = _Axis(versions)
    ours = kind(
        LABEL,
        str,
        axis.apply,
        format_value=_bare,
        confirm=axis.confirm,
        cost=_COST,
        choices=axis.choices,
    )
    options[:] = [option for option in options if getattr(option, "label", None) != LABEL] + [ours]
    return True


def _bare(_request: Any, _option: Any, value: str) -> str:
    """What is written beside the pictures."""
    return value


class _Axis:
    """The three questions that the plot asks of an axis."""

    def __init__(self, versions: Callable[[], Versions | None]) -> None:
        self._versions = versions

    def choices(self) -> list[str]:
        """For the list, and for the button that fills it in."""
        versions = self._versions()
        return [] if versions is None else [name for family in versions.families() for name in family]

    def confirm(self, request: Any, values: Sequence[str]) -> None:
        """Before the first picture. Raises UsageError."""
        versions = self._needed()
        if not values:
            raise UsageError(f"{LABEL}: no LoRA is chosen. Choose the original and the versions to compare.")
        first = _first(request.prompt)
        _check_known(versions, values, "chosen")
        _check_known(
            versions, [*names_in(first), *names_in(_first(getattr(request, "hr_prompt", "")))], "in the prompt"
        )
        for value in values:
            if not has_tag(first, versions.family_names(value)):
                raise UsageError(
                    f"{LABEL}: the prompt has no <lora:…> of {value} or its other versions, so there is nothing to "
                    "put it in place of. Write one into the prompt itself; those in styles are not exchanged."
                )

    def apply(self, request: Any, value: str, _values: Sequence[str]) -> None:
        """One cell. The plot asks this of a copy of the request."""
        names = self._needed().family_names(value)
        request.prompt = _swapped(request.prompt, names, value)
        hires = getattr(request, "hr_prompt", None)
        if hires:
            request.hr_prompt = _swapped(hires, names, value)

    def _needed(self) -> Versions:
        versions = self._versions()
        if versions is None:
            raise UsageError(f"{LABEL}: the panel is not running. Reload the page.")
        return versions


def _check_known(versions: Versions, names: Sequence[str], where: str) -> None:
    """One name that it does not know makes Forge leave all LoRAs out, in silence, and every cell would be the same."""
    try:
        unknown = versions.unknown(names)
    except ResizeError as error:
        raise UsageError(f"{LABEL}: {error}") from error
    if unknown:
        raise UsageError(f"{LABEL}: {', '.join(unknown)} is {where}, and no LoRA of this name is in the list.")


def _first(prompt: Any) -> str:
    """Of several prompts in a batch only the first one decides on networks."""
    found = prompt[0] if isinstance(prompt, list) and prompt else prompt
    return found if isinstance(found, str) else ""


def _swapped(prompt: Any, names: frozenset[str], value: str) -> Any:
    if isinstance(prompt, list):
        return [_swapped(one, names, value) for one in prompt]
    return replace_tags(prompt, names, value) if isinstance(prompt, str) else prompt

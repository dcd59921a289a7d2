"""The axis "LoRA resize" of a WebUI's X/Y/Z plot: a LoRA and all resized versions of it.

In each cell the prompt's ``<lora:NAME:…>`` becomes the cell's version, with its multipliers. The plot works on a copy
of the request for each cell, before prompts are distributed to batches and before their tags are parsed, so that
changing ``prompt`` and ``hr_prompt`` is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import ResizeError, UsageError
from .names import has_tag, names_in, replace_tags

LABEL = "LoRA resize"
_COST = 0.5  # a change of LoRAs takes longer than one of numbers, and shorter than one of checkpoints


class LoraVersions(Protocol):
    """What the axis needs of the service; see `versions.Versions`."""

    def families(self) -> list[list[str]]:
        """Return, for each original that has versions, its name if it is in the list, then the versions."""
        ...

    def family_names(self, name: str) -> frozenset[str]:
        """Return names and aliases of a LoRA, its original and all versions."""
        ...

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Return the names that the host does not find."""
        ...


def register(module: Any, versions: Callable[[], LoraVersions | None]) -> bool:
    """Add the axis to the script's list, once. Return False where the script has no such list."""
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
    """Return the label of a cell."""
    return value


class _Axis:
    """The three methods that the plot calls of an axis."""

    def __init__(self, versions: Callable[[], LoraVersions | None]) -> None:
        self._versions = versions

    def choices(self) -> list[str]:
        """Return the values to choose from."""
        versions = self._versions()
        return [] if versions is None else [name for family in versions.families() for name in family]

    def confirm(self, request: Any, values: Sequence[str]) -> None:
        """Check the values before the first image. Raises UsageError."""
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
                    f"{LABEL}: the prompt has no <lora:…> of {value} or its other versions to replace. "
                    "Write one into the prompt itself; tags in styles are not replaced."
                )

    def apply(self, request: Any, value: str, _values: Sequence[str]) -> None:
        """Change the request of one cell, which is a copy."""
        names = self._needed().family_names(value)
        request.prompt = _swapped(request.prompt, names, value)
        hires = getattr(request, "hr_prompt", None)
        if hires:
            request.hr_prompt = _swapped(hires, names, value)

    def _needed(self) -> LoraVersions:
        versions = self._versions()
        if versions is None:
            raise UsageError(f"{LABEL}: the Resize LoRA tab is not running. Reload the page.")
        return versions


def _check_known(versions: LoraVersions, names: Sequence[str], where: str) -> None:
    """Raise UsageError for unknown names: Forge then ignores all LoRAs, silently, and all cells are the same."""
    try:
        unknown = versions.unknown(names)
    except ResizeError as error:
        raise UsageError(f"{LABEL}: {error}") from error
    if unknown:
        raise UsageError(f"{LABEL}: {', '.join(unknown)} is {where}, but no installed LoRA has this name.")


def _first(prompt: Any) -> str:
    """Return the first prompt of a batch, which alone decides on LoRAs."""
    found = prompt[0] if isinstance(prompt, list) and prompt else prompt
    return found if isinstance(found, str) else ""


def _swapped(prompt: Any, names: frozenset[str], value: str) -> Any:
    if isinstance(prompt, list):
        return [_swapped(one, names, value) for one in prompt]
    return replace_tags(prompt, names, value) if isinstance(prompt, str) else prompt

"""The LoRAs that SD.Next lists, each under a name that leads to its file.

SD.Next has two tables. In the list, a name is the stem of a file with ``_`` for every dot, so of several files with
one such name only the last is there. The table of names has all that a prompt can use: the names of the list, paths
below the LoRA folder (``styles/ink.v2``) and stems with their dots (``ink.v2``). Neither has the alias that is written
in a file. Names are therefore compared by the file that they lead to, never as texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .guard import read
from .listing import ListedLora, copy_of, listed_lora


class SdnextNames:
    """Makes entries from both tables, and new ones only after a table changed."""

    def __init__(self) -> None:
        self._last: tuple[dict[Any, Any], dict[Any, Any]] = {}, {}
        self._found: dict[str, ListedLora] = {}

    def of(self, listed: Mapping[Any, Any], names: Mapping[Any, Any]) -> Mapping[str, ListedLora]:
        """Return the entries by name; the same objects if nothing changed. A file that no name leads to is left out."""
        now = copy_of(listed), copy_of(names)
        if not all(_has_same_objects(one, other) for one, other in zip(now, self._last, strict=True)):
            self._found = {found[0]: found[1] for found in _named(*now)}
            self._last = now
        return self._found


def _has_same_objects(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    return one.keys() == other.keys() and all(value is other[name] for name, value in one.items())


def _named(listed: Mapping[Any, Any], names: Mapping[Any, Any]) -> Iterator[tuple[str, ListedLora]]:
    by_file = _names_by_file(names or listed)
    stems = Counter(path.stem for path in by_file)
    for path, own in by_file.items():
        name = path.stem if stems[path.stem] == 1 and path.stem in own else own[0]
        yield name, ListedLora(path, None, tuple(one for one in own if one != name))


def _names_by_file(names: Mapping[Any, Any]) -> dict[Path, list[str]]:
    """Return the names that lead to each file, the path below the LoRA folder first."""
    found: dict[Path, tuple[Any, list[str]]] = {}
    for name, one in names.items():
        entry = listed_lora(name, one)
        if entry is not None:
            found.setdefault(entry.path, (one, []))[1].append(name)
    return {path: _with_first(read(one, "fullname"), own) for path, (one, own) in found.items()}


def _with_first(first: Any, names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: name != first)

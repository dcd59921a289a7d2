r"""The keys of PEFT's ``rank_pattern`` and ``alpha_pattern``: names of layers, or the ends of names.

PEFT runs each key as a regular expression, ``(.*\.)?(KEY)$``, and uses the first that matches. A file could block the
program with a key that takes years to match, so keys are never run here. Each is read as a name, or as the end of a
name after a dot, and looked up. The names that PEFT and diffusers write are such keys, with or without ``\.`` for the
dot, ``^`` before a whole name, ``$`` after it, and ``|`` between several. Any other key is refused.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_NAME = re.compile(r"(\^?)((?:\w|\\?[.-])+)\$?")

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def shortened(value: object) -> str:
    """Return a value from a file as text for a message, at most 80 characters."""
    return _SHORT.repr(value)


@dataclass(frozen=True)
class _Found:
    place: int
    """PEFT uses the first of several keys that match."""
    value: Any


@dataclass
class NamePatterns:
    """Key -> value, looked up by the name of a layer in time that grows only with the length of the name."""

    keys: Any
    """The value in the file. Anything but an object counts as empty, as in PEFT."""
    _whole: dict[str, _Found] = field(default_factory=dict, init=False)
    _ends: dict[str, _Found] = field(default_factory=dict, init=False)
    _lengths: frozenset[int] = field(default=frozenset(), init=False)

    def __post_init__(self) -> None:
        """Raise ValueError for a key that is not a name."""
        pairs = self.keys.items() if isinstance(self.keys, Mapping) else ()
        for place, (key, value) in enumerate(pairs):
            for word in key.split("|"):
                match = _NAME.fullmatch(word)
                if match is None:
                    raise ValueError(f"the regular expression {shortened(key)}")
                names = self._whole if match[1] else self._ends
                names.setdefault(match[2].replace("\\", ""), _Found(place, value))
        self._lengths = frozenset(map(len, self._ends))

    def get(self, name: str, default: Any) -> Any:
        """Return the value of the first key that matches."""
        found = [self._whole[name]] if name in self._whole else []
        found += [self._ends[end] for end in self._endings(name) if end in self._ends]
        return min(found, key=lambda one: one.place).value if found else default

    def _endings(self, name: str) -> list[str]:
        """Return the name and what follows each of its dots, if some key has that length."""
        starts = (len(name) - length for length in self._lengths if length <= len(name))
        return [name[start:] for start in starts if start == 0 or name[start - 1] == "."]

"""The arguments of the command line that name LoRAs: files, folders, patterns and merges."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..files.walk import Skip, exists, ignore, is_folder, matching, walk

if TYPE_CHECKING:
    from .tags import Tag

SUFFIX = ".safetensors"
_STRONGEST = 1e6
"""The largest strength, as in prompts."""


@dataclass(frozen=True)
class Member:
    """One file and its strength."""

    path: Path
    weight: float = 1.0
    tags: tuple[Tag, ...] = ()
    """The tags of a prompt that name it, all with one `dyn`; they replace the weight."""

    @property
    def strength(self) -> str:
        """Return the strength as text."""
        return " + ".join(tag.strengths for tag in self.tags) or f"{self.weight:g}"


@dataclass(frozen=True)
class Source:
    """One LoRA to resize: a file, or several that are merged first."""

    members: tuple[Member, ...]
    below: Path = Path()
    """Folder of the file, relative to the folder that the user named; results keep it."""
    found: bool = False
    """Found in a folder, not named by the user: results of earlier runs are then skipped."""

    @property
    def label(self) -> str:
        """Return its name for tables and messages."""
        if self.is_plain:
            return str(self.members[0].path)
        return ",".join(f"{member.path}:{member.strength}" for member in self.members)

    @property
    def is_plain(self) -> bool:
        """Return whether it is a single file at strength 1."""
        return len(self.members) == 1 and self.members[0].weight == 1.0 and not self.members[0].tags

    @property
    def name(self) -> str:
        """Return the stem of its results: the file's own, or all names with their weights."""
        if self.is_plain:
            return self.members[0].path.stem
        return "+".join(f"{member.path.stem}_{member.strength}" for member in self.members)


def expand(arguments: Sequence[str], on_skip: Skip = ignore) -> list[Source]:
    """Return the LoRAs that the arguments name, each once, in order. Folders that cannot be read go to `on_skip`.

    A missing file is not an error before it is opened. Raises UsageError for patterns and folders without LoRAs, and
    for merges that cannot be parsed.
    """
    folders: dict[Path, str] = {}
    sources: dict[object, Source] = {}
    for argument in arguments:
        for source in _expand(argument, on_skip):
            sources.setdefault(tuple((_spelled(m.path, folders), m.weight) for m in source.members), source)
    return list(sources.values())


def _spelled(path: Path, folders: dict[Path, str]) -> tuple[str, str]:
    """Return one key for all spellings of a path: the real path of its folder, looked up once, and the file name."""
    if path.parent not in folders:
        folders[path.parent] = _real(path.parent)
    return folders[path.parent], path.name


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # a NUL in the path
        return str(path)


def _expand(argument: str, on_skip: Skip) -> list[Source]:
    if not argument.strip():
        raise UsageError("an argument is empty; name a LoRA file, a folder or a pattern.")
    path = Path(argument)
    if is_folder(path):
        return _required(list(_in_folder(path, on_skip)), f"folder {argument} holds no {SUFFIX} file")
    if exists(path):
        return [Source((Member(path),))]
    names = _pattern_matches(argument, on_skip)
    if names is not None:
        found = [source for name in names for source in _matched(name, on_skip)]
        return _required(found, f"nothing matches {argument}")
    if "," in argument or _weight(argument) is not None:
        return [Source(tuple(_member(piece, argument) for piece in argument.split(",")))]
    return [Source((Member(_completed(path)),))]


def _pattern_matches(argument: str, on_skip: Skip) -> list[Path] | None:
    """Return the matches of a pattern; None where the argument is no pattern, or names the files of a merge."""
    if not glob.has_magic(argument) or "\0" in argument:
        return None
    names = matching(argument, on_skip)
    return names if names or "," not in argument else None


def _matched(path: Path, on_skip: Skip) -> list[Source]:
    """Return the LoRAs of one match of a pattern. A folder without LoRAs is not an error here."""
    return list(_in_folder(path, on_skip)) if is_folder(path) else [Source((Member(path),))]


def of_members(arguments: Sequence[str]) -> Source:
    """Return the merge of files with their strengths, ``a.safetensors:0.6``. Raises UsageError."""
    return Source(tuple(_member(argument, argument) for argument in arguments))


def of_prompt(tags: Sequence[Tag], find: Callable[[str], Path]) -> Source:
    """Return the merge of a prompt's tags. A file with several tags is one member for each `dyn`.

    `find` returns the file of a name. Raises what `find` raises, and UsageError where there is no tag.
    """
    if not tags:
        raise UsageError("the prompt has no LoRA; expected tags such as <lora:name:0.8>.")
    groups: dict[tuple[Path, int | None], list[Tag]] = {}
    for tag in tags:
        groups.setdefault((find(tag.name), tag.dyn), []).append(tag)
    members = [
        Member(path) if len(found) == 1 and found[0].is_plain else Member(path, tags=tuple(found))
        for (path, _), found in groups.items()
    ]
    return Source(tuple(sorted(members, key=lambda member: (member.path.name, str(member.path), member.strength))))


def _required(found: list[Source], otherwise: str) -> list[Source]:
    if not found:
        raise UsageError(f"{otherwise}; name a LoRA file, a folder or a pattern such as loras/*{SUFFIX}.")
    return found


def _in_folder(folder: Path, on_skip: Skip) -> Iterator[Source]:
    for path in files_below(folder, on_skip, once=True):
        yield Source((Member(path),), below=path.parent.relative_to(folder), found=True)


def files_below(folder: Path, on_skip: Skip = ignore, *, once: bool = False) -> Iterator[Path]:
    """Yield all safetensors files in a folder, recursively and through links, in the order of their names.

    With `once`, a link to a file that is found anyway is omitted.
    """
    found = [(place, name) for place in walk(folder, on_skip=on_skip) for name in place.names]
    loras = [(place.real, place.path / name) for place, name in found if name.lower().endswith(SUFFIX)]
    known = {Path(real, path.name) for real, path in loras if not path.is_symlink()} if once else set()
    for _, path in loras:
        if once and path.is_symlink():
            real = Path(os.path.realpath(path))
            if real in known:
                continue
            known.add(real)
        yield path


def _member(piece: str, argument: str) -> Member:
    text = piece.strip()
    weight = _weight(text)
    name = text if weight is None else text.rpartition(":")[0].strip()
    if not name:
        raise UsageError(f"{argument!r}: a name is missing; write a merge as 'style.safetensors:0.6,char:0.4'.")
    if weight is not None and not abs(weight) <= _STRONGEST:
        raise UsageError(f"{argument!r}: the strength of {name} is {weight:g}; expected a number up to {_STRONGEST:g}.")
    if weight == 0.0:
        raise UsageError(f"{argument!r}: weight 0 removes {name} from the merge; omit it.")
    return Member(_completed(Path(name)), 1.0 if weight is None else weight)


def _weight(text: str) -> float | None:
    """Return the number after the last colon; None where there is none, as after a Windows drive letter."""
    _, colon, tail = text.rpartition(":")
    if not colon or exists(Path(text)):
        return None
    try:
        weight = float(tail)
    except ValueError:
        return None
    return weight if abs(weight) < float("inf") else None


def _completed(path: Path) -> Path:
    """Return the path with the suffix, which is optional, as in a prompt."""
    if not path.name or exists(path):
        return path
    completed = path.with_name(path.name + SUFFIX)
    return completed if exists(completed) else path

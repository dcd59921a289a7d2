"""Which LoRAs of the list are versions of one original, and the names of each in prompts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..hosts.host import Host, LoraFile, LoraList
from ..hosts.listing import find
from .library import Library


def original(loras: LoraList, source: str | None) -> LoraFile | None:
    """Return the original of a resized file, by its stem; None where the host does not list it."""
    return None if source is None else next((lora for lora in loras if lora.path.stem == source), None)


def names_of(loras: LoraList, members: Collection[str], source: str | None = None) -> frozenset[str]:
    """Return the names of these LoRAs in prompts, and the name of their original, which may not exist any more.

    A name that means another LoRA to the host is left out: a file's own name has precedence over any alias, and an
    alias that several files share means none.
    """
    own = [lora for name in members for lora in loras.candidates(name) if lora.name == name]
    wished = (
        {lora.name for lora in own}
        | {alias for lora in own for alias in lora.aliases}
        | ({source} if source else set())
    )
    return frozenset(name for name in wished if all(lora.name in members for lora in loras.candidates(name)))


def families(library: Library, host: Host) -> dict[str, list[str]]:
    """Return stem of an original -> names of the files made of it, in any number of steps. Waits for the scan."""
    ours = {name: file for name, file in library.listed(host).items() if file.facts.source is not None}
    sources = {file.lora.path.stem: str(file.facts.source) for file in ours.values()}
    found: dict[str, list[str]] = {}
    for name, file in ours.items():
        found.setdefault(_first_source(file.lora.path.stem, sources), []).append(name)
    return found


def _first_source(stem: str, sources: Mapping[str, str]) -> str:
    """Return the original that a file goes back to; files that name each other in a circle end the search."""
    seen = set()
    while stem in sources and stem not in seen:
        seen.add(stem)
        stem = sources[stem]
    return stem


class Versions:
    """Originals of the host's list and the files made of them. Every method may be called from any thread."""

    def __init__(self, host: Host, library: Library) -> None:
        self._host = host
        self._library = library

    def families(self) -> list[list[str]]:
        """Return, for each original that has versions, its name if it is in the list, then the versions."""
        by_stem = {lora.path.stem: lora.name for lora in self._host.loras()}
        found = []
        for stem, versions in sorted(families(self._library, self._host).items()):
            first = [by_stem[stem]] if stem in by_stem and by_stem[stem] not in versions else []
            found.append([*first, *sorted(versions)])
        return found

    def family_names(self, name: str) -> frozenset[str]:
        """Return names and aliases of a LoRA, its original and all versions. Raises FileError for an unknown name."""
        loras = self._host.loras()
        lora = find(loras, name)
        known = families(self._library, self._host)
        stem = next((stem for stem, versions in known.items() if lora.name in versions), lora.path.stem)
        members = {lora.name, *known.get(stem, ())} | {one.name for one in loras if one.path.stem == stem}
        return names_of(loras, members, stem)

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Return the names that the host does not find, even after a refresh."""
        missing = self._missing(names)
        if missing:
            self._host.refresh()
            missing = self._missing(names)
        return missing

    def _missing(self, names: Sequence[str]) -> list[str]:
        loras = self._host.loras()
        return [name for name in names if loras.get(name) is None]

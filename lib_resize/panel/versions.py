"""Which LoRAs of the list are one and the same at different sizes, and what each goes by in prompts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..hosts.host import Host, LoraFile, LoraList
from ..hosts.listing import find
from .library import Library


def original(loras: LoraList, source: str | None) -> LoraFile | None:
    """The original of a file of ours, by its stem, where the host still lists it."""
    return None if source is None else next((lora for lora in loras if lora.path.stem == source), None)


def names_of(loras: LoraList, members: Collection[str], source: str | None = None) -> frozenset[str]:
    """What these LoRAs of the list go by in prompts, and the name of their original, which may be gone.

    A name that the host takes for another LoRA is left out: a file's own name wins over any alias, and an alias that
    is shared with another file is nobody's.
    """
    own = [lora for lora in loras if lora.name in members]
    wished = {lora.name for lora in own} | {lora.alias for lora in own if lora.alias} | ({source} if source else set())
    return frozenset(name for name in wished if all(lora.name in members for lora in loras.candidates(name)))


class Versions:
    """Originals of the host's list and the files that we made of them. Every method may be called from any thread."""

    def __init__(self, host: Host, library: Library) -> None:
        self._host = host
        self._library = library

    def families(self) -> list[list[str]]:
        """Each original's name, if it is in the list, and then its versions; only those that have any."""
        by_stem = {lora.path.stem: lora.name for lora in self._host.loras()}
        found = []
        for stem, versions in sorted(self._library.families().items()):
            first = [by_stem[stem]] if stem in by_stem and by_stem[stem] not in versions else []
            found.append([*first, *sorted(versions)])
        return found

    def family_names(self, name: str) -> frozenset[str]:
        """Names and aliases of a LoRA, its original and all other versions. Raises FileError for an unknown one."""
        loras = self._host.loras()
        lora = find(loras, name)
        families = self._library.families()
        stem = next((stem for stem, versions in families.items() if lora.name in versions), lora.path.stem)
        members = {lora.name, *families.get(stem, ())} | {one.name for one in loras if one.path.stem == stem}
        return names_of(loras, members, stem)

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those that the host would not find, though it looked once more."""
        missing = self._missing(names)
        if missing:
            self._host.refresh()
            missing = self._missing(names)
        return missing

    def _missing(self, names: Sequence[str]) -> list[str]:
        loras = self._host.loras()
        return [name for name in names if loras.get(name) is None]

"""Which LoRAs of the list are one and the same at different sizes, and what each goes by in prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..hosts.host import Host, LoraFile
from .library import Library


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
        lora = self._host.resolve(name)
        families = self._library.families()
        stem = next((stem for stem, versions in families.items() if lora.name in versions), lora.path.stem)
        members = {lora.name, *families.get(stem, ())}
        loras = self._host.loras()
        own = [one for one in loras if one.name in members or one.path.stem == stem]
        others = {known for one in loras if one not in own for known in _known_as(one)}
        return frozenset({stem} | {known for one in own for known in _known_as(one)}) - others

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those that the host would not find, though it looked once more."""
        missing = self._missing(names)
        if missing:
            self._host.refresh()
            missing = self._missing(names)
        return missing

    def _missing(self, names: Sequence[str]) -> list[str]:
        """An alias that two have is nobody's."""
        loras = self._host.loras()
        aliases = Counter(lora.alias for lora in loras if lora.alias)
        known = {lora.name for lora in loras} | {alias for alias, count in aliases.items() if count == 1}
        return [name for name in names if name not in known]


def _known_as(lora: LoraFile) -> Iterator[str]:
    yield lora.name
    if lora.alias:
        yield lora.alias

"""Which file a name in a prompt means, by the hosts' rules: the bare file name, or the alias that a file gives itself.

Folders are looked through with all that lies below them. A name with a folder (``styles/ink``) is taken from there, as
ComfyUI writes it. Hosts pick silently where two files have one name; here that is an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ..errors import FileError, ResizeError, UsageError
from ..files.header import read_header
from .sources import files_below
from .tags import BLOCK_PRESETS, Presets, read_presets

_ALIAS = "ss_output_name"
_MOMENT = re.compile(r"@[0-9.]+$")


PRESET_FILE = "lbwpresets.txt"
"""Where the extension LoRA Block Weight keeps a person's presets, in its folder ``scripts``."""


def preset_file(path: Path) -> Presets:
    """The presets of block weights in a file, and those that the extension brings. Raises FileError."""
    try:
        return read_presets(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise FileError(f"{path}: cannot be read as presets of block weights: {reason}.") from error


def presets_of(name: str | None) -> Presets:
    """Return the presets in a file, or the built-in ones without a name. Raises FileError."""
    return preset_file(Path(name)) if name else BLOCK_PRESETS


class LoraFolders:
    """The LoRAs of some folders, by name. Raises UsageError where a folder is not there."""

    def __init__(self, roots: Sequence[Path]) -> None:
        missing = [str(root) for root in roots if not root.is_dir()]
        if missing or not roots:
            raise UsageError(f"--lora-dir {', '.join(missing) or 'is missing'}: a folder of LoRAs was expected.")
        self._roots = tuple(dict.fromkeys(root.resolve() for root in roots))

    def find(self, name: str) -> Path:
        """The file that a prompt's name means. Raises FileError where there is none, or more than one."""
        plain = name.strip()
        found = self._named.get(plain) or self._aliased(plain)
        if not found:
            raise FileError(f"<lora:{name}>: {self._why_not(plain)}")
        if len(found) > 1:
            raise FileError(
                f"<lora:{name}>: {len(found)} files have this name: {', '.join(map(str, found))}. "
                f"Rename one, or name the folder too, as in <lora:styles/ink:1>."
            )
        return found[0]

    @cached_property
    def _files(self) -> list[tuple[Path, Path]]:
        """Every file, once, and the folder that it was found below."""
        found = {path.resolve(): (path, root) for root in reversed(self._roots) for path in files_below(root)}
        return sorted(found.values())

    @cached_property
    def _named(self) -> dict[str, list[Path]]:
        names: dict[str, list[Path]] = {}
        for path, root in self._files:
            for name in {path.stem, path.relative_to(root).with_suffix("").as_posix()}:
                names.setdefault(name, []).append(path)
        return names

    def _aliased(self, alias: str) -> list[Path]:
        return [path for path, _ in self._files if _alias_of(path) == alias]

    def _why_not(self, name: str) -> str:
        roots = ", ".join(map(str, self._roots))
        moment = _MOMENT.search(name)
        if moment and name[: moment.start()] in self._named:
            return f"{moment[0]} after a name is a step, and a file is on for all of them. Leave it away."
        close = difflib.get_close_matches(name, self._named, n=3)
        hint = f" Near it: {', '.join(close)}." if close else ""
        return f"no LoRA of this name or alias is below {roots}.{hint}"


def _alias_of(path: Path) -> str | None:
    """What a file calls itself; None for one that cannot be read, which is told when it is used."""
    try:
        return read_header(path).metadata.get(_ALIAS)
    except ResizeError:
        return None

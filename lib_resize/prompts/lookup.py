"""The file that a name in a prompt means, by the hosts' rules: a file name without suffix, or an alias in its metadata.

Folders are searched recursively. A name with a folder (``styles/ink``) is looked up there, as ComfyUI writes it. Where
two files have the same name, hosts pick one silently; here that is an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ..errors import FileError, ResizeError, UsageError
from ..files.header import read_header
from .block_weights import BLOCK_PRESETS, Presets, read_presets
from .sources import files_below

_ALIAS = "ss_output_name"
_MOMENT = re.compile(r"@[0-9.]+$")


PRESET_FILE = "lbwpresets.txt"
"""The file in which the extension LoRA Block Weight keeps a person's presets, in its folder ``scripts``."""


def preset_file(path: Path) -> Presets:
    """Return the presets of block weights in a file, and the extension's own. Raises FileError."""
    try:
        return read_presets(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise FileError(f"{path}: cannot be read as presets of block weights: {reason}.") from error


def presets_of(name: str | None) -> Presets:
    """Return the presets in a file, or the built-in ones without a name. Raises FileError."""
    return preset_file(Path(name)) if name else BLOCK_PRESETS


class LoraFolders:
    """The LoRAs of some folders, by name. Raises UsageError for a folder that does not exist."""

    def __init__(self, roots: Sequence[Path]) -> None:
        missing = [str(root) for root in roots if not root.is_dir()]
        if missing or not roots:
            raise UsageError(
                f"--lora-dir {', '.join(missing)} does not exist; expected a folder of LoRAs."
                if missing
                else "--lora-dir is missing."
            )
        self._roots = tuple(dict.fromkeys(root.resolve() for root in roots))

    def find(self, name: str) -> Path:
        """Return the file of a name. Raises FileError where there is none, or more than one."""
        plain = name.strip()
        found = self._named.get(plain) or self._aliased(plain)
        if not found:
            raise FileError(f"<lora:{name}>: {self._why_not(plain)}")
        if len(found) > 1:
            raise FileError(
                f"<lora:{name}>: {len(found)} files have this name: {', '.join(map(str, found))}. "
                f"Rename one, or add the folder to the name, as in <lora:styles/ink:1>."
            )
        return found[0]

    @cached_property
    def _files(self) -> list[tuple[Path, Path]]:
        """Every file, once, with the folder in which it was found."""
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
            return f"{moment[0]} after a name is a step, but a file applies to all steps. Remove it."
        close = difflib.get_close_matches(name, self._named, n=3)
        if close:
            return f"no LoRA in {roots} has this name or alias. Similar names: {', '.join(close)}."
        return f"no LoRA in {roots} has this name or alias."


def _alias_of(path: Path) -> str | None:
    """Return the alias in a file's metadata; None if it cannot be read, which is an error once the file is used."""
    try:
        return read_header(path).metadata.get(_ALIAS)
    except ResizeError:
        return None

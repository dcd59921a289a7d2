"""Choose the trash folder: on the disk of the LoRA folder, outside of all folders that the host scans.

Hosts show a button for each subfolder of a scanned folder, hidden ones included. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .scan import INNER_TRASH, TRASH


@dataclass(frozen=True)
class TrashPlaces:
    """The trash folders for a set of LoRA folders. All paths are real paths."""

    roots: Sequence[Path]
    """Folders of LoRAs; the one for new files comes first."""
    scanned: Sequence[Path]
    """All other folders that the host scans."""
    data: Path | None = None
    """The host's folder for its users' data."""

    def all(self) -> list[Path]:
        """Return every folder that may contain results in the trash, those of earlier versions included."""
        if not self.roots:
            return [self.of(None)]
        return list(dict.fromkeys(place for root in self.roots for place in self._of(root)))

    def of(self, path: Path | None) -> Path:
        """Return the trash folder for a file (None: for new files). It may not exist yet."""
        if not self.roots:
            return (self.data or Path(os.path.realpath("."))) / TRASH
        root = self._root_of(path)
        outer = (place for place in self._of(root) if place.name != INNER_TRASH)
        return next((place for place in outer if _usable(place)), root / INNER_TRASH)

    def _root_of(self, path: Path | None) -> Path:
        if path is not None:
            for one in (path, Path(os.path.realpath(path))):
                holders = [root for root in self.roots if root in one.parents]
                if holders:
                    return max(holders, key=lambda root: len(root.parts))
        return self.roots[0]

    def _of(self, root: Path) -> Iterator[Path]:
        """Yield the candidates for a LoRA folder, the best one first."""
        above = next((folder for folder in root.parents if not self._is_scanned(folder)), None)
        for folder in (above, self.data):
            if folder is not None and _on_one_disk(folder, root) and not self._is_scanned(folder / TRASH):
                yield folder / TRASH
        yield root / INNER_TRASH

    def _is_scanned(self, folder: Path) -> bool:
        real = Path(os.path.realpath(folder))
        return any(root == real or root in real.parents for root in (*self.roots, *self.scanned))


def _on_one_disk(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_dev == other.stat().st_dev
    except OSError:
        return False


@lru_cache(maxsize=256)
def _usable(folder: Path) -> bool:
    """Return whether files can be moved into a folder.

    A missing folder is created and removed again, because the permissions of its parent are not always right. The
    result is cached, so that the trash folder does not change while the program runs.
    """
    try:
        if not folder.is_dir():
            folder.mkdir()
            folder.rmdir()
            return True
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)

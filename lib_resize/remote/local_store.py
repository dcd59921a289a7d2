"""A local folder, or one of a network drive, as a place. Standard library only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..files import drafts
from ..files.atomic import sync_folder
from ..files.walk import FolderContents, walk
from .stores import STATE, StoredFile


class LocalPlace:
    """A local folder. See `stores.StorePlace`."""

    def __init__(self, folder: Path) -> None:
        self.folder: Path = Path(os.path.abspath(folder))  # noqa: PTH100 - links in it stay
        self.url = self.folder.as_posix()

    def files(self) -> Iterator[StoredFile]:
        for place in walk(self.folder, leave_out=(STATE,)):
            yield from self._of(place)

    def _of(self, place: FolderContents) -> Iterator[StoredFile]:
        below = place.path.relative_to(self.folder).as_posix()
        for name in place.names:
            found = self.find(name if below == "." else f"{below}/{name}")
            if found is not None:  # else removed since, or a link to nothing
                yield found

    def names(self, beginning: str) -> list[str]:
        below, _, start = beginning.rpartition("/")
        try:
            with os.scandir(self.folder / below) as found:
                names = [entry.name for entry in found if entry.name.startswith(start)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(f"{below}/{name}" if below else name for name in names)

    def find(self, name: str) -> StoredFile | None:
        try:
            found = os.stat(self.folder / name)  # noqa: PTH116 - Path.stat is slower, and there may be 100,000
        except (FileNotFoundError, NotADirectoryError):
            return None
        return StoredFile(name, found.st_size, f"{found.st_size}-{found.st_mtime_ns}")

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def fetch(self, name: str, target: Path) -> None:
        shutil.copyfile(self.folder / name, target)

    def publish(self, source: Path, name: str) -> None:
        """Rename where source and place are on one disk; else copy to a temporary file first."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.replace(target)
        except OSError as error:
            if not _is_other_disk(error):
                raise
            with source.open("rb") as stream:
                self._write(target, iter(lambda: stream.read(1 << 20), b""))
        sync_folder(target.parent)

    def write(self, name: str, data: bytes) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self._write(target, [data])

    def _write(self, target: Path, pieces: Iterator[bytes] | list[bytes]) -> None:
        drafts.sweep(target.parent)
        path, fd = drafts.create(target.parent)
        try:
            with os.fdopen(os.dup(fd), "wb") as stream:
                for piece in pieces:
                    stream.write(piece)
                stream.flush()
                os.fsync(stream.fileno())
            if os.name == "nt":  # Windows cannot rename an open file
                os.close(fd)
                fd = -1
            path.replace(target)
        finally:
            if fd >= 0:
                os.close(fd)
            path.unlink(missing_ok=True)


def _is_other_disk(error: OSError) -> bool:
    import errno

    return error.errno == errno.EXDEV or getattr(error, "winerror", None) == 17

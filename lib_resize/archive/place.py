"""Where the archive is: next to the LoRA folder, on its disk, outside of every folder that a host scans.

README.txt                          how to copy files back by hand
entries/<id>.json                   one finished replacement
entries/<id>.open                   one that is under way (see `journal`)
originals/<LoRA folder>/<tree>/     the originals under their own names
lock
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from ..files.atomic import check_room as check_free
from ..files.atomic import in_plain_words, write_whole
from ..files.locks import file_turn
from ..files.moving import make_folders
from ..files.target import check_folder

NAME = "Resize LoRA archive"
_LORA_FOLDERS = ("lora", "loras", "lycoris")
_ENTRY_BYTES = 64 << 10
_README = """\
This folder was made by Resize LoRA. It contains the original LoRA files that were replaced by smaller ones.

To get all of them back:      resize-lora restore --all --archive "{folder}"
To see them:                  resize-lora archive list --archive "{folder}"
To delete them for good:      resize-lora archive purge --all --archive "{folder}"

Without Resize LoRA: the folder "originals" has the same folders and file names as your LoRA folder. Copy a file from
there over the smaller one. A description next to it (.json, .civitai.info) is the one from before the replacement.
"""


@dataclass(frozen=True)
class Archive:
    """A folder of originals. It need not exist yet."""

    folder: Path
    roots: tuple[Path, ...] = ()
    """The LoRA folders whose files it holds; their trees are mirrored."""

    @property
    def entries(self) -> Path:
        """The folder of the entries."""
        return self.folder / "entries"

    @property
    def originals(self) -> Path:
        """The folder of the originals."""
        return self.folder / "originals"


def lora_root(path: Path) -> Path:
    """Return the LoRA folder of a file or folder.

    That is the topmost of its folders that is named lora, loras or lycoris, and without one the folder itself.
    """
    folder = _real(path)
    if not folder.is_dir():
        folder = folder.parent
    named = [one for one in (folder, *folder.parents) if one.name.casefold() in _LORA_FOLDERS]
    return named[-1] if named else folder


def default_archive(root: Path, scanned: Sequence[Path] = ()) -> Path:
    """Return the folder of the archive for a LoRA folder: one next to it, or one above that has files of this folder.

    It is outside of all `scanned` folders. It is not created.
    """
    top = lora_root(root)
    closed = [_real(folder) for folder in (top, *scanned)]
    free = [folder for folder in top.parents if not _is_below(folder, closed)] or [top.parent]
    existing = (folder / NAME for folder in free if _is_archive_of(folder / NAME, top))
    return next(existing, free[0] / NAME)


def existing_archive(path: Path) -> Path | None:
    """Return the archive of a file or folder: in it, next to it, or above it with files of it; None without one."""
    start = Path(os.path.abspath(path))  # noqa: PTH100 - links are not resolved: the archive may be next to one
    found = (
        folder / NAME
        for place in dict.fromkeys((start, _real(path)))
        for folder in (place, *place.parents)
        if _is_archive_of(folder / NAME, place)
    )
    return next(found, None)


def open_archive(folder: Path, roots: Sequence[Path], scanned: Sequence[Path] = ()) -> Archive:
    """Return the archive in a folder, which need not exist yet and is not created.

    Raises OutputError for a folder inside of a LoRA folder or another scanned folder, one that contains a LoRA folder,
    one that is not empty and not an archive, and one that cannot be written to.
    """
    real = _real(folder)
    for place in (*roots, *scanned):
        if _is_below(real, [_real(place)]):
            raise OutputError(
                f"{folder}: is inside of {place}, whose files a host lists. Choose an archive outside of it."
            )
    check_folder(real)
    if _has_other_files(real):
        raise OutputError(f"{folder}: is not empty and not an archive of Resize LoRA. Choose an empty or new folder.")
    return Archive(real, tuple(_real(root) for root in roots))


def check_room(archive: Archive, bytes_needed: int, homes: Sequence[Path]) -> None:
    """Raise OutputError where replacing the files `homes` by new ones of `bytes_needed` in all does not fit.

    On the archive's disk the originals stay where they are, so there is room needed for the new files. From another
    disk, whole originals are copied to the archive.
    """
    place = existing_folder(archive.folder)
    there = _device(place)
    moved = [path for path in homes if _device(path) != there]
    check_free(place, sum(_size(path) for path in moved) + len(homes) * _ENTRY_BYTES)
    if len(moved) < len(homes):
        check_free(place, bytes_needed + len(homes) * _ENTRY_BYTES)


@contextlib.contextmanager
def turn(archive: Archive) -> Iterator[None]:
    """Let one process or thread at a time change an archive and the files that it is about. Creates the archive."""
    with in_plain_words(archive.folder / "lock"):
        make_folders(archive.entries)
        readme = archive.folder / "README.txt"
        if not os.path.lexists(readme):
            with contextlib.suppress(OutputError):  # another process was faster
                write_whole(readme, _README.format(folder=archive.folder).encode("utf-8", "replace"))
        with file_turn(archive.folder / "lock"):
            yield


def _is_archive_of(archive: Path, place: Path) -> bool:
    """Return whether an archive in or above a place is meant for it: it is in it, next to it, or has files of it.

    Another archive far above, such as one in the user's folder, is not.
    """
    if not (archive / "entries").is_dir():
        return False
    if archive.parent in (place, place.parent):
        return True
    below = place.relative_to(archive.parent).parts[0]
    return (archive / "originals" / below).is_dir()


def _has_other_files(folder: Path) -> bool:
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except OSError:
        return False
    return bool(names) and "entries" not in names and not names <= {"lock", "README.txt"}


def _is_below(folder: Path, places: Sequence[Path]) -> bool:
    return any(folder == place or place in folder.parents for place in places)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def existing_folder(place: Path) -> Path:
    """Return a folder, or the nearest folder above it that exists."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _device(path: Path) -> int | None:
    try:
        return path.stat().st_dev
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

"""What the commands about the archive share: finding it, recovering what a killed run left, and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..shown import MIB, mib, shown
from .output import complain

if TYPE_CHECKING:
    from ..archive.entries import Entry
    from ..archive.place import Archive


def open_or_default(folder: str | None, named: Sequence[Path], paths: Sequence[Path]) -> Archive:
    """Return the archive for files that are about to be replaced. Raises OutputError where it cannot be used."""
    from ..archive.place import default_archive, lora_root, open_archive
    from ..files.walk import is_folder

    roots = list(dict.fromkeys(lora_root(path) for path in (*named, *(path.parent for path in paths)) if path.exists()))
    outer = [root for root in roots if not any(other in root.parents for other in roots)] or [Path()]
    place = Path(folder) if folder else default_archive(outer[0], outer)
    return open_archive(place, outer, [path for path in named if is_folder(path)])


def find_archive(folder: str | None, paths: Sequence[Path]) -> Archive:
    """Return an archive that exists: the one that was named, or the one above the files or the current folder.

    Raises UsageError where there is none.
    """
    from ..archive.place import NAME, Archive, existing_archive

    if folder is not None:
        if not (Path(folder) / "entries").is_dir():
            raise UsageError(f"--archive {folder}: is not an archive of Resize LoRA.")
        return Archive(Path(folder).resolve())
    start = paths[0] if paths else Path()
    found = existing_archive(start)
    if found is None:
        raise UsageError(f"no folder {NAME!r} was found above {start.resolve()}. Name it with --archive.")
    return Archive(found.resolve())


def recover_and_print(archive: Archive, *, to_stderr: bool = False) -> None:
    """Complete or revert what a killed run left half done, and print which."""
    from ..archive.recovery import recover

    for one in recover(archive):
        if to_stderr or one.direction == "blocked":
            complain(one.message)
        else:
            print(shown(one.message))


def of_run(entries: Sequence[Entry], run: str) -> list[Entry]:
    """Return the entries of a run. Raises UsageError where there is none."""
    found = [entry for entry in entries if entry.run == run]
    if not found:
        raise UsageError(f"--run {shown(run, 40)}: the archive has no originals of this run; see `archive list`.")
    return found


def large(size: int) -> str:
    """Return a size in MiB, or in GiB from 1 GiB on."""
    return f"{size / (MIB << 10):.2f} GiB" if abs(size) >= MIB << 10 else f"{mib(size)} MiB"

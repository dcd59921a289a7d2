"""The Python API for files that are replaced by smaller ones, and restored."""

from __future__ import annotations

from pathlib import Path

from .api_options import FilePath, RecipeText, one_file, opened, result_of, settings_of, style_of
from .archive.entries import entry_of
from .archive.place import Archive, existing_archive, lora_root, open_archive
from .archive.place import default_archive as archive_for
from .archive.recovery import recover
from .archive.restoring import restore as restore_entry
from .base.checkpoint import Checkpoint
from .errors import OutputError
from .plans import Result
from .progress import Progress, Quiet
from .shrinking.shrinking import ShrinkOptions, shrink


def replace(
    source: FilePath,
    recipe: RecipeText | None = None,
    *,
    archive: FilePath | None = None,
    keep_original: bool = True,
    base: FilePath | Checkpoint | None = None,
    dtype: str = "16",
    naming: str = "keep",
    convert: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Replace a LoRA file by a smaller one with the same name, and keep the original in an archive.

    The file always has its name, and is whole. A file that was replaced before is made again from its archived
    original. JSON sidecars that describe the file are updated.

    Args:
        source: The LoRA file.
        recipe: What to keep, as in `resize`.
        archive: The folder of the archive. The default is ``Resize LoRA archive`` next to the LoRA folder.
        keep_original: False deletes the original for good.

    The other parameters and the errors are those of `resize`. OutputError is raised for a file that is left alone:
    a link, a copy of another file in the archive, a file that would not be smaller.

    Examples:
        >>> before = Path("pastry.safetensors").stat().st_size
        >>> result = replace("pastry.safetensors", "medium")
        >>> result.path.stat().st_size == result.plan.bytes_after < before
        True
        >>> restore("pastry.safetensors").stat().st_size == before
        True
    """
    path = one_file(source).members[0].path
    root = lora_root(path)
    place = open_archive(Path(archive) if archive is not None else archive_for(root), [root])
    recover(place)
    options = ShrinkOptions("python", keep_originals=keep_original)
    with opened(base) as checkpoint:
        settings = settings_of(
            recipe, None, checkpoint, style_of(dtype, naming, convert), device=device, threads=threads
        )
        (done,) = shrink([path], settings, place, options, progress or Quiet())
    if done.left is not None:
        raise OutputError(f"{path}: {done.left.message}. It is left alone.")
    return result_of(iter([done.outcome]))


def restore(source: FilePath, *, archive: FilePath | None = None) -> Path:
    """Move the original of a replaced file back, byte for byte, and return its path. The smaller file is deleted.

    Args:
        source: The path of the replaced file.
        archive: The folder of the archive. By default it is searched next to the folders above the file.

    Raises:
        OutputError: There is no original, or another file has its name now.

    Examples:
        >>> path = replace("pastry.safetensors", "low").path
        >>> restore(path) == path.resolve()
        True
    """
    path = Path(source)
    folder = Path(archive) if archive is not None else existing_archive(path)
    place = None if folder is None else Archive(folder.resolve())
    if place is not None:
        recover(place)
    entry = None if place is None else entry_of(place, path)
    if place is None or entry is None:
        raise OutputError(f"{path}: no archive with its original was found. Name the folder of the archive.")
    return restore_entry(place, entry).path

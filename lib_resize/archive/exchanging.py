"""Exchange the content of files: hold the old, put the new, or bring the old back. Each can be repeated after a kill.

The functions raise OutputError and OSError.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from ..errors import OutputError
from ..files.atomic import move_if_free, sync_folder, write_whole
from ..files.moving import copy_whole, make_folders, move, moved_at_once, same_content, sha256_of
from .journal import Exchange


def hold(one: Exchange) -> None:
    """Hold the old content under a second name, which nothing has yet.

    On one disk this is a hard link, so that the file keeps its name all the time. On a disk without hard links the file
    is renamed, and has no name in its folder until `put_staged` gives it the new content. To another disk it is copied.
    """
    make_folders(one.hold.parent)
    try:
        os.link(one.home, one.hold)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno == errno.EXDEV or not moved_at_once(one.home, one.hold):
            copy_whole(one.home, one.hold)
    sync_folder(one.hold.parent)


def hold_copy(one: Exchange) -> None:
    """Hold the old content of a small file as a copy, where it is not held already."""
    if sha256_of(one.hold) == one.was:
        return
    make_folders(one.hold.parent)
    copy_whole(one.home, one.hold)


def put_staged(staged: Path, home: Path) -> None:
    """Give a complete file of the same folder its final name; it replaces what has the name."""
    if os.path.lexists(home):
        os.replace(staged, home)  # noqa: PTH105 - a function of os, like os.link, at which faults are tested
    else:
        move_if_free(staged, home)
    sync_folder(home.parent)


def put_data(one: Exchange) -> bool:
    """Give a sidecar its new content. Return False where its content is neither the old nor the new one."""
    found = sha256_of(one.home)
    if found == one.new:
        return True
    if found != one.was or one.data is None:
        return False
    hold_copy(one)
    mode = one.home.stat().st_mode
    write_whole(one.home, one.data, overwrite=True)
    with contextlib.suppress(OSError):
        one.home.chmod(mode & 0o7777)
    return True


def bring_back(one: Exchange, staged: Path) -> bool:
    """Undo an exchange. Return False where the content at home is neither the old nor the new one: it stays."""
    found = sha256_of(one.home)
    if found == one.was:
        discard(one.hold, one.was)
        return True
    if found != one.new and os.path.lexists(one.home):
        return _dropped_second_name(one)
    if sha256_of(one.hold) == one.was:
        bring(one.hold, one.home, staged)
    return True


def _dropped_second_name(one: Exchange) -> bool:
    """Remove the held name of a file that somebody wrote into: both names are the same file, so nothing is lost."""
    try:
        is_same = os.path.samestat(os.lstat(one.home), os.lstat(one.hold))
    except OSError:
        return False
    if is_same:
        one.hold.unlink()
    return is_same


def bring(source: Path, home: Path, staged: Path) -> None:
    """Move a file to its home, where it replaces what has the name; from another disk by a complete copy `staged`."""
    if not os.path.lexists(home):
        make_folders(home.parent)
        move(source, home)
        return
    try:
        os.replace(source, home)  # noqa: PTH105 - see put_staged
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        staged.unlink(missing_ok=True)
        copy_whole(source, staged)
        os.utime(staged)
        os.replace(staged, home)  # noqa: PTH105 - see put_staged
        if not same_content(source, home):
            raise OutputError(f"{home}: changed while it was being moved; {source} stays.") from error
        source.unlink()
    sync_folder(home.parent)
    sync_folder(source.parent)


def discard(path: Path, sha256: str) -> None:
    """Remove a file if it has this content; anything else under its name stays."""
    if os.path.lexists(path) and sha256_of(path) == sha256:
        path.unlink()

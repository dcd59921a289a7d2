"""Files that are not replaced because of what they are on the disk. Standard library only."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reason:
    """Why a file is left alone."""

    kind: str
    """``link``, ``hard_link``, ``read_only`` or ``missing``; other rooms have more kinds."""
    message: str


def left_alone(path: Path) -> Reason | None:
    """Return why a file must not be replaced; None where it can be."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return Reason("missing", f"cannot be read: {error.strerror}")
    if stat.S_ISLNK(found.st_mode):
        return Reason("link", f"is a link to {os.path.realpath(path)}, which another name needs")
    if not stat.S_ISREG(found.st_mode):
        return Reason("link", "is not a plain file")
    if found.st_nlink > 1:
        return Reason("hard_link", f"has {found.st_nlink} names (hard links), so replacing it would free nothing")
    if not os.access(path, os.W_OK) or not found.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        return Reason("read_only", "is write-protected")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return Reason("read_only", f"is in a write-protected folder ({path.parent})")
    return None

"""The file manager of the server's desktop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ..errors import FileError
from .faults import Fault

_PROGRAMS = {"darwin": "open"}
_USUAL_PROGRAM = "xdg-open"


def open_folder(folder: Path) -> None:
    """Show a folder. Raises FileError where it is gone, and Fault where there is no desktop to show it."""
    if not folder.is_dir():
        raise FileError(f"{folder.name}: this folder does not exist any more. Refresh the library.")
    try:
        if sys.platform == "win32":
            os.startfile(folder)
        else:
            program = _PROGRAMS.get(sys.platform, _USUAL_PROGRAM)
            subprocess.Popen(  # not waited for: a file manager may run as long as its window is open
                [program, os.fspath(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
    except OSError as error:
        raise Fault("unavailable", f"No file manager can be started here ({error.strerror}).") from error

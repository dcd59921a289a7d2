"""A process that stands back: the user's other programs go first."""

from __future__ import annotations

import os
import sys
from typing import Any

NICENESS = 10
"""Of 0 (usual) to 19: what the Unix command ``nice`` adds by itself."""
BELOW_NORMAL = 0x00004000
"""Windows' BELOW_NORMAL_PRIORITY_CLASS."""


def stand_back() -> bool:
    """Lowers the priority of this process for good; False where the system does not allow it."""
    try:
        if sys.platform == "win32":
            return stand_back_on_windows(_kernel32())
        os.nice(max(0, NICENESS - os.nice(0)))
    except (OSError, AttributeError):
        return False
    return True


def stand_back_on_windows(kernel32: Any) -> bool:
    """The same by the Windows API; `kernel32` is that library as ctypes has it."""
    return bool(kernel32.SetPriorityClass(kernel32.GetCurrentProcess(), BELOW_NORMAL))


def _kernel32() -> Any:
    import ctypes

    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined, unused-ignore]
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p  # a handle: as wide as a pointer
    kernel32.SetPriorityClass.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    return kernel32

"""Low CPU priority for this process, so that the user's other programs go first."""

from __future__ import annotations

import os
import sys
from typing import Any

NICENESS = 10
"""From 0 (normal) to 19: the default of the Unix command ``nice``."""
BELOW_NORMAL = 0x00004000
"""Windows' BELOW_NORMAL_PRIORITY_CLASS."""


def lower_priority() -> bool:
    """Lower the priority of this process for good. Return False where the system does not allow it."""
    try:
        if sys.platform == "win32":
            return lower_priority_on_windows(_kernel32())
        os.nice(max(0, NICENESS - os.nice(0)))
    except (OSError, AttributeError):
        return False
    return True


def lower_priority_on_windows(kernel32: Any) -> bool:
    """Lower the priority with the Windows API; `kernel32` is that library as loaded by ctypes."""
    return bool(kernel32.SetPriorityClass(kernel32.GetCurrentProcess(), BELOW_NORMAL))


def _kernel32() -> Any:
    import ctypes

    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined, unused-ignore]
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p  # a handle, as wide as a pointer
    kernel32.SetPriorityClass.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    return kernel32

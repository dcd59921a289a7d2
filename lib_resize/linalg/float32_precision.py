"""torch's setting for products of float32 matrices, which WebUIs set to TF32 (10 bits) to generate images faster."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

_lock = threading.Lock()
_holders = 0
_restore: Callable[[], None] | None = None


@contextlib.contextmanager
def full_float32(torch: Any) -> Iterator[None]:
    """Compute products of float32 matrices in float32 until the context is left; then the old setting is restored.

    The setting is that of the process. Contexts may be nested, and open in several threads: the last one to leave
    restores it. Other work meanwhile is more exact and slower.
    """
    global _holders, _restore
    with _lock:
        if _holders == 0:
            _restore = _set_full(torch)
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0 and _restore is not None:
                _restore()
                _restore = None


def _set_full(torch: Any) -> Callable[[], None]:
    """Set the full precision, and return a function that restores the one before.

    torch before 2.9 has one setting for all devices. Later ones have another for each, and refuse to read the first
    once a program has used the second.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul = torch.backends.cuda.matmul
        own = matmul.fp32_precision
        matmul.fp32_precision = "ieee"
        return lambda: setattr(matmul, "fp32_precision", own)
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)

"""Threads of the BLAS library.

One for each worker, because many small matrices are faster in parallel than one by one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_NAMES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")
"""The names of OpenBLAS' functions: in wheels of numpy 2, of numpy 1, and in builds of distributions."""


def ask_for_one_blas_thread(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the environment variables for one BLAS thread.

    Call it before numpy is imported; values of the user are kept.
    """
    for name in _VARIABLES:
        environment.setdefault(name, "1")


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread in a process that has already imported numpy, such as a WebUI.

    The old number is restored.

    Calls may be nested, and run in several threads at once: the last one to leave restores the number. numpy with
    another library than OpenBLAS (MKL, Accelerate) is left unchanged.
    """
    _limit.enter(_numpys_blas())
    try:
        yield
    finally:
        _limit.leave(_numpys_blas())


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


# numpy's OpenBLAS


@dataclass(frozen=True)
class _Blas:
    """The two functions of a loaded OpenBLAS."""

    threads: Callable[[], int]
    set_threads: Callable[[int], object]


class _Limit:
    """The number of callers that asked for one thread, and the number of threads before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._before = 1

    def enter(self, blas: _Blas | None) -> None:
        with self._lock:
            if self._holders == 0 and blas is not None:
                self._before = blas.threads()
                blas.set_threads(1)
            self._holders += 1

    def leave(self, blas: _Blas | None) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0 and blas is not None and blas.threads() == 1:  # else another caller has set it
                blas.set_threads(self._before)


_limit = _Limit()


@lru_cache(maxsize=1)
def _numpys_blas() -> _Blas | None:
    """Return the OpenBLAS that numpy has loaded; None if it uses another library."""
    for path in _libraries():
        with contextlib.suppress(OSError):  # a library for another machine
            found = _functions(ctypes.CDLL(str(path)))
            if found is not None:
                return found
    return None


def _functions(library: ctypes.CDLL) -> _Blas | None:
    for name in _NAMES:
        get = getattr(library, name.format("get_num_threads"), None)
        put = getattr(library, name.format("set_num_threads"), None)
        if get is not None and put is not None:
            get.restype, get.argtypes = ctypes.c_int, []
            put.restype, put.argtypes = None, [ctypes.c_int]
            return _Blas(get, put)
    return None


def _libraries() -> Iterator[Path]:
    """Yield the files of libraries that are loaded already: numpy's own module, and the libraries of its wheels.

    Through numpy's module most systems find the functions of the libraries that it needs.
    """
    import numpy as np

    for name in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            yield Path(file)
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".libs", package / ".dylibs"):
        yield from sorted(path for path in folder.glob("*openblas*") if path.is_file())

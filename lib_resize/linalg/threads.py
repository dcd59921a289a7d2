"""Threads of the BLAS library.

One for each worker, because many small matrices are faster in parallel than one by one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..shared_setting import SharedSetting

_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_NAMES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")
"""The names of OpenBLAS' functions: in wheels of numpy 2, of numpy 1, and in builds of distributions."""


def ask_for_one_blas_thread(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the environment variables for one BLAS thread.

    Call it before numpy is imported; values of the user are kept.
    """
    for name in _VARIABLES:
        environment.setdefault(name, "1")


def one_blas_thread() -> contextlib.AbstractContextManager[None]:
    """Limit BLAS to one thread in a process that has already imported numpy, such as a WebUI.

    The old number is restored.

    Calls may be nested, and run in several threads at once: the last one to leave restores the number. numpy with
    another library than OpenBLAS (MKL, Accelerate) is left unchanged.
    """
    limit = _limit()
    return contextlib.nullcontext() if limit is None else limit.held()


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


@lru_cache(maxsize=1)
def _limit() -> SharedSetting[int] | None:
    """Return the limit of one thread for the library that numpy has loaded; None if it cannot be set."""
    blas = _numpys_blas()
    return None if blas is None else SharedSetting(blas.threads, blas.set_threads, 1)


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

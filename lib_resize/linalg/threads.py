"""Threads of the BLAS library: one for each worker, for many small matrices go faster in parallel than one does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, MutableMapping

_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def ask_for_one_blas_thread(environment: MutableMapping[str, str] = os.environ) -> None:
    """Must run before numpy is imported; what the user has set stays."""
    for name in _VARIABLES:
        environment.setdefault(name, "1")


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """The same for a process that holds numpy already, where the threadpoolctl library is there; else nothing."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1

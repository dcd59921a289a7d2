"""A host's lock, as this program uses it. Standard library only."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

_WAITING = "_pending_threads"
"""Where the lock of A1111 and its relatives has one item for each thread that waits."""


class HostLock(Protocol):
    """The methods of a host's lock that this program uses."""

    def acquire(self, blocking: bool = ..., /) -> object:
        """Acquire the lock; with `blocking` False, return something false where it is held."""
        ...

    def release(self) -> object:
        """Release the lock."""
        ...


class SharedLock:
    """A host's lock that is not re-entrant, held once for all threads of this program that read."""

    def __init__(self, lock: HostLock) -> None:
        self._lock = lock
        self._mutex = threading.Lock()
        self._holders = 0
        self._asking = 0

    @property
    def is_wanted(self) -> bool:
        """Whether a thread of the host waits for the lock, as far as the lock shows who waits."""
        waiting = getattr(self._lock, _WAITING, ())
        return isinstance(waiting, Sized) and len(waiting) > self._asking

    @property
    def held(self) -> bool:
        """Whether a thread of this program holds the lock in `shared`."""
        return self._holders > 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock, together with other threads in `shared`."""
        with self._mutex:  # others wait here while the first one waits for the lock
            if self._holders == 0:
                self._acquire()
            self._holders += 1
        try:
            yield
        finally:
            with self._mutex:
                self._holders -= 1
                if self._holders == 0:
                    self._lock.release()

    def _acquire(self) -> None:
        self._asking = 1
        try:
            self._lock.acquire()
        finally:
            self._asking = 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock without any other thread, those in `shared` included."""
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()


class Lockable:
    """The part of a host that is about its lock."""

    _lock: SharedLock

    def lock(self) -> AbstractContextManager[None]:
        """See `host.HostModel.lock`."""
        return self._lock.shared()

    def is_wanted(self) -> bool:
        """See `host.HostModel.is_wanted`."""
        return self._lock.is_wanted

"""Safe access to a host: a failure disables one feature and writes one line to the log, and never stops the tab.

WebUIs, their forks and other extensions replace modules, attributes and classes, and any access to them may raise
anything. Standard library only.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")

_log = logging.getLogger("resize-lora")
_logged: set[str] = set()


def warn_once(message: str) -> None:
    """Log a message, once per process."""
    if message not in _logged:
        _logged.add(message)
        _log.warning("Resize LoRA: %s", message)


def attempt(feature: str, function: Callable[[], T], default: T) -> T:
    """Return the result of a function, or the default if it raises; the log then reports `feature` as unavailable."""
    try:
        return function()
    except Exception as error:
        warn_once(f"{feature}: not available in this host ({_described(error)}).")
        return default


def attempt_list(feature: str, values: Any) -> list[Any]:
    """Return the items of one of the host's collections; empty where it is None or cannot be iterated."""
    return [] if values is None else attempt(feature, lambda: list(values), [])


@contextmanager
def guarded(feature: str) -> Iterator[None]:
    """Run a block; log an error in it and continue after the block. See `attempt`."""
    try:
        yield
    except Exception as error:
        warn_once(f"{feature}: not available in this host ({_described(error)}).")


def read(owner: Any, name: str, default: Any = None) -> Any:
    """Return an attribute, or the default if it is missing or raises when it is read."""
    try:
        return getattr(owner, name, default)
    except Exception:
        return default


def host_module(name: str) -> Any | None:
    """Return a module of the host, such as ``modules.shared``; None where it is missing or cannot be imported."""
    try:
        return import_module(name)
    except Exception:
        package, _, own = name.rpartition(".")
        return read(sys.modules.get(package), own)


def _described(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

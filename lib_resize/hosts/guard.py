"""Questions to a host that may be odd: what fails costs the feature that asked, and one line in the log.

WebUIs, their forks and their other extensions replace modules, attributes and classes as they like. Whatever any of
them raises, the tab must come up. Standard library only.
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
_said: set[str] = set()


def warn_once(message: str) -> None:
    """One line in the log, however often the same happens."""
    if message not in _said:
        _said.add(message)
        _log.warning("Resize LoRA: %s", message)


def attempt(feature: str, question: Callable[[], T], default: T) -> T:
    """The answer, or the default where the question fails; `feature` is what is lost then."""
    try:
        return question()
    except Exception as error:
        warn_once(f"{feature}: not available in this host ({_in_words(error)}).")
        return default


def listed(feature: str, values: Any) -> list[Any]:
    """What a collection of the host holds; nothing where it is missing or is none."""
    return [] if values is None else attempt(feature, lambda: list(values), [])


@contextmanager
def guarded(feature: str) -> Iterator[None]:
    """The same for a block of statements."""
    try:
        yield
    except Exception as error:
        warn_once(f"{feature}: not available in this host ({_in_words(error)}).")


def read(owner: Any, name: str, default: Any = None) -> Any:
    """An attribute that may be missing, or may fail when it is read."""
    try:
        return getattr(owner, name, default)
    except Exception:
        return default


def host_module(name: str) -> Any | None:
    """A module of the host, such as ``modules.shared``; None where it is missing or cannot be imported."""
    try:
        return import_module(name)
    except Exception:
        package, _, own = name.rpartition(".")
        return read(sys.modules.get(package), own)


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

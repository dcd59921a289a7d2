"""The Pythons that have Gradio, for tests of the panel as it is served, and what happens where something lacks."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def pythons() -> list[str]:
    """Those of ``RESIZE_LORA_PYTHONS``, separated as in PATH; without it this one, if it has Gradio."""
    named = os.environ.get("RESIZE_LORA_PYTHONS")
    if named:
        return named.split(os.pathsep)
    return [sys.executable] if importlib.util.find_spec("gradio") else []


def label(place: str) -> str:
    """A short name: an address as it is, a Python's by its environment's folder."""
    return place if "://" in place else Path(place).parents[1].name


def lacking(what: str) -> NoReturn:
    """Skips with the reason; fails where CI=true, because there nobody would notice."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} (CI=true: no skip)")
    pytest.skip(what)


def parametrize(metafunc: pytest.Metafunc, name: str, places: list[str]) -> None:
    """Runs what uses the fixture once for each place."""
    ids = [label(place) for place in places]
    metafunc.parametrize(name, places or [None], ids=ids or ["no gradio"], indirect=True, scope="session")

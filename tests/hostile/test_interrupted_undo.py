"""Undo, restore and the record of a result, cut off or failing at every call into the system."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.errors import ResizeError
from lib_resize.files.atomic import write_whole
from lib_resize.hosts import host
from lib_resize.panel.results import Results
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes
from tests.hostile.os_faults import Faults, Killed
from tests.material import plan_of

FACTS: dict[str, Any] = {"recipe": "rank=1", "notes": []}
NAMES = ("ink_2.safetensors", "ink_2.png", "ink_2.json")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of fsync count and fail like others, but a test needs not wait for them."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(params=["one disk", "two disks"])
def bin_(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The trash, next to the LoRAs or on another disk."""
    if request.param == "one disk":
        yield tmp_path / "trash"
        return
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk here")
    folder = shared / f"resize-lora-test-{os.getpid()}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Host:
    """As much of a host as results ask for."""

    def __init__(self, root: Path, bin_: Path) -> None:
        self._root, self._bin = root, bin_

    def lora_roots(self) -> list[Path]:
        return [self._root]

    def trash_root(self, path: Path | None = None) -> Path:
        return self._bin

    def trash_roots(self) -> list[Path]:
        return [self._bin]


def results_of(root: Path, bin_: Path, session: str) -> Results:
    return Results(cast(host.Host, Host(root, bin_)), session)


def fresh(root: Path, bin_: Path) -> tuple[Results, str]:
    """One result with two sidecars, and nothing else."""
    for folder in (root, bin_):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    return results_of(root, bin_, "now"), made(results_of(root, bin_, "now"), root)


def made(results: Results, root: Path) -> str:
    with results.making("ink") as making:
        making.begin(root / NAMES[0], 7, FACTS)
        for name in NAMES:
            (root / name).write_bytes(content(name))
    return making.made("ink_2", [root / name for name in NAMES[1:]], FACTS).id


def content(name: str) -> bytes:
    return name.encode() * 50


def whole_copies(root: Path, bin_: Path) -> set[str]:
    """Names of the files whose content is somewhere, in the one place or the other."""
    found = {path.read_bytes() for folder in (root, bin_) for path in folder.rglob("*") if path.is_file()}
    return {name for name in NAMES if content(name) in found}


def at_home(root: Path) -> list[str]:
    """Without copies that were cut off, which the next start sweeps."""
    found = sorted(path.name for path in root.iterdir() if path.suffix != ".part")
    assert all((root / name).read_bytes() == content(name) for name in found if name in NAMES)
    return found


@pytest.mark.parametrize("kind", ["kill", "EIO", "ENOSPC"])
@pytest.mark.parametrize("act", ["undo", "restore"])
def test_nothing_is_lost_at_any_failing_call_and_the_next_start_recovers(
    tmp_path: Path, bin_: Path, act: str, kind: str
) -> None:
    root = tmp_path / "Lora"
    at = 0
    while True:
        at += 1
        results, id = fresh(root, bin_)
        if act == "restore":
            results.undo(id)
        kept: list[str] = []
        with Faults(at, kind) as faults, contextlib.suppress(Killed, ResizeError):
            kept = getattr(results, act)(id).get("kept", [])
        assert whole_copies(root, bin_) == set(NAMES), at
        later = results_of(root, bin_, "later")
        later.recover()
        (listed,) = later.answer()["results"]
        home, items = at_home(root), later.trash.to_json()
        if listed["state"] == "there":
            assert (home, items) == (sorted(NAMES), []), at
        else:
            went = [item["files"] for item in items]
            assert (home, listed["state"], went) == (kept, "trashed", [3 - len(kept)]), at
            later.restore(id)
            assert at_home(root) == sorted(NAMES), at
        assert [path.name for path in bin_.iterdir()] == ["results"], at
        if faults.count < at:
            break
    assert at > 30


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file that we made with ``rank=1``."""
    folder = tmp_path_factory.mktemp("ours")
    source = write_lora(folder / "ink.safetensors", LoraOptions(rank=2, text_encoders=False))
    settings = Settings(recipes=parse_recipes("rank=1"), output=folder / "out")
    (outcome,) = resize(expand([str(source)]), settings)
    return Path(plan_of(outcome).output).read_bytes()


@pytest.mark.parametrize("kind", ["kill", "EIO", "ENOSPC"])
def test_a_file_that_was_made_can_be_undone_after_any_failing_call(tmp_path: Path, ours: bytes, kind: str) -> None:
    root, bin_ = tmp_path / "Lora", tmp_path / "trash"
    at = 0
    while True:
        at += 1
        for folder in (root, bin_):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        results = results_of(root, bin_, "now")
        with Faults(at, kind) as faults, contextlib.suppress(Killed, ResizeError, OSError):
            with results.making("ink") as making:
                making.begin(root / NAMES[0], len(ours), FACTS)
                write_whole(root / NAMES[0], ours)
            making.made("ink_2", [], FACTS)
        there = (root / NAMES[0]).exists()
        later = results if kind != "kill" else results_of(root, bin_, "later")
        later.recover()
        listed = later.answer()["results"]
        if faults.count >= at:
            assert [one["state"] for one in listed] == (["there"] if there and listed else []), at
            assert bool(listed) or not there or kind != "kill", at
        for one in listed:
            later.undo(one["result"])
            assert not (root / NAMES[0]).exists()
        if faults.count < at:
            break
    assert at > 20

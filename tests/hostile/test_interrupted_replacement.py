"""Replace, restore and purge, cut off or failing at every call into the system.

Long: ``RESIZE_LORA_FAULTS=all pytest tests/hostile/test_interrupted_replacement.py`` tries every error on every disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest
from os_faults import CALLS, Faults, Killed

from lib_resize.archive.entries import entries
from lib_resize.archive.purging import purge
from lib_resize.archive.replacing import replace
from lib_resize.archive.restoring import restore
from lib_resize.errors import OutputError
from tests.library import Library, contents

MORE_CALLS = (*CALLS, "utime", "chmod", "fstat")
KINDS = ("kill", "EIO", "ENOSPC", "EACCES")
EVERYTHING = os.environ.get("RESIZE_LORA_FAULTS") == "all"


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of fsync count and fail like others, but a test needs not wait for them."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def another_disk() -> Iterator[Path | None]:
    shared = Path("/dev/shm")
    folder = shared / f"resize-lora-archive-{os.getpid()}"
    yield folder if shared.is_dir() else None
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", params=["one disk", "another disk", "no hard links"])
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, another_disk: Path | None
) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("library")
    if request.param == "one disk":
        yield Library(folder, folder / "archive")
    elif request.param == "another disk":
        if another_disk is None or another_disk.parent.stat().st_dev == folder.stat().st_dev:
            pytest.skip("there is no second disk here")
        yield Library(folder, another_disk)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "link", _no_links)
            yield Library(folder, folder / "archive")


@pytest.fixture(autouse=True)
def _not_everything(request: pytest.FixtureRequest) -> None:
    """Errors of all kinds on the usual disk; on the others a kill, and the one error that differs most."""
    kind, disk = request.node.callspec.params["kind"], request.node.callspec.params["library"]
    if not EVERYTHING and disk != "one disk" and kind not in ("kill", "ENOSPC"):
        pytest.skip("with RESIZE_LORA_FAULTS=all")


def _no_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def first(library: Library) -> Callable[[], Any]:
    asked = library.staged("rank=2")
    return lambda: replace(library.archive, asked)


def again(library: Library) -> Callable[[], Any]:
    library.replaced("rank=2")
    asked = library.staged("rank=1")
    return lambda: replace(library.archive, asked)


def back(library: Library) -> Callable[[], Any]:
    entry = library.replaced("rank=2")
    return lambda: restore(library.archive, entry)


ACTS = {
    "replace": (first, "original", "rank=2"),
    "replace again": (again, "rank=2", "rank=1"),
    "restore": (back, "rank=2", "original"),
}
"""Act -> the state before it, and after it."""


def every_call(
    library: Library, prepare: Callable[[Library], Callable[[], Any]], kind: str
) -> Iterator[tuple[int, Any]]:
    """Run an act again and again, until it is struck no more; yield the call that was struck, and the error."""
    at = 0
    while True:
        at += 1
        library.fresh()
        act = prepare(library)
        error = None
        with Faults(at, kind, MORE_CALLS) as faults:
            try:
                act()
            except (Killed, OutputError) as raised:
                error = raised
        yield at, error
        if faults.count < at:
            assert error is None
            break
    assert at > 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("act", ACTS)
def test_after_any_fault_the_next_start_completes_or_reverts(library: Library, act: str, kind: str) -> None:
    prepare, before, after = ACTS[act]
    ends = set()
    for at, error in every_call(library, prepare, kind):
        assert library.lora.exists() or kind == "kill", at
        recovered = library.started()
        state = library.state()
        assert state in (before, after), at
        assert [one.direction for one in recovered] in ([], ["completed"], ["reverted"]), (at, recovered)
        if error is None:
            assert state == after, at
        elif kind != "kill" and act != "restore":
            assert (state, recovered) == (before, []), at  # it was reverted at once
        for one in recovered:
            assert state == (after if one.direction == "completed" else before), (at, one)
        ends.add(state)
        for entry in entries(library.archive):
            assert restore(library.archive, entry).changed == (), at
        assert library.state() == "original", at
    assert ends == {before, after}


@pytest.mark.parametrize("kind", KINDS)
def test_after_any_fault_a_purge_is_whole(library: Library, kind: str) -> None:
    def prepare(library: Library) -> Callable[[], Any]:
        entry = library.replaced("rank=2")
        return lambda: purge(library.archive, [entry])

    for at, error in every_call(library, prepare, kind):
        library.started()
        assert library.lora.read_bytes() == library.small["rank=2"], at
        if entries(library.archive):
            assert error is not None
            assert library.state() == "rank=2", at
        else:
            assert contents(library.archive.originals) == {}, at


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_original_the_name_has_one_of_the_two_files(library: Library, kind: str) -> None:
    def prepare(library: Library) -> Callable[[], Any]:
        asked = changed(library.staged("rank=2"), keep_original=False)
        return lambda: replace(library.archive, asked)

    for at, error in every_call(library, prepare, kind):
        library.started()
        now = library.lora.read_bytes()
        assert now == library.small["rank=2"] or library.state() == "original", at
        assert now == library.small["rank=2"] or error is not None, at
        assert (entries(library.archive), contents(library.archive.originals)) == ([], {}), at


@pytest.mark.parametrize("kind", ["kill", "EIO"])
def test_a_recovery_that_is_struck_itself_is_recovered(library: Library, kind: str) -> None:
    """A kill in the middle of a replacement, and a second fault at every call of the next start."""
    for struck in (30, 45, 60, 75):
        at = 0
        while True:
            at += 1
            library.fresh()
            act = first(library)
            with Faults(struck, "kill", MORE_CALLS), contextlib.suppress(Killed):
                act()
            with Faults(at, kind, MORE_CALLS) as faults, contextlib.suppress(Killed, OutputError, AssertionError):
                library.started()
            library.started()
            assert library.state() in ("original", "rank=2"), (struck, at)
            if faults.count < at:
                break

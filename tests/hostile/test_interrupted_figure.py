"""The figure of a comparison put into a result and its record, cut off or failing at every call into the system."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.errors import ResizeError
from lib_resize.files import drafts
from lib_resize.files.atomic import sweep
from lib_resize.files.effect_record import EffectRecord
from lib_resize.files.header import read_header
from lib_resize.files.recording import StagedCopy, copy_with_effect
from lib_resize.panel.results import Results
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes
from tests.hostile.os_faults import Faults, Killed
from tests.hostile.test_interrupted_undo import results_of
from tests.library import JSONS, OTHERS, check_facts, write_sidecars
from tests.material import plan_of

CALLS = ("open", "write", "fsync", "link", "replace", "rename", "unlink", "mkdir", "scandir", "stat", "lstat")
MORE_CALLS = (*CALLS, "utime", "chmod", "fstat")
EFFECT = EffectRecord(0.978, 0.961, 4, "Euler a", 20, 832, 1216, "latents", "0123456789abcdef")
NAME = "ink_2.safetensors"
SUFFIXES = (*JSONS, *OTHERS)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of fsync count and fail like others, but a test needs not wait for them."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file that this program made, and sidecars that describe it."""
    folder = tmp_path_factory.mktemp("ours")
    source = write_lora(folder / "ink.safetensors", LoraOptions(rank=2, text_encoders=False))
    settings = Settings(recipes=parse_recipes("rank=1"), output=folder / "out")
    (outcome,) = resize(expand([str(source)]), settings)
    small = Path(plan_of(outcome).output)
    lora = small.rename(small.with_name(NAME))
    write_sidecars(lora)
    return {path.name: path.read_bytes() for path in lora.parent.iterdir()}


@pytest.fixture(scope="module")
def with_figure(ours: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("figure") / NAME
    path.write_bytes(ours[NAME])
    staged = path.with_name("x.staged")
    assert copy_with_effect(path, staged, EFFECT) is not None
    return staged.read_bytes()


def fresh(root: Path, bin_: Path, ours: dict[str, bytes]) -> tuple[Results, str]:
    for folder in (root, bin_):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    results = results_of(root, bin_, "now")
    facts: dict[str, Any] = {"recipe": "rank=1", "notes": [], "bytes_before": 10**6, "bytes_after": len(ours[NAME])}
    with results.making("ink") as making:
        making.begin(root / NAME, len(ours[NAME]), facts)
        for name, data in ours.items():
            (root / name).write_bytes(data)
    sidecars = [root / name for name in ours if name != NAME]
    return results, making.made("ink_2", sidecars, facts).id


def copy(root: Path) -> StagedCopy:
    copied = copy_with_effect(root / NAME, drafts.staged_path(root), EFFECT)
    assert copied is not None
    return copied


def put(results: Results, id: str, root: Path, copied: StagedCopy | None = None) -> tuple[str, ...]:
    return results.put_copy(id, copied or copy(root), EFFECT.as_json())


def swept(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafts, "_runs", lambda process: False)  # a staged file of this process is that of a dead one
        sweep(root)


@pytest.mark.parametrize("kind", ["kill", "EIO", "ENOSPC", "EACCES"])
def test_after_any_fault_the_result_is_known_whole_and_can_be_undone(
    tmp_path: Path, ours: dict[str, bytes], with_figure: bytes, kind: str
) -> None:
    root, bin_ = tmp_path / "Lora", tmp_path / "trash"
    ends, at = set(), 0
    while True:
        at += 1
        results, id = fresh(root, bin_, ours)
        error: BaseException | None = None
        behind: tuple[str, ...] = ()
        copied = None if kind in ("kill", "EIO") else copy(root)  # once for all errors: it is the same copy
        with Faults(at, kind, MORE_CALLS) as faults:
            try:
                behind = put(results, id, root, copied)
            except (Killed, ResizeError, OSError) as raised:
                error = raised
        later = results_of(root, bin_, "later")
        servers = [later] if kind == "kill" else [results, later] if at % 2 else [later, results]
        for server in servers:  # the last one undoes
            server.recover()
            (listed,) = server.answer()["results"]
            now = (root / NAME).read_bytes()
            assert now in (ours[NAME], with_figure), at
            assert (listed["state"], listed["changed"], listed["bytes_after"]) == ("there", False, len(now)), at
        ends.add(now == with_figure)
        if now == with_figure and kind == "kill":
            check_facts(root / NAME)
        if error is None and not behind:
            assert now == with_figure, at
            check_facts(root / NAME)
        elif error is not None and kind != "kill":
            if copied is not None:
                copied.staged.unlink(missing_ok=True)
            assert now == ours[NAME], at
            assert {name: (root / name).read_bytes() for name in ours} == ours, at
        swept(root)
        assert sorted(path.name for path in root.iterdir()) == sorted(ours), at
        assert server.undo(id)["kept"] == [], at
        assert list(root.iterdir()) == [], at
        server.restore(id)
        assert (root / NAME).read_bytes() == now, at
        if faults.count < at:
            break
    assert ends == {True, False}
    assert at > 60


@pytest.mark.parametrize("last", [NAME, "ink_2.metadata.json"])
@pytest.mark.parametrize("kind", ["kill", "EIO"])
def test_a_recovery_that_is_struck_itself_is_recovered(
    tmp_path: Path, ours: dict[str, bytes], with_figure: bytes, kind: str, last: str
) -> None:
    """A kill just after the file or the last sidecar was replaced, then a fault at every call of the next start."""
    root, bin_ = tmp_path / "Lora", tmp_path / "trash"
    at = 0
    while True:
        at += 1
        results, id = fresh(root, bin_, ours)
        _killed_after(last, results, id, root)
        assert (root / NAME).read_bytes() == with_figure
        with Faults(at, kind, MORE_CALLS) as faults, contextlib.suppress(Killed, ResizeError, OSError):
            results_of(root, bin_, "second").recover()
        third = results_of(root, bin_, "third")
        third.recover()
        (listed,) = third.answer()["results"]
        assert (listed["state"], listed["changed"]) == ("there", False), at
        assert third.undo(id)["kept"] == [], at
        if faults.count < at:
            break
    assert at > 10


def _killed_after(last: str, results: Results, id: str, root: Path) -> None:
    """The process dies just after a file is replaced: nothing is written any more."""
    with pytest.MonkeyPatch.context() as patch:
        real_replace, real_open, dead = os.replace, os.open, []

        def replaced(old: Any, new: Any) -> None:
            real_replace(old, new)
            if Path(new).name == last:
                dead.append(new)
                raise Killed

        def opened(*arguments: Any, **more: Any) -> int:
            if dead:
                raise Killed
            return real_open(*arguments, **more)

        patch.setattr(os, "replace", replaced)
        patch.setattr(os, "open", opened)
        with contextlib.suppress(Killed):
            put(results, id, root)
        assert dead


def test_the_record_is_on_the_disk_before_the_file_changes(tmp_path: Path, ours: dict[str, bytes]) -> None:
    """Else a kill in between leaves a file that is nobody's."""
    root, bin_ = tmp_path / "Lora", tmp_path / "trash"
    results, id = fresh(root, bin_, ours)
    _killed_after(NAME, results, id, root)
    assert read_header(root / NAME).metadata["resize_lora"].count("effect") == 1
    later = results_of(root, bin_, "later")
    assert later.answer()["results"][0]["changed"] is False
    assert later.get(id).next == ()
    check_facts(root / NAME)

"""Undone results: whatever moment the machine dies at, every file is somewhere, and comes back."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from lib_resize.errors import OutputError
from lib_resize.files import moving
from lib_resize.panel import trash

NAMES = ("ink_46mb.safetensors", "ink_46mb.png", "ink_46mb.json")


class Killed(BaseException):
    """The machine died."""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "Lora"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(f"content of {name}")
    return [folder / name for name in NAMES]


@pytest.fixture
def bin_(tmp_path: Path) -> Path:
    return tmp_path / "Lora" / ".trash"


def contents(folder: Path) -> list[str]:
    """All files' texts but manifests and the drafts of such, which hold nothing of the user's."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != trash.MANIFEST]
    return sorted(path.read_text() for path in files if path.suffix != ".part")


def expected() -> list[str]:
    return sorted(f"content of {name}" for name in NAMES)


def test_what_was_trashed_comes_back_as_it_was(files: list[Path], bin_: Path) -> None:
    item = trash.trash(bin_, "ink_46mb", files)
    assert not any(path.exists() for path in files)
    assert [one.id for one in trash.items(bin_)] == [item.id]
    trash.restore(trash.items(bin_)[0])
    assert contents(files[0].parent) == expected()
    assert all(path.exists() for path in files)
    assert trash.items(bin_) == []


def test_no_host_lists_what_lies_in_the_trash(files: list[Path], bin_: Path) -> None:
    trash.trash(bin_, "ink", files)
    endings = {path.suffix for path in bin_.rglob("*") if path.is_file()}
    assert endings == {".trashed", ".json"}


@pytest.mark.parametrize("moment", range(40))
def test_a_kill_at_any_moment_of_an_undo_loses_nothing_and_restore_mends_it(
    files: list[Path], bin_: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    died = _dies_at(monkeypatch, moment)
    with contextlib.suppress(Killed):
        trash.trash(bin_, "ink", files)
    monkeypatch.undo()
    assert set(contents(files[0].parent)) == set(expected())
    for item in trash.items(bin_):
        trash.restore(item)
    assert contents(files[0].parent) == expected()
    assert all(path.exists() for path in files)
    assert moment < 30 or not died, "all moments were tried"


@pytest.mark.parametrize("moment", range(30))
def test_a_kill_at_any_moment_of_a_restore_loses_nothing(
    files: list[Path], bin_: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    item = trash.trash(bin_, "ink", files)
    _dies_at(monkeypatch, moment)
    with contextlib.suppress(Killed):
        trash.restore(item)
    monkeypatch.undo()
    assert set(contents(files[0].parent)) == set(expected())
    for left in trash.items(bin_):
        trash.restore(left)
    assert all(path.read_text() == f"content of {path.name}" for path in files)


def _dies_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> list[int]:
    """Lets the so many-th call into the system be the last one."""
    import os

    count, died = [0], []

    def mortal(real):
        def call(*arguments, **more):
            count[0] += 1
            if count[0] > moment:
                died.append(moment)
                raise Killed
            return real(*arguments, **more)

        return call

    for name in ("link", "fsync"):
        monkeypatch.setattr(os, name, mortal(getattr(os, name)))
    for name in ("unlink", "rename", "rmdir"):
        monkeypatch.setattr(Path, name, mortal(getattr(Path, name)))
    return died


def test_on_another_disk_files_are_copied_whole(files: list[Path], bin_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "moved_at_once", lambda old, new: False)
    item = trash.trash(bin_, "ink", files)
    assert not any(path.exists() for path in files)
    trash.restore(item)
    assert all(path.read_text() == f"content of {path.name}" for path in files)
    assert not list(bin_.rglob("*.trashed"))


def test_restore_never_writes_over_a_newer_file(files: list[Path], bin_: Path) -> None:
    item = trash.trash(bin_, "ink", files)
    files[1].write_text("a newer picture")
    with pytest.raises(OutputError, match="another file has this name"):
        trash.restore(item)
    assert files[1].read_text() == "a newer picture"
    assert not files[0].exists()
    assert len(list(bin_.rglob("*.trashed"))) == 3


def test_an_undo_that_fails_in_the_middle_is_taken_back(
    files: list[Path], bin_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = moving.move

    def fails_for_the_lora(old: Path, new: Path) -> None:
        if old.suffix == ".safetensors":
            raise OutputError(f"{old}: in use")
        real(old, new)

    monkeypatch.setattr(trash, "move", fails_for_the_lora)
    with pytest.raises(OutputError, match="in use"):
        trash.trash(bin_, "ink", files)
    assert all(path.exists() for path in files)
    assert trash.items(bin_) == []


def test_emptying_deletes_what_we_put_there_and_nothing_else(files: list[Path], bin_: Path) -> None:
    item = trash.trash(bin_, "ink", files)
    (bin_ / "mine.txt").write_text("not yours")
    (bin_ / item.id / "note.txt").write_text("not yours")
    assert trash.empty(bin_) == (3, sum(len(f"content of {name}") for name in NAMES))
    assert contents(bin_) == ["not yours", "not yours"]


@pytest.mark.parametrize("kept", ["../../ink.safetensors", "/etc/passwd", "000.safetensors", "", "a/b.trashed"])
def test_a_manifest_with_names_that_we_never_gave_is_left_alone(files: list[Path], bin_: Path, kept: str) -> None:
    item = trash.trash(bin_, "ink", files)
    path = bin_ / item.id / trash.MANIFEST
    document = json.loads(path.read_text())
    document["files"][0]["kept"] = kept
    path.write_text(json.dumps(document))
    assert trash.items(bin_) == []


def test_a_trash_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert trash.items(tmp_path / "none") == []
    assert trash.empty(tmp_path / "none") == (0, 0)


def test_the_lora_is_the_last_file_to_move(files: list[Path], bin_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    real = moving.move

    def move(old: Path, new: Path) -> None:
        moved.append(old.suffix)
        real(old, new)

    monkeypatch.setattr(trash, "move", move)
    item = trash.trash(bin_, "ink", files)
    assert moved == [".png", ".json", ".safetensors"]
    trash.restore(item)
    assert moved[-1] == ".trashed"
    assert item.files[-1].home == files[0]


def test_a_file_of_the_same_size_is_not_the_same_file(files: list[Path], bin_: Path) -> None:
    item = trash.trash(bin_, "ink", files)
    files[0].write_text("CONTENT of ink_46mb.safetensors")
    assert files[0].stat().st_size == item.files[-1].bytes
    with pytest.raises(OutputError, match="another file has this name"):
        trash.restore(item)
    assert (item.folder / item.files[-1].kept).exists()


def test_a_copy_that_differs_is_thrown_away_and_the_original_stays(
    files: list[Path], bin_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "moved_at_once", lambda old, new: False)
    monkeypatch.setattr(moving, "same_content", lambda old, new: False)
    with pytest.raises(OutputError, match="differs"):
        trash.trash(bin_, "ink", files)
    assert contents(files[0].parent) == expected()


def test_emptying_follows_no_links(files: list[Path], bin_: Path, tmp_path: Path) -> None:
    item = trash.trash(bin_, "ink", files)
    item.folder.rename(tmp_path / "elsewhere")
    item.folder.symlink_to(tmp_path / "elsewhere")
    assert trash.empty(bin_) == (0, 0)
    assert len(list((tmp_path / "elsewhere").glob("*.trashed"))) == 3

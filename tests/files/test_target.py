"""Laws of what may be written: a free name, or a file of this program; never anything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lib_resize.errors import OutputError
from lib_resize.files.target import RESULT, FileKind, Inputs, check_folder, check_target

OURS = FileKind("a file of ours", lambda path: path.read_bytes().startswith(b"ours"))


def link_to_ours(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"ours")
    path.symlink_to(other)


def protected(path: Path) -> None:
    path.write_bytes(b"ours")
    path.chmod(0o444)


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "foreign": (lambda path: path.write_bytes(b"theirs"), "is not a file of ours"),
    "empty": (lambda path: path.write_bytes(b""), "is not a file of ours"),
    "folder": (lambda path: path.mkdir(), "a folder of this name"),
    "link": (link_to_ours, "there is a link here"),
    "dangling": (lambda path: path.symlink_to(path.with_name("gone")), "there is a link here"),
    "protected": (protected, "write-protected"),
    "pipe": (lambda path: os.mkfifo(path), "there is a pipe here"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_refused(tmp_path: Path, kind: str, overwrite: bool) -> None:
    make, reason = FOREIGN[kind]
    try:
        make(tmp_path / "x")
    except (OSError, AttributeError):
        pytest.skip("this system has no such thing")
    with pytest.raises(OutputError, match=reason if overwrite else "x: "):
        check_target(tmp_path / "x", OURS, overwrite=overwrite)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a device file")
def test_a_device_is_refused() -> None:
    with pytest.raises(OutputError, match="a device"):
        check_target(Path(os.devnull), OURS, overwrite=True)


def test_a_free_name_and_with_overwrite_a_file_of_ours_may_be_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    check_target(path, OURS, overwrite=False)
    path.write_bytes(b"ours too")
    check_target(path, OURS, overwrite=True)
    with pytest.raises(OutputError, match="exists already"):
        check_target(path, OURS, overwrite=False)


@pytest.mark.parametrize("spelling", ["same", "hard", "through a linked folder", "relative"])
def test_an_input_is_refused_under_every_name_though_it_is_ours(
    tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"ours")
    path = source
    try:
        if spelling == "hard":
            path = tmp_path / "other"
            os.link(source, path)
        if spelling == "through a linked folder":
            (tmp_path / "below").mkdir()
            (tmp_path / "below" / "up").symlink_to(tmp_path, target_is_directory=True)
            path = tmp_path / "below" / "up" / "source"
    except OSError:
        pytest.skip("this disk has no links")
    if spelling == "relative":
        monkeypatch.chdir(tmp_path)
        path = Path("source")
    with pytest.raises(OutputError, match="an input of this run"):
        check_target(path, OURS, overwrite=True, inputs=Inputs([source, tmp_path / "absent"]))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_disk_can_hold_are_an_error_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError):
        check_target(tmp_path / name, OURS, overwrite=True)
    with pytest.raises(OutputError):
        check_folder(tmp_path / name)


def test_a_result_is_known_by_its_record_alone(tmp_path: Path, lora: Path) -> None:
    for content in (lora.read_bytes(), b"", b"\xff" * 100):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(OutputError, match="is not a result of Resize LoRA"):
            check_target(tmp_path / "x.safetensors", RESULT, overwrite=True)


def test_a_folder_that_is_not_there_yet_is_fine_and_is_not_made(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "below")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_a_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="there is a file where a folder should be"):
            check_folder(folder)


def test_a_folder_that_may_not_be_written_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(OutputError, match="no permission to write"):
        check_folder(tmp_path / "new")

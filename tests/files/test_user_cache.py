"""Small JSON files that save time: whole or missing, and never an error."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lib_resize.files.user_cache import cache_folder, read_document, write_document


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "缓存 & 'cache'"))
    return cache_folder()


def test_what_was_written_is_read(folder: Path) -> None:
    write_document("a.json", {"名": [1.5, None]})
    assert read_document("a.json") == {"名": [1.5, None]}
    assert [one.name for one in folder.iterdir()] == ["a.json"]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_missing_and_can_be_replaced(folder: Path, data: bytes) -> None:
    folder.mkdir()
    (folder / "a.json").write_bytes(data)
    assert read_document("a.json") is None
    write_document("a.json", [1])
    assert read_document("a.json") == [1]


def test_a_place_that_cannot_be_written_is_ignored(folder: Path) -> None:
    folder.write_text("a file")
    write_document("a.json", [1])
    assert read_document("a.json") is None
    assert folder.read_text() == "a file"


def test_threads_that_write_at_the_same_time_leave_a_whole_file(folder: Path) -> None:
    documents = [[number] * 20_000 for number in range(4)]
    write_document("a.json", documents[0])
    writers = [threading.Thread(target=write_document, args=("a.json", one)) for one in documents for _ in range(5)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert read_document("a.json") in documents
    assert read_document("a.json") in documents
    assert [one.name for one in folder.iterdir()] == ["a.json"]

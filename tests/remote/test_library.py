"""``library`` of a store shows what it shows of a folder."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest

from lib_resize.progress import Quiet
from lib_resize.remote.library import survey_store
from lib_resize.studies.survey import SurveyOptions
from tests.remote.material import contents, run, write_library

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def library(tmp_path) -> Path:
    folder = write_library(tmp_path / "loras", 3)
    shutil.copy(folder / "a.safetensors", folder / "copy of a.safetensors")
    (folder / "broken.safetensors").write_bytes(b"x" * 20)
    return folder


@pytest.fixture
def url(library) -> str:
    name = uuid.uuid4().hex
    fsspec.filesystem("memory").put(str(library), f"/{name}", recursive=True)
    return f"memory://{name}"


def shown(capsys, *arguments: object) -> dict[str, object]:
    assert run("library", *arguments, "--json") == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_survey_of_a_store_is_that_of_the_folder(library, url, capsys) -> None:
    local, remote = shown(capsys, library), shown(capsys, url)
    assert remote["folder"] == url
    order = {**local, "folder": url, "files": sorted(local["files"], key=lambda row: row["file"])}  # type: ignore
    assert remote == order
    assert remote["duplicate_bytes"]


def test_the_text_names_the_url(url, capsys) -> None:
    assert run("library", url) == 0
    assert f"{url}: 5 files" in capsys.readouterr().out


def test_a_file_that_cannot_be_fetched_is_a_finding(url, monkeypatch) -> None:
    from lib_resize.remote.fsspec_store import FsspecPlace

    fetch = FsspecPlace.fetch

    def failing(self: FsspecPlace, name: str, target: Path) -> None:
        if name == "a.safetensors":
            raise OSError("away")
        fetch(self, name, target)

    monkeypatch.setattr(FsspecPlace, "fetch", failing)
    found = survey_store(url, SurveyOptions(), Quiet())
    (entry,) = (entry for entry in found.entries if entry.path.name == "a.safetensors")
    assert entry.problem == "cannot be fetched: away"
    assert entry.bytes > 0


def test_a_store_without_loras_is_refused(capsys) -> None:
    assert run("library", "memory://empty") == 2
    assert "no .safetensors file" in capsys.readouterr().err


def test_nothing_is_left_on_the_disk(url, tmp_path, monkeypatch, capsys) -> None:
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    shown(capsys, url)
    assert contents(scratch) == {}

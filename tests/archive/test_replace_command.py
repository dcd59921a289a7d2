"""`resize --replace`, `restore` and `archive` on the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib_resize.archive import replacing
from lib_resize.archive.entries import entries
from lib_resize.archive.place import Archive
from lib_resize.cli.main import main
from tests.library import check_facts, contents, sha256, write_sidecars, write_small_lora

REPLACE = ["resize", "Lora", "--replace", "--threads", "1", "-r"]


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Path, bytes]:
    """Three LoRAs with sidecars, the current folder above them."""
    for seed, name in enumerate(("a/ink", "a/pastry", "b/墨")):
        write_sidecars(write_small_lora(tmp_path / "Lora" / f"{name}.safetensors", seed))
    monkeypatch.chdir(tmp_path)
    return contents(tmp_path / "Lora")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "Resize LoRA archive", (tmp_path / "Lora",))


def loras() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(Path("Lora").resolve().rglob("*.safetensors"))}


def test_a_folder_is_replaced_and_restored(
    first: dict[Path, bytes], archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*REPLACE, "rank=1"]) == 0
    printed = capsys.readouterr().out
    assert "3 files replaced: " in printed
    assert "0 left alone, 0 failed." in printed
    assert str(archive.folder) in printed
    assert contents(Path("Lora")).keys() == {path.relative_to(Path.cwd()) for path in first}
    for path, data in loras().items():
        assert len(data) < len(first[path])
        check_facts(path)
    assert main(["restore", "--all"]) == 0
    assert "3 restored" in capsys.readouterr().out
    assert contents(Path("Lora").resolve()) == first


def test_a_second_run_changes_nothing_and_says_why(
    first: dict[Path, bytes], archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*REPLACE, "rank=1"]) == 0
    before = contents(Path.cwd())
    capsys.readouterr()
    assert main([*REPLACE, "rank=1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("was replaced with this recipe before") == 3
    assert "0 files replaced" in printed
    assert contents(Path.cwd()) == before


def test_another_recipe_makes_the_files_again_from_their_originals(first: dict[Path, bytes], archive: Archive) -> None:
    assert main([*REPLACE, "rank=1"]) == 0
    assert main([*REPLACE, "rank=3"]) == 0
    twice = loras()
    assert {sha256(first[entry.home]) for entry in entries(archive)} == {one.sha256_before for one in entries(archive)}
    assert main(["restore", "Lora"]) == 0
    assert contents(Path("Lora").resolve()) == first
    assert main([*REPLACE, "rank=3"]) == 0
    assert loras() == twice


def test_a_dry_run_writes_nothing(
    first: dict[Path, bytes], archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*REPLACE, "rank=1", "--dry-run"]) == 0
    assert "3 files would be replaced: " in capsys.readouterr().out
    assert contents(Path.cwd()) == first
    assert not archive.folder.exists()


def test_files_that_are_left_alone_are_named_with_the_reason(
    first: dict[Path, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    ink = Path("Lora/a/ink.safetensors")
    os.link("Lora/a/pastry.safetensors", "Lora/b/hard.safetensors")
    Path("Lora/b/link.safetensors").symlink_to(ink.resolve())
    shutil.copy(ink, "Lora/b/copy.safetensors")
    Path("Lora/b/broken.safetensors").write_bytes(b"1234567890")
    Path("Lora/b/墨.safetensors").chmod(0o444)
    before = contents(Path("Lora"))
    assert main([*REPLACE, "rank=1"]) == 0
    printed = capsys.readouterr().out
    for name, reason in {
        "a/pastry": "hard links",
        "b/hard": "hard links",
        "b/link": "is a link to",
        "b/copy": "is a copy of",
        "b/broken": "header",
        "b/墨": "is write-protected",
    }.items():
        (line,) = [one for one in printed.splitlines() if one.startswith(f"Lora/{name}.safetensors: left alone")]
        assert reason in line
        assert line.count(f"{name}.safetensors") == 1
    assert "1 file replaced" in printed
    assert "6 left alone" in printed
    after = contents(Path("Lora"))
    assert {path for path in before if path.suffix == ".safetensors" and after[path] != before[path]} == {
        ink,
        Path("Lora/b/link.safetensors"),
    }
    assert main([*REPLACE, "rank=1"]) == 0
    assert "is a copy of" in capsys.readouterr().out, "its twin is small now, but the archive has the original"


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--least-gain", "90"], "it would save only"), (["--floor", "0.999"], "its weight retention would be")],
)
def test_too_small_gains_and_too_low_retentions_are_left_alone(
    first: dict[Path, bytes], capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    assert main([*REPLACE, "rank=1", *options]) == 0
    assert capsys.readouterr().out.count(reason) == 3
    assert contents(Path("Lora").resolve()) == first


def test_a_file_that_would_grow_is_left_alone(first: dict[Path, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*REPLACE, "rank=8", "-t", "32", "--least-gain", "0"]) == 0
    assert capsys.readouterr().out.count("the new file would not be smaller") == 3
    assert contents(Path("Lora").resolve()) == first


def test_without_originals_nothing_is_kept(first: dict[Path, bytes], archive: Archive) -> None:
    assert main([*REPLACE, "rank=1", "--no-originals"]) == 2
    assert contents(Path("Lora").resolve()) == first
    assert main([*REPLACE, "rank=1", "--no-originals", "--yes"]) == 0
    assert all(len(data) < len(first[path]) for path, data in loras().items())
    assert contents(archive.originals) == {}


def test_another_folder_for_the_archive(first: dict[Path, bytes], tmp_path: Path) -> None:
    place = ["--archive", str(tmp_path / "elsewhere" / "mine")]
    assert main([*REPLACE, "rank=1", *place]) == 0
    assert len(entries(Archive(tmp_path / "elsewhere" / "mine"))) == 3
    assert main(["restore", "Lora/a", *place]) == 0
    assert len(entries(Archive(tmp_path / "elsewhere" / "mine"))) == 1
    assert main(["restore", "Lora/b/墨", *place]) == 0
    assert contents(Path("Lora").resolve()) == first


def test_an_archive_in_the_lora_folder_is_refused(first: dict[Path, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*REPLACE, "rank=1", "--archive", "Lora/archive"]) == 1
    assert "is inside of" in capsys.readouterr().err
    assert contents(Path("Lora").resolve()) == first


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["resize", "Lora", "--replace", "-r", "rank=1:rank=2"], "a single recipe"),
        (["resize", "Lora", "--replace", "-o", "out"], "--output-folder does not go with --replace"),
        (["resize", "Lora", "--replace", "--suffix", "_x"], "--suffix does not go with --replace"),
        (["resize", "Lora/a/ink:0.5,Lora/a/pastry:0.5", "--replace"], "a merge cannot replace its files"),
        (["resize", "Lora", "--archive", "x"], "--archive needs --replace"),
        (["resize", "Lora", "--least-gain", "5"], "--least-gain needs --replace"),
        (["restore"], "choose one of these: the files or folders"),
        (["restore", "--all", "--run", "x"], "choose one of these: the files or folders"),
        (["restore", "--all"], "was found above"),
        (["restore", "--all", "--archive", "Lora"], "is not an archive"),
        (["archive", "list"], "was found above"),
    ],
)
def test_what_makes_no_sense_is_refused(
    first: dict[Path, bytes], capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    assert main(words) == 2
    assert reason in capsys.readouterr().err
    assert contents(Path.cwd()) == first


def test_the_archive_is_listed_and_purged(
    first: dict[Path, bytes], archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resize", "Lora/a", "--replace", "-r", "rank=1"]) == 0
    assert main(["resize", "Lora/b", "--replace", "-r", "rank=1"]) == 0
    capsys.readouterr()
    assert main(["archive", "list"]) == 0
    assert "3 originals" in capsys.readouterr().out
    assert main(["archive", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {entry["path"] for entry in found["entries"]} == {str(path) for path in loras()}
    assert found["bytes"] == sum(len(data) for path, data in first.items() if path.suffix == ".safetensors")
    run = next(entry["run"] for entry in found["entries"] if entry["name"] == "墨")
    assert main(["archive", "purge"]) == 2
    assert main(["archive", "purge", "--run", "none", "--yes"]) == 2
    assert main(["archive", "purge", "--run", run]) == 2
    assert "1 original with 0.01 MiB would be deleted" in capsys.readouterr().err
    assert len(entries(archive)) == 3
    assert main(["archive", "purge", "--run", run, "--yes"]) == 0
    assert "1 original deleted" in capsys.readouterr().out
    assert main(["archive", "purge", "--older-than", "1", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 0
    assert main(["archive", "purge", "--all", "--yes"]) == 0
    assert (entries(archive), contents(archive.originals)) == ([], {})


def test_each_command_first_recovers_what_a_killed_run_left(
    first: dict[Path, bytes], archive: Archive, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    for words in (["archive", "list"], ["restore", "--all"], [*REPLACE, "rank=1"]):
        with monkeypatch.context() as patch:
            patch.setattr(replacing, "complete", dies)
            patch.setattr(replacing, "revert", dies)
            assert main([*REPLACE, "rank=1"]) == 130
        capsys.readouterr()
        assert main(words) == 0
        assert "the replacement was completed" in capsys.readouterr().out
        main(["restore", "--all"])
        assert contents(Path("Lora").resolve()) == first


def test_a_file_in_the_way_of_a_restore_is_a_failure_and_the_others_come_back(
    first: dict[Path, bytes], archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*REPLACE, "rank=1"]) == 0
    Path("Lora/a/ink.safetensors").write_bytes(b"mine")
    assert main(["restore", "--all"]) == 1
    found = capsys.readouterr()
    assert "2 restored" in found.out
    assert "another file has this name now" in found.err
    assert Path("Lora/a/ink.safetensors").read_bytes() == b"mine"


def test_the_report_has_what_was_left_alone(first: dict[Path, bytes]) -> None:
    Path("Lora/b/broken.safetensors").write_bytes(b"1234567890")
    assert main([*REPLACE, "rank=1", "--report", "report.json"]) == 0
    rows = json.loads(Path("report.json").read_text())
    assert [row["output"] for row in rows if "output" in row] == [row["source"] for row in rows if "output" in row]
    assert [row["source"] for row in rows if "left" in row] == ["Lora/b/broken.safetensors"]
    assert rows[-1]["totals"]["results"] == 3


def test_two_runs_at_once_on_one_folder(first: dict[Path, bytes], archive: Archive) -> None:
    """Both end well, and every file is small, with one original."""
    command = [sys.executable, "-m", "lib_resize", *REPLACE]
    paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
    runs = [subprocess.Popen([*command, f"rank={rank}"], env={**os.environ, **paths}, stderr=-1) for rank in (1, 2)]
    errors = [run.communicate()[1].decode() for run in runs]
    found = {entry.home: entry for entry in entries(archive)}
    assert len(found) == len(entries(archive)) == 3, errors
    for path, data in loras().items():
        assert (sha256(data), sha256(first[path])) == (found[path].sha256_after, found[path].sha256_before)
    assert main(["restore", "--all"]) == 0
    assert contents(Path("Lora").resolve()) == first

"""Runs over a library, end to end: small files under the old names, originals in the archive, and all of it undone."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lib_resize.archive.recovery import Recovered
from lib_resize.archive.replacing import replace as replace_file
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.engine.writing import execute as write_file
from lib_resize.errors import OutputError
from lib_resize.files.header import MODEL_HASH, read_header
from lib_resize.files.metadata import RECORD
from lib_resize.hosts.standalone import StandaloneHost
from lib_resize.panel.faults import Fault
from lib_resize.panel.runs.document import RunDocument, RunItem, RunOrder
from lib_resize.panel.runs.store import RunStore
from lib_resize.panel.service import Service
from tests.panel.panelhost import Browser, fake_host

LOW = {"target": {"preset": "low"}, "least_gain": 0.0}
NAMES = ("ink", "pastry", "third")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but those of the trash, which the made-up host has inside of its folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".resize_lora_trash" not in path.parts)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory, pantry: Path) -> Path:
    folder = Path(shutil.copytree(pantry, tmp_path_factory.mktemp("three") / "Lora"))
    (folder / "sub").mkdir()
    write_lora(folder / "sub" / "third.safetensors", LoraOptions(rank=8, text_encoders=False, seed=3))
    (folder / "pastry.json").write_text(
        '{"activation text": "cake", "sha256": "' + sha256(folder / "pastry.safetensors") + '"}'
    )
    (folder / "pastry.png").write_bytes(b"png")
    return folder


@pytest.fixture
def root(tmp_path: Path, three: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "models" / "Lora"))


def archived(root: Path) -> list[Path]:
    return sorted((root.parent / "Resize LoRA archive" / "originals").rglob("*.safetensors"))


def serve(root: Path, tmp_path: Path, host: Any = None) -> Browser:
    return Browser(Service(host or StandaloneHost([root]), tmp_path / "cache" / "library.json"))


def end(browser: Browser) -> None:
    service = browser.service
    service.close()
    service.desk.queue.join()
    service.desk.library.join()
    service.recovering.join(10)


@pytest.fixture
def browser(root: Path, tmp_path: Path) -> Iterator[Browser]:
    made = serve(root, tmp_path, fake_host(root))
    made.listed()
    yield made
    end(made)


def run_of(browser: Browser, **params: Any) -> dict[str, Any]:
    started = browser.ask("shrink", **{**LOW, **params})
    result = browser.done(started["job"])
    assert result["run"] == started["run"]
    return result  # type: ignore[no-any-return]


def items(browser: Browser, run: str) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in browser.ask("run", run=run)["items"]}


# A whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["fake", "standalone"])
def either(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Iterator[Browser]:
    made = serve(root, tmp_path, fake_host(root) if request.param == "fake" else None)
    yield made
    end(made)


def test_a_run_leaves_the_names_and_archives_the_originals(either: Browser, root: Path) -> None:
    browser = either
    before = contents(root)
    sizes = {name: entry["bytes"] for name, entry in browser.listed().items()}
    run = run_of(browser)
    assert (run["state"], run["files"], run["done"], run["resized"]) == ("done", 3, 3, 3)
    assert run["bytes_before"] == sum(sizes.values())
    assert run["freed"] == sum(sizes.values()) - sum(path.stat().st_size for path in root.rglob("*.safetensors")) > 0
    assert run["archived"] == run["bytes_before"]
    assert run["ended"] >= run["began"]
    assert contents(root).keys() == before.keys()
    assert [sha256(path) for path in archived(root)] == [
        before[name] for name in ("ink.safetensors", "pastry.safetensors", "sub/third.safetensors")
    ]
    for name, item in items(browser, run["run"]).items():
        assert item["state"] == "resized"
        assert item["bytes_before"] == sizes[name]
        assert 0.8 < item["retention"] <= 1
        assert item["seconds"] > 0
    header = read_header(root / "pastry.safetensors")
    record = json.loads(header.metadata[RECORD])
    assert record["source_sha256"] == before["pastry.safetensors"]
    assert header.metadata[MODEL_HASH]
    assert json.loads((root / "pastry.json").read_text())["sha256"] == sha256(root / "pastry.safetensors")
    listed = browser.listed()
    assert all(listed[name]["archived"] and listed[name]["ours"] for name in sizes)


def test_undo_all_of_a_run_brings_every_byte_back(either: Browser, root: Path) -> None:
    browser = either
    browser.listed()
    before = contents(root)
    run = run_of(browser)
    assert contents(root) != before
    done = browser.done(browser.ask("restore_originals", run=run["run"])["job"])
    assert sorted(done["restored"]) == list(NAMES)
    assert done["refused"] == done["notes"] == []
    assert contents(root) == before
    assert archived(root) == []
    again = browser.ask("run", run=run["run"])
    assert (again["run"]["restored"], again["run"]["resized"], again["run"]["freed"]) == (3, 0, 0)
    assert {item["state"] for item in again["items"]} == {"restored"}
    assert all(file["archived"] is None for file in browser.listed().values())
    assert browser.error("restore_originals", run=run["run"])["kind"] == "gone"


def test_one_file_is_a_run_too(browser: Browser, root: Path) -> None:
    other = sha256(root / "ink.safetensors")
    run = run_of(browser, names=["pastry"])
    assert (run["files"], run["resized"]) == (1, 1)
    assert sha256(root / "ink.safetensors") == other


def test_the_host_reads_replaced_and_restored_files_again(browser: Browser) -> None:
    host: Any = browser.service.desk.host
    run = run_of(browser, names=["pastry"])
    browser.done(browser.ask("restore_originals", run=run["run"])["job"])
    replaced = [event for event in host.events if event[0] == "replaced"]
    assert replaced == [("replaced", "pastry", "locked")] * 2, "under the lock, so that no image comes in between"


# Limits ----------------------------------------------------------------------------------------------------------


def test_what_gains_too_little_or_loses_too_much_is_left_alone(browser: Browser, root: Path) -> None:
    before = contents(root)
    run = run_of(browser, names=["pastry", "third"], least_gain=99.0)
    left = items(browser, run["run"])
    assert {one["reason"] for one in left.values()} == {"gain"}
    assert all(one["bytes_after"] and "99%" in one["message"] for one in left.values())
    run = run_of(browser, target={"preset": "low"}, floor=0.99)
    assert {one["reason"] for one in items(browser, run["run"]).values()} == {"floor"}
    assert (run["state"], run["resized"], run["left"], run["freed"]) == ("done", 0, 3, 0)
    assert contents(root) == before
    assert not (root.parent / "Resize LoRA archive" / "entries").exists() or archived(root) == []


def test_folders_and_families_are_excluded(browser: Browser, root: Path) -> None:
    run = run_of(browser, excluded_folders=["sub"])
    assert {name: one["reason"] for name, one in items(browser, run["run"]).items()} == {
        "ink": None, "pastry": None, "third": "folder",
    }  # fmt: skip
    family = browser.listed()["third"]["family"]
    run = run_of(browser, excluded_families=[family], again=True)
    assert {one["reason"] for one in items(browser, run["run"]).values()} == {"family"}


def test_links_copies_and_files_that_were_resized_before_are_named(browser: Browser, root: Path) -> None:
    shutil.copy(root / "pastry.safetensors", root / "copy of pastry.safetensors")
    os.link(root / "ink.safetensors", root.parent / "second name")
    (root / "link.safetensors").symlink_to(root / "sub" / "third.safetensors")
    (root / "broken.safetensors").write_bytes(b"no header")
    made = browser.resized("third")
    browser.listed()
    rows = {row["name"]: row for row in browser.ask("shrink_plan", target={"preset": "low"})["rows"]}
    left = {name: row["left"] for name, row in rows.items()}
    assert left == {
        "pastry": None, "copy of pastry": "copy", "ink": "hard_link", "link": "link", "broken": "broken",
        "third": None, made["output"]: "resized",
    }  # fmt: skip
    assert all(bool(row["message"]) == (row["left"] is not None) for row in rows.values())
    before = contents(root)
    run = run_of(browser, excluded_folders=["sub"])
    changed = {name for name, sha in contents(root).items() if before.get(name) != sha}
    assert changed == {"pastry.safetensors", "pastry.json"}
    assert items(browser, run["run"])["copy of pastry"]["reason"] == "copy"


def test_a_second_run_leaves_all_alone_and_again_reads_the_archived_original(browser: Browser, root: Path) -> None:
    original = sha256(root / "pastry.safetensors")
    size = (root / "pastry.safetensors").stat().st_size
    first = run_of(browser, names=["pastry"])
    small = sha256(root / "pastry.safetensors")
    second = run_of(browser, names=["pastry"])
    assert items(browser, second["run"])["pastry"]["reason"] == "resized"
    assert sha256(root / "pastry.safetensors") == small
    row = browser.ask("shrink_plan", names=["pastry"], again=True)["rows"][0]
    assert (row["bytes"], row["left"]) == (size, None)
    third = run_of(browser, names=["pastry"], again=True, target={"preset": "high"})
    item = items(browser, third["run"])["pastry"]
    assert item["bytes_before"] == size
    assert item["retention"] > items(browser, first["run"])["pastry"]["retention"]
    record = json.loads(read_header(root / "pastry.safetensors").metadata[RECORD])
    assert record["source_sha256"] == original
    assert [sha256(path) for path in archived(root)] == [original]


def test_resizing_a_replaced_file_reads_its_original(browser: Browser, root: Path) -> None:
    browser.analysed("pastry")
    before = browser.ask("plan", name="pastry", target={"preset": "high"})
    run_of(browser, names=["pastry"])
    assert browser.error("plan", name="pastry", target={"preset": "high"})["kind"] == "not_analysed"
    browser.analysed("pastry")
    after = browser.ask("plan", name="pastry", target={"preset": "high"})
    assert {key: after[key] for key in ("bytes_before", "bytes_after", "retention", "output")} == {
        key: before[key] for key in ("bytes_before", "bytes_after", "retention", "output")
    }
    made = browser.resized("pastry", target={"preset": "high"})
    new = root / f"{made['output']}.safetensors"
    assert made["bytes_before"] == before["bytes_before"]
    assert new.exists()
    assert new.with_suffix(".png").exists(), "the sidecars are those next to the file of the list"
    assert len(archived(root)) == 1


def test_a_file_that_someone_put_in_the_place_of_the_small_one_is_resized_itself(browser: Browser, root: Path) -> None:
    run_of(browser, names=["pastry"])
    shutil.copy(root / "sub" / "third.safetensors", root / "pastry.safetensors")
    browser.listed()
    third = sha256(root / "pastry.safetensors")
    made = browser.resized("pastry", target={"preset": "low"})
    record = json.loads(read_header(root / f"{made['output']}.safetensors").metadata[RECORD])
    assert record["source_sha256"] == third


# Originals -------------------------------------------------------------------------------------------------------


def test_to_keep_no_originals_must_be_confirmed(browser: Browser, root: Path) -> None:
    before = contents(root)
    assert browser.error("shrink", originals="none", **LOW)["kind"] == "confirm"
    assert contents(root) == before
    run = run_of(browser, originals="none", confirm=True)
    assert (run["resized"], run["archived"], run["originals"]) == (3, 0, "none")
    assert archived(root) == []
    assert browser.ask("archive")["entries"] == []
    assert {one["entry"] for one in items(browser, run["run"]).values()} == {None}


def test_the_archive_is_listed_counted_and_purged(browser: Browser, root: Path) -> None:
    run = run_of(browser)
    listed = browser.ask("archive")
    assert listed["folder"] == str(root.parent / "Resize LoRA archive")
    assert [(one["name"], one["run"], one["there"]) for one in listed["entries"]] == [
        (name, run["run"], True) for name in NAMES
    ]
    assert listed["bytes"] == run["bytes_before"]
    size = browser.ask("hello")["archive"]
    assert (size["bytes"], size["entries"]) == (run["bytes_before"], 3)
    assert browser.ask("purge", older_days=1) == {"files": 0, "bytes": 0, "done": False}
    assert browser.ask("purge", all=True) == {"files": 3, "bytes": run["bytes_before"], "done": False}
    assert len(archived(root)) == 3
    (ink,) = (one["entry"] for one in listed["entries"] if one["name"] == "ink")
    revision = browser.ask("library")["revision"]
    assert browser.ask("purge", entries=[ink], confirm=True)["files"] == 1
    assert [path.stem for path in archived(root)] == ["pastry", "third"]
    changed = {file["name"]: file["archived"] for file in browser.ask("library", since=revision)["files"]}
    assert changed["ink"] is None
    assert items(browser, run["run"])["ink"]["state"] == "purged"
    assert browser.ask("run", run=run["run"])["run"]["resized"] == 3, "it is small nevertheless"
    assert browser.error("restore_originals", names=["ink"])["kind"] == "gone"
    assert browser.error("purge", entries=[ink])["kind"] == "gone"
    assert browser.error("purge", all=False)["kind"] == "request"
    assert browser.ask("purge", run=run["run"], confirm=True)["files"] == 2


def test_what_changed_since_is_not_overwritten_by_a_restore(browser: Browser, root: Path) -> None:
    run = run_of(browser)
    shutil.copy(root / "sub" / "third.safetensors", root / "ink.safetensors")
    mine = sha256(root / "ink.safetensors")
    done = browser.done(browser.ask("restore_originals", all=True)["job"])
    assert sorted(done["restored"]) == ["pastry", "third"]
    assert [one["name"] for one in done["refused"]] == ["ink"]
    assert str(root) not in done["refused"][0]["message"]
    assert sha256(root / "ink.safetensors") == mine
    assert items(browser, run["run"])["ink"]["state"] == "resized"


def test_an_archive_inside_of_a_scanned_folder_is_refused(root: Path, tmp_path: Path) -> None:
    browser = serve(root, tmp_path, fake_host(root, set={"resize_lora_archive": str(root / "old")}))
    browser.listed()
    before = contents(root)
    assert "Choose an archive outside" in browser.ask("shrink_plan")["archive"]["problem"]
    assert "Choose an archive outside" in browser.ask("archive")["problem"]
    assert browser.error("shrink", **LOW)["kind"] == "output"
    assert browser.ask("runs")["runs"] == []
    assert contents(root) == before
    end(browser)


def test_the_archive_of_the_settings_is_used(root: Path, tmp_path: Path) -> None:
    browser = serve(root, tmp_path, fake_host(root, set={"resize_lora_archive": str(tmp_path / "elsewhere")}))
    run_of(browser, names=["ink"])
    assert [path.name for path in (tmp_path / "elsewhere" / "originals").rglob("*.safetensors")] == ["ink.safetensors"]
    end(browser)


def test_a_remote_page_gets_no_folder(root: Path, tmp_path: Path) -> None:
    browser = serve(root, tmp_path, fake_host(root, remote=True))
    run_of(browser, names=["ink"])
    answers = [browser.ask(one) for one in ("hello", "archive", "shrink_plan", "runs")]
    assert str(tmp_path) not in json.dumps(answers)
    assert answers[1]["folder"] is answers[0]["archive"]["folder"] is answers[2]["archive"]["folder"] is None
    end(browser)


# Faults ----------------------------------------------------------------------------------------------------------


def failing(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Callable[[], Exception], times: int = 10**6
) -> list[str]:
    """Let the replacement of one file fail so many times; return the files that were tried."""
    tried: list[str] = []

    def replace(archive: Any, replacement: Any) -> Any:
        tried.append(replacement.name)
        if replacement.name == name and tried.count(name) <= times:
            raise error()
        return replace_file(archive, replacement)

    monkeypatch.setattr("lib_resize.panel.runs.one_file.replace_file", replace)
    return tried


def caused(cause: OSError) -> OutputError:
    error = OutputError("x.safetensors: cannot be written.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [OutputError("it broke"), MemoryError(), ValueError("a bug"), OSError(5, "I/O")])
def test_a_file_that_fails_does_not_stop_the_run(
    browser: Browser, root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    before = sha256(root / "pastry.safetensors")
    failing(monkeypatch, "pastry", lambda: error)
    run = run_of(browser)
    assert (run["state"], run["resized"], run["failed"]) == ("done", 2, 1)
    failed = items(browser, run["run"])["pastry"]
    assert (failed["state"], failed["reason"]) == ("failed", "error")
    assert failed["message"]
    assert sha256(root / "pastry.safetensors") == before
    assert not list(root.rglob("*.staged")), "nothing half done is left"


def test_a_file_in_use_is_tried_again_at_the_end(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, "ink", lambda: caused(OSError(errno.EBUSY, "busy")), times=1)
    run = run_of(browser)
    assert tried == ["ink", "pastry", "third", "ink"]
    assert (run["resized"], run["left"]) == (3, 0)


def test_a_file_that_stays_in_use_is_left_with_the_reason(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.EACCES, "access denied")
    error.winerror = 32  # type: ignore[attr-defined]
    tried = failing(monkeypatch, "ink", lambda: caused(error))
    run = run_of(browser)
    assert tried.count("ink") == 2
    assert (run["state"], run["resized"], run["left"]) == ("done", 2, 1)
    assert items(browser, run["run"])["ink"]["reason"] == "in_use"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_pauses_the_run_and_it_goes_on(
    browser: Browser, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    failing(monkeypatch, "pastry", lambda: caused(OSError(code, "full")), times=1)
    run = run_of(browser)
    assert (run["state"], run["done"], run["job"], run["ended"]) == ("paused", 1, None, None)
    assert "cannot be written" in run["message"]
    assert items(browser, run["run"])["pastry"]["state"] == "waiting"
    job = browser.ask("run_control", run=run["run"], action="continue")["run"]["job"]
    assert browser.done(job)["resized"] == 3


def test_a_run_that_cannot_be_recorded_any_more_pauses(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise caused(OSError(errno.ENOSPC, "full"))

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "append", full)
        run = run_of(browser)
    assert run["state"] == "paused"
    job = browser.ask("run_control", run=run["run"], action="continue")["run"]["job"]
    assert browser.done(job)["resized"] == 3


def test_a_batch_that_does_not_fit_is_refused_before_anything_is_written(
    browser: Browser, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.total - 1000, 1000))
    before = contents(root)
    assert browser.error("shrink", **LOW)["kind"] == "output"
    assert contents(root) == before
    assert browser.ask("runs")["runs"] == []


# Control ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Holds every file before it is written until it is let go; `entered` counts."""
    gate, entered = threading.Semaphore(0), threading.Semaphore(0)

    def execute(job: Any, tools: Any, hashes: Any) -> Any:
        entered.release()
        while not gate.acquire(timeout=0.02):
            tools.progress.check()
        return write_file(job, tools, hashes)

    monkeypatch.setattr("lib_resize.panel.runs.one_file.execute", execute)
    made = type("Slow", (), {"gate": gate, "entered": entered})
    yield made
    for _ in range(100):
        gate.release()


def test_a_run_is_paused_in_the_middle_of_a_file_and_continued(browser: Browser, root: Path, slow: Any) -> None:
    started = browser.ask("shrink", **LOW)
    slow.gate.release()
    assert slow.entered.acquire(timeout=20)
    assert slow.entered.acquire(timeout=20)
    running = browser.ask("run", run=started["run"])
    assert (running["run"]["state"], running["run"]["job"]) == ("running", started["job"])
    assert [item["state"] for item in running["items"]] == ["resized", "working", "waiting"]
    assert 0 < running["run"]["share"] < 1
    job = browser.job(started["job"])
    assert (job["run"], job["name"], job["file"], job["files"]) == (started["run"], "pastry", 2, 3)
    assert 0 < job["share"] < 1
    browser.ask("run_control", run=started["run"], action="pause")
    paused = browser.done(started["job"])
    assert (paused["state"], paused["done"], paused["job"]) == ("paused", 1, None)
    assert not list(root.rglob("*.staged"))
    assert browser.error("run_control", run=started["run"], action="pause")["kind"] == "refused"
    for _ in range(10):
        slow.gate.release()
    again = browser.ask("run_control", run=started["run"], action="continue")["run"]
    assert again["job"] not in (None, started["job"])
    assert browser.done(again["job"])["resized"] == 3


@pytest.mark.parametrize("how", ["run_control", "cancel"])
def test_a_run_is_stopped(browser: Browser, slow: Any, how: str) -> None:
    started = browser.ask("shrink", **LOW)
    assert slow.entered.acquire(timeout=20)
    if how == "cancel":
        browser.ask("cancel", job=started["job"])
    else:
        browser.ask("run_control", run=started["run"], action="stop")
    browser.wait(started["job"])
    run = browser.ask("run", run=started["run"])["run"]
    assert (run["state"], run["resized"]) == ("stopped", 0)
    assert run["ended"] is not None
    assert browser.error("run_control", run=started["run"], action="continue")["kind"] == "refused"


@pytest.mark.parametrize(("action", "state"), [("pause", "paused"), ("stop", "stopped")])
def test_a_run_that_waits_for_its_turn_is_paused_and_stopped_at_once(
    browser: Browser, slow: Any, action: str, state: str
) -> None:
    first = browser.ask("shrink", names=["ink"], **LOW)
    assert slow.entered.acquire(timeout=20)
    second = browser.ask("shrink", names=["pastry"], **LOW)
    answer = browser.ask("run_control", run=second["run"], action=action)["run"]
    assert (answer["state"], answer["job"]) == (state, None)
    slow.gate.release()
    browser.done(first["job"])


def test_a_queued_run_whose_job_is_cancelled_is_stopped(browser: Browser, slow: Any) -> None:
    browser.ask("shrink", names=["ink"], **LOW)
    second = browser.ask("shrink", names=["pastry"], **LOW)
    browser.ask("cancel", job=second["job"])
    assert browser.ask("run", run=second["run"])["run"]["state"] == "stopped"


def test_a_run_gives_way_to_other_jobs_between_two_files(browser: Browser, slow: Any) -> None:
    run = browser.ask("shrink", **LOW)
    assert slow.entered.acquire(timeout=20)
    analysis = browser.ask("analyse", names=["third"])["job"]
    slow.gate.release()
    browser.done(analysis)
    state = browser.ask("run", run=run["run"])
    assert state["run"]["state"] == "running"
    assert state["run"]["done"] < 3
    for _ in range(3):
        slow.gate.release()
    assert browser.done(run["job"])["resized"] == 3


def test_a_run_waits_for_the_hosts_image_and_can_be_paused_meanwhile(browser: Browser, slow: Any) -> None:
    host: Any = browser.service.desk.host
    run = browser.ask("shrink", **LOW)
    assert slow.entered.acquire(timeout=20)
    host.working_on = "an image"
    slow.gate.release()
    browser.wait(run["job"], ("waits",))
    assert browser.ask("run", run=run["run"])["run"]["resized"] == 0, "nothing is replaced during an image"
    browser.ask("run_control", run=run["run"], action="pause")
    assert browser.done(run["job"])["state"] == "paused"
    host.working_on = None


def test_unknown_names_and_runs(browser: Browser) -> None:
    assert browser.error("shrink", names=["nobody"], **LOW)["kind"] == "file"
    assert browser.ask("shrink_plan", names=["nobody", "ink"])["unknown"] == ["nobody"]
    for method, params in (("run", {}), ("run_control", {"action": "stop"})):
        assert browser.error(method, run="../../etc/passwd", **params)["kind"] == "gone"


# After a restart -------------------------------------------------------------------------------------------------


def test_a_run_of_an_ended_service_is_interrupted_and_goes_on(root: Path, tmp_path: Path, slow: Any) -> None:
    before = {name: sha256(next(root.rglob(f"{name}.safetensors"))) for name in NAMES}
    first = serve(root, tmp_path)
    run = first.ask("shrink", **LOW)
    slow.gate.release()
    assert slow.entered.acquire(timeout=20)
    assert slow.entered.acquire(timeout=20)
    end(first)
    second = serve(root, tmp_path)
    found = second.ask("runs")["runs"][0]
    assert (found["run"], found["state"], found["done"]) == (run["run"], "interrupted", 1)
    for _ in range(10):
        slow.gate.release()
    job = second.ask("run_control", run=run["run"], action="continue")["run"]["job"]
    assert second.done(job)["resized"] == 3
    assert {path.stem: sha256(path) for path in archived(root)} == before
    end(second)


def test_a_run_that_waits_for_an_image_is_interrupted_by_the_end_of_the_service(root: Path, tmp_path: Path) -> None:
    host: Any = fake_host(root)
    host.working_on = "an image of the person"
    first = serve(root, tmp_path, host)
    started = first.ask("shrink", **LOW)
    first.wait(started["job"], ("waits",))
    end(first)
    second = serve(root, tmp_path, host)
    found = second.ask("runs")["runs"][0]
    assert (found["run"], found["state"], found["done"]) == (started["run"], "interrupted", 0)
    end(second)


def test_a_file_that_was_replaced_but_not_recorded_is_found(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The process was killed between the two."""
    browser = serve(root, tmp_path)
    run = run_of(browser, names=["ink"])
    end(browser)
    store = RunStore(browser.service.desk.runs.store.folder)
    document = store.read(run["run"])
    assert document is not None
    ink = document.items[0]
    document.items[0] = RunItem(ink.name, ink.folder, ink.family, ink.path, ink.bytes)
    document.state, document.ended = "running", None
    store.write(document)
    browser = serve(root, tmp_path)
    monkeypatch.setattr("lib_resize.panel.runs.working.shrink", lambda *_: pytest.fail("it is resized already"))
    job = browser.ask("run_control", run=run["run"], action="continue")["run"]["job"]
    done = browser.done(job)
    assert (done["state"], done["resized"], done["freed"]) == ("done", 1, run["freed"])
    assert items(browser, run["run"])["ink"]["entry"] == ink.entry
    end(browser)


def test_two_services_do_not_work_on_one_run(root: Path, tmp_path: Path, slow: Any) -> None:
    first, second = serve(root, tmp_path), serve(root, tmp_path / "b")
    run = first.ask("shrink", **LOW)
    assert slow.entered.acquire(timeout=20)
    seen = second.ask("runs")["runs"][0]
    assert (seen["state"], seen["job"]) == ("running", None)
    for action in ("pause", "stop"):
        assert "Another program" in second.error("run_control", run=run["run"], action=action)["message"]
    assert second.error("run_control", run=run["run"], action="continue")["kind"] == "refused"
    with pytest.raises(Fault, match="Another program"):  # it began after the check
        second.service.desk.runs.own(second.service.desk.runs.get(run["run"]))
    for _ in range(10):
        slow.gate.release()
    first.done(run["job"])
    assert second.ask("run", run=run["run"])["run"]["state"] == "done"
    end(first)
    end(second)


def test_two_services_at_once_resize_each_file_once(root: Path, tmp_path: Path) -> None:
    before = {name: sha256(next(root.rglob(f"{name}.safetensors"))) for name in NAMES}
    services = [serve(root, tmp_path), serve(root, tmp_path / "b")]
    for one in services:
        one.listed()
    started = [one.ask("shrink", **LOW) for one in services]
    ended = [one.done(run["job"]) for one, run in zip(services, started, strict=True)]
    assert {run["state"] for run in ended} == {"done"}
    assert {path.stem: sha256(path) for path in archived(root)} == before
    states = [items(one, run["run"]) for one, run in zip(services, started, strict=True)]
    for name in NAMES:
        assert "resized" in {found[name]["state"] for found in states}, states
        assert {found[name]["state"] for found in states} <= {"resized", "left", "failed"}
    for one in services:
        end(one)


# The store -------------------------------------------------------------------------------------------------------


@pytest.fixture
def document(tmp_path: Path) -> RunDocument:
    made = [RunItem(name, "", None, tmp_path / f"{name}.safetensors", 10) for name in "abc"]
    return RunDocument("0123456789abcdef", 1.0, RunOrder("rank=4", {}), made)


def test_a_line_that_a_crash_cut_off_loses_itself_alone(tmp_path: Path, document: RunDocument) -> None:
    store = RunStore(tmp_path / "runs")
    store.write(document)
    done = [RunItem(**{**vars(item), "state": "resized", "seconds": 1.0}) for item in document.items]
    store.append(document.id, 0, done[0])
    log = store.folder / f"{document.id}.log"
    whole = log.read_bytes()
    store.append(document.id, 1, done[1])
    for cut in range(len(whole), len(log.read_bytes())):
        log.write_bytes((whole + (log.read_bytes()[len(whole) :]))[:cut])
        found = store.read(document.id)
        assert found is not None
        assert found.items[0] == done[0]
        assert found.items[1] in (document.items[1], done[1])
        store.append(document.id, 2, done[2])
        found = store.read(document.id)
        assert found is not None
        assert found.items[2] == done[2], "what comes after a cut line is read"
        log.write_bytes(whole)
        store.append(document.id, 1, done[1])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 9, "id": "0123456789abcdef"}'])
def test_a_damaged_run_is_not_listed(root: Path, tmp_path: Path, text: str) -> None:
    browser = serve(root, tmp_path)
    folder = browser.service.desk.runs.store.folder
    folder.mkdir(parents=True)
    (folder / "0123456789abcdef.json").write_text(text)
    assert browser.ask("runs")["runs"] == []
    assert browser.error("run", run="0123456789abcdef")["kind"] == "gone"
    end(browser)


# Compare ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "entry"])
def test_compare_shows_the_archived_original(browser: Browser, root: Path, by: str) -> None:
    run = run_of(browser, names=["pastry"])
    entry = items(browser, run["run"])["pastry"]["entry"]
    chosen = {"name": "pastry"} if by == "name" else {"entry": entry}
    found = browser.done(
        browser.ask("compare", settings={"prompt": "x <lora:pastry:0.7>"}, without=True, **chosen)["job"]
    )
    assert found["original"] == {"name": "pastry original", "prompt": "x <lora:pastry original:0.7>"}
    assert found["resized"] == {"name": "pastry", "prompt": "x <lora:pastry:0.7>"}
    host: Any = browser.service.desk.host
    requests = [event[1] for event in host.events if event[0] == "generate"]
    (original,) = archived(root)
    assert [one.get("files") for one in requests] == [{"pastry original": original}] * 2 + [None, None]
    assert "pastry original" not in browser.listed()
    browser.ask("purge", all=True, confirm=True)
    assert browser.error("compare", settings={}, **chosen)["kind"] in ("file", "gone")


def test_the_tag_of_a_replaced_file_is_its_own(browser: Browser) -> None:
    run_of(browser, names=["pastry"])
    tag = browser.ask("prompt_tag", name="pastry")
    assert tag["tag"] == "<lora:pastry:1>"
    assert tag["activation"] == "cake"
    assert "pastry original" not in tag["old_names"]


# Other processes -------------------------------------------------------------------------------------------------

_SERVER = """
import sys, time
from pathlib import Path
from lib_resize.hosts.standalone import StandaloneHost
from lib_resize.panel.service import Service
service = Service(StandaloneHost([Path(sys.argv[1])]), Path(sys.argv[2]))
service.ask("shrink", {"target": {"preset": "low"}, "least_gain": 0.0})
print("begun", flush=True)
time.sleep(60)
"""


def process(code: str, *arguments: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.4, 0.7, 1.0])
def test_after_a_kill_the_run_goes_on_and_nothing_is_lost(root: Path, tmp_path: Path, delay: float) -> None:
    before = contents(root)
    names = {path: sha for path, sha in before.items() if path.endswith(".safetensors")}
    server = process(_SERVER, root, tmp_path / "a.json")
    assert server.stdout is not None
    assert server.stdout.readline() == "begun\n"
    time.sleep(delay)
    server.kill()
    server.communicate()
    browser = serve(root, tmp_path)
    browser.service.recovering.join(20)
    originals = {sha256(path) for path in archived(root)}
    for path, sha in names.items():
        held = sha256(root / path)
        assert (held == sha) != (sha in originals), "the original exists exactly once"
    (run,) = browser.ask("runs")["runs"]
    assert run["state"] in ("interrupted", "done")
    if run["state"] == "interrupted":
        job = browser.ask("run_control", run=run["run"], action="continue")["run"]["job"]
        run = browser.done(job)
    assert (run["state"], run["resized"], run["files"]) == ("done", 3, 3)
    assert {sha256(path) for path in archived(root)} == set(names.values())
    assert len(archived(root)) == 3
    assert not [path for path in root.rglob("*") if path.suffix in (".staged", ".part", ".aside")]
    browser.done(browser.ask("restore_originals", run=run["run"])["job"])
    assert contents(root) == before
    end(browser)


def test_what_a_start_completed_is_said_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Recovered("ink", root / "ink.safetensors", "completed", f"{root}/ink.safetensors: was completed.")]
    monkeypatch.setattr("lib_resize.panel.recovery.recover", lambda _: found)
    browser = serve(root, tmp_path)
    browser.service.recovering.join(20)
    assert browser.ask("runs")["recovered"] == ["ink.safetensors: was completed."]
    assert browser.ask("runs")["recovered"] == []
    end(browser)


def test_a_command_line_works_on_the_same_folder_meanwhile(root: Path, tmp_path: Path) -> None:
    before = {name: sha256(next(root.rglob(f"{name}.safetensors"))) for name in NAMES}
    browser = serve(root, tmp_path)
    browser.listed()
    command = process(
        "from lib_resize.cli.main import main; import sys; sys.exit(main())",
        Path("resize"),
        root,
        Path("-r"),
        Path("low"),
        Path("--replace"),
    )
    run = browser.done(browser.ask("shrink", **LOW)["job"])
    command.communicate(timeout=60)
    assert run["state"] == "done"
    assert {path.stem: sha256(path) for path in archived(root)} == before
    for name, sha in before.items():
        assert sha256(next(root.rglob(f"{name}.safetensors"))) != sha
    browser.done(browser.ask("restore_originals", all=True)["job"])
    assert {name: sha256(next(root.rglob(f"{name}.safetensors"))) for name in NAMES} == before
    end(browser)

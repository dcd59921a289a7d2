"""The figure of a comparison is in the small file: its record changes, its tensors do not, and all else still works."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib_resize.archive.entries import Entry
from lib_resize.files.header import LEGACY_HASH, MODEL_HASH, read_header
from lib_resize.files.metadata import RECORD
from lib_resize.files.recording import copy_with_effect
from lib_resize.panel import keeping
from lib_resize.panel.service import Service
from tests.hostile.os_faults import ERRORS
from tests.library import check_facts, sha256, write_sidecars
from tests.panel.panelhost import Browser, fake_host
from tests.panel.test_panel_comparing import SETTINGS, compared, latents, noise_of, result_of

SIDECARS = ("pastry.civitai.info", "pastry.metadata.json", "pastry.preview.png", "pastry.txt")


def file_of(root: Path, made: Mapping[str, Any]) -> Path:
    return root / f"{made['output']}.safetensors"


def tensors(path: Path) -> bytes:
    return path.read_bytes()[read_header(path).data_start :]


def record_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_header(path).metadata[RECORD])
    return found


def without_date(effect: Mapping[str, Any] | None) -> dict[str, Any]:
    assert effect is not None
    return {name: value for name, value in effect.items() if name != "made"}


def files_of(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


@pytest.fixture
def made(browser: Browser, host: Any) -> Any:
    """A result, on a host whose images give a figure."""
    host.latent = latents()
    return browser.resized("pastry")


# What changes ------------------------------------------------------------------------------------------------------


def test_the_record_of_the_file_has_the_figure_and_nothing_else_changes(
    browser: Browser, made: Any, root: Path
) -> None:
    path = file_of(root, made)
    before, data, others = read_header(path).metadata, tensors(path), files_of(root)
    assert compared(browser, made, seeds=2)["note"] == ""
    after = read_header(path).metadata
    assert tensors(path) == data
    assert (after[MODEL_HASH], after[LEGACY_HASH]) == (before[MODEL_HASH], before[LEGACY_HASH])
    assert {**after, RECORD: ""} == {**before, RECORD: ""}
    record = record_of(path)
    assert record.pop("effect") == without_date(result_of(browser, made["result"])["effect"])
    assert record == json.loads(before[RECORD])
    assert {**files_of(root), path.name: b""} == {**others, path.name: b""}


def test_a_second_comparison_replaces_the_record_of_the_first(browser: Browser, made: Any, root: Path) -> None:
    compared(browser, made, seeds=2)
    first = file_of(root, made).stat()
    again = compared(browser, made, seeds=2)
    assert again["note"] == ""
    second = file_of(root, made).stat()
    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)  # the same figure: not written
    compared(browser, made, seeds=4)
    record = record_of(file_of(root, made))
    assert record["effect"]["seeds"] == 4
    assert "earlier" not in record


def test_the_result_is_known_with_its_new_size_and_can_be_undone_and_restored(
    browser: Browser, made: Any, root: Path
) -> None:
    path = file_of(root, made)
    compared(browser, made)
    listed = result_of(browser, made["result"])
    size = path.stat().st_size
    assert (listed["state"], listed["changed"], listed["bytes_after"]) == ("there", False, size)
    assert listed["saved"] == 1 - size / listed["bytes_before"]
    content = path.read_bytes()
    assert browser.ask("undo", result=made["result"])["kept"] == []
    assert not path.exists()
    browser.ask("restore", result=made["result"])
    assert path.read_bytes() == content
    assert compared(browser, made, seeds=2)["note"] == ""
    assert record_of(path)["effect"]["seeds"] == 2
    browser.ask("undo", result=made["result"])
    browser.ask("empty_trash", confirm=True)
    assert not path.exists()


def test_a_later_start_and_another_server_know_the_file(
    browser: Browser, made: Any, root: Path, tmp_path: Path
) -> None:
    other = Service(fake_host(root), tmp_path / "other.json")
    try:
        other.recovering.join(10)
        page = Browser(other)
        assert result_of(page, made["result"])["changed"] is False
        compared(browser, made)
        assert result_of(page, made["result"])["changed"] is False
        assert page.ask("undo", result=made["result"])["result"]["state"] == "trashed"
    finally:
        other.close()


def test_the_same_order_is_not_made_again(browser: Browser, host: Any, root: Path) -> None:
    host.latent = latents()
    asked = {"names": ["pastry"], "target": {"preset": "medium"}}
    made = browser.done(browser.ask("resize", **asked)["jobs"][0])
    compared(browser, made)
    assert [one["result"] for one in browser.ask("resize", **asked)["same"]] == [made["result"]]


def test_the_host_and_the_library_read_the_file_again(browser: Browser, host: Any, made: Any, root: Path) -> None:
    modified = browser.listed()[made["output"]]["modified"]
    revision = browser.ask("status")["library"]
    compared(browser, made)
    assert browser.ask("status")["library"] > revision  # the page asks for the list again
    assert ("replaced", made["output"], "locked") in host.events
    assert browser.listed()[made["output"]]["modified"] > modified
    assert browser.ask("details", name=made["output"])["effect"] == record_of(file_of(root, made))["effect"]


def test_permissions_stay(browser: Browser, made: Any, root: Path) -> None:
    path = file_of(root, made)
    path.chmod(0o640)
    compared(browser, made)
    assert "effect" in record_of(path)
    assert path.stat().st_mode & 0o777 == 0o640


# Sidecars ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def described(browser: Browser, host: Any, root: Path) -> Any:
    """A result with copies of the sidecars of its source."""
    host.latent = latents()
    write_sidecars(root / "pastry.safetensors")
    return browser.resized("pastry")


def test_sidecars_describe_the_new_content_and_go_with_the_result(browser: Browser, described: Any, root: Path) -> None:
    path = file_of(root, described)
    check_facts(path)
    manager_file = path.with_name(f"{path.stem}.metadata.json")
    manager_file.chmod(0o640)
    own = {name: data for name, data in files_of(root).items() if name in SIDECARS}
    assert compared(browser, described)["note"] == ""
    check_facts(path)
    manager = json.loads(manager_file.read_text())
    assert manager_file.stat().st_mode & 0o777 == 0o640
    assert (manager["sha256"], manager["notes"]) == (sha256(path.read_bytes()), "mine")
    assert own.items() <= files_of(root).items()
    undone = browser.ask("undo", result=described["result"])
    assert (undone["kept"], undone["result"]["state"]) == ([], "trashed")
    assert [name for name in files_of(root) if name.startswith(path.stem)] == []


def test_a_sidecar_that_was_changed_since_is_left_alone(browser: Browser, described: Any, root: Path) -> None:
    path = file_of(root, described)
    sidecar = path.with_name(f"{path.stem}.metadata.json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "notes": "changed"}))
    before = sidecar.read_bytes()
    assert compared(browser, described)["note"] == ""
    assert sidecar.read_bytes() == before
    assert browser.ask("undo", result=described["result"])["kept"] == [sidecar.name]


def test_a_sidecar_that_cannot_be_written_is_named(
    browser: Browser, described: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_resize.errors import OutputError
    from lib_resize.panel import restamping

    def full(path: Path, data: bytes, **_: Any) -> None:
        raise OutputError(f"{path}: no space is left")

    monkeypatch.setattr(restamping, "write_whole", full)
    note = compared(browser, described)["note"]
    stem = file_of(root, described).stem
    assert note.startswith(f"{stem}.civitai.info, {stem}.metadata.json: could not be updated")
    assert "effect" in record_of(file_of(root, described))
    assert browser.ask("undo", result=described["result"])["kept"] == []


# Files that stay ---------------------------------------------------------------------------------------------------


def refused(browser: Browser, made: Any, root: Path, words: str, **params: Any) -> None:
    """The comparison succeeds, a line says why, the figure is with the result, and no file is changed."""
    before = files_of(root)
    found = compared(browser, made, **params)
    assert found["kept"] is not None
    assert found["note"].startswith("The figure is not in the file. ")
    assert words in found["note"]
    assert f"{root}/" not in found["note"]
    assert files_of(root) == before


def test_a_file_whose_content_is_another_one_is_left_alone_even_with_the_same_size_and_time(
    browser: Browser, made: Any, root: Path
) -> None:
    path = file_of(root, made)
    stamp = path.stat()
    data = bytearray(path.read_bytes())
    at = data.index(b'"ss_output_name":"') + 20
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    refused(browser, made, root, "was changed or replaced since it was made")


def test_tensors_that_are_not_those_of_the_hash_are_not_copied(browser: Browser, made: Any, root: Path) -> None:
    path = file_of(root, made)
    stamp = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    refused(browser, made, root, "tensors changed since it was written")


def test_a_file_that_is_written_meanwhile_is_not_replaced(
    browser: Browser, made: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the copy and the replacement."""
    path, real, other = file_of(root, made), copy_with_effect, b"somebody else's"

    def late(*arguments: Any) -> Any:
        copied = real(*arguments)
        path.write_bytes(other)
        return copied

    monkeypatch.setattr(keeping, "copy_with_effect", late)
    assert "was changed or replaced since it was made" in compared(browser, made)["note"]
    assert path.read_bytes() == other
    assert result_of(browser, made["result"])["changed"] is True


def test_a_file_that_another_one_was_made_of_is_left_alone(browser: Browser, made: Any, root: Path) -> None:
    second = browser.resized(made["output"], target={"preset": "low"})
    refused(browser, made, root, "another file was made of it")
    browser.ask("undo", result=second["result"])
    assert compared(browser, made)["note"] == ""
    assert "effect" in record_of(file_of(root, made))


@pytest.mark.parametrize(
    ("protect", "words"),
    [
        (lambda path: path.chmod(0o444), "is write-protected"),
        (lambda path: os.link(path, path.with_suffix(".second")), "has 2 names (hard links)"),
    ],
)
def test_a_protected_file_is_left_alone(browser: Browser, made: Any, root: Path, protect: Any, words: str) -> None:
    protect(file_of(root, made))
    refused(browser, made, root, words)
    assert without_date(result_of(browser, made["result"])["effect"])["seeds"] == 1


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("call", ["write", "replace"])
def test_a_disk_that_is_full_or_a_file_that_is_in_use_leaves_the_file(
    browser: Browser, made: Any, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, kind: str
) -> None:
    def failing(*arguments: Any, **more: Any) -> Any:
        if call == "replace" and not str(arguments[0]).endswith(".staged"):
            return real(*arguments, **more)
        if call == "write" and len(arguments[1]) < 10_000:  # a record
            return real(*arguments, **more)
        raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]))

    real = getattr(os, call)
    monkeypatch.setattr(os, call, failing)
    refused(browser, made, root, file_of(root, made).parent.name if kind == "EACCES" else "disk")
    monkeypatch.undo()
    assert result_of(browser, made["result"])["effect"] is not None
    assert compared(browser, made)["note"] == ""


def test_a_file_that_is_no_result_is_not_written_to(browser: Browser, made: Any, root: Path) -> None:
    """A copy of a result has its record, but this program did not put it there."""
    shutil.copy(file_of(root, made), root / "mine.safetensors")
    browser.ask("library", refresh=True)
    browser.listed()
    before = files_of(root)
    found = compared(browser, made, result=None, name="mine")
    assert (found["kept"] is not None, found["note"]) == (True, "")
    assert files_of(root) == before


def test_a_cancelled_wait_for_the_host_leaves_the_file_and_keeps_the_figure(
    browser: Browser, host: Any, made: Any, root: Path
) -> None:
    before = files_of(root)
    plain = latents()

    def busy(request: Mapping[str, Any]) -> Any:
        if len([one for one in host.events if one[0] == "generate"]) == 4:
            host.working_on = "an image"
        return plain(request)

    host.latent = busy
    job = browser.ask("compare", result=made["result"], settings=SETTINGS, without=True)["job"]
    browser.wait(job, ("waits",))
    browser.ask("cancel", jobs=[job])
    assert browser.wait(job)["state"] == "cancelled"
    host.working_on = None
    assert files_of(root) == before
    assert result_of(browser, made["result"])["effect"] is not None


# Files that replaced their originals -------------------------------------------------------------------------------


@pytest.fixture
def replaced(browser: Browser, host: Any, root: Path) -> Any:
    """The item of a file that replaced its original."""

    def latent(request: Mapping[str, Any]) -> Any:
        moved = 0.0 if "original" in request["prompt"] else 1.0 if "<lora:" in request["prompt"] else 2.0
        return noise_of(request["seed"]) + np.float32(moved)

    host.latent = latent
    write_sidecars(root / "pastry.safetensors")
    root.with_name("before").mkdir()
    for name in SIDECARS:
        shutil.copy(root / name, root.with_name("before"))
    browser.listed()
    run = browser.done(browser.ask("shrink", target={"preset": "low"}, least_gain=0.0)["job"])["run"]
    return next(item for item in browser.ask("run", run=run)["items"] if item["name"] == "pastry")


def entry_of(browser: Browser, item: Any) -> Entry:
    return browser.service.desk.archives.entry(item["entry"])


def compared_entry(browser: Browser, item: Any, **more: Any) -> Any:
    asked = {"entry": item["entry"], "settings": SETTINGS, "without": True, **more}
    return browser.done(browser.ask("compare", **asked)["job"])


def test_a_file_that_replaced_its_original_gets_the_figure_through_the_archive(
    browser: Browser, replaced: Any, root: Path
) -> None:
    path = root / "pastry.safetensors"
    before, data, entry = record_of(path), tensors(path), entry_of(browser, replaced)
    assert entry.original is not None
    original = entry.original.read_bytes()
    for seeds in (1, 2):
        assert compared_entry(browser, replaced, seeds=seeds)["note"] == ""
        record = record_of(path)
        assert record.pop("effect")["seeds"] == seeds
        assert (record, tensors(path)) == (before, data)
        now = entry_of(browser, replaced)
        assert (now.sha256_after, now.bytes_after) == (sha256(path.read_bytes()), path.stat().st_size)
        assert (now.sha256_before, now.replaced, now.run) == (entry.sha256_before, entry.replaced, entry.run)
        assert (now.facts, now.original) == (entry.facts, entry.original)
        assert entry.original.read_bytes() == original
        check_facts(path)
    assert browser.ask("archive")["entries"][0]["entry"] is not None
    job = browser.ask("restore_originals", entries=[replaced["entry"]])["job"]
    assert browser.done(job)["restored"] == ["pastry"]
    assert path.read_bytes() == original
    assert files_of(root.with_name("before")).items() <= files_of(root).items()


def test_a_file_that_took_the_place_of_the_small_one_is_left_alone(browser: Browser, replaced: Any, root: Path) -> None:
    path = root / "pastry.safetensors"
    data = path.read_bytes()
    at = data.index(b"dimension is resized")
    path.write_bytes(data[:at] + b"x" + data[at + 1 :])
    before = files_of(root)
    found = compared_entry(browser, replaced)
    assert "was changed or replaced since it was made" in found["note"]
    assert files_of(root) == before
    assert entry_of(browser, replaced).sha256_after == sha256(data)


def test_a_failing_replacement_leaves_the_file_and_its_entry(
    browser: Browser, replaced: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, entry, real = files_of(root), entry_of(browser, replaced), os.replace

    def failing(old: Any, new: Any) -> None:
        if str(old).endswith(".staged"):
            raise OSError(ERRORS["EACCES"], os.strerror(ERRORS["EACCES"]))
        real(old, new)

    monkeypatch.setattr(os, "replace", failing)
    assert "no permission to write" in compared_entry(browser, replaced)["note"]
    monkeypatch.undo()
    assert (files_of(root), entry_of(browser, replaced)) == (before, entry)

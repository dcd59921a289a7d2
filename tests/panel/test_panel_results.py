"""What was made is recorded on the disk: it outlives the server, and undo moves no other file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from lib_resize.errors import OutputError
from lib_resize.panel import trash
from lib_resize.panel.faults import Fault
from lib_resize.panel.records import Ordered, Record
from lib_resize.panel.results import Results
from lib_resize.panel.service import Service
from tests.panel.panelhost import Browser, fake_host

FACTS: dict[str, Any] = {"recipe": "rank=2", "notes": [], "bytes_after": 7}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "Lora"
    folder.mkdir()
    return folder


@pytest.fixture
def results(root: Path) -> Results:
    return Results(fake_host(root), "now")


def later(root: Path) -> Results:
    """Of a server that was started afterwards."""
    found = Results(fake_host(root), "later")
    found.recover()
    return found


def made(results: Results, path: Path, *sidecars: Path, order: Ordered | None = None) -> Record:
    """A result whose LoRA and sidecars are texts."""
    with results.making("ink", order=order) as making:
        making.begin(path, 7, FACTS)
        for one in (path, *sidecars):
            one.write_text(f"content of {one.name}")
    return making.made(path.stem, sidecars, FACTS)


def ids(results: Results) -> list[str]:
    return [one["result"] for one in results.answer()["results"]]


# The record ------------------------------------------------------------------------------------------------------


def test_results_of_one_moment_keep_their_order(results: Results, root: Path, monkeypatch: Any) -> None:
    moment = time.time()
    monkeypatch.setattr("lib_resize.panel.records.time.time", lambda: moment)
    wished = [made(results, root / f"{number}.safetensors").id for number in range(8)]
    assert ids(results) == wished
    assert ids(later(root)) == wished


def test_a_clock_that_was_set_back_is_believed(results: Results, monkeypatch: Any) -> None:
    before = results.records.moment()
    monkeypatch.setattr("lib_resize.panel.records.time.time", lambda: before - 3600)
    assert results.records.moment() == pytest.approx(before - 3600)


def test_a_result_outlives_the_server_and_can_be_undone_and_restored(results: Results, root: Path) -> None:
    lora, picture = root / "ink_2.safetensors", root / "ink_2.png"
    id = made(results, lora, picture).id
    second = later(root)
    (listed,) = second.answer()["results"]
    assert (listed["result"], listed["state"], listed["earlier"], listed["sidecars"]) == (id, "there", True, 1)
    assert second.undo(id)["result"]["state"] == "trashed"
    assert not lora.exists()
    assert not picture.exists()
    third = later(root)
    assert third.answer()["results"][0]["state"] == "trashed"
    assert third.restore(id)["state"] == "there"
    assert lora.read_text() == "content of ink_2.safetensors"
    assert picture.exists()


def test_ids_are_never_given_again(results: Results, root: Path) -> None:
    first = made(results, root / "a.safetensors").id
    shutil.rmtree(root / ".resize_lora_trash")
    second = Results(fake_host(root), "later")
    other = made(second, root / "b.safetensors").id
    assert first != other
    with pytest.raises(Fault) as refused:
        second.undo(first)
    assert refused.value.kind == "gone"
    assert (root / "b.safetensors").exists()


def test_the_record_is_on_the_disk_before_the_file(results: Results, root: Path) -> None:
    with results.making("ink") as making:
        making.begin(root / "ink_2.safetensors", 7, FACTS)
        (record,) = (root / ".resize_lora_trash" / "results").iterdir()
        assert json.loads(record.read_text())["path"] == str(root / "ink_2.safetensors")
        (root / "ink_2.safetensors").write_text("whole")
    assert ids(results) == []


def test_a_file_that_did_not_come_leaves_no_record(results: Results, root: Path) -> None:
    with contextlib.suppress(OutputError), results.making("ink") as making:
        making.begin(root / "ink_2.safetensors", 7, FACTS)
        raise OutputError("no room")
    assert list((root / ".resize_lora_trash" / "results").iterdir()) == []


class Killed(BaseException):
    """The machine died."""


def test_a_file_that_appeared_before_the_kill_is_a_result_of_the_next_server(
    browser_of: Any, pantry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two writes of its record, the file has its name and nothing else says that it is ours."""
    browser, root = browser_of
    monkeypatch.setattr("lib_resize.panel.results.Making.made", lambda *a: (_ for _ in ()).throw(OSError("killed")))
    job = browser.wait(browser.ask("resize", names=["ink"], target={"rank": 2})["jobs"][0])
    assert job["state"] == "failed"
    monkeypatch.undo()
    (path,) = root.glob("ink_*.safetensors")
    record = next((root / ".resize_lora_trash" / "results").iterdir())
    second = later(root)
    assert ids(second) == [record.stem]
    assert second.undo(record.stem)["result"]["state"] == "trashed"
    second.restore(record.stem)
    # The same announcement, and another file under its name.
    document = json.loads(record.read_text()) | {"file": None}
    whole = path.read_bytes()
    for other in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), shutil.copy(pantry / "ink.safetensors", path)):
        if isinstance(other, bytes):
            path.write_bytes(other)
        record.write_text(json.dumps(document))
        assert ids(later(root)) == []
    path.write_bytes(whole)
    record.write_text(json.dumps(document | {"recipe": "rank=3"}))
    assert ids(later(root)) == []
    record.write_text(json.dumps(document))
    os.utime(path, (1, 1))
    assert ids(later(root)) == [], "it was there before"


@pytest.fixture
def browser_of(root: Path, pantry: Path, tmp_path: Path) -> Any:
    shutil.copy(pantry / "ink.safetensors", root / "ink.safetensors")
    service = Service(fake_host(root), tmp_path / "cache.json")
    yield Browser(service), root
    service.close()
    service.desk.queue.join()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace('"name": "ink"', '"name": 5'),
        lambda text: json.dumps(json.loads(text) | {"path": "relative.safetensors"}),
        lambda text: json.dumps(json.loads(text) | {"facts": []}),
        lambda text: json.dumps(json.loads(text) | {"id": "0" * 16}),
    ],
)
def test_a_damaged_record_is_none(results: Results, root: Path, damage: Any) -> None:
    id = made(results, root / "ink_2.safetensors").id
    file = root / ".resize_lora_trash" / "results" / f"{id}.json"
    file.write_text(damage(file.read_text()))
    assert ids(later(root)) == []
    (root / ".resize_lora_trash" / "results" / "notes.txt").write_text("not ours")
    assert ids(later(root)) == []


@pytest.mark.parametrize("id", ["../../x", "", "r1", "0" * 16, "G" * 16, "a" * 17, "\x00"])
def test_an_id_that_was_never_given_is_gone(results: Results, id: str) -> None:
    for act in (results.undo, results.restore, results.get):
        with pytest.raises(Fault) as refused:
            act(id)
        assert refused.value.kind == "gone"


def test_records_of_vanished_files_go_at_the_next_start_and_those_in_the_trash_stay(
    results: Results, root: Path
) -> None:
    gone, undone, there = (made(results, root / f"{name}.safetensors") for name in "abc")
    far = made(results, make_folder(root / "drive") / "d.safetensors")
    results.undo(undone.id)
    gone.path.unlink()
    shutil.rmtree(far.path.parent)
    results.recover()
    assert ids(results) == [gone.id, undone.id, there.id, far.id], "those of this session stay"
    assert ids(later(root)) == [undone.id, there.id, far.id], "a drive may come back"


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_list_is_bounded_and_given_in_pages(results: Results, root: Path) -> None:
    all = [made(results, root / f"{number}.safetensors").id for number in range(7)]
    first = results.answer(limit=3)
    assert ([one["result"] for one in first["results"]], first["more"]) == (all[4:], True)
    second = results.answer(before=all[4], limit=3)
    assert ([one["result"] for one in second["results"]], second["more"]) == (all[1:4], True)
    last = results.answer(before=all[1], limit=3)
    assert ([one["result"] for one in last["results"]], last["more"]) == (all[:1], False)
    with pytest.raises(Fault):
        results.answer(before="0" * 16)
    results.records.most = 4
    results.recover()
    assert ids(results) == all[3:]
    assert len(list((root / ".resize_lora_trash" / "results").iterdir())) == 4


def test_a_disk_that_takes_no_record_does_not_stop_the_work(results: Results, root: Path) -> None:
    (root / ".resize_lora_trash").mkdir()
    (root / ".resize_lora_trash" / "results").write_text("in the way")
    record = made(results, root / "ink_2.safetensors")
    assert "could not be recorded" in record.facts["notes"][0]
    assert results.undo(record.id)["result"]["state"] == "trashed"


def test_two_servers_see_each_others_results(results: Results, root: Path) -> None:
    other = Results(fake_host(root), "other")
    first = made(results, root / "a.safetensors")
    with other.making("ink") as making:
        making.begin(root / "b.safetensors", 7, FACTS)
        assert ids(results) == [first.id]
        (root / "b.safetensors").write_text("b")
        second = making.made("b", (), FACTS)
    assert ids(results) == ids(other) == [first.id, second.id]


# Undo moves what we wrote, and nothing else ----------------------------------------------------------------------


def test_a_file_that_was_replaced_under_its_name_is_not_moved(results: Results, root: Path) -> None:
    lora, picture = root / "ink_2.safetensors", root / "ink_2.png"
    record = made(results, lora, picture)
    was = lora.stat()
    for text in ("another", "CONTENT of ink_2.safetensors"):  # the second has the same size
        lora.write_text(text)
        os.utime(lora, ns=(was.st_atime_ns, was.st_mtime_ns))
        with pytest.raises(OutputError, match="nothing was moved"):
            results.undo(record.id)
        assert lora.read_text() == text
        assert picture.exists()
    assert results.answer()["trash"]["items"] == 0


def test_a_link_in_its_place_is_not_moved(results: Results, root: Path) -> None:
    lora = root / "ink_2.safetensors"
    record = made(results, lora)
    lora.rename(root / "mine.safetensors")
    lora.symlink_to(root / "mine.safetensors")
    with pytest.raises(OutputError, match="nothing was moved"):
        results.undo(record.id)
    assert (root / "mine.safetensors").exists()


def test_a_file_whose_time_alone_has_changed_is_still_ours(results: Results, root: Path) -> None:
    record = made(results, root / "ink_2.safetensors")
    os.utime(record.path, (1, 1))
    (listed,) = results.answer()["results"]
    assert (listed["state"], listed["changed"]) == ("there", True)
    assert results.undo(record.id)["result"]["state"] == "trashed"


def test_changed_sidecars_stay_and_are_named(results: Results, root: Path) -> None:
    lora, picture, notes = root / "ink_2.safetensors", root / "ink_2.png", root / "ink_2.json"
    record = made(results, lora, picture, notes)
    notes.write_text("my own words")
    (root / "ink_2.txt").write_text("mine, too")
    answer = results.undo(record.id)
    assert answer["kept"] == ["ink_2.json"]
    assert "ink_2.json" in answer["note"]
    assert sorted(path.name for path in root.iterdir() if path.is_file()) == ["ink_2.json", "ink_2.txt"]
    results.restore(record.id)
    assert notes.read_text() == "my own words"
    assert picture.exists()


# Nothing leaves the LoRA folders, and nothing comes in from elsewhere ---------------------------------------------


def test_undo_moves_nothing_that_is_outside_by_where_it_really_is(results: Results, root: Path, tmp_path: Path) -> None:
    inside = make_folder(root / "style")
    record = made(results, inside / "ink_2.safetensors", inside / "ink_2.png")
    outside = tmp_path / "elsewhere"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(OutputError, match="outside"):
        results.undo(record.id)
    assert sorted(path.name for path in outside.iterdir()) == ["ink_2.png", "ink_2.safetensors"]


def test_a_sidecar_outside_stays(results: Results, root: Path, tmp_path: Path) -> None:
    inside = make_folder(root / "style")
    record = made(results, root / "ink_2.safetensors", inside / "ink_2.png")
    inside.rename(tmp_path / "elsewhere")
    inside.symlink_to(tmp_path / "elsewhere")
    assert results.undo(record.id)["kept"] == ["ink_2.png"]
    assert (tmp_path / "elsewhere" / "ink_2.png").exists()


@pytest.mark.parametrize("way", ["plain", "dots", "link"])
@pytest.mark.parametrize("by", ["item", "result", "recover"])
def test_restore_brings_nothing_to_a_place_outside(
    results: Results, root: Path, tmp_path: Path, way: str, by: str
) -> None:
    record = made(results, root / "ink_2.safetensors", root / "ink_2.png")
    results.undo(record.id)
    (item,) = results.trash.to_json()
    outside = make_folder(tmp_path / "elsewhere")
    (root / "link").symlink_to(outside)
    home = {"plain": outside / "x", "dots": root / "no" / ".." / ".." / "elsewhere" / "x", "link": root / "link" / "x"}
    manifest = root / ".resize_lora_trash" / item["item"] / trash.MANIFEST
    document = json.loads(manifest.read_text())
    document["files"][1]["home"] = f"{home[way]}.safetensors"
    manifest.write_text(json.dumps(document))
    second = Results(fake_host(root), "later")
    if by == "recover":  # half restored: the picture is home
        (manifest.parent / "000.trashed").rename(root / "ink_2.png")
        second.recover()
    else:
        with pytest.raises(OutputError, match="outside"):
            second.restore_item(item["item"]) if by == "item" else second.restore(record.id)
    assert list(outside.iterdir()) == []
    assert (manifest.parent / "001.trashed").exists()


# The same order --------------------------------------------------------------------------------------------------


def test_an_order_is_known_by_what_is_there_unchanged(results: Results, root: Path) -> None:
    order = Ordered("ink rank=2", (5, 6))
    record = made(results, root / "ink_2.safetensors", order=order)
    assert results.made_by(order) == record
    assert Results(fake_host(root), "later").made_by(order) == record
    assert results.made_by(Ordered("ink rank=3", (5, 6))) is None
    assert results.made_by(Ordered("ink rank=2", (5, 7))) is None, "the source changed"
    results.undo(record.id)
    assert results.made_by(order) is None
    results.restore(record.id)
    assert results.made_by(order) == record
    record.path.write_text("changed")
    assert results.made_by(order) is None


def test_an_order_that_depends_on_the_reference_is_another_with_another(results: Results, root: Path) -> None:
    with results.making("ink", order=Ordered("ink", (5, 6), "juggernaut")) as making:
        making.begin(root / "a.safetensors", 7, FACTS)
        (root / "a.safetensors").write_text("a")
    making.depends_on("juggernaut")
    making.made("a", (), FACTS)
    assert results.made_by(Ordered("ink", (5, 6), "juggernaut")) is not None
    assert results.made_by(Ordered("ink", (5, 6), "pony")) is None

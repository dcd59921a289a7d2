"""One piece of work: it may fail or die at any call, and is done once in the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lib_resize
from lib_resize.files.private_folders import PrivateFolder
from lib_resize.recipe.grammar import parse_recipes
from lib_resize.remote.listing import list_items
from lib_resize.remote.order import Order, OrderBase, key_of, marker_name, shard_of
from lib_resize.remote.stores import StoreError
from lib_resize.remote.unit import Worker
from tests.remote.material import (
    RECIPES,
    contents,
    leftovers,
    markers,
    only_item,
    order_for,
    run,
    write_library,
    write_tiny,
)
from tests.remote.places import Faults, Killed


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_library(tmp_path_factory.mktemp("remote") / "loras")


@pytest.fixture(scope="module")
def undisturbed(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], int]:
    """What the work on ``a`` leaves, and how many calls it needs."""
    out, faults = tmp_path_factory.mktemp("out"), Faults()
    line = Worker(order_for(out), faults.places()).do(only_item(library))
    assert "error" not in line
    return contents(out), len(faults.log)


@pytest.fixture(scope="module")
def everything(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the work on all files leaves."""
    out = tmp_path_factory.mktemp("everything")
    worker = Worker(order_for(out))
    assert not any("error" in worker.do(item) for item in list_items([str(library)]))
    return contents(out)


def test_the_marker_comes_after_everything_else(library, tmp_path) -> None:
    faults = Faults()
    line = Worker(order_for(tmp_path), faults.places()).do(only_item(library))
    assert faults.log[-1] == "write"
    assert faults.log.count("write") == 1
    assert [one for one in faults.log if one.startswith("publish")] == [
        *("publish .safetensors", "publish .png", "publish .json"),
        *("publish .safetensors", "publish .png", "publish .json"),
    ]
    assert json.loads(markers(tmp_path)[0].read_bytes()) == line
    assert len(json.dumps(line)) < 2048


def test_work_that_has_a_marker_is_not_done_again(library, tmp_path) -> None:
    worker = Worker(order_for(tmp_path))
    line = worker.do(only_item(library))
    faults = Faults()
    again = Worker(order_for(tmp_path), faults.places()).do(only_item(library))
    assert faults.log == ["read"]
    assert again == {**line, "skipped": True}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [StoreError("away"), Killed()], ids=["fault", "killed"])
def test_a_store_that_fails_at_any_call_leaves_a_state_from_which_the_work_goes_on(
    library, tmp_path, undisturbed, error, after
) -> None:
    wanted, calls = undisturbed
    item = only_item(library)
    for number in range(calls):
        out = tmp_path / str(number)
        faults = Faults(number, error, after=after)
        try:
            line = Worker(order_for(out), faults.places()).do(item)
            assert line["kind"] == "StoreError"
        except Killed:
            assert isinstance(error, Killed)
        written = after and number == calls - 1
        assert len(markers(out)) == int(written), "no marker before all is there"
        assert contents(out).items() <= wanted.items(), "what is there is whole"
        final = Worker(order_for(out)).do(item)
        assert bool(final.get("skipped")) == written
        assert contents(out) == wanted
        assert len(markers(out)) == 1
        assert leftovers(out) == []


ENDS = st.tuples(st.integers(0, 40), st.booleans(), st.booleans())
"""The call at which a run ends, whether after its effect, and whether by a kill (else by a fault of the store)."""


@settings(max_examples=25, deadline=None)
@given(ends=st.lists(ENDS, max_size=6))
def test_any_sequence_of_faults_and_kills_ends_in_the_undisturbed_files(library, everything, tmp_path_factory, ends):
    out, items = tmp_path_factory.mktemp("out"), list_items([str(library)])
    for number, after, is_kill in ends:
        faults = Faults(number, Killed() if is_kill else None, after=after)
        worker = Worker(order_for(out), faults.places())
        with contextlib.suppress(Killed):
            for item in items:
                worker.do(item)
        assert contents(out).items() <= everything.items(), "what is there is whole"
    worker = Worker(order_for(out))
    done = {Path(marker).stem for marker in markers(out)}
    lines = [worker.do(item) for item in items]
    assert {line["key"] for line in lines if line.get("skipped")} == done, "each file is done once"
    assert contents(out) == everything
    assert len(markers(out)) == len(items)
    assert leftovers(out) == []


def test_a_fault_of_the_store_is_tried_again_after_a_pause(library, tmp_path, undisturbed) -> None:
    wanted, calls = undisturbed
    for number in range(calls):
        pauses: list[float] = []
        out = tmp_path / str(number)
        line = Worker(order_for(out, retries=1), Faults(number).places(), pause=pauses.append).do(only_item(library))
        assert "error" not in line
        assert pauses == [1.0]
        assert contents(out) == wanted


@pytest.mark.parametrize("error", [MemoryError(), ConnectionResetError("reset"), TimeoutError()])
def test_faults_of_network_and_memory_are_tried_again_and_then_named_without_a_marker(library, tmp_path, error) -> None:
    tries: list[float] = []
    faults = Faults(1, error)
    worker = Worker(order_for(tmp_path, retries=2), faults.places(), pause=tries.append)
    faults.at = None

    def fail(*_: object) -> None:
        raise error

    worker._brought = fail  # type: ignore[method-assign,assignment]
    line = worker.do(only_item(library))
    assert tries == [1.0, 2.0]
    assert line["kind"] == type(error).__name__
    assert only_item(library).url in line["error"]
    assert markers(tmp_path) == []


def test_a_fault_inside_of_the_engine_is_no_outcome_of_the_file(library, tmp_path, monkeypatch) -> None:
    """The engine reports a fault of disk or memory as FileError; a damaged file has a narrower class."""
    from lib_resize.engine import batch

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(batch, "analyse", fail)
    pauses: list[float] = []
    line = Worker(order_for(tmp_path, retries=1), pause=pauses.append).do(only_item(library))
    assert pauses == [1.0]
    assert line["kind"] == "FileError"
    assert markers(tmp_path) == []


def test_a_damaged_file_is_an_outcome_and_not_tried_again(tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header at all")
    pauses: list[float] = []
    worker = Worker(order_for(tmp_path / "out", retries=3), pause=pauses.append)
    line = worker.do(only_item(folder))
    assert pauses == []
    assert [one["kind"] for one in line["results"]] == ["DamagedFileError"]
    assert worker.do(only_item(folder)).get("skipped")


def test_a_bug_is_named_and_neither_marked_nor_tried_again(library, tmp_path, monkeypatch) -> None:
    from lib_resize.engine import batch

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(batch, "analyse", fail)
    pauses: list[float] = []
    line = Worker(order_for(tmp_path, retries=1), pause=pauses.append).do(only_item(library))
    assert "ZeroDivisionError" in line["error"]
    assert (pauses, markers(tmp_path)) == ([], [])


def test_a_source_that_is_gone_is_named_at_once(library, tmp_path) -> None:
    item = dataclasses.replace(only_item(library), name="gone.safetensors", sidecars=())
    pauses: list[float] = []
    line = Worker(order_for(tmp_path, retries=3), Faults().places(), pause=pauses.append).do(item)
    assert (line["kind"], pauses) == ("FileNotFoundError", [])


def test_a_source_that_comes_in_part_is_tried_again(library, tmp_path) -> None:
    item = only_item(library)
    line = Worker(order_for(tmp_path), Faults().places()).do(dataclasses.replace(item, size=item.size + 1))
    assert line["kind"] == "StoreError"
    assert markers(tmp_path) == []


def test_a_damaged_marker_counts_as_none(library, tmp_path, undisturbed) -> None:
    order, item = order_for(tmp_path), only_item(library)
    Worker(order).do(item)
    (tmp_path / marker_name(key_of(item, order))).write_bytes(b'{"key":')
    line = Worker(order).do(item)
    assert "skipped" not in line
    assert "error" not in line
    assert contents(tmp_path) == undisturbed[0]


def test_two_workers_on_one_file_at_once_leave_one_result(library, tmp_path, undisturbed) -> None:
    item, lines = only_item(library), []
    barrier = threading.Barrier(2)

    def work() -> None:
        worker = Worker(order_for(tmp_path), Faults().places())
        barrier.wait()
        lines.append(worker.do(item))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line.get("error") for line in lines] == [None, None]
    assert contents(tmp_path) == undisturbed[0]
    assert len(markers(tmp_path)) == 1


def test_results_do_not_depend_on_threads_and_store(library, tmp_path, undisturbed) -> None:
    """A local source is read where it is, others are fetched."""
    Worker(order_for(tmp_path / "local", threads=2)).do(only_item(library))
    assert contents(tmp_path / "local") == undisturbed[0]


def test_results_are_those_of_the_plain_command(library, tmp_path, undisturbed) -> None:
    assert run("resize", library / "a.safetensors", "-o", tmp_path, "-r", RECIPES) == 0
    assert contents(tmp_path) == undisturbed[0]


def test_json_sidecars_name_the_place_of_the_result(library, tmp_path) -> None:
    Worker(order_for(tmp_path), Faults().places()).do(only_item(library))
    fields = json.loads((tmp_path / "a_rank2.metadata.json").read_bytes())
    assert fields == {
        "file_name": "a_rank2",
        "file_path": f"{tmp_path.as_posix()}/a_rank2.safetensors",
        "size": (tmp_path / "a_rank2.safetensors").stat().st_size,
    }


def test_sidecars_can_stay_away(library, tmp_path) -> None:
    Worker(order_for(tmp_path, sidecars=False), Faults().places()).do(only_item(library))
    assert {Path(name).suffix for name in contents(tmp_path)} == {".safetensors"}


def test_a_sidecar_that_exists_is_kept(library, tmp_path) -> None:
    (tmp_path / "a_rank2.png").write_bytes(b"of somebody else")
    Worker(order_for(tmp_path), Faults().places()).do(only_item(library))
    assert (tmp_path / "a_rank2.png").read_bytes() == b"of somebody else"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_of_somebody_else_is_never_replaced(library, tmp_path, overwrite) -> None:
    write_tiny(tmp_path / "a_rank2.safetensors", rank=3)
    before = (tmp_path / "a_rank2.safetensors").read_bytes()
    line = Worker(order_for(tmp_path, overwrite=overwrite), Faults().places()).do(only_item(library))
    assert line["kind"] == "OutputError"
    assert (tmp_path / "a_rank2.safetensors").read_bytes() == before
    assert markers(tmp_path) == []


def test_an_earlier_result_is_replaced_only_if_asked(library, tmp_path, undisturbed) -> None:
    order = order_for(tmp_path, dtype="F32")
    Worker(order, Faults().places()).do(only_item(library))
    assert Worker(order_for(tmp_path), Faults().places()).do(only_item(library))["kind"] == "OutputError"
    assert "error" not in Worker(order_for(tmp_path, overwrite=True), Faults().places()).do(only_item(library))
    assert contents(tmp_path) == undisturbed[0], "JSON sidecars of the earlier result too"


def test_a_result_among_the_sources_is_not_resized_again(library, tmp_path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    Worker(order_for(first, recipes=parse_recipes("rank=2"))).do(only_item(library))
    line = Worker(order_for(second)).do(only_item(first, "a_rank2"))
    assert line["results"] == [{"skipped": "already a result"}]
    assert contents(second) == {}


def test_a_worker_of_another_version_does_nothing(library, tmp_path) -> None:
    line = Worker(order_for(tmp_path, version="0.0.1")).do(only_item(library))
    assert line["kind"] == "UnfinishedError"
    assert lib_resize.__version__ in line["error"]
    assert contents(tmp_path, markers=True) == {}


def test_what_a_killed_worker_left_is_removed_by_the_next_one(library, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(PrivateFolder, "close", lambda self: None)

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_stored", kill)
        worker = Worker(order_for(tmp_path))
        with pytest.raises(Killed):
            worker.do(only_item(library))
    assert leftovers(tmp_path) != []
    monkeypatch.undo()
    _end_of_process(tmp_path)
    Worker(order_for(tmp_path))
    assert leftovers(tmp_path) == []


def _end_of_process(folder: Path) -> None:
    """Free the locks, as the system does at the end of a process."""
    import os

    for lock in folder.rglob("lock"):
        for fd in Path("/proc/self/fd").iterdir():
            try:
                if fd.readlink() == lock:
                    os.close(int(fd.name))
            except OSError:
                continue


# Keys --------------------------------------------------------------------------------------------------------


def test_a_key_changes_with_each_ingredient(library, tmp_path) -> None:
    item, order = only_item(library), order_for(tmp_path)
    items = [
        dataclasses.replace(item, name="b.safetensors"),
        dataclasses.replace(item, place="s3://elsewhere"),
        dataclasses.replace(item, tag="another"),
        dataclasses.replace(item, below="sub"),
    ]
    orders = [
        dataclasses.replace(order, **change)
        for change in (
            {"recipes": parse_recipes("rank=3")},
            {"recipes": parse_recipes("rank=2:fro_lora=1,retain=0.90000001")},
            {"dtype": "F32"},
            {"kohya": True},
            {"convert": "none"},
            {"suffix": "_x"},
            {"version": "0.0.1"},
            {"base": OrderBase("x", "one")},
            {"base": OrderBase("x", "two")},
            {"base": OrderBase("x", "two", norms_only=True)},
        )
    ]
    keys = [key_of(item, order), *(key_of(one, order) for one in items), *(key_of(item, one) for one in orders)]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 for key in keys)


def test_a_key_changes_with_nothing_else(library, tmp_path) -> None:
    item, order = only_item(library), order_for(tmp_path)
    same_items = [dataclasses.replace(item, sidecars=()), dataclasses.replace(item, found=False)]
    changes: list[dict[str, object]] = [{"output": "s3://other"}, {"threads": 7}, {"retries": 9}, {"sidecars": False}]
    same_orders = [dataclasses.replace(order, **change) for change in [*changes, {"overwrite": True}]]  # type: ignore[arg-type]
    keys = {
        key_of(item, order),
        *(key_of(one, order) for one in same_items),
        *(key_of(item, one) for one in same_orders),
    }
    assert len(keys) == 1
    spelled = Order(str(tmp_path), parse_recipes("rank=2 : fro_lora=1, retain=0.9"))
    assert key_of(item, spelled) == key_of(item, order), "spaces in a recipe mean nothing"


def test_a_shard_does_not_depend_on_other_files(library) -> None:
    item = only_item(library)
    many = [dataclasses.replace(item, name=f"{number}.safetensors") for number in range(4000)]
    counts = [sum(shard_of(one, 4) == shard for one in many) for shard in range(4)]
    assert sum(counts) == 4000
    assert min(counts) > 850

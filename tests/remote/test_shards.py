"""``resize`` on stores and in parts, as a person uses it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from lib_resize.cli.remote import is_remote
from lib_resize.errors import UsageError
from lib_resize.recipe.grammar import parse_recipes
from lib_resize.remote import driver, manifest
from lib_resize.remote.listing import check_names, list_items
from lib_resize.remote.manifest import RunSums
from lib_resize.remote.order import WorkItem, shard_of
from lib_resize.remote.stores import STATE, StoreError, is_url, open_place
from lib_resize.remote.unit import Worker
from tests.remote.material import (
    RECIPES,
    contents,
    leftovers,
    markers,
    order_for,
    plain_results,
    run,
    write_library,
    write_tiny,
)
from tests.remote.places import Killed


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_library(tmp_path_factory.mktemp("remote") / "my loras", 6)


@pytest.fixture(scope="module")
def plain(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return plain_results(library, tmp_path_factory.mktemp("plain"))


def shard(library: object, out: object, part: str, *more: object) -> int:
    return run("resize", library, "-o", out, "-r", RECIPES, "--shard", part, *more)


def manifests(out: Path) -> list[list[dict[str, object]]]:
    found = sorted((out / STATE).glob("run-*.jsonl"))
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in found]


def test_one_shard_of_one_makes_the_files_of_the_plain_command(library, tmp_path, plain, capsys) -> None:
    assert shard(library, tmp_path, "0/1") == 0
    assert contents(tmp_path) == plain
    assert leftovers(tmp_path) == []
    assert "6 files (0 done before), 12 results" in capsys.readouterr().out


def test_two_shards_at_once_make_the_union_and_a_third_run_skips_all(library, tmp_path, plain, capsys) -> None:
    command = [sys.executable, "-m", "lib_resize", "resize", str(library), "-o", str(tmp_path), "-r", RECIPES]
    both = [subprocess.Popen([*command, "--shard", f"{part}/2"]) for part in (0, 1)]
    assert [process.wait() for process in both] == [0, 0]
    assert contents(tmp_path) == plain
    found, items = manifests(tmp_path), list(list_items([str(library)]))
    parts = len({shard_of(item, 2) for item in items})  # by their URLs, which have a random folder here
    assert len(found) == parts
    assert sorted(str(line["source"]) for lines in found for line in lines) == [
        item.url for item in list_items([str(library)])
    ]
    assert shard(library, tmp_path, "0/1") == 0
    assert "6 files (6 done before)" in capsys.readouterr().out
    assert len(manifests(tmp_path)) == parts, "a run without work writes none"


def test_a_run_that_is_killed_anywhere_goes_on(library, tmp_path, plain, monkeypatch) -> None:
    """After each file, and within each: in the end there are the files of the plain command, each made once."""
    do, calls = Worker.do, 0

    def dying(self: Worker, item: WorkItem) -> dict[str, object]:
        nonlocal calls
        calls += 1
        if calls in (2, 5):
            with monkeypatch.context() as patch:
                patch.setattr(type(self.output), "write", kill)
                return do(self, item)
        return do(self, item)

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Worker, "do", dying)
    for _ in range(2):
        with pytest.raises(Killed):
            shard(library, tmp_path, "0/1")
    assert len(markers(tmp_path)) == 3
    assert shard(library, tmp_path, "0/1") == 0
    assert contents(tmp_path) == plain
    assert calls == 8, "6 files, and the two that were under way again"


def test_ctrl_c_leaves_whole_files_and_a_manifest(library, tmp_path, plain, monkeypatch, capsys) -> None:
    do, calls = Worker.do, 0

    def stopped(self: Worker, item: WorkItem) -> dict[str, object]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return do(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "do", stopped)
        assert shard(library, tmp_path, "0/1") == 130
    assert "2 files (0 done before)" in capsys.readouterr().out
    assert contents(tmp_path).items() <= plain.items()
    assert [len(lines) for lines in manifests(tmp_path)] == [2]
    assert shard(library, tmp_path, "0/1") == 0
    assert contents(tmp_path) == plain


def test_damaged_files_are_named_and_the_others_done(library, tmp_path, capsys) -> None:
    loras = shutil.copytree(library, tmp_path / "in")
    (loras / "broken.safetensors").write_bytes(b"x" * 64)
    for before in (0, 7):
        assert shard(loras, tmp_path / "out", "0/1") == 1
        shown = capsys.readouterr()
        assert shown.err.count("broken.safetensors") == 1
        assert f"7 files ({before} done before)" in shown.out
        assert "failed: 1 DamagedFileError" in shown.out
    assert len(markers(tmp_path / "out")) == 7


def test_the_report_is_made_of_the_markers(library, tmp_path, capsys) -> None:
    for part in ("0/2", "1/2"):
        shard(library, tmp_path, part)
    for path in (tmp_path / STATE).glob("run-*"):
        path.unlink()
    capsys.readouterr()
    assert run("cluster", "report", tmp_path, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / STATE / "summary.json").read_bytes())
    lines = [json.loads(line) for line in (tmp_path / STATE / "manifest.jsonl").read_text().splitlines()]
    assert (summary["files"], summary["results"], len(lines)) == (6, 12, 6)
    results = [one for line in lines for one in line["results"]]
    assert summary["bytes_after"] == sum(Path(one["output"]).stat().st_size for one in results)
    assert set(summary["seconds"]) == {"look", "get", "work", "put"}
    assert run("cluster", "report", tmp_path) == 0
    assert "6 files" in capsys.readouterr().out


def test_a_dry_run_counts_and_writes_nothing(library, tmp_path, capsys) -> None:
    assert shard(library, tmp_path / "out", "0/1", "--dry-run") == 0
    assert "0 of 6 files" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_memory_of_a_store_and_mixed_places(library, tmp_path, plain) -> None:
    fsspec = pytest.importorskip("fsspec")
    url = f"memory://{uuid.uuid4().hex}"
    store = fsspec.filesystem("memory")
    store.put(str(library), url.removeprefix("memory:/"), recursive=True)
    assert {item.stem for item in list_items([url])} == set("abcdef")
    assert run("resize", url, "-o", tmp_path / "local", "-r", RECIPES) == 0
    assert contents(tmp_path / "local") == plain
    assert run("resize", library, "-o", f"{url}-out", "-r", RECIPES) == 0
    store.get(f"{url}-out", str(tmp_path / "back"), recursive=True)
    wanted = {name: found for name, found in plain.items() if not name.endswith(".json")}
    assert {name: found for name, found in contents(tmp_path / "back").items() if name in wanted} == wanted


# Listing -----------------------------------------------------------------------------------------------------


def stems(*arguments: object) -> list[str]:
    return sorted(item.name for item in list_items([str(one) for one in arguments]))


def test_folders_files_and_patterns_are_listed_once(library) -> None:
    assert stems(library) == [
        "a.safetensors",
        "c.safetensors",
        "e.safetensors",
        *(f"sub dir/{x}.safetensors" for x in "bdf"),
    ]
    assert stems(library, library / "a.safetensors", f"{library}/") == stems(library)
    assert stems(f"{library}/[ac]*.safetensors") == ["a.safetensors", "c.safetensors"]
    assert stems(f"{library}/*/[bd].safetensors") == ["sub dir/b.safetensors", "sub dir/d.safetensors"]
    assert stems(library / "sub dir" / "b.safetensors") == ["b.safetensors"]


def test_results_keep_sub_folders_of_a_folder_only(library) -> None:
    assert {item.below for item in list_items([str(library)])} == {"", "sub dir"}
    assert {item.below for item in list_items([f"{library}/*/b.safetensors"])} == {""}


def test_sidecars_are_found_by_their_names(library, tmp_path) -> None:
    assert next(iter(list_items([str(library)]))).sidecars == ("a.metadata.json", "a.png")
    assert list_items([str(library / "a.safetensors")])[0].sidecars == ("a.metadata.json", "a.png")
    for name in ("x", "x.v2"):
        write_tiny(tmp_path / f"{name}.safetensors")
        (tmp_path / f"{name}.preview.png").touch()
    found = {item.stem: item.sidecars for item in list_items([str(tmp_path)])}
    assert found == {"x": ("x.preview.png",), "x.v2": ("x.v2.preview.png",)}


@pytest.mark.parametrize(
    "name", ["nowhere", "nowhere.safetensors", "no*.safetensors", "**/*.safetensors", "a:0.5,b:0.5"]
)
def test_what_names_no_lora_is_refused(library, name) -> None:
    with pytest.raises(UsageError):
        list_items([f"{library}/{name}"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("s3://bucket/loras", True),
        ("hf://owner/name", True),
        ("memory://a b", True),
        ("simplecache::s3://bucket/x", True),
        ("C:\\loras", False),
        ("loras", False),
        ("a:0.6,b:0.4", False),
        ("://x", False),
    ],
)
def test_urls_are_recognized(text, wanted) -> None:
    assert is_url(text) == wanted


def test_a_file_url_is_a_local_folder(library) -> None:
    assert open_place(f"file://{library}").folder == library


# Clashes -----------------------------------------------------------------------------------------------------


def items_of(*names: str, place: str = "s3://in") -> list[WorkItem]:
    return [WorkItem(place, f"{name}.safetensors", 1, "t", (), name.rpartition("/")[0]) for name in names]


@pytest.mark.parametrize(
    "items",
    [
        [*items_of("a"), *items_of("a", place="s3://other")],
        items_of("sub/A", "sub/a"),
        items_of("a?", "a*"),
        items_of("a" * 300, "a" * 301),
        items_of("é", "e\u0301"),
    ],
)
def test_two_sources_with_one_name_are_found_before_anything_runs(items) -> None:
    with pytest.raises(UsageError, match="would have one name"):
        check_names(items, order_for("s3://out"))


def test_one_name_in_two_folders_is_no_clash() -> None:
    check_names(items_of("a", "sub/a", "b"), order_for("s3://out"))


def test_recipes_can_make_one_name_of_two_sources() -> None:
    items = items_of("a", "a_scale0.5")
    check_names(items, order_for("s3://out", recipes=parse_recipes("rank=4")))
    with pytest.raises(UsageError, match=r"a_scale0\.5_rank4"):
        check_names(items, order_for("s3://out", recipes=parse_recipes("rescale=0.5,rank=4:rank=4")))


def test_a_suffix_names_one_recipe() -> None:
    with pytest.raises(UsageError, match="--suffix"):
        check_names(items_of("a"), order_for("s3://out", suffix="_x"))


@pytest.mark.parametrize("out", ["s3://in", "s3://in/small", "s3:/", "s3://in/a"])
def test_results_never_go_to_the_sources(out) -> None:
    with pytest.raises(UsageError, match="outside of the sources"):
        check_names(items_of("a"), order_for(out if out != "s3:/" else "s3:/"))


def test_a_neighbour_with_the_same_beginning_is_another_folder() -> None:
    check_names(items_of("a"), order_for("s3://in-small"))


def test_a_clash_is_found_by_every_shard(library, tmp_path, capsys) -> None:
    other = write_library(tmp_path / "other", 1)
    for part in ("0/2", "1/2"):
        assert run("resize", library, other, "-o", tmp_path / "out", "-r", RECIPES, "--shard", part) == 2
        assert "would have one name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["--shard", "2/2", "-o", "out"],
        ["--shard", "1", "-o", "out"],
        ["--shard", "0/1"],
        ["--shard", "0/1", "-o", "out", "--cluster", "local"],
        ["--shard", "0/1", "-o", "out", "--replace"],
        ["--shard", "0/1", "-o", "out", "--report", "x.json"],
        ["--shard", "0/1", "-o", "out", "-d", "cuda"],
        ["--shard", "0/1", "-o", "out", "--skip-existing"],
        ["--shard", "0/1", "-o", "out", "-r", "spn_ckpt=1,size=1"],
        ["--cluster", "local:0", "-o", "out"],
        ["--cluster", "local:x", "-o", "out"],
    ],
    ids=" ".join,
)
def test_options_without_meaning_are_refused(library, tmp_path, options, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_or_exit("resize", library, *options) == 2
    assert contents(tmp_path, markers=True) == {}


def run_or_exit(*arguments: object) -> int:
    try:
        return run(*arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_plain_paths_stay_with_the_plain_command() -> None:
    from lib_resize.cli.main import parser

    def remote(*arguments: str) -> bool:
        return is_remote(parser("resize").parse_args(["resize", *arguments]))

    assert not remote("a.safetensors", "-o", "out", "--base", "x.json")
    assert remote("s3://a/b", "-o", "out")
    assert remote("a", "-o", "s3://out")
    assert remote("a", "--base", "s3://x.safetensors")
    assert remote("a", "--shard", "0/1")
    assert remote("a", "--cluster", "local")


@pytest.mark.parametrize(("module", "extra"), [("fsspec", "remote"), ("distributed", "cluster")])
def test_without_the_extra_the_message_names_it(library, tmp_path, module, extra, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    more = ["-o", tmp_path, "--cluster", "local"] if module == "distributed" else ["-o", "memory://out"]
    assert run("resize", library, *more) == 2
    assert f'pip install "resize-lora[{extra}]"' in capsys.readouterr().err


def test_without_the_package_of_a_store_the_message_names_the_store(library, capsys) -> None:
    pytest.importorskip("fsspec")
    assert run("resize", library, "-o", "nosuchstore://out") == 2
    assert "nosuchstore" in capsys.readouterr().err


# A hundred thousand files ------------------------------------------------------------------------------------


def many(count: int) -> list[WorkItem]:
    return [WorkItem("s3://in", f"{i % 100}/{i}.safetensors", 100, f"{i:032x}", (), str(i % 100)) for i in range(count)]


def test_the_driver_keeps_nothing_of_the_lines(tmp_path, monkeypatch) -> None:
    """The memory of a run does not grow with the files that it did, and each is done once."""
    import tracemalloc

    seen: set[str] = set()
    peaks = []

    def workers(items, order):
        for item in items:
            line = {"key": "", "source": item.url, "results": [{"error": "x" * 1000, "kind": "DamagedFileError"}]}
            seen.add(item.name)
            yield item, line

    for count in (1000, 10_000):
        seen.clear()
        run_ = driver.planned(order_for(tmp_path / str(count)), many(count))
        tracemalloc.start()
        for _ in run_.go(workers):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(seen) == count
        assert run_.tally.failed == {"DamagedFileError": count}
    assert (peaks[1] - peaks[0]) / 9000 < 400, peaks


def test_sums_count_each_kind_once_a_source() -> None:
    tally = RunSums()
    tally.add({"source": "x", "results": [{"error": "", "kind": "LayerError"}] * 2, "seconds": {"get": 1.0}})
    tally.add({"source": "y", "error": "", "kind": "StoreError"})
    tally.add({"source": "z", "skipped": True, "seconds": {"get": 1.0}, "results": [{"skipped": "x"}]})
    wanted = {"files": 3, "skipped": 1, "results": 0, "failed": {"LayerError": 1, "StoreError": 1}}
    assert {name: tally.as_json()[name] for name in wanted} == wanted
    assert tally.as_json()["seconds"] == {"get": 1.0}


def test_the_time_left_counts_this_run_only() -> None:
    run_ = driver.planned(order_for("s3://out"), many(4))
    assert run_.seconds_left is None
    run_._advance(run_.items[0], skipped=True)
    assert run_.seconds_left is None
    run_.started -= 10
    run_._advance(run_.items[1], skipped=False)
    assert run_.seconds_left == pytest.approx(20, abs=0.5)


def test_markers_are_known_from_one_listing(library, tmp_path, monkeypatch) -> None:
    shard(library, tmp_path, "0/1")
    monkeypatch.setattr(Worker, "do", lambda *_: pytest.fail("a marker was not known"))
    assert shard(library, tmp_path, "0/1") == 0
    assert len(manifest.done_keys(str(tmp_path))) == 6
    order = order_for(tmp_path)
    assert dataclasses.replace(order, output="x").identity == order.identity


def test_listings_leave_out_what_a_run_keeps_for_itself(tmp_path) -> None:
    write_tiny(tmp_path / "a.safetensors")
    write_tiny(tmp_path / STATE / "tmp" / "b.safetensors")
    assert stems(tmp_path) == ["a.safetensors"]
    fsspec = pytest.importorskip("fsspec")
    name = uuid.uuid4().hex
    fsspec.filesystem("memory").put(str(tmp_path), f"/{name}", recursive=True)
    assert stems(f"memory://{name}") == ["a.safetensors"]


def test_local_files_need_no_extra(library, tmp_path, plain, monkeypatch) -> None:
    for module in ("fsspec", "distributed", "dask", "s3fs"):
        monkeypatch.setitem(sys.modules, module, None)
    assert shard(library, tmp_path, "0/1") == 0
    assert contents(tmp_path) == plain
    assert run("cluster", "report", tmp_path) == 0


def test_errors_of_a_stores_package_are_faults_of_the_store(tmp_path) -> None:
    """Packages of stores raise classes of their own for a network that fails."""
    pytest.importorskip("fsspec")
    from lib_resize.remote.fsspec_store import FsspecPlace

    class Broken:
        protocol = "memory"

        def __getattr__(self, name: str) -> object:
            raise LookupError("a class of the package's own")

    place = FsspecPlace("memory://x")
    place._files = Broken()
    for call in (
        lambda: list(place.files()),
        lambda: place.names("a"),
        lambda: place.find("a"),
        lambda: place.read("a"),
        lambda: place.fetch("a", tmp_path / "a"),
        lambda: place.publish(tmp_path / "a", "a"),
        lambda: place.write("a", b""),
    ):
        with pytest.raises(StoreError, match="LookupError"):
            call()

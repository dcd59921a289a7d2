"""The list of LoRAs: whole at any moment, unambiguous, and looked at once for many questions."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib_resize.files.walk import names_in
from lib_resize.hosts import listing, scan
from lib_resize.hosts.a1111 import A1111Host
from lib_resize.hosts.forge import ForgeHost
from lib_resize.hosts.host import LoraFile, LoraList
from lib_resize.hosts.listing import CompleteList
from lib_resize.hosts.reforge import ReforgeHost
from lib_resize.hosts.standalone import StandaloneHost
from tests.hosts.standins import OnDisk, WebUI, add_backend


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebUI:
    folder = tmp_path / "Lora"
    folder.mkdir()
    return WebUI(folder, SimpleNamespace()).install(monkeypatch)


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def fill(webui: WebUI, count: int, folders: int = 3) -> dict[str, OnDisk]:
    """Files in sub-folders, and the host's entries of them."""
    paths = [put(webui.lora_dir / f"f{number % folders}" / f"{number:03}.safetensors") for number in range(count)]
    return {path.stem: OnDisk(path.stem, str(path), path.stem) for path in paths}


@contextmanager
def refreshing(listed: dict[str, Any], entries: dict[str, Any]) -> Iterator[None]:
    """A thread that clears the list and fills it again, over and over, as any refresh of the host does."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            listed.clear()
            time.sleep(0.001)
            for number, (name, entry) in enumerate(entries.items()):
                listed[name] = entry
                if number % 10 == 0:
                    time.sleep(0.0005)
            time.sleep(0.005)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# The host's list is refreshed meanwhile ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [A1111Host, ForgeHost, ReforgeHost])
def test_a_refresh_under_way_takes_no_name_off_the_list(kind: Any, webui: WebUI, monkeypatch: Any) -> None:
    add_backend(webui)
    webui.install(monkeypatch)
    entries, listed = fill(webui, 60), webui.modules["networks"].available_networks
    listed.update(entries)
    host = kind()
    assert len(host.loras()) == 60
    with refreshing(listed, entries):
        raw, seen = set(), set()
        for _ in range(60):
            raw.add(len(listed))
            seen.add(len(host.loras()))
            assert host.resolve("059").path.name == "059.safetensors"
            time.sleep(0.0005)
    assert len(raw) > 1, "the stand-in was never seen half full"
    assert seen == {60}


def test_the_first_look_is_whole_too(webui: WebUI) -> None:
    entries = fill(webui, 60)
    with refreshing(webui.modules["networks"].available_networks, entries):
        assert len(A1111Host().loras()) == 60


def test_the_first_look_waits_no_longer_than_it_has_to_where_the_host_hides_files(
    webui: WebUI, monkeypatch: Any
) -> None:
    monkeypatch.setattr(CompleteList, "QUIET", 0.05)
    webui.add_lora("a", put(webui.lora_dir / "a.safetensors"))
    put(webui.lora_dir / ".hidden" / "b.safetensors")
    assert [lora.name for lora in A1111Host().loras()] == ["a"]


def test_a_name_is_gone_when_its_file_is_gone(webui: WebUI) -> None:
    entries, listed = fill(webui, 5), webui.modules["networks"].available_networks
    listed.update(entries)
    host = A1111Host()
    host.loras()
    Path(entries["003"].filename).unlink()
    listed.clear()
    assert [lora.name for lora in host.loras()] == ["000", "001", "002", "004"]
    Path(entries["004"].filename).unlink()
    assert [lora.name for lora in host.loras()] == ["000", "001", "002"], "while the list is still empty"


def test_a_moved_file_is_where_the_host_says(webui: WebUI) -> None:
    entries, listed = fill(webui, 3), webui.modules["networks"].available_networks
    listed.update(entries)
    host = A1111Host()
    host.loras()
    moved = webui.lora_dir / "new" / "001.safetensors"
    moved.parent.mkdir()
    Path(entries["001"].filename).rename(moved)
    listed["001"] = OnDisk("001", str(moved), "001")
    assert host.resolve("001").path == moved
    assert len(host.loras()) == 3


def test_a_file_that_the_host_calls_otherwise_now_is_listed_once(webui: WebUI) -> None:
    path = put(webui.lora_dir / "v1.2.safetensors")
    listed = webui.modules["networks"].available_networks
    listed["v1.2"] = OnDisk("v1.2", str(path), "v1.2")
    host = A1111Host()
    host.loras()
    listed.clear()
    listed["v1_2"] = OnDisk("v1_2", str(path), "v1.2")
    assert [lora.name for lora in host.loras()] == ["v1_2"]


def test_a_file_whose_name_changed_its_case_alone_is_listed_once(webui: WebUI, monkeypatch: Any) -> None:
    """Windows finds it under either name."""
    old_path, new_path = (put(webui.lora_dir / f"{name}.safetensors") for name in ("Ink", "ink"))
    listed = webui.modules["networks"].available_networks
    listed["Ink"] = OnDisk("Ink", str(old_path), "Ink")
    listed["ink"] = OnDisk("ink", str(new_path), "ink")
    host = A1111Host()
    assert len(host.loras()) == 2
    del listed["Ink"]
    assert len(host.loras()) == 2, "two files, where the disk has both"
    monkeypatch.setattr(listing, "same_file", lambda one, other: str(one).lower() == str(other).lower())
    assert [lora.name for lora in host.loras()] == ["ink"]


def test_a_host_that_puts_a_new_dictionary_in_its_place_is_followed(webui: WebUI) -> None:
    entries = fill(webui, 4)
    webui.modules["networks"].available_networks = dict(entries)
    host = A1111Host()
    assert len(host.loras()) == 4
    webui.modules["networks"].available_networks = {}
    assert len(host.loras()) == 4
    new = put(webui.lora_dir / "new.safetensors")
    webui.modules["networks"].available_networks = {**entries, "new": OnDisk("new", str(new), "new")}
    assert len(host.loras()) == 5


def test_names_with_folders_of_several_roots_stay_as_the_host_has_them(
    webui: WebUI, tmp_path: Path, monkeypatch: Any
) -> None:
    add_backend(webui)
    webui.install(monkeypatch)
    webui.cmd_opts.lora_dirs = [str(tmp_path / "second")]
    paths = {"styles/ink": put(webui.lora_dir / "styles" / "ink.safetensors"), "ink": put(tmp_path / "second/ink.pt")}
    listed = webui.modules["networks"].available_networks
    listed.update({name: OnDisk(name, str(path), name) for name, path in paths.items()})
    host = ForgeHost()
    assert {lora.name: lora.path for lora in host.loras()} == paths
    del listed["styles/ink"]
    assert {lora.name: lora.path for lora in host.loras()} == paths


# Odd entries ---------------------------------------------------------------------------------------------------


class Raising:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name}: not now")


ODD = {
    "none": None,
    "nothing": SimpleNamespace(),
    "no file": SimpleNamespace(filename=None),
    "empty": SimpleNamespace(filename=""),
    "number": SimpleNamespace(filename=7),
    "nul": SimpleNamespace(filename="a\0b"),
    "raises": Raising(),
    "text": "x.safetensors",
    7: SimpleNamespace(filename="/x/y.safetensors"),
    None: SimpleNamespace(filename="/x/y.safetensors"),
    b"bytes": SimpleNamespace(filename="/x/y.safetensors"),
}


@pytest.mark.parametrize("name", list(ODD), ids=str)
def test_an_odd_entry_is_left_out_and_the_others_stay(webui: WebUI, name: Any) -> None:
    listed = webui.modules["networks"].available_networks
    webui.add_lora("a", put(webui.lora_dir / "a.safetensors"))
    listed[name] = ODD[name]
    assert [lora.name for lora in A1111Host().loras()] == ["a"]


def test_odd_metadata_and_aliases_leave_the_file_in_the_list(webui: WebUI) -> None:
    listed = webui.modules["networks"].available_networks
    for number, alias in enumerate((7, b"x", ["y"], None, "")):
        path = put(webui.lora_dir / f"{number}.safetensors")
        listed[path.stem] = SimpleNamespace(filename=str(path), alias=alias, metadata=[1])
    listed["bytes"] = SimpleNamespace(filename=os.fsencode(put(webui.lora_dir / "bytes.safetensors")))
    loras = A1111Host().loras()
    assert [lora.name for lora in loras] == ["0", "1", "2", "3", "4", "bytes"]
    assert {lora.alias for lora in loras} == {None}


@pytest.mark.parametrize("listed", [None, 7, [], ["a"], Raising()], ids=lambda one: type(one).__name__)
def test_a_list_of_another_kind_is_read_from_the_folders(webui: WebUI, listed: Any) -> None:
    put(webui.lora_dir / "a.safetensors")
    webui.modules["networks"].available_networks = listed
    assert [lora.name for lora in A1111Host().loras()] == ["a"]


# Names and aliases ---------------------------------------------------------------------------------------------


def loras(**aliases: str | None) -> LoraList:
    return LoraList(LoraFile(name, Path(f"/l/{name}.safetensors"), alias) for name, alias in aliases.items())


def named(lora: LoraFile | None) -> str:
    assert lora is not None
    return lora.name


def test_a_files_own_name_wins_over_any_alias() -> None:
    """Trainers write the same output name into every epoch."""
    listed = loras(**{"style": None, "style-000004": "style", "other": "style"})
    assert named(listed.get("style")) == "style"
    assert named(listed.get("style-000004")) == "style-000004"


def test_an_alias_of_one_file_is_that_file_and_of_two_nobody() -> None:
    assert named(loras(a="Style", b=None).get("Style")) == "a"
    assert loras(a="Style", b="Style").get("Style") is None
    assert loras(a="Style").get("style") is None


def test_a_file_is_found_by_its_path_and_by_another_way_to_it(tmp_path: Path) -> None:
    path = put(tmp_path / "real" / "a.safetensors")
    (tmp_path / "link").symlink_to(path.parent)
    listed = LoraList([LoraFile("a", path)])
    assert named(listed.at(path)) == named(listed.at(tmp_path / "link" / "a.safetensors")) == "a"
    assert listed.at(tmp_path / "a.safetensors") is None


# Work ----------------------------------------------------------------------------------------------------------


@contextmanager
def counted(monkeypatch: Any) -> Iterator[list[Path]]:
    """Folders that are read."""
    read: list[Path] = []
    with monkeypatch.context() as patch:

        def noted(folder: Path) -> list[str]:
            read.append(folder)
            return names_in(folder)

        patch.setattr(scan, "names_in", noted)
        yield read


def old(folder: Path) -> None:
    for one in (folder, *folder.rglob("*")):
        if one.is_dir():
            os.utime(one, (1_000_000_000, 1_000_000_000))


@pytest.mark.parametrize("kind", ["A1111", "standalone"])
def test_folders_are_read_for_previews_only_when_they_changed(kind: str, webui: WebUI, monkeypatch: Any) -> None:
    webui.modules["networks"].available_networks.update(fill(webui, 30))
    old(webui.lora_dir)
    host: Any = A1111Host() if kind == "A1111" else StandaloneHost([webui.lora_dir])
    with counted(monkeypatch) as read:
        for number in range(10):
            host.loras()
            host.resolve(f"{number:03}")
        assert len(read) == 3
        picture = put(webui.lora_dir / "f0" / "000.preview.png")
        assert host.resolve("000").preview == picture
        assert len(read) == 4
        put(webui.lora_dir / "f0" / "003.png")  # in the same moment: the folder may not show a new time
        assert host.resolve("003").preview is not None
        picture.unlink()
        assert host.resolve("000").preview is None


def test_a_folder_that_changed_a_moment_ago_is_read_again_though_its_time_is_the_same(tmp_path: Path) -> None:
    """Times of some disks are coarse."""
    folders, moment = scan.Folders(), time.time_ns()
    os.utime(tmp_path, ns=(moment, moment))
    assert folders.names(tmp_path) == frozenset()
    put(tmp_path / "a.png")
    os.utime(tmp_path, ns=(moment, moment))
    assert folders.names(tmp_path) == {"a.png"}


def test_the_list_is_not_made_anew_where_nothing_changed(webui: WebUI) -> None:
    webui.modules["networks"].available_networks.update(fill(webui, 30))
    old(webui.lora_dir)
    host = A1111Host()
    first = host.loras()
    assert host.loras() is first
    webui.modules["networks"].available_networks.pop("003")
    assert host.loras() is first, "its file is there"


def test_two_threads_of_ours_refresh_one_after_the_other(webui: WebUI) -> None:
    inside, most = [0], [0]

    def again() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        inside[0] -= 1

    webui.modules["networks"].list_available_networks = again
    host = A1111Host()
    threads = [threading.Thread(target=host.refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_failed_refresh_raises_nothing(webui: WebUI) -> None:
    def broken() -> None:
        raise OSError("the drive is gone")

    webui.modules["networks"].list_available_networks = broken
    A1111Host().refresh()
    del sys.modules["networks"].list_available_networks
    A1111Host().refresh()

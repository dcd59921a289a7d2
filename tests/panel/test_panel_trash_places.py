"""The trash of several folders of LoRAs, and of earlier versions, as the panel has it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_resize.hosts import trash_places
from lib_resize.hosts.scan import INNER_TRASH, TRASH
from lib_resize.hosts.standalone import StandaloneHost
from lib_resize.panel import trash
from lib_resize.panel.service import Service
from tests.panel.panelhost import Browser


@pytest.fixture
def roots(tmp_path: Path, pantry: Path) -> tuple[Path, Path]:
    trash_places._usable.cache_clear()
    made = tmp_path / "one" / "Lora", tmp_path / "two" / "Lora"
    for root, name in zip(made, ("ink", "pastry"), strict=True):
        root.mkdir(parents=True)
        shutil.copy(pantry / f"{name}.safetensors", root)
    return made


@pytest.fixture
def browser(roots: tuple[Path, Path], tmp_path: Path) -> Iterator[Browser]:
    service = started(roots, tmp_path)
    yield Browser(service)
    service.close()
    service.desk.queue.join()


def started(roots: tuple[Path, Path], tmp_path: Path) -> Service:
    service = Service(StandaloneHost(roots), tmp_path / "library.json")
    service.recovering.join()
    return service


def folders(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.is_dir()]


def test_an_undone_file_goes_to_the_trash_of_its_own_root(browser: Browser, roots: tuple[Path, Path]) -> None:
    results = [browser.resized(name, target={"rank": 1}) for name in ("ink", "pastry")]
    for result in results:
        browser.ask("undo", result=result["result"])
    assert [len(trash.items(root.parent / TRASH)) for root in roots] == [1, 1]
    assert [folders(root) for root in roots] == [[], []], "a folder is a button above the host's cards"
    assert [item["name"] for item in browser.ask("trash")["items"]] == [one["output"] for one in results]
    for result in results:
        assert browser.ask("restore", result=result["result"])["result"]["state"] == "there"
    assert all((root / f"{one['output']}.safetensors").exists() for root, one in zip(roots, results, strict=True))


def test_all_of_them_are_emptied(browser: Browser, roots: tuple[Path, Path]) -> None:
    for name in ("ink", "pastry"):
        browser.ask("undo", result=browser.resized(name, target={"rank": 1})["result"])
    assert browser.ask("empty_trash", confirm=True)["files"] == 2
    assert browser.ask("trash")["items"] == []
    assert [trash.items(root.parent / TRASH) for root in roots] == [[], []]


def old_item(root: Path, name: str = "old") -> bytes:
    """As an earlier version left it."""
    path = root / f"{name}.safetensors"
    shutil.copy(next(root.glob("*.safetensors")), path)
    data = path.read_bytes()
    trash.trash(root / INNER_TRASH, name, [path])
    return data


def test_what_earlier_versions_left_is_moved_out_and_can_be_restored(roots: tuple[Path, Path], tmp_path: Path) -> None:
    kept = [old_item(root, f"old{number}") for number, root in enumerate(roots)]
    service = started(roots, tmp_path)
    assert [folders(root) for root in roots] == [[], []]
    browser = Browser(service)
    items = browser.ask("trash")["items"]
    assert {item["name"] for item in items} == {"old0", "old1"}
    for item in items:
        browser.ask("restore", item=item["item"])
    assert [(root / f"old{n}.safetensors").read_bytes() for n, root in enumerate(roots)] == kept
    service.close()


def test_what_cannot_be_moved_out_is_listed_restored_and_emptied_where_it_is(
    roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_item(roots[0], "first")
    old_item(roots[0], "second")
    monkeypatch.setattr(Path, "rename", lambda *paths: (_ for _ in ()).throw(OSError(18, "another disk")))
    service = started(roots, tmp_path)
    browser = Browser(service)
    items = browser.ask("trash")["items"]
    assert {item["name"] for item in items} == {"first", "second"}
    browser.ask("restore", item=items[0]["item"])
    assert folders(roots[0]) == [INNER_TRASH]
    assert browser.ask("empty_trash", confirm=True)["files"] == 1
    assert folders(roots[0]) == []
    service.close()

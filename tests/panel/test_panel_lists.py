"""One look at the host's list for each call, one refresh for each batch, and names that mean what the host means."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib_resize.hosts.host import LoraFile, LoraList
from lib_resize.panel.hiding import KnownFolders
from lib_resize.panel.refreshing import Refresher
from lib_resize.panel.service import Service
from lib_resize.panel.versions import names_of
from lib_resize.panel.xyz import register
from tests.panel.panelhost import Browser, fake_host

RECIPE = {"target": {"rank": 1}}


class Folder:
    """Many LoRAs of a host, all of them empty files."""

    def __init__(self, root: Path, count: int) -> None:
        self.names = [f"lora {number:04}" for number in range(count)]
        root.mkdir(parents=True)
        for name in self.names:
            (root / f"{name}.safetensors").touch()
        self.host = fake_host(root, working_on="a picture")
        self.host.listed = self.host.loras()


@pytest.fixture
def many(tmp_path: Path) -> Iterator[tuple[Folder, Browser]]:
    folder = Folder(tmp_path / "Lora", 2000)
    service = Service(folder.host, tmp_path / "library.json")
    service.recovering.join()
    yield folder, Browser(service)
    service.close()
    service.desk.queue.join()


# Work ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "more"), [("resize", RECIPE), ("analyse", {}), ("resize", {**RECIPE, "options": {"folder": "small"}})]
)
def test_two_thousand_names_are_one_look_at_the_list(
    many: tuple[Folder, Browser], method: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, browser = many
    looks, resolved = [], [0]
    real = Path.resolve

    def resolve(path: Path, strict: bool = False) -> Path:
        resolved[0] += 1
        return real(path, strict)

    monkeypatch.setattr(Path, "resolve", resolve)
    for names in (folder.names[:1], folder.names[1:]):
        folder.host.looks = resolved[0] = 0
        browser.ask(method, names=names, **more)
        looks.append((folder.host.looks, resolved[0]))
    assert looks[1] == looks[0]
    assert looks[0][0] <= 3


def test_unknown_names_are_refused_one_by_one_with_one_look(many: tuple[Folder, Browser]) -> None:
    folder, browser = many
    folder.host.looks = 0
    names = [f"nobody {number}" for number in range(500)]
    answer = browser.ask("resize", names=[*names, *folder.names[:2]], **RECIPE)
    assert [one["name"] for one in answer["refused"]] == names
    assert len(answer["jobs"]) == 2
    assert folder.host.looks <= 3


def test_a_prompt_with_many_tags_is_one_look_at_the_list(many: tuple[Folder, Browser]) -> None:
    folder, browser = many
    folder.host.looks = 0
    prompt = " ".join(f"<lora:{name}:1>" for name in ["nobody", "nothing", *folder.names[:50]])
    assert len(browser.ask("read_prompt", prompt=prompt)["tags"]) == 52
    assert folder.host.looks <= 3


# Messages without folders --------------------------------------------------------------------------------------


def test_many_messages_are_one_look_at_the_list_and_hold_no_folder(root: Path) -> None:
    host = fake_host(root, checkpoint_files=[root.parent / "Stable diffusion" / "base.safetensors"])
    folders = KnownFolders(host)
    assert folders.without("no path in it") == "no path in it"
    assert host.looks == 0
    for path in (root / "a b.safetensors", host.checkpoint_files[0], host.trash_root() / "x" / "000.trashed"):
        assert str(root.parent) not in folders.without(f"{path}: cannot be read.")
    for number in range(100):
        assert folders.without(f"{root}/{number}.safetensors: damaged") == f"{number}.safetensors: damaged"
    assert host.looks == 1


def test_a_path_that_is_none_of_the_hosts_has_nothing_listed_again(root: Path) -> None:
    host = fake_host(root)
    folders = KnownFolders(host)
    for number in range(100):
        assert folders.without(f"/elsewhere/{number}: no room") == f"/elsewhere/{number}: no room"
    assert host.looks == 1


def test_a_folder_that_came_later_is_left_out_too(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = fake_host(root)
    folders = KnownFolders(host)
    folders.without(str(root / "x"))
    host.listed = [LoraFile("far", tmp_path / "elsewhere" / "far.safetensors")]
    monkeypatch.setattr(KnownFolders, "_AGAIN", 0.0)
    assert folders.without(f"{tmp_path}/elsewhere/far.safetensors: damaged") == "far.safetensors: damaged"


# Refreshing ----------------------------------------------------------------------------------------------------


def refreshes(host: Any) -> int:
    return sum(event == ("refresh",) for event in host.events)


def test_a_batch_is_one_refresh_at_its_first_file_and_one_at_its_last(browser: Browser, host: Any) -> None:
    host.working_on = "a picture"
    jobs = browser.ask("resize", names=["ink", "pastry"], recipe="rank=1:rank=2:rank=3")["jobs"]
    assert len(jobs) == 6
    host.working_on = None
    for job in jobs:
        browser.done(job)
    browser.until(lambda: refreshes(host) == 2, 5)
    assert refreshes(host) == 2


def test_what_is_put_off_is_made_up_for(host: Any) -> None:
    refresher = Refresher(host, every=0.05)
    refresher.changed(more=True)
    for _ in range(20):
        refresher.changed(more=True)
    assert refreshes(host) == 1
    for _ in range(100):
        if refreshes(host) == 2:
            break
        time.sleep(0.01)
    assert refreshes(host) == 2


def test_the_last_file_is_not_put_off_and_a_closed_service_asks_no_more(host: Any) -> None:
    refresher = Refresher(host, every=0.05)
    for more in (True, True, False):
        refresher.changed(more=more)
    assert refreshes(host) == 2
    refresher.changed(more=True)
    refresher.close()
    threading.Event().wait(0.1)
    assert refreshes(host) == 2


def test_a_result_that_the_host_has_not_listed_yet_can_be_tried(browser: Browser, host: Any) -> None:
    host.listed = host.loras()
    result = browser.resized("ink", **RECIPE)
    host.listed = [lora for lora in host.listed if lora.name != result["output"]]
    assert browser.ask("prompt_tag", result=result["result"])["name"] == result["output"]


# Names and aliases ---------------------------------------------------------------------------------------------


@pytest.fixture
def epochs(root: Path, host: Any, browser: Browser) -> tuple[str, str]:
    """``style`` and ``style-000004``, which calls itself ``style`` too, as trainers write it; a version of each."""
    (root / "ink.safetensors").rename(root / "style.safetensors")
    (root / "pastry.safetensors").rename(root / "style-000004.safetensors")
    host.listed = None
    made = [browser.resized(name, target={"rank": 1}, options={"suffix": "_small"}) for name in EPOCHS]
    aliases = {"style": "style", "style-000004": "style"}
    host.listed = LoraList(LoraFile(one.name, one.path, aliases.get(one.name)) for one in host.loras())
    return made[0]["output"], made[1]["output"]


EPOCHS = ("style", "style-000004")


def test_the_plot_takes_a_lora_by_its_own_name_though_another_has_it_as_alias(
    browser: Browser, epochs: tuple[str, str]
) -> None:
    versions = browser.service.desk.versions
    assert versions.family_names("style") == {"style", epochs[0]}
    assert versions.family_names("style-000004") == {"style-000004", epochs[1]}


class Axis:
    def __init__(self, label: str, type: Any, apply: Any, **more: Any) -> None:
        self.label, self.apply, self.confirm = label, apply, more["confirm"]


def test_the_plot_makes_a_cell_for_each_version_of_that_lora(browser: Browser, epochs: tuple[str, str]) -> None:
    script = SimpleNamespace(axis_options=[], AxisOption=Axis)
    register(script, lambda: browser.service.desk.versions)
    axis, prompt = script.axis_options[0], "a cake <lora:style:0.9> <lora:style-000004:0.4>"
    axis.confirm(SimpleNamespace(prompt=prompt), ["style", epochs[0]])
    for value, wanted in ((epochs[0], f"<lora:{epochs[0]}:0.9> <lora:style-000004:0.4>"), ("style", prompt[7:])):
        cell = SimpleNamespace(prompt=prompt)
        axis.apply(cell, value, [])
        assert cell.prompt == f"a cake {wanted}"
    cell = SimpleNamespace(prompt=prompt)
    axis.apply(cell, epochs[1], [])
    assert cell.prompt == f"a cake <lora:style:0.9> <lora:{epochs[1]}:0.4>"


def test_try_and_compare_leave_the_other_epochs_tag_alone(browser: Browser, epochs: tuple[str, str], host: Any) -> None:
    tag = browser.ask("prompt_tag", name=epochs[1])
    assert (tag["name"], tag["old_names"]) == (epochs[1], ["style-000004"])
    job = browser.ask("compare", name=epochs[1], settings={"prompt": "<lora:style:1> <lora:style-000004:0.5>"})["job"]
    browser.done(job)
    prompts = [event[1]["prompt"] for event in host.events if event[0] == "generate"]
    assert prompts == ["<lora:style:1> <lora:style-000004:0.5>", f"<lora:style:1> <lora:{epochs[1]}:0.5>"]


def test_a_prompt_is_baked_with_the_file_of_that_name(browser: Browser, epochs: tuple[str, str]) -> None:
    tags = browser.ask("read_prompt", prompt="<lora:style:1> <lora:style-000004:1>")["tags"]
    assert [one["lora"] for one in tags] == ["style", "style-000004"]


def listed(**aliases: str | None) -> LoraList:
    return LoraList(LoraFile(name, Path(f"/l/{name}.safetensors"), alias) for name, alias in aliases.items())


@pytest.mark.parametrize(
    ("aliases", "members", "source", "names"),
    [
        ({"a": "A", "a_s": None}, {"a", "a_s"}, "a", {"a", "A", "a_s"}),
        ({"a": "A", "a_s": "A"}, {"a", "a_s"}, "a", {"a", "A", "a_s"}),  # an alias that only the family shares
        ({"a": "A", "a_s": None, "b": "A"}, {"a", "a_s"}, "a", {"a", "a_s"}),  # and one that is shared with another
        ({"a": "b", "a_s": None, "b": None}, {"a", "a_s"}, "a", {"a", "a_s"}),
        ({"a_s": None}, {"a_s"}, "a", {"a", "a_s"}),  # the original is gone
        ({"a_s": None, "x": "a"}, {"a_s"}, "a", {"a_s"}),  # and its name is another's alias by now
        ({"a_s": None, "x": "a", "y": "a"}, {"a_s"}, "a", {"a_s"}),
    ],
)
def test_a_name_means_a_family_only_if_the_host_means_one_of_it(
    aliases: dict[str, str | None], members: set[str], source: str, names: set[str]
) -> None:
    assert names_of(listed(**aliases), members, source) == names

"""A file that was replaced under its name is what the next image uses, and a hidden LoRA is known to one image."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lib_resize.errors import HostError, UsageError
from lib_resize.hosts import guard
from lib_resize.hosts.a1111 import A1111Host
from lib_resize.hosts.forge import ForgeHost
from lib_resize.hosts.standalone import StandaloneHost
from lib_resize.hosts.webui import WebUI as DetectedHost
from tests.hosts.lora_caches import LoraHost
from tests.hosts.standins import WebUI, module

KINDS: dict[str, type[DetectedHost]] = {"a1111": A1111Host, "forge": ForgeHost, "neo": ForgeHost}
CACHES = ("networks_in_memory", "loaded_networks", "load_lora_state_dict", "available_networks")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "Lora" / "style.safetensors"
    path.parent.mkdir()
    path.write_text("Alias: the original")
    os.utime(path, (1_000, 1_000))
    return path


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def webui(kind: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> LoraHost:
    monkeypatch.setattr(guard, "_logged", set())
    made = WebUI(file.parent)
    played = LoraHost(made, kind)
    made.install(monkeypatch)
    played.add(file)
    return played


def replace(path: Path, text: str, time: float = 2_000) -> None:
    new = path.with_name("new.part")
    new.write_text(text)
    os.utime(new, (time, time))
    new.replace(path)


def fresh(kind: str, file: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Any:
    """The image after a restart."""
    with monkeypatch.context() as patch:
        made = WebUI(file.parent)
        played = LoraHost(made, kind)
        made.install(patch)
        played.add(file)
        return played.image(*names)


def test_the_next_image_has_the_new_file_as_after_a_restart(
    kind: str, webui: LoraHost, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = KINDS[kind]()
    before = webui.image("style")
    replace(file, "Alias: the small one")
    stale = webui.image("style")
    restarted = fresh(kind, file, monkeypatch, "style")
    assert stale != restarted, "the stand-in has no cache, so this test would show nothing"
    with host.lock():
        host.replaced([file])
    assert webui.image("style") == restarted
    assert webui.image("Alias") == fresh(kind, file, monkeypatch, "Alias")

    replace(file, "Alias: the original", time=1_000)  # restored, with its time
    host.replaced([file])
    assert webui.image("style") == before
    assert not webui.webui.lock._lock.locked()


def test_the_image_without_the_lora_is_clean_afterwards(kind: str, webui: LoraHost, file: Path) -> None:
    clean = webui.image()
    webui.image("style")
    replace(file, "Alias: the small one")
    KINDS[kind]().replaced([file])
    assert webui.image() == clean


def test_other_loras_stay_loaded(kind: str, webui: LoraHost, file: Path) -> None:
    other = file.with_name("other.safetensors")
    other.write_text("Other: one")
    webui.add(other)
    image = webui.image("other")
    replace(file, "Alias: the small one")
    KINDS[kind]().replaced([file])
    assert webui.image("other") == image
    if kind == "a1111":
        assert webui.networks.networks_in_memory.keys() == {"other"}


def test_a_name_that_differs_from_the_stem_is_found_by_its_path(
    kind: str, webui: LoraHost, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = webui._entry("folder name", str(file))
    webui.networks.available_networks = {"folder name": entry}
    webui.networks.available_network_aliases = {"folder name": entry}
    webui.image("folder name")
    replace(file, "Alias: the small one")
    KINDS[kind]().replaced([file])
    assert webui.image("folder name")[0] == ("Alias: the small one",)
    assert webui.networks.available_networks["folder name"].hash != entry.hash


@pytest.mark.parametrize("gone", [*CACHES, "network"])
@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_a_cache_that_is_missing_or_raises_costs_only_itself(
    kind: str, webui: LoraHost, file: Path, gone: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(type(webui.networks)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name == gone:
                raise error(name)
            return super().__getattribute__(name)

    broken = Broken("networks")
    for key, value in vars(webui.networks).items():
        setattr(broken, key, value)
    monkeypatch.setitem(sys.modules, "networks", broken)
    webui.image("style")
    host = KINDS[kind]()
    host.replaced([file])
    assert webui.layer.network_current_names in ((), (("replaced", 0.0, 0.0, None),))
    assert webui.model.__dict__.get("current_lora_hash", "replaced") == "replaced"


@pytest.mark.parametrize("name", ["modules.cache", "modules.processing", "modules.sd_models", "networks"])
def test_a_module_that_is_missing_costs_nothing_else(
    kind: str, webui: LoraHost, file: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = KINDS[kind]()
    monkeypatch.delitem(sys.modules, name)
    vars(webui.webui.modules["modules"]).pop(name.rpartition(".")[2], None)
    host.replaced([file])


def test_without_a_webui_nothing_is_kept(file: Path) -> None:
    StandaloneHost([file.parent]).replaced([file])


# Hidden LoRAs --------------------------------------------------------------------------------------------------


@pytest.fixture
def archived(tmp_path: Path) -> Path:
    path = tmp_path / "archive" / "style.safetensors"
    path.parent.mkdir()
    path.write_text("Alias: the original")
    return path


def request(name: str, path: Path) -> dict[str, Any]:
    return {"prompt": f"<lora:{name}:1>", "loras": [name], "files": {name: path}}


def tables(webui: LoraHost) -> list[dict[str, Any]]:
    found = ("available_networks", "available_network_aliases", "available_network_hash_lookup", "networks_in_memory")
    return [dict(getattr(webui.networks, name)) for name in found]


def test_a_hidden_lora_is_known_to_its_image_alone(kind: str, webui: LoraHost, file: Path, archived: Path) -> None:
    host = KINDS[kind]()
    replace(file, "Alias: the small one")
    host.replaced([file])
    before, listed = tables(webui), host.loras()
    seen: list[Any] = []
    draw = webui.webui.on_draw

    def look(made: Any) -> None:
        draw(made)
        seen.append(([one.name for one in host.loras()], "archived" in webui.networks.available_networks))

    webui.webui.on_draw = look
    made = host.generate(request("archived", archived))
    assert made.image[0] == ("Alias: the original",)
    assert seen == [(["style"], True)], "the host knows it, our list does not"
    assert tables(webui) == before
    assert host.loras() == listed
    assert not any("archived" in key for section in webui.disk.sections.values() for key in section)
    assert webui.image("style")[0] == ("Alias: the small one",)


def test_the_same_hidden_name_may_be_another_file_next_time(kind: str, webui: LoraHost, archived: Path) -> None:
    host = KINDS[kind]()
    host.generate(request("archived", archived))
    other = archived.with_name("other.safetensors")
    other.write_text("Alias: another")
    os.utime(other, (1, 1))
    assert host.generate(request("archived", other)).image[0] == ("Alias: another",)


def test_a_hidden_lora_is_forgotten_after_an_error(kind: str, webui: LoraHost, archived: Path) -> None:
    before = tables(webui)

    def fail(made: Any) -> None:
        raise RuntimeError("out of memory")

    webui.webui.on_draw = fail
    host = KINDS[kind]()
    with pytest.raises(HostError, match="out of memory"):
        host.generate(request("archived", archived))
    assert tables(webui) == before
    assert [one.name for one in host.loras()] == ["style"]


def test_a_name_of_the_list_is_no_hidden_name(kind: str, webui: LoraHost, archived: Path) -> None:
    with pytest.raises(UsageError, match="style: a LoRA of this name"):
        KINDS[kind]().generate(request("style", archived))
    assert Path(webui.networks.available_networks["style"].filename) != archived


def test_a_host_that_cannot_make_an_entry_says_so(
    kind: str, webui: LoraHost, archived: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, filename: str) -> Any:
        raise ValueError("no metadata")

    webui.networks.network = module("network", NetworkOnDisk=refuse)
    with pytest.raises(HostError, match=r"cannot use style.safetensors: ValueError: no metadata"):
        KINDS[kind]().generate(request("archived", archived))
    del webui.networks.network
    monkeypatch.delitem(sys.modules, "network")
    with pytest.raises(HostError, match="no list of LoRAs"):
        KINDS[kind]().generate(request("archived", archived))

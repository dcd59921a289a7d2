"""Anything that a host lacks, or that raises in it, disables a feature and is logged; the tab always opens."""

from __future__ import annotations

import json
import logging
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from lib_resize.hosts import guard
from lib_resize.hosts.detect import detect
from lib_resize.hosts.host import GENERATE, LOADED_MODEL
from lib_resize.hosts.webui import WebUI as DetectedHost
from tests.hosts.standins import WebUI, add_backend, module

DOOR = Path(__file__).parents[2] / "scripts" / "resize_lora.py"
EVENTS = ("on_before_ui", "on_ui_tabs", "on_app_started", "on_script_unloaded", "on_ui_settings")
OPTIONS = ("lora_dir", "lora_dirs", "share", "listen", "server_name", "hide_ui_dir_config", "disable_extension_access")


class Row:
    """The host's `OptionInfo`."""

    def __init__(self, *values: Any, section: Any) -> None:
        self.section = section

    def info(self, text: str) -> Row:
        return self

    def needs_reload_ui(self) -> Row:
        return self


class AxisOption:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None) -> None:
        self.label = label


def a_host(folder: Path, *, forge: bool = False) -> WebUI:
    """All modules that we ever ask for something."""
    folder.mkdir(exist_ok=True)
    webui = WebUI(folder)
    shared = webui.modules["modules.shared"]
    shared.OptionInfo, shared.opts = Row, SimpleNamespace(data={}, add_option=lambda key, row: None)
    plot = SimpleNamespace(axis_options=[], AxisOption=AxisOption)
    more: dict[str, dict[str, Any]] = {
        "script_callbacks": {name: lambda callback, **_: None for name in EVENTS},
        "scripts": {"scripts_data": [SimpleNamespace(path="xyz_grid.py", module=plot)]},
        "extensions": {"extensions": [SimpleNamespace(path=str(folder))]},
        "paths": {"models_path": str(folder.parent), "data_path": str(folder.parent)},
    }
    for name, contents in more.items():
        webui.modules[f"modules.{name}"] = module(f"modules.{name}", **contents)
    if forge:
        add_backend(webui)
    (folder / "a.safetensors").touch()
    webui.add_lora("a", folder / "a.safetensors")
    return webui


def detected() -> DetectedHost:
    host = detect()
    assert host is not None
    return host


class Broken(types.ModuleType):
    """A module with one attribute that is missing or raises."""

    def __init__(self, like: types.ModuleType, gone: str, error: type[Exception]) -> None:
        super().__init__(like.__name__)
        vars(self).update(vars(like))
        vars(self)["broken"] = (gone, error)

    def __getattribute__(self, name: str) -> Any:
        gone, error = object.__getattribute__(self, "__dict__").get("broken", ("", AttributeError))
        if name == gone:
            raise error(f"{name} is broken")
        return super().__getattribute__(name)


MODULES: dict[str, tuple[str, ...]] = {
    "modules.shared": ("cmd_opts", "state", "opts", "OptionInfo", "sd_model"),
    "modules.call_queue": ("queue_lock",),
    "modules.sd_models": ("model_data", "checkpoints_list"),
    "modules.devices": ("device", "torch_gc"),
    "modules.processing": ("StableDiffusionProcessingTxt2Img", "process_images"),
    "modules.ui_extra_networks": ("extra_pages",),
    "modules.script_callbacks": tuple(name for name in EVENTS if name != "on_ui_tabs"),
    "modules.scripts": ("scripts_data",),
    "modules.extensions": ("extensions",),
    "modules.paths": ("models_path", "data_path"),
    "networks": ("available_networks", "loaded_networks", "list_available_networks"),
    "backend.memory_management": ("get_torch_device", "free_memory", "soft_empty_cache"),
    "modules_forge.main_thread": ("run_and_wait_result",),
}
CASES = [
    *((name, "", ImportError) for name in MODULES if name != "modules.script_callbacks"),
    *((name, own, error) for name, all in MODULES.items() for own in all for error in (AttributeError, RuntimeError)),
]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[WebUI], Any]]:
    """Runs the door as hosts do, but for the reload of our own modules, and puts all away at the end."""
    loaded: list[Any] = []
    monkeypatch.setattr(guard, "_logged", set())
    gradio = MagicMock()
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    monkeypatch.delitem(sys.modules, "lib_resize.panel.layout", raising=False)

    def run(webui: WebUI) -> Any:
        callbacks = webui.modules.get("modules.script_callbacks")
        asked: dict[str, Any] = {}
        for name in EVENTS:
            if callbacks is not None and name in vars(callbacks):
                vars(callbacks)[name] = lambda callback, name=name: asked.__setitem__(name, callback)
        webui.install(monkeypatch)
        text = DOOR.read_text("utf-8").replace("del sys.modules[_name]", "pass")
        made = types.ModuleType("resize_lora.py")
        exec(compile(text, DOOR, "exec"), vars(made))
        loaded.append(made)
        return SimpleNamespace(door=made, asked=asked)

    yield run
    for made in loaded:
        made._unloaded()


def hello(loaded: Any) -> dict[str, Any]:
    """What the tab is answered first."""
    tabs = loaded.asked["on_ui_tabs"]()
    assert len(tabs) == 1, "the tab is missing"
    answer = json.loads(loaded.door._services[0].call('{"id": 1, "method": "hello"}'))
    assert "result" in answer, answer
    for name in ("on_ui_settings", "on_before_ui"):
        if name in loaded.asked:
            loaded.asked[name]()
    if "on_app_started" in loaded.asked:
        loaded.asked["on_app_started"](None, None)
    result: dict[str, Any] = answer["result"]
    return result


@pytest.mark.parametrize(("name", "own", "error"), CASES, ids=lambda one: getattr(one, "__name__", one) or "module")
def test_what_is_missing_or_raises_costs_no_tab(
    name: str, own: str, error: type[Exception], tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    webui = a_host(tmp_path / "Lora", forge=name.startswith(("backend", "modules_forge")))
    if own:
        webui.modules[name] = Broken(webui.modules[name], own, error)
    else:
        del webui.modules[name]
        monkeypatch.delitem(sys.modules, name, raising=False)
    package, _, last = name.rpartition(".")
    if package:
        vars(webui.modules[package]).pop(last, None)
    result = hello(load(webui))
    assert result["counts"]["loras"] == 1


def test_the_stand_ins_have_all_that_is_taken_away(tmp_path: Path) -> None:
    """Else the cases above would take away nothing."""
    webui = a_host(tmp_path / "Lora", forge=True)
    webui.load(object())
    for name, own in ((name, own) for name, all in MODULES.items() for own in all):
        assert hasattr(webui.modules[name], own), (name, own)


class Options:
    """A command line with one option that is missing or raises."""

    def __init__(self, gone: str, error: type[Exception], values: dict[str, Any]) -> None:
        self.__dict__.update(values, gone=gone, error=error)

    def __getattribute__(self, name: str) -> Any:
        held = object.__getattribute__(self, "__dict__")
        if name == held.get("gone"):
            raise held["error"](name)
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
@pytest.mark.parametrize("option", OPTIONS)
def test_an_odd_command_line_costs_no_tab(option: str, error: Any, tmp_path: Path, load: Any) -> None:
    webui = a_host(tmp_path / "Lora")
    webui.modules["modules.shared"].cmd_opts = Options(option, error, vars(webui.cmd_opts))
    assert hello(load(webui))["counts"]["loras"] == 1


def test_without_a_folder_of_loras_in_the_command_line_the_usual_one_is_used(tmp_path: Path, load: Any) -> None:
    webui = a_host(tmp_path / "Lora")
    del webui.modules["modules.shared"].cmd_opts.lora_dir
    loaded = load(webui)
    hello(loaded)
    assert loaded.door._host.lora_roots() == [tmp_path / "Lora"]


class OtherAxis:
    """As SD.Next has it."""

    def __init__(self, label, tipe, apply, fmt=None, confirm=None, cost=0.0, choices=None) -> None:
        self.label = label


@pytest.mark.parametrize(
    "kind", [OtherAxis, None, 7, MagicMock(side_effect=ValueError)], ids=["class", "none", "number", "raises"]
)
def test_another_axis_costs_the_axis_alone(kind: Any, tmp_path: Path, load: Any) -> None:
    webui = a_host(tmp_path / "Lora")
    webui.modules["modules.scripts"].scripts_data[0].module.AxisOption = kind
    hello(load(webui))
    assert webui.modules["modules.scripts"].scripts_data[0].module.axis_options == []


def test_a_host_without_a_lock_has_a_tab_but_lends_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "_logged", set())
    webui = a_host(tmp_path / "Lora")
    del webui.modules["modules.call_queue"].queue_lock
    webui.install(monkeypatch)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            host = detected()
    assert not {LOADED_MODEL, GENERATE} & host.features
    assert host.loaded() is None
    assert sum("queue_lock" in one for one in caplog.messages) == 1, "one line, however often it is asked"


def test_a_model_that_raises_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        @property
        def sd_checkpoint_info(self) -> Any:
            raise RuntimeError("not now")

    for forge in (False, True):
        webui = a_host(tmp_path / "Lora", forge=forge)
        webui.load(Model())
        webui.install(monkeypatch)
        host = detected()
        assert host.loaded() is None
        assert host.pending() is None


def test_odd_checkpoints_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    webui = a_host(tmp_path / "Lora").install(monkeypatch)
    good = SimpleNamespace(title="good", filename=str(tmp_path / "good.safetensors"))
    odd = [None, SimpleNamespace(title="x"), SimpleNamespace(title="x", filename=None), SimpleNamespace(filename="y")]
    webui.modules["modules.sd_models"].checkpoints_list = dict(enumerate([*odd, good]))
    assert [one.title for one in detected().checkpoints()] == ["good"]


def test_neo_without_a_device_asks_its_memory_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    webui = a_host(tmp_path / "Lora", forge=True)
    webui.modules["backend.memory_management"].get_torch_device = lambda: "cuda:1"
    del webui.modules["modules.devices"].device
    webui.install(monkeypatch)
    assert detected().device() == "cuda:1"


def test_block_weights_come_from_the_extension_that_the_host_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webui = a_host(tmp_path / "Lora").install(monkeypatch)
    assert detected().block_presets() is None
    file = tmp_path / "extensions" / "sd-webui-lora-block-weight" / "scripts" / "lbwpresets.txt"
    file.parent.mkdir(parents=True)
    file.touch()
    webui.modules["modules.extensions"].extensions.append(SimpleNamespace(path=str(file.parents[1])))
    assert detected().block_presets() == file

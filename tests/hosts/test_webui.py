"""What we ask of WebUIs, and the traps on the way."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
import threading
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lib_resize.errors import Cancelled, FileError, HostError, UsageError
from lib_resize.hosts import webui_latents
from lib_resize.hosts.a1111 import A1111Host
from lib_resize.hosts.access import Access
from lib_resize.hosts.detect import detect
from lib_resize.hosts.forge import ForgeHost
from lib_resize.hosts.host import CARDS, XYZ, GeneratedImage
from lib_resize.hosts.reforge import ReforgeHost
from lib_resize.hosts.scan import INNER_TRASH, TRASH
from lib_resize.hosts.standalone import StandaloneHost
from tests.hosts.standins import (
    FakeInitialModel,
    WebUI,
    a1111_merge,
    a1111_model,
    add_backend,
    forge_model,
    module,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebUI:
    folder = tmp_path / "Lora"
    folder.mkdir()
    return WebUI(folder, SimpleNamespace()).install(monkeypatch)


@pytest.fixture
def forge(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> ForgeHost:
    add_backend(webui)
    webui.install(monkeypatch)
    return ForgeHost()


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


# Which host -------------------------------------------------------------------------------------------------


def test_without_a_webui_none_is_found() -> None:
    assert detect() is None


def test_hosts_are_distinguished_by_where_they_keep_their_model(webui: WebUI, monkeypatch: Any) -> None:
    assert type(detect()) is A1111Host
    library = module("ldm_patched", __path__=[])
    monkeypatch.setitem(sys.modules, "ldm_patched", library)
    monkeypatch.setitem(sys.modules, "ldm_patched.modules", module("ldm_patched.modules"))
    assert type(detect()) is ReforgeHost
    add_backend(webui)
    webui.install(monkeypatch)
    assert type(detect()) is ForgeHost


def test_forge_neo_reports_its_name(webui: WebUI, monkeypatch: Any) -> None:
    add_backend(webui)
    webui.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "modules_forge.forge_version", module("x", version="neo"))
    assert ForgeHost().name == "Forge Neo"


# LoRAs ------------------------------------------------------------------------------------------------------


def test_the_hosts_list_is_the_list(webui: WebUI) -> None:
    """Two files of one name are one LoRA to the host: the one that it took last."""
    put(webui.lora_dir / "a" / "dup.safetensors")
    taken = put(webui.lora_dir / "b" / "dup.safetensors")
    put(taken.with_suffix(".preview.png"))
    webui.add_lora("dup", taken, alias="Style")
    host = A1111Host()
    (lora,) = host.loras()
    assert (lora.name, lora.path, lora.alias, lora.preview) == (
        "dup",
        taken,
        "Style",
        taken.with_suffix(".preview.png"),
    )
    assert host.resolve("dup") == host.resolve("Style") == lora


@pytest.mark.parametrize("name", ["../dup", "b/dup", "dup.safetensors", "", "/etc/passwd"])
def test_a_path_is_no_name(webui: WebUI, name: str) -> None:
    webui.add_lora("dup", put(webui.lora_dir / "b" / "dup.safetensors"))
    with pytest.raises(FileError, match="no installed LoRA has this name"):
        A1111Host().resolve(name)


def test_an_alias_of_two_is_nobodys(webui: WebUI) -> None:
    for name in ("one", "two"):
        webui.add_lora(name, put(webui.lora_dir / f"{name}.safetensors"), alias="Style")
    with pytest.raises(FileError):
        A1111Host().resolve("Style")


@pytest.mark.parametrize("name", ['rz it\'s & "q" [v1]', "猫 ねこ", "a, b; c"])
def test_names_of_all_kinds_work(webui: WebUI, name: str) -> None:
    path = put(webui.lora_dir / "x.safetensors")
    webui.add_lora(name, path)
    assert A1111Host().resolve(name).path == path


def test_without_the_lora_extension_the_folders_are_read_and_there_are_no_cards(webui: WebUI, monkeypatch: Any) -> None:
    monkeypatch.delitem(sys.modules, "networks")
    put(webui.lora_dir / "deep" / "a.safetensors")
    put(webui.lora_dir / TRASH / "b.safetensors")
    put(webui.lora_dir / INNER_TRASH / "c.safetensors")
    host = A1111Host()
    assert [lora.name for lora in host.loras()] == ["a"]
    assert CARDS not in host.features
    host.refresh()


def test_a1111_has_a_second_folder_that_forge_does_not_scan(webui: WebUI, forge: ForgeHost, tmp_path: Path) -> None:
    (tmp_path / "LyCORIS").mkdir()
    webui.cmd_opts.lyco_dir_backcompat = str(tmp_path / "LyCORIS")
    assert A1111Host().lora_roots() == [webui.lora_dir, tmp_path / "LyCORIS"]
    assert ReforgeHost().lora_roots() == [webui.lora_dir, tmp_path / "LyCORIS"]
    assert forge.lora_roots() == [webui.lora_dir]


def test_neos_several_roots_are_honoured_by_real_paths_and_once(webui: WebUI, forge: ForgeHost, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "second")
    webui.cmd_opts.lora_dirs = [str(webui.lora_dir), str(tmp_path / "link"), str(tmp_path / "gone")]
    assert forge.lora_roots() == [webui.lora_dir, tmp_path / "second"]


def test_refreshing_asks_the_host(webui: WebUI) -> None:
    A1111Host().refresh()
    assert webui.calls == ["listed"]


@pytest.mark.parametrize("option", ["share", "listen", "ngrok", "hide_ui_dir_config", "disable_extension_access"])
def test_other_people_may_sit_in_front(webui: WebUI, option: str) -> None:
    assert not A1111Host().is_remote()
    setattr(webui.cmd_opts, option, True)
    assert A1111Host().is_remote()


@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2", "localhost", "::1", "[::1]"])
def test_a_server_name_of_this_machine_is_not_remote(webui: WebUI, name: str) -> None:
    """A1111 locks its extensions for any --server-name, this one included."""
    webui.cmd_opts.server_name, webui.cmd_opts.disable_extension_access = name, True
    assert not A1111Host().is_remote()
    webui.cmd_opts.listen = True
    assert A1111Host().is_remote()


@pytest.mark.parametrize("name", ["0.0.0.0", "::", "192.168.1.7", "fe80::1", "example.org", "localhost.example.org"])
def test_any_other_server_name_is_remote(webui: WebUI, name: str) -> None:
    webui.cmd_opts.server_name = name
    assert A1111Host().is_remote()


# The model --------------------------------------------------------------------------------------------------


def test_asking_for_the_model_never_loads_one(webui: WebUI) -> None:
    webui.load(None)
    assert A1111Host().loaded() is None
    with pytest.raises(AssertionError, match="loads a model"):
        _ = sys.modules["modules.shared"].sd_model


def test_a_model_without_torch_weights_is_none(webui: WebUI) -> None:
    """Forks that run ONNX."""
    webui.load(SimpleNamespace(sd_checkpoint_info=SimpleNamespace(filename="x", title="x")))
    assert A1111Host().loaded() is None


def test_forge_before_the_first_image_and_after_a_failure_has_none(webui: WebUI, forge: ForgeHost) -> None:
    for nothing in (FakeInitialModel(), None):
        webui.load(nothing)
        assert forge.loaded() is None
        assert forge.pending() is None


def test_what_is_selected_is_pending_until_it_is_loaded(webui: WebUI, forge: ForgeHost, checkpoint: Path) -> None:
    info = SimpleNamespace(title="small", filename=str(checkpoint))
    webui.data.forge_loading_parameters = {"checkpoint_info": info}
    assert forge.pending() == "small"
    webui.load(forge_model(checkpoint))
    assert forge.pending() is None


def test_no_reference_keeps_a_model_alive(webui: WebUI, forge: ForgeHost, checkpoint: Path) -> None:
    """Forge looks at reference counts to throw abandoned models away."""
    for make, host in ((a1111_model, A1111Host()), (forge_model, forge)):
        model = webui.load(make(checkpoint))
        loaded = host.loaded()
        assert loaded is not None
        assert loaded.weight("model.diffusion_model.input_blocks.4.1.proj_in.weight") is not None
        root = getattr(model, "forge_objects", None)
        watched = weakref.ref(root.unet.model if root else model.model.diffusion_model)
        webui.load(None)
        del model, root
        gc.collect()
        assert watched() is None
        assert loaded.weight("model.diffusion_model.input_blocks.4.1.proj_in.weight") is None
        assert loaded.shapes() == {}


def test_a_backup_that_stays_after_the_lora_is_gone_is_still_right(webui: WebUI, checkpoint: Path) -> None:
    model = webui.load(a1111_model(checkpoint))
    loaded, key = A1111Host().loaded(), "model.diffusion_model.input_blocks.4.1.proj_in.weight"
    assert loaded is not None
    before = loaded.weight(key)
    a1111_merge(model)
    merged = loaded.weight(key)
    assert merged is not None
    assert merged.equal(before)
    a1111_merge(model, amount=-0.5)
    unmerged = loaded.weight(key)
    assert unmerged is not None
    assert unmerged.equal(before)


# Lock and progress ------------------------------------------------------------------------------------------


def test_a_generation_waits_for_us_and_we_for_it(webui: WebUI) -> None:
    host = A1111Host()
    with host.lock(), host.lock():
        assert webui.lock._lock.locked()
        assert host.busy() is None, "it is ours"
    assert not webui.lock._lock.locked()
    with webui.lock:
        assert host.busy() == "the WebUI is generating an image or loading a model"


def test_the_hosts_progress_is_left_alone_while_it_works(webui: WebUI) -> None:
    """Beginning a job clears the interruption and the numbers of whoever is at work."""
    host = A1111Host()
    with webui.lock:
        webui.state.begin("task(user)")
        webui.state.interrupt()
        host.begin_job("ours")
        host.progress(1, 2, "layer")
        host.end_job()
        assert (webui.state.job, webui.state.interrupted, webui.state.textinfo) == ("task(user)", True, None)


def test_a_generation_that_begins_meanwhile_takes_the_progress_over(webui: WebUI) -> None:
    host = A1111Host()
    host.begin_job("ours")
    host.progress(1, 2, "first\nsecond")
    assert webui.state.textinfo == "ours: first second", "a text of two lines is not shown"
    webui.state.begin("task(user)")
    host.progress(2, 2, "more")
    host.end_job()
    assert (webui.state.job, webui.state.job_count, webui.state.ended) == ("task(user)", -1, 0)


# Pictures ---------------------------------------------------------------------------------------------------

REQUEST = {"prompt": "a cat <lora:style:1>", "seed": 1, "steps": 2, "loras": ["style"]}


def with_style(webui: WebUI) -> None:
    webui.on_draw = lambda made: sys.modules["networks"].loaded_networks.append(SimpleNamespace(name="style"))


@pytest.mark.parametrize("kind", [A1111Host, ForgeHost])
def test_an_image_is_generated_under_the_lock_and_leaves_nothing_behind(
    kind: Any, webui: WebUI, monkeypatch: Any
) -> None:
    add_backend(webui)
    webui.install(monkeypatch)
    with_style(webui)
    got = in_thread(lambda: kind().generate(REQUEST))
    assert got == GeneratedImage("picture")
    (made,) = webui.draws
    assert made.closed
    assert made.scripts is None
    assert made.settings["do_not_save_samples"]
    assert made.settings["do_not_save_grid"]
    assert (webui.state.job, webui.state.ended) == ("", 1)
    assert not webui.lock._lock.locked()


@pytest.mark.parametrize("kind", [A1111Host, ForgeHost, ReforgeHost])
def test_an_image_has_a_runner_without_scripts_where_the_host_has_runners(
    kind: Any, webui: WebUI, monkeypatch: Any
) -> None:
    """reForge reads ``p.scripts.alwayson_scripts`` of every image."""

    class ScriptRunner:
        def __init__(self) -> None:
            self.alwayson_scripts: list[Any] = []

    add_backend(webui)
    webui.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "modules.scripts", module("modules.scripts", ScriptRunner=ScriptRunner))
    with_style(webui)
    got = in_thread(lambda: kind().generate(REQUEST))
    assert got == GeneratedImage("picture")
    (made,) = webui.draws
    assert made.scripts.alwayson_scripts == []


@pytest.mark.parametrize("kind", [A1111Host, ForgeHost])
def test_a_lora_that_was_not_applied_is_reported(kind: Any, webui: WebUI, monkeypatch: Any) -> None:
    """The host generates the image without it, and reports that in comments only, or nowhere."""
    add_backend(webui)
    webui.install(monkeypatch)
    with pytest.raises(FileError, match="style: the WebUI did not apply this LoRA"):
        in_thread(lambda: kind().generate(REQUEST))


def test_an_empty_list_of_applied_loras_proves_nothing_where_it_was_always_empty(webui: WebUI) -> None:
    """Some hosts never fill it: the LoRA was applied nevertheless."""
    webui.comments = ""
    assert A1111Host().generate(REQUEST).image == "picture"


@pytest.mark.parametrize("seen", ["an image of ours", "an image of the user's"])
def test_an_empty_list_is_reported_once_the_list_was_seen_to_be_kept(webui: WebUI, seen: str) -> None:
    webui.comments = ""
    host, applied = A1111Host(), webui.modules["networks"].loaded_networks
    if seen == "an image of ours":
        with_style(webui)
        host.generate(REQUEST)
    else:
        applied.append(SimpleNamespace(name="another"))
    webui.on_draw = lambda made: applied.clear()
    with pytest.raises(FileError, match="style: the WebUI did not apply this LoRA"):
        host.generate(REQUEST)


# Latents and options of an image ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_image_has_the_latents_that_the_host_sampled(webui: WebUI, dtype: torch.dtype) -> None:
    with torch.inference_mode():
        webui.sampled = torch.randn(1, 4, 8, 6).to(dtype)
    latent: Any = A1111Host().generate({"prompt": "a cat"}).latent
    assert latent.dtype == np.float32
    assert np.array_equal(latent, webui.sampled[0].float().numpy())
    with torch.inference_mode():
        webui.sampled.zero_()
    assert np.abs(latent).max() > 0, "the host may use its memory again"


class Decoded(list[Any]):
    """Images that the host decoded itself, for a second pass at another size."""


@pytest.mark.parametrize(
    "sampled",
    [
        None,
        Decoded([torch.zeros(3, 8, 8)]),
        torch.zeros(2, 4, 8, 8),
        torch.zeros(4, 8, 8),
        torch.full((1, 4, 8, 8), torch.nan),
        SimpleNamespace(shape=(1, 4, 8, 8)),
    ],
    ids=["none", "decoded", "two images", "no batch", "nan", "another object"],
)
def test_what_is_not_the_latents_of_one_image_is_none_and_no_error(
    webui: WebUI, sampled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webui_latents, "attempt", lambda feature, work, default: work())  # a failure would be logged
    webui.sampled = sampled
    assert A1111Host().generate({"prompt": "a cat"}) == GeneratedImage("picture", None)


def test_an_extension_in_place_of_the_hosts_class_gives_an_image_without_latents(webui: WebUI) -> None:
    own = webui.modules["modules.processing"].StableDiffusionProcessingTxt2Img
    webui.modules["modules.processing"].StableDiffusionProcessingTxt2Img = lambda **settings: own(**settings)
    webui.sampled = torch.zeros(1, 4, 8, 8)
    assert A1111Host().generate({"prompt": "a cat"}) == GeneratedImage("picture", None)


@pytest.mark.parametrize("fails", [False, True])
def test_no_option_of_the_host_adds_a_network_to_our_image_and_it_is_restored(webui: WebUI, fails: bool) -> None:
    webui.options.data["sd_lora"] = "always"
    seen: list[Any] = []

    def draw(made: Any) -> None:
        seen.append(webui.options.sd_lora)
        if fails:
            raise RuntimeError("out of memory")

    webui.on_draw = draw
    with pytest.raises(HostError) if fails else nullcontext():
        A1111Host().generate({"prompt": "a cat"})
    assert seen == ["None"]
    assert webui.options.data == {"sd_lora": "always"}


@pytest.mark.parametrize("options", [{}, {"sd_lora": "None"}, {"sd_lora": ""}])
def test_a_host_without_such_an_option_is_not_given_one(webui: WebUI, options: dict[str, Any]) -> None:
    webui.options.data.update(options)
    A1111Host().generate({"prompt": "a cat"})
    assert "override_settings" not in webui.draws[0].settings
    assert webui.options.data == options


@pytest.mark.parametrize("kind", [A1111Host, ForgeHost])
def test_any_exception_of_a_host_is_reported_and_the_lock_is_released(
    kind: Any, webui: WebUI, monkeypatch: Any
) -> None:
    add_backend(webui)
    webui.install(monkeypatch)

    class NansException(Exception):  # noqa: N818 - the host's own name
        pass

    def fail(made: Any) -> None:
        raise NansException("A tensor with NaNs was produced")

    webui.on_draw = fail
    with pytest.raises(HostError, match="NansException: A tensor with NaNs"):
        in_thread(lambda: kind().generate(REQUEST))
    assert (webui.state.job, webui.lock._lock.locked()) == ("", False)


def test_forge_asked_from_its_main_thread_does_not_wait_for_itself(webui: WebUI, forge: ForgeHost) -> None:
    with_style(webui)
    assert forge.generate(REQUEST).image == "picture"


def test_stopping_ends_the_image(webui: WebUI) -> None:
    host = A1111Host()
    webui.on_draw = lambda made: host.stop_generating()
    with pytest.raises(Cancelled):
        host.generate(REQUEST)
    assert webui.state.interrupted


def test_stopping_while_waiting_does_not_stop_the_users_image(webui: WebUI) -> None:
    host = A1111Host()
    caught: list[BaseException] = []
    webui.lock.acquire()
    webui.state.begin("task(user)")

    def ask() -> None:
        try:
            host.generate(REQUEST)
        except Cancelled as error:
            caught.append(error)

    worker = threading.Thread(target=ask)
    worker.start()
    threading.Event().wait(0.1)
    host.stop_generating()
    assert not webui.state.interrupted
    webui.lock.release()
    worker.join(10)
    assert len(caught) == 1
    assert webui.draws == []


@pytest.mark.parametrize(
    "request_", [{"prompt": "x", "outpath_samples": "/"}, {"prompt": 1}, {}, {"prompt": "x", "sd_model": 1}]
)
def test_only_settings_of_an_image_are_accepted(webui: WebUI, request_: Any) -> None:
    with pytest.raises(UsageError):
        A1111Host().generate(request_)
    assert webui.draws == []


def in_thread(work: Any) -> Any:
    """As the panel's worker calls."""
    found: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    if failed:
        raise failed[0]
    return found[0]


# Cards and doors --------------------------------------------------------------------------------------------


def test_the_card_button_is_put_once_on_each_new_lora_page_and_on_no_other(webui: WebUI) -> None:
    pages = [SimpleNamespace(name=name, btn_edit_item_tpl="<x {tabname}>") for name in ("lora", "checkpoints")]
    webui.modules["modules.ui_extra_networks"].extra_pages = pages
    host = A1111Host()
    assert host.add_card_button()
    assert host.add_card_button()
    made = pages[0].btn_edit_item_tpl.format(tabname="txt2img")
    assert made.count("resizeLoraFromCard(event, 'txt2img')") == 1
    assert pages[1].btn_edit_item_tpl == "<x {tabname}>"


# Settings, access, the plot's script ---------------------------------------------------------------------------


class Row:
    """The host's `OptionInfo`, with its signature as far as it is used."""

    def __init__(self, default=None, label="", component=None, component_args=None, *, section=None) -> None:
        self.default, self.label, self.component, self.arguments = default, label, component, component_args
        self.section = section
        self.calls: list[str] = []

    def info(self, text: str) -> Row:
        self.calls.append(text)
        return self

    def needs_reload_ui(self) -> Row:
        self.calls.append("reload")
        return self


@pytest.fixture
def settings_page(webui: WebUI) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    data = {"resize_lora_preset": "Low", "samples_format": "png"}
    shared = webui.modules["modules.shared"]
    shared.OptionInfo = Row
    shared.opts = SimpleNamespace(data=data, add_option=rows.__setitem__)
    return rows


def test_our_rows_are_put_into_a_section_of_their_own(settings_page: dict[str, Row]) -> None:
    offers = [
        SimpleNamespace(
            key="resize_lora_a", default=1, label="A", component="S", arguments={"x": 1}, info="", reload=0
        ),
        SimpleNamespace(key="resize_lora_b", default=True, label="B", component="C", arguments={}, info="?", reload=1),
    ]
    A1111Host().add_settings(("resize_lora", "Resize LoRA"), offers)
    first, second = settings_page["resize_lora_a"], settings_page["resize_lora_b"]
    assert (first.default, first.label, first.component, first.arguments) == (1, "A", "S", {"x": 1})
    assert first.section == second.section == ("resize_lora", "Resize LoRA")
    assert (first.calls, second.calls) == ([], ["?", "reload"])


def test_our_settings_are_read_and_no_others(settings_page: dict[str, Row]) -> None:
    assert A1111Host().settings() == {"resize_lora_preset": "Low"}


def test_a_host_without_settings_has_none(webui: WebUI) -> None:
    assert A1111Host().settings() == {}


def test_the_naming_of_files_is_taken_from_people_by_the_command_line(webui: WebUI) -> None:
    assert A1111Host().names_files()
    webui.cmd_opts.hide_ui_dir_config = True
    assert not A1111Host().names_files()


def test_the_api_is_there_only_where_it_was_asked_for(webui: WebUI) -> None:
    webui.cmd_opts.api_auth, webui.cmd_opts.gradio_auth_path = "a:1,b:2", "users.txt"
    assert A1111Host().access() is None
    webui.cmd_opts.resize_lora_api = True
    access = A1111Host().access()
    assert access == Access(users=(("a", "1"), ("b", "2")), login=True, exposed=False)
    webui.cmd_opts.listen = True
    access = A1111Host().access()
    assert access is not None
    assert access.exposed


def test_the_plots_script_is_found_among_those_that_the_host_ran(webui: WebUI) -> None:
    """Scripts are in no `sys.modules`; the host remembers their classes with the modules that they came from."""
    assert A1111Host().xyz_script() is None
    assert XYZ not in A1111Host().features
    script = SimpleNamespace(axis_options=[])
    rows = [
        SimpleNamespace(path="/host/scripts/other.py", module=SimpleNamespace(axis_options=[])),
        SimpleNamespace(path="/host/scripts/xyz_grid.py", module=SimpleNamespace()),
        SimpleNamespace(path="/host/scripts/xyz_grid.py", module=script),
    ]
    webui.modules["modules"].scripts = module("modules.scripts", scripts_data=rows)
    assert A1111Host().xyz_script() is script
    assert XYZ in A1111Host().features


def load_as_hosts_do(path: Path) -> Any:
    """Not in `sys.modules`, and named with its ending."""
    spec = importlib.util.spec_from_file_location(path.name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_preload_adds_our_arguments_and_imports_nothing_of_the_host() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    load_as_hosts_do(ROOT / "preload.py").preload(parser)
    options = parser.parse_args([])
    assert vars(options) == {"resize_lora_cpu": False, "resize_lora_api": False}


def test_install_installs_nothing(capsys: Any) -> None:
    code = (ROOT / "install.py").read_text("utf-8")
    assert "pip" not in code
    assert "subprocess" not in code
    load_as_hosts_do(ROOT / "install.py")
    assert capsys.readouterr().out == ""


def test_the_cpu_can_be_asked_for(webui: WebUI, monkeypatch: Any) -> None:
    add_backend(webui, "cuda:0")
    webui.install(monkeypatch)
    assert ForgeHost().device() == A1111Host().device() == "cuda:0"
    webui.cmd_opts.resize_lora_cpu = True
    assert ForgeHost().device() == A1111Host().device() == "cpu"


DOOR = """
import importlib.util, sys, types
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.hosts.standins import WebUI, module
import pytest
webui = WebUI(Path({folder!r}))
asked = []
webui.modules["modules.script_callbacks"] = module("modules.script_callbacks", **{{
    name: (lambda name: lambda callback, **_: asked.append((name, callback)))(name)
    for name in ("on_before_ui", "on_ui_tabs", "on_app_started", "on_script_unloaded", "on_ui_settings")}})
webui.modules["modules"].script_callbacks = webui.modules["modules.script_callbacks"]
sys.modules.update(webui.modules)
sys.modules["gradio"] = module("gradio", Radio=1, Slider=2, Checkbox=3, Textbox=4)
settings = {{}}
class Row:
    def __init__(self, *values, section): self.section = section
    def info(self, text): return self
    def needs_reload_ui(self): return self
shared = webui.modules["modules.shared"]
shared.OptionInfo, shared.opts = Row, types.SimpleNamespace(data={{}}, add_option=settings.__setitem__)

def new_plot():
    class AxisOption:
        def __init__(self, label, type, apply, format_value, confirm, cost, choices): self.label = label
    plot = types.SimpleNamespace(axis_options=[], AxisOption=AxisOption)
    rows = [types.SimpleNamespace(path="scripts/xyz_grid.py", module=plot)]
    webui.modules["modules"].scripts = module("modules.scripts", scripts_data=rows)
    return plot
plot = new_plot()
sys.path.remove({root!r})
for name in [name for name in sys.modules if name.startswith("lib_resize")]:
    del sys.modules[name]

def run():
    sys.path.insert(0, {root!r})
    spec = importlib.util.spec_from_file_location("resize_lora.py", {root!r} + "/scripts/resize_lora.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    sys.path.remove({root!r})

run()
first = sys.modules["lib_resize.panel.service"]
import lib_resize.hosts.live, lib_resize.hosts.forge  # lazily, after the path is gone
assert "on_ui_tabs" in dict(asked) and "on_app_started" in dict(asked)
assert [axis.label for axis in plot.axis_options] == ["LoRA resize"], "for a host without a page"
dict(asked)["on_before_ui"]()
assert len(plot.axis_options) == 1
dict(asked)["on_ui_settings"]()
assert len(settings) == 10 and {{row.section for row in settings.values()}} == {{("resize_lora", "Resize LoRA")}}
dict(asked)["on_app_started"](None, None)
dict(asked)["on_script_unloaded"]()
plot = new_plot()
run()
assert len(plot.axis_options) == 1, "after a reload"
assert sys.modules["lib_resize.panel.service"] is not first, "stale modules after a reload"
"""


def test_the_script_needs_its_folder_on_the_path_only_while_it_is_loaded_and_can_be_reloaded(tmp_path: Path) -> None:
    places = {"folder": str(tmp_path), "root": str(ROOT)}
    code = "import sys; sys.path[:] = [p for p in sys.path if p]\n" + DOOR.format(**places)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Standalone -------------------------------------------------------------------------------------------------


def test_standalone_names_are_unique_and_resolve_to_their_files(tmp_path: Path) -> None:
    paths = [put(tmp_path / name) for name in ("a.safetensors", "x/b.safetensors", "y/b.safetensors")]
    put(tmp_path / "a.png")
    host = StandaloneHost([tmp_path])
    assert [lora.name for lora in host.loras()] == ["a", "x/b", "y/b"]
    assert [host.resolve(name).path for name in ("a", "x/b", "y/b")] == paths
    assert host.resolve("a").preview == tmp_path / "a.png"
    with pytest.raises(FileError):
        host.resolve("../a")


def test_standalone_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="--lora-dir"):
        StandaloneHost([tmp_path / "gone"])
    with pytest.raises(FileError, match="--checkpoint"):
        StandaloneHost([tmp_path], [tmp_path / "gone.safetensors"])
    with pytest.raises(HostError, match="inside of a WebUI"):
        StandaloneHost([tmp_path]).generate({"prompt": "x"})


def test_links_in_circles_end(tmp_path: Path) -> None:
    put(tmp_path / "deep" / "a.safetensors")
    (tmp_path / "deep" / "again").symlink_to(tmp_path)
    assert len(StandaloneHost([tmp_path]).loras()) == 1

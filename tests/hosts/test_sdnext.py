"""SD.Next: its list, its images and its page, and the traps on the way. Its model is in test_sdnext_model.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lib_resize.errors import Cancelled, FileError, HostError, UsageError
from lib_resize.hosts import guard
from lib_resize.hosts.access import Access
from lib_resize.hosts.detect import detect
from lib_resize.hosts.host import (
    CARDS,
    FIT,
    GENERATE,
    IGNORES_TEXT_ENCODERS,
    LOADED_MODEL,
    PARTS_IN_TAGS,
    PROMPT,
    XYZ,
)
from lib_resize.hosts.sdnext import SdnextHost
from lib_resize.hosts.sdnext_caches import forget
from lib_resize.hosts.sdnext_list import SdnextNames
from tests.hosts.sdnext_standin import Sdnext, small_pipeline
from tests.hosts.standins import module

ROOT = Path(__file__).parents[2]
UNET = {"lora_unet_a": 0.5, "lora_unet_b": 0.25}
TEXTS = {"lora_te1_c": 4.0}


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sdnext:
    monkeypatch.setattr(guard, "_logged", set())
    folder = tmp_path / "Lora"
    folder.mkdir()
    return Sdnext(folder, small_pipeline()).install(monkeypatch)  # type: ignore[return-value]


def put(webui: Sdnext, name: str, content: dict[str, Any] | None = None) -> Path:
    path = webui.lora_dir / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(UNET if content is None else content))
    webui.list_available_networks()
    return path


def draw(host: SdnextHost, *names: str, **more: Any) -> Any:
    prompt = " ".join(f"<lora:{name}:1>" for name in names)
    return host.generate({"prompt": prompt, "loras": names, **more}).image


# Which host -------------------------------------------------------------------------------------------------


def test_it_is_detected_by_its_loader_of_loras(webui: Sdnext) -> None:
    host = detect()
    assert type(host) is SdnextHost
    assert host.name == "SD.Next"


def test_detecting_it_imports_nothing_of_it(tmp_path: Path) -> None:
    """Its loader of LoRAs loads diffusers, which takes minutes."""
    for name in ("shared", "lora/lora_load"):
        file = tmp_path / "modules" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("raise SystemExit('imported')")
    code = "from lib_resize.hosts import detect; print(detect._exists(detect.SDNEXT_LIST))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(tmp_path), str(ROOT)]}; {code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("True", 0), done.stderr


def test_it_has_no_axis_no_button_and_no_fit(webui: Sdnext) -> None:
    plot = SimpleNamespace(axis_options=[], AxisOption=lambda **_: None)
    scripts = [SimpleNamespace(path="xyz_grid.py", module=plot)]
    webui.modules["modules"].scripts = sys.modules["modules.scripts"] = module("modules.scripts", scripts_data=scripts)
    try:
        host = SdnextHost()
        assert host.features == {PROMPT, LOADED_MODEL, GENERATE, CARDS, IGNORES_TEXT_ENCODERS, PARTS_IN_TAGS}
        assert not host.features & {XYZ, FIT}
        assert host.xyz_script() is None
        assert host.add_card_button() is False
    finally:
        del sys.modules["modules.scripts"]


def test_text_encoder_layers_are_ignored_until_the_host_is_set_to_use_them(webui: Sdnext) -> None:
    assert IGNORES_TEXT_ENCODERS in SdnextHost().features
    webui.options.data["lora_apply_te"] = True
    assert IGNORES_TEXT_ENCODERS not in SdnextHost().features
    del webui.options.data["lora_apply_te"]  # a version without the setting uses them
    assert IGNORES_TEXT_ENCODERS not in SdnextHost().features


# The list ---------------------------------------------------------------------------------------------------


def test_dots_become_underscores_in_its_list_so_paths_are_compared(webui: Sdnext) -> None:
    path = put(webui, "styles/ink.v2_th-3.512")
    assert list(webui.lora.available_networks) == ["ink_v2_th-3_512"]
    (lora,) = SdnextHost().loras()
    assert (lora.name, lora.path) == ("ink.v2_th-3.512", path)


@pytest.mark.parametrize("name", ["ink.v2", "ink_v2", "styles/ink.v2"])
def test_each_name_that_a_prompt_can_use_finds_the_file(name: str, webui: Sdnext) -> None:
    path = put(webui, "styles/ink.v2")
    host = SdnextHost()
    assert host.resolve(name).path == path
    assert draw(host, name) == webui.image(name)


def test_the_alias_in_a_file_is_no_name_in_a_prompt(webui: Sdnext) -> None:
    put(webui, "a", {**UNET, "alias": "Style"})
    with pytest.raises(FileError, match="no installed LoRA"):
        SdnextHost().resolve("Style")


def test_of_files_with_one_name_each_has_the_one_that_leads_to_it(webui: Sdnext) -> None:
    first, last = put(webui, "a/dup"), put(webui, "b/dup", {"lora_unet_a": 8.0})
    host = SdnextHost()
    assert {lora.name: lora.path for lora in host.loras()} == {"a/dup": first, "b/dup": last}
    assert host.resolve("dup").path == last, "as the host"
    assert draw(host, "dup") == webui.image("b/dup")
    assert draw(host, "a/dup") != webui.image("b/dup")


def test_a_file_that_no_name_leads_to_is_left_out(webui: Sdnext) -> None:
    """A dot and an underscore make one name, and the file in the root has no other."""
    put(webui, "a_b")
    other = put(webui, "styles/a.b")
    assert [lora.path for lora in SdnextHost().loras()] == [other]


def test_a_folder_in_another_form_than_its_paths_leaves_the_stems(webui: Sdnext) -> None:
    """A relative folder of LoRAs: the host then knows no names with folders."""
    path = put(webui, "styles/ink.v2")
    webui.cmd_opts.lora_dir = str(webui.lora_dir) + "/../Lora"
    entry = next(iter(webui.lora.available_networks.values()))
    entry.fullname = entry.name
    webui.lora.available_network_aliases.pop("styles/ink.v2")
    (lora,) = SdnextHost().loras()
    assert (lora.name, lora.path, lora.aliases) == ("ink.v2", path, ("ink_v2",))


def test_a_refresh_under_way_takes_no_name_off_the_list(webui: Sdnext) -> None:
    put(webui, "ink.v2")
    host = SdnextHost()
    before = host.loras()
    webui.lora.available_networks.clear()
    webui.lora.available_network_aliases.clear()
    assert host.loras() == before


def test_the_list_is_not_made_anew_where_nothing_changed(webui: Sdnext) -> None:
    put(webui, "ink.v2")
    host, lora = SdnextHost(), webui.lora
    assert host.loras() is host.loras()
    names = SdnextNames()
    first = names.of(lora.available_networks, lora.available_network_aliases)
    assert names.of(lora.available_networks, lora.available_network_aliases) is first


def test_refreshing_asks_the_host(webui: Sdnext) -> None:
    host = SdnextHost()
    (webui.lora_dir / "new.safetensors").write_text(json.dumps(UNET))
    assert len(host.loras()) == 0
    host.refresh()
    assert [lora.name for lora in host.loras()] == ["new"]


def test_refreshing_lets_the_cards_be_made_again_which_are_kept_by_time(webui: Sdnext) -> None:
    pages = [SimpleNamespace(name=name, page_time=9.0, refresh_time=9.0) for name in ("lora", "model")]
    webui.modules["modules.shared"].extra_networks = pages
    SdnextHost().refresh()
    assert [(page.page_time, page.refresh_time) for page in pages] == [(0, 0), (9.0, 9.0)]


def test_a_folder_of_a_pipeline_is_found_by_its_path_because_its_file_name_is_only_a_name(
    webui: Sdnext, tmp_path: Path
) -> None:
    folder, file = tmp_path / "models--x" / "snapshot", tmp_path / "tiny.safetensors"
    folder.mkdir(parents=True)
    file.touch()
    known = webui.modules["modules.sd_checkpoint"].checkpoints_list
    known["a"] = SimpleNamespace(title="Diffusers/x", filename="Diffusers/x", path=str(folder))
    known["b"] = SimpleNamespace(title="tiny [abc]", filename=str(file), path=str(file))
    known["c"] = SimpleNamespace(title="on a server", filename="huggingface/y", path="huggingface/y")
    found = {one.title: one.path for one in SdnextHost().checkpoints()}
    assert found == {"Diffusers/x": folder, "tiny [abc]": file}


# Files that were replaced -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "with copies"])
@pytest.mark.parametrize("name", ["ink.v2", "ink_v2", "styles/ink.v2"])
def test_a_replaced_file_is_read_again_under_each_of_its_names(name: str, fused: bool, webui: Sdnext) -> None:
    """The cache of files is by name and has no time, and an image of the same names and strengths changes nothing."""
    webui.options.data["lora_fuse_native"] = fused
    path = put(webui, "styles/ink.v2")
    clean, before = webui.image(), webui.image(name)
    path.write_text(json.dumps({"lora_unet_a": 16.0}))
    assert webui.image(name) == before, "the stand-in has no cache, so this test would show nothing"
    SdnextHost().replaced([path])
    assert webui.image(name)[0] == (17.0, 2.0, 3.0)
    assert webui.image() == clean


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "with copies"])
def test_the_image_without_the_lora_is_clean_afterwards(fused: bool, webui: Sdnext) -> None:
    """With an empty record of the last image, the host would take this one for unchanged."""
    webui.options.data["lora_fuse_native"] = fused
    path = put(webui, "ink")
    clean = webui.image()
    webui.image("ink")
    path.write_text(json.dumps({"lora_unet_a": 16.0}))
    SdnextHost().replaced([path])
    assert webui.image() == clean


def test_a_path_through_a_link_is_the_same_file(webui: Sdnext, tmp_path: Path) -> None:
    path = put(webui, "ink")
    webui.image("ink")
    path.write_text(json.dumps({"lora_unet_a": 16.0}))
    link = tmp_path / "link"
    link.symlink_to(webui.lora_dir, target_is_directory=True)
    SdnextHost().replaced([link / "ink.safetensors"])
    assert webui.image("ink")[0] == (17.0, 2.0, 3.0)


def test_texts_are_encoded_again_after_a_file_was_replaced(webui: Sdnext) -> None:
    webui.options.data["lora_apply_te"] = True
    path = put(webui, "ink", TEXTS)
    assert webui.image("ink")[1] == 7.0
    path.write_text(json.dumps({"lora_te1_c": 1.0}))
    SdnextHost().replaced([path])
    assert webui.image("ink")[1] == 4.0


def test_the_metadata_of_a_replaced_file_are_read_again_though_they_are_kept_by_path(webui: Sdnext) -> None:
    path = put(webui, "ink", {**UNET, "alias": "old"})
    path.write_text(json.dumps({**UNET, "alias": "new"}))
    SdnextHost().replaced([path])
    assert webui.lora.available_networks["ink"].alias == "new"


def test_other_loras_keep_their_place_in_the_cache(webui: Sdnext) -> None:
    path = put(webui, "ink")
    put(webui, "other")
    webui.image("ink", "other")
    SdnextHost().replaced([path])
    assert list(webui.lora.lora_cache) == ["other"]


def test_an_adapter_of_diffusers_is_deleted_because_the_host_keeps_it_by_name(webui: Sdnext) -> None:
    path = put(webui, "ink.v2")
    pipeline = webui.data.sd_model
    deleted: list[str] = []
    pipeline.get_list_adapters = lambda: {"unet": ["ink_v2", "other"]}
    pipeline.delete_adapters = deleted.append
    SdnextHost().replaced([path])
    assert deleted == ["ink_v2"]
    pipeline.get_list_adapters = lambda: {"unet": ["hidden_v1"]}
    forget({"hidden.v1"})
    assert deleted == ["ink_v2", "hidden_v1"]


def test_a_hidden_lora_is_known_to_its_image_alone(webui: Sdnext, tmp_path: Path) -> None:
    put(webui, "ink")
    archived = tmp_path / "archived.safetensors"
    archived.write_text(json.dumps({"lora_unet_a": 16.0}))
    host = SdnextHost()
    before = host.loras()
    image = draw(host, "hidden.v1", files={"hidden.v1": archived})
    assert image[0] == (17.0, 2.0, 3.0)
    assert host.loras() == before
    assert webui.lora.lora_cache == {}
    assert str(archived) not in webui.modules["modules.sd_models_utils"].state_dict_cache._cache
    assert set(webui.lora.available_network_aliases) == {"ink"}


def test_no_hidden_lora_takes_a_name_that_a_prompt_can_use(webui: Sdnext, tmp_path: Path) -> None:
    """It would be lost to its own file afterwards."""
    path = put(webui, "styles/ink.v2")
    with pytest.raises(UsageError, match="is in the list"):
        draw(SdnextHost(), "ink.v2", files={"ink.v2": path})
    assert webui.lora.available_network_aliases["ink.v2"].filename == str(path)


# Images -----------------------------------------------------------------------------------------------------


def test_a_scheduler_is_left_out_because_the_host_has_none(webui: Sdnext) -> None:
    draw(SdnextHost(), scheduler="Karras", sampler_name="UniPC")
    draw(SdnextHost())
    assert [made.settings["sampler_name"] for made in webui.draws] == ["UniPC", "Default"]


@pytest.mark.parametrize("fails", [False, True])
def test_an_image_is_not_left_in_the_history_that_the_host_shows_and_its_latents_are_taken_from_it(
    fails: bool, webui: Sdnext
) -> None:
    webui.sampled = torch.ones(1, 4, 2, 2)
    mine = [SimpleNamespace(latent=torch.zeros(1, 4, 2, 2), images=[number]) for number in range(3)]
    webui.history.extend(mine)
    if fails:
        with pytest.raises(FileError):
            draw(SdnextHost(), "missing")
    else:
        made = SdnextHost().generate({"prompt": "a cake"})
        assert made.latent is not None
        assert np.array_equal(made.latent, np.ones((4, 2, 2), np.float32))
    assert list(webui.history) == mine


def test_a_history_without_latents_gives_an_image_without_latents(webui: Sdnext) -> None:
    """Its length can be 0, and a version may have none."""
    assert SdnextHost().generate({"prompt": "a cake"}).latent is None
    del webui.modules["modules.shared"].history
    assert SdnextHost().generate({"prompt": "a cake"}).latent is None


def test_no_image_without_a_model_is_reported(webui: Sdnext) -> None:
    webui.data.get_sd_model = lambda: None  # type: ignore[method-assign]
    webui.load(None)
    with pytest.raises(HostError, match="no image and no reason"):
        draw(SdnextHost())


def test_the_host_adds_no_words_of_a_lora_to_our_prompt_and_its_setting_stays(webui: Sdnext) -> None:
    """It adds the name of a LoRA without words of its own, so the prompts of two files would differ."""
    webui.options.data["lora_apply_tags"] = -1
    seen: list[int] = []
    webui.on_draw = lambda made: seen.append(webui.options.lora_apply_tags)
    draw(SdnextHost())
    assert (seen, webui.options.lora_apply_tags) == ([0], -1)


def test_a_lora_of_another_model_is_not_applied_and_reported(webui: Sdnext) -> None:
    put(webui, "other", {"lora_unet_elsewhere": 1.0})
    with pytest.raises(FileError, match="other: the WebUI did not apply this LoRA"):
        draw(SdnextHost(), "other")


def test_a_lora_whose_layers_all_failed_is_in_the_list_and_reported(webui: Sdnext) -> None:
    """Otherwise two equal images would count as proof that nothing was lost."""
    put(webui, "odd")
    webui._change = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(FileError, match="odd: the WebUI did not apply"):
        draw(SdnextHost(), "odd")
    assert [one.name for one in webui.modules["modules.lora.lora_common"].loaded_networks] == ["odd"]


def test_a_lora_of_text_encoders_alone_is_ignored_by_default_and_the_setting_is_named(webui: Sdnext) -> None:
    put(webui, "texts", TEXTS)
    with pytest.raises(FileError, match=r"text encoder layers only.*'LoRA native apply to text encoder'"):
        draw(SdnextHost(), "texts")
    webui.options.data["lora_apply_te"] = True
    assert draw(SdnextHost(), "texts")[0] == (1.0, 2.0, 7.0)


def test_a_lora_that_stays_applied_from_the_last_image_counts_as_applied(webui: Sdnext) -> None:
    put(webui, "ink.v2")
    host = SdnextHost()
    assert draw(host, "ink.v2") == draw(host, "ink.v2")


def test_an_adapter_of_diffusers_counts_by_its_name_without_dots(webui: Sdnext) -> None:
    put(webui, "ink.v2", {})
    loaded = SimpleNamespace(name="ink.v2", modules={})
    webui._load = lambda name, entry: loaded  # type: ignore[method-assign]
    with pytest.raises(FileError, match="did not apply"):
        draw(SdnextHost(), "ink.v2")
    webui.modules["modules.lora.lora_diffusers"].diffuser_loaded.append("ink_v2")
    draw(SdnextHost(), "ink.v2")


def test_a_nested_job_that_clears_an_interruption_does_not_save_a_stopped_image(webui: Sdnext) -> None:
    put(webui, "ink")
    host = SdnextHost()
    webui.on_draw = lambda made: host.stop_generating()
    with pytest.raises(Cancelled):
        draw(host, "ink")
    assert not webui.state.interrupted, "the job of the LoRA has cleared it"


# Progress and locks ---------------------------------------------------------------------------------------------


def test_each_job_is_ended_with_the_name_that_its_beginning_gave(webui: Sdnext) -> None:
    host = SdnextHost()
    draw(host)
    host.begin_job("Resize")
    host.end_job()
    assert webui.state.ended == ["id 2", "id 1", "id 3"]


def test_the_progress_counts_steps_because_jobs_show_as_nothing(webui: Sdnext) -> None:
    host = SdnextHost()
    host.begin_job("Resize")
    host.progress(3, 8, "a")
    state = webui.state
    assert (state.sampling_step, state.sampling_steps, state.job_no, state.job_count) == (3, 8, 0, 1)
    assert state.textinfo == "Resize: a"


def test_the_first_load_of_a_model_is_under_another_lock_and_counts_as_busy(webui: Sdnext) -> None:
    host = SdnextHost()
    assert host.busy() is None
    with webui.data.lock:  # type: ignore[attr-defined]
        assert host.busy() == "the WebUI is generating an image or loading a model"
    with webui.lock:
        assert host.busy() is not None


def test_the_selected_checkpoint_is_pending_until_a_model_is_in_memory(webui: Sdnext, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    file.touch()
    known = webui.modules["modules.sd_checkpoint"].checkpoints_list
    known["tiny [0abc]"] = SimpleNamespace(title="tiny [0abc]", filename=str(file), path=str(file))
    webui.options.data["sd_model_checkpoint"] = "tiny"
    host = SdnextHost()
    assert host.pending() is None
    webui.load(None)
    assert host.pending() == "tiny [0abc]"


# Access -----------------------------------------------------------------------------------------------------


def access(webui: Sdnext, **options: Any) -> Access | None:
    vars(webui.cmd_opts).update({"resize_lora_api": True, **options})
    return SdnextHost().access()


def test_the_users_of_its_page_are_those_of_the_api(webui: Sdnext, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("eve:x:y\n\nzoe:4, ann:5\n")
    found = access(webui, auth='"ada:1, bob:2"', auth_file=str(file))
    assert found is not None
    assert found.users == (("ada", "1"), ("bob", "2"), ("eve", "x:y"), ("zoe", "4"), ("ann", "5"))
    assert found.option == "--auth"


def test_a_user_without_a_name_or_a_password_is_nobody(webui: Sdnext) -> None:
    found = access(webui, auth="ada:,:1,bob,:")
    assert found is not None
    assert found.users == ()
    assert found.locked


def test_a_file_of_users_that_is_missing_lets_nobody_in(webui: Sdnext, tmp_path: Path) -> None:
    found = access(webui, auth_file=str(tmp_path / "gone"))
    assert found is not None
    assert found.users == ()
    assert found.locked


def test_without_users_and_without_the_option_it_is_as_elsewhere(webui: Sdnext) -> None:
    assert access(webui) == Access(option="--auth")
    assert access(webui, listen=True) == Access(exposed=True, option="--auth")
    assert access(webui, resize_lora_api=False) is None

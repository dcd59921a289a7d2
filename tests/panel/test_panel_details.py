"""Trigger words, the Civitai page and the folder of a LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lib_resize.files.header import TensorSpec, encode, read_header
from lib_resize.files.metadata import RECORD
from lib_resize.panel import file_manager
from tests.panel.panelhost import Browser


def write(root: Path, suffix: str, document: Any, name: str = "pastry") -> None:
    (root / f"{name}{suffix}").write_text(json.dumps(document), "utf-8")


def test_a_lora_without_sidecars_has_no_details_but_its_path(browser: Browser, root: Path) -> None:
    assert browser.ask("details", name="pastry") == {
        "name": "pastry",
        "activation": "",
        "trained_words": [],
        "civitai": None,
        "description": "",
        "fit": None,
        "effect": None,
        "unreadable": [],
        "path": str(root / "pastry.safetensors"),
    }


@pytest.mark.parametrize(
    ("suffix", "document"),
    [
        (".civitai.info", {"id": 12, "modelId": 7, "trainedWords": ["prbstyle", "a cake"]}),
        (".metadata.json", {"civitai": {"id": 12, "modelId": 7, "trainedWords": ["prbstyle", "a cake"]}}),
        (".cm-info.json", {"ModelId": 7, "VersionId": 12, "TrainedWords": ["prbstyle", "a cake"]}),
    ],
)
def test_each_manager_has_its_own_sidecar(browser: Browser, root: Path, suffix: str, document: Any) -> None:
    write(root, suffix, document)
    write(root, ".json", {"activation text": "prb", "description": "<p>Cakes &amp; tea</p><script>x</script>"})
    found = browser.ask("details", name="pastry")
    assert found["trained_words"] == ["prbstyle", "a cake"]
    assert found["civitai"] == "https://civitai.com/models/7?modelVersionId=12"
    assert found["activation"] == "prb"
    assert found["description"] == "Cakes & tea\nx"


@pytest.mark.parametrize("id", ["7/../../evil", "javascript:alert(1)", -1, 0, True, 1.5, [7], 2**60, None])
def test_an_address_is_made_of_numbers_alone(browser: Browser, root: Path, id: Any) -> None:
    write(root, ".civitai.info", {"modelId": id, "id": 3})
    assert browser.ask("details", name="pastry")["civitai"] is None
    write(root, ".civitai.info", {"modelId": 7, "id": id})
    assert browser.ask("details", name="pastry")["civitai"] == "https://civitai.com/models/7"


@pytest.mark.parametrize("text", ["", "[", "[]", "7", '{"trainedWords": "no list", "civitai": []}', "[" * 100_000])
def test_a_damaged_sidecar_says_nothing(browser: Browser, root: Path, text: str) -> None:
    (root / "pastry.civitai.info").write_text(text, "utf-8")
    found = browser.ask("details", name="pastry")
    assert (found["trained_words"], found["civitai"], found["description"]) == ([], None, "")


def test_a_remote_page_learns_no_path(browser: Browser, host: Any) -> None:
    host.remote = True
    assert browser.ask("details", name="pastry")["path"] is None


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found: list[Path] = []
    monkeypatch.setattr(file_manager, "open_folder", found.append)
    return found


def test_the_folder_of_a_listed_lora_is_opened(browser: Browser, root: Path, opened: list[Path]) -> None:
    assert browser.ask("open_folder", name="pastry") == {"folder": root.name}
    assert opened == [root]


@pytest.mark.parametrize("name", ["nobody", "../pastry", "/etc/passwd", ""])
def test_a_path_of_the_page_opens_nothing(browser: Browser, opened: list[Path], name: str) -> None:
    assert browser.error("open_folder", name=name)["kind"] == "file"
    assert opened == []


def test_no_folder_is_opened_for_another_machine(browser: Browser, host: Any, opened: list[Path]) -> None:
    host.remote = True
    assert browser.error("open_folder", name="pastry")["kind"] == "remote"
    assert opened == []


def test_without_a_file_manager_the_reason_is_given(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    error = browser.error("open_folder", name="pastry")
    assert error["kind"] == "unavailable"
    assert "No file manager" in error["message"]


# Records in the file -----------------------------------------------------------------------------------------------


def with_record(root: Path, text: str) -> None:
    path = root / "pastry.safetensors"
    header = read_header(path)
    data = path.read_bytes()[header.data_start :]
    specs = [TensorSpec(name, one.dtype, one.shape) for name, one in header.entries.items()]
    path.write_bytes(encode(specs, {**header.metadata, RECORD: text}) + data)


def test_the_records_of_images_are_details(browser: Browser, root: Path) -> None:
    fit = {"images": 4, "steps": 4, "prompt": "0123456789abcdef", "layers": 771}
    effect = {
        "kept": 0.978, "worst": 0.961, "seeds": 4, "sampler": "Euler a", "steps": 20, "width": 832, "height": 1216,
        "basis": "latents", "prompt": "0123456789abcdef",
    }  # fmt: skip
    errors = {"unet": {"plain": 0.357, "fitted": 0.241}}
    with_record(root, json.dumps({"version": "1", "fit": {**fit, "errors": errors}, "effect": effect}))
    found = browser.ask("details", name="pastry")
    assert found["fit"] == {**fit, "errors": [{"model": "unet", "plain": 0.357, "fitted": 0.241}]}
    assert (found["effect"], found["unreadable"]) == (effect, [])


@pytest.mark.parametrize("text", ["", "[", "7", "[" * 100_000, '{"fit": 7, "effect": {"kept": "<b>"}}'])
def test_records_that_we_did_not_write_are_not_shown(browser: Browser, root: Path, text: str) -> None:
    with_record(root, text)
    found = browser.ask("details", name="pastry")
    assert (found["fit"], found["effect"]) == (None, None)
    assert found["unreadable"] == (["fit", "effect"] if "fit" in text else [])


def test_a_file_that_cannot_be_read_has_no_records(browser: Browser, root: Path) -> None:
    (root / "pastry.safetensors").write_bytes(b"no safetensors file")
    assert browser.ask("details", name="pastry")["effect"] is None

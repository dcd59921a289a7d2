"""The list: headers only, read once, and again only where a file changed."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lib_resize.files.atomic import write_whole
from lib_resize.panel import library
from lib_resize.panel.service import Service
from lib_resize.studies import catalogue
from lib_resize.studies.catalogue import Facts, KnownFiles, facts_of_alike, load_cache, read_facts, save_cache, stamp_of
from tests.panel.panelhost import Browser, fake_host

STEM = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


def tiny(path: Path, rank: int = 2, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    factors = {"lora_up": np.ones((8, rank), np.float16), "lora_down": np.ones((rank, 8), np.float16)}
    save_file({f"{STEM}.{part}.weight": array for part, array in factors.items()}, path, metadata)
    return path


def test_ten_times_the_files_cost_about_ten_times_as_much_and_the_second_look_little(tmp_path: Path) -> None:
    few, _ = listing_costs(tmp_path / "few", 200)
    first, again = listing_costs(tmp_path / "many", 2000)
    assert first < 30 * few
    assert again < first / 2


def listing_costs(tmp_path: Path, count: int) -> tuple[float, float]:
    """CPU seconds of this process for the first and the second look at a folder."""
    root = tmp_path / "Lora"
    first = tiny(root / "0000.safetensors").read_bytes()
    for number in range(1, count):
        folder = root / f"folder {number % 20}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:04}.safetensors").write_bytes(first)
    host = fake_host(root)
    host.listed = host.loras()
    browser = Browser(Service(host, tmp_path / "cache.json"))
    began = time.process_time()
    files = browser.listed()
    listed = time.process_time()
    assert len(files) == count
    assert {file["family"] for file in files.values()} == {"SDXL"}
    browser.ask("library")
    return listed - began, time.process_time() - listed


def test_all_files_are_listed_before_their_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, gate = tmp_path / "Lora", threading.Event()
    for number in range(50):
        tiny(root / f"{number}.safetensors")
    monkeypatch.setattr(library, "read_facts", lambda path, *more: gate.wait(20) and read_facts(path, *more))
    browser = Browser(Service(fake_host(root), tmp_path / "cache.json"))
    browser.ask("library")
    browser.until(lambda: len(browser.ask("library")["files"]) == 50)
    answer = browser.ask("library")
    assert (answer["known"], answer["total"], answer["complete"]) == (0, 50, False)
    assert {(one["read"], one["family"], one["bytes"] > 0) for one in answer["files"]} == {(False, None, True)}
    gate.set()
    assert {(one["read"], one["family"]) for one in browser.listed().values()} == {(True, "SDXL")}


def test_files_that_say_the_same_of_their_tensors_have_the_facts_that_each_would_have_alone(tmp_path: Path) -> None:
    record = {"resize_lora": json.dumps({"version": 1, "source": "folder/old.safetensors", "recipe": "rank=2"})}
    made = [
        tiny(tmp_path / "plain.safetensors"),
        tiny(tmp_path / "described.safetensors", metadata={"ss_output_name": "described", "a": "b" * 99}),
        tiny(tmp_path / "more.safetensors", metadata={"ss_output_name": "more"}),
        tiny(tmp_path / "ours.safetensors", metadata=record),
        tiny(tmp_path / "rank.safetensors", rank=3, metadata={"a": "b"}),
    ]
    alike = facts_of_alike()
    assert [read_facts(path, alike) for path in made] == [read_facts(path) for path in made]
    assert 0 < len(alike) < len(made)
    assert read_facts(made[3], alike).source == "old"
    whole = made[1].read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole.replace(b'"b', b"bb", 1)):
        made[1].write_bytes(damaged)
        assert read_facts(made[1], alike) == read_facts(made[1])
        assert read_facts(made[1], alike).problem


def test_a_file_is_read_again_only_where_size_or_time_changed(
    browser: Browser, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert browser.listed()["pastry"]["rank"] == 8
    read: list[str] = []

    def noted(path: Path, *more: Any) -> Facts:
        read.append(path.name)
        return read_facts(path, *more)

    monkeypatch.setattr(library, "read_facts", noted)
    browser.listed()
    assert read == []
    tiny(root / "pastry.safetensors", rank=3)
    assert browser.listed()["pastry"]["rank"] == 3
    assert read == ["pastry.safetensors"]


def test_facts_and_predictions_outlive_the_program(
    browser: Browser, host, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.listed()
    presets = browser.analysed("pastry")["files"][0]["presets"]
    browser.service.close()
    again = Browser(Service(host, tmp_path / "cache" / "library.json"))
    monkeypatch.setattr(library, "read_facts", lambda path, *more: pytest.fail(f"{path} was read again"))
    file = again.listed()["pastry"]
    assert file["predicted"] == {name: presets[name]["bytes"] for name in ("high", "medium", "low")}


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{",
        '{"version": 1}',
        '{"version": 1, "files": []}',
        '{"version": 99, "files": {}}',
        "\x00\x01",
        "null",
    ],
)
def test_a_damaged_cache_counts_as_none(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "library.json"
    path.write_text(damage)
    assert load_cache(path) == {}


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"stamp": [1], "facts": {}, "predicted": None},
        {"stamp": [1, "2"], "facts": {}, "predicted": None},
        {"stamp": [1, 2], "facts": {"rank": "8"}, "predicted": None},
        {"stamp": [1, 2], "facts": {"strange": 8}, "predicted": None},
        {"stamp": [1, 2], "facts": {}, "predicted": {"high": "many"}},
    ],
)
def test_a_damaged_entry_is_left_out_and_the_rest_stays(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "library.json"
    good = ((5, 6), Facts(family="SDXL", rank=4), {"high": 7, "low": None}, False)
    (tmp_path / "good").touch()
    save_cache(path, {str(tmp_path / "good"): good})
    document = json.loads(path.read_text())
    document["files"]["/bad"] = row
    path.write_text(json.dumps(document))
    assert load_cache(path) == {str(tmp_path / "good"): good}


def test_files_that_are_gone_are_dropped_and_those_of_a_drive_that_is_gone_stay(tmp_path: Path) -> None:
    path, row = tmp_path / "library.json", ((5, 6), Facts(), None, False)
    files = [tmp_path / "there", tmp_path / "gone", tmp_path / "drive" / "far"]
    files[0].touch()
    save_cache(path, {str(file): row for file in files})
    assert load_cache(path).keys() == {str(files[0]), str(files[2])}


def test_many_predictions_are_written_together(browser: Browser, monkeypatch: pytest.MonkeyPatch, host) -> None:
    browser.listed()
    written: list[int] = []

    def write(path: Path, data: bytes, **more: bool) -> None:
        written.append(len(data))
        write_whole(path, data, **more)

    monkeypatch.setattr(catalogue, "write_whole", write)
    library, lora = browser.service.desk.library, host.resolve("ink")
    for size in range(50):
        library.predict(lora, stamp_of(lora.path), {"high": size})
    assert written == []
    browser.service.close()
    assert len(written) == 1
    browser.service.close()
    assert len(written) == 1


def test_what_was_added_is_written_without_an_end(tmp_path: Path) -> None:
    """A server is killed more often than it is ended."""
    file, row = tmp_path / "a", ((5, 6), Facts(), None, False)
    file.touch()
    known = KnownFiles(tmp_path / "library.json", every=0.01)
    known.add(file, row)
    end = time.monotonic() + 5
    while not load_cache(tmp_path / "library.json") and time.monotonic() < end:
        time.sleep(0.01)
    assert load_cache(tmp_path / "library.json") == {str(file): row}


def test_a_cache_that_cannot_be_written_does_no_harm(host, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert Browser(Service(host, blocked / "library.json")).listed()["pastry"]["problem"] is None


def test_a_page_that_asks_since_a_revision_gets_what_changed(browser: Browser, root: Path) -> None:
    browser.listed()
    before = browser.ask("library")["revision"]
    assert browser.ask("library", since=before)["files"] == []
    tiny(root / "new one.safetensors")
    (root / "ink.safetensors").unlink()
    answer = browser.until(lambda: (one := browser.ask("library", since=before))["complete"] and one)
    assert [file["name"] for file in answer["files"]] == ["new one"]
    assert answer["gone"] == ["ink"]
    assert answer["revision"] > before


def damaged_files(folder: Path) -> dict[str, str]:
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "cut.safetensors").write_bytes(tiny(folder / "whole.safetensors").read_bytes()[:-8])
    (folder / "page.safetensors").write_text("<!DOCTYPE html><p>Please log in")
    (folder / "pickle.pt").write_bytes(b"PK\x03\x04 and so on, a pickle in a zip")
    (folder / "noise.safetensors").write_bytes(os.urandom(5000))
    (folder / "dangling.safetensors").symlink_to(folder / "nowhere")
    save_file({"a.lokr_w1": np.ones((2, 2), np.float32)}, folder / "lokr.safetensors")
    save_file({"model.diffusion_model.out.2.weight": np.ones((2, 2), np.float32)}, folder / "base.safetensors")
    save_file({f"{STEM}.lora_up.weight": np.ones((2, 2), np.float32)}, folder / "half.safetensors")
    save_file({"x": np.ones(2, np.float32)}, folder / "nothing.safetensors")
    return {
        "empty": "empty",
        "cut": "cut off",
        "page": "web page",
        "pickle": "pickle",
        "noise": "",
        "lokr": "layer a (LoKr) lacks lokr_w2_a",
        "base": "base model",
        "half": "lacks down",
        "nothing": "nothing to resize",
        "dangling": "cannot be read",
    }


def test_every_damaged_file_is_listed_with_its_problem_and_without_its_path(browser: Browser, root: Path) -> None:
    expected = damaged_files(root)
    files = browser.listed()
    for name, part in expected.items():
        assert files[name]["problem"], name
        assert part in files[name]["problem"], name
        assert str(root) not in json.dumps(files[name]), name
    assert files["pastry"]["problem"] is None
    assert files["lokr"]["kind"] is None


def test_fits_follows_the_family_of_the_reference(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    host = fake_host(root, checkpoint_files=[checkpoint])
    browser = Browser(Service(host, tmp_path / "cache.json"))
    assert browser.listed()["pastry"]["fits"] is None
    revision = browser.ask("library")["revision"]
    host.selected = checkpoint.name
    changed = browser.ask("library", since=revision)["files"]
    assert {file["name"]: file["fits"] for file in changed} == {"pastry": True, "ink": True}


def test_folders_are_shown_below_their_root_and_roots_by_name(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "Lora", tmp_path / "b" / "Lora"
    tiny(one / "x.safetensors")
    tiny(one / "styles" / "ink" / "y.safetensors")
    tiny(other / "z.safetensors")
    single = Browser(Service(fake_host(one), tmp_path / "1.json")).listed()
    assert {name: file["folder"] for name, file in single.items()} == {"x": "", "y": "styles/ink"}
    both = Browser(Service(fake_host(one, other), tmp_path / "2.json"))
    assert {name: file["folder"] for name, file in both.listed().items()} == {
        "x": "a/Lora",
        "y": "a/Lora/styles/ink",
        "z": "b/Lora",
    }
    assert both.ask("library")["roots"] == ["a/Lora", "b/Lora"]


def test_a_file_of_ours_names_its_original(browser: Browser) -> None:
    made = browser.resized("pastry")
    file = browser.listed()[made["output"]]
    assert file["ours"] == {"source": "pastry", "recipe": made["recipe"], "there": True}


def test_other_files_of_a_name_are_listed_with_it(browser: Browser, root: Path) -> None:
    (root / "old").mkdir()
    (root / "old" / "pastry.safetensors").write_bytes((root / "ink.safetensors").read_bytes())
    (root / "linked").mkdir()
    (root / "linked" / "ink.safetensors").symlink_to(root / "ink.safetensors")
    files = browser.listed()
    size = (root / "ink.safetensors").stat().st_size
    assert files["pastry"]["same_name"] == [{"folder": "old", "bytes": size}]
    assert files["ink"]["same_name"] == []
    (root / "old" / "pastry.safetensors").unlink()
    browser.ask("library", refresh=True)
    assert browser.listed()["pastry"]["same_name"] == []

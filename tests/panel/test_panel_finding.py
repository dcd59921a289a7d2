"""The search for the smallest file, over a host whose images depend on the LoRA files that they use."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lib_resize.effect.figures import squared_difference
from lib_resize.files import private_folders
from lib_resize.files.reader import SafeFile
from lib_resize.hosts.host import LoraFile, LoraList
from lib_resize.panel import analyses, recovery
from lib_resize.panel.picturing import candidates
from lib_resize.panel.picturing.originals import hidden_name
from lib_resize.panel.service import Service
from lib_resize.panel.versions import names_of
from tests.panel.drawing import Drawing, write_small_lora
from tests.panel.panelhost import Browser, fake_host

SETTINGS = {"prompt": "a cat <lora:broth:0.8>", "seed": 7, "steps": 4, "sampler_name": "Euler"}


@pytest.fixture
def root(broth_root: Path) -> Path:
    return broth_root


@pytest.fixture
def host(root: Path, drawing: Drawing) -> Any:
    return fake_host(root, latent=drawing.latent)


def find(browser: Browser, **params: Any) -> Any:
    return browser.ask("find", **{"name": "broth", "target": 0.9, "settings": SETTINGS, **params})["job"]


def found(browser: Browser, **params: Any) -> Any:
    return browser.done(find(browser, **params))


def test_sizes_whose_files_have_one_name_are_drawn_each_by_its_own_file(browser: Browser, drawing: Drawing) -> None:
    result = found(browser, options={"suffix": "_small"})
    assert len({one["bytes"] for one in result["trials"]}) > 1
    assert len({one["kept"] for one in result["trials"]}) > 1
    saved = browser.done(browser.ask("find_save", find=result["find"])["job"])
    assert saved["output"] == "broth_small"


def trials_of(browser: Browser) -> Path:
    return browser.service.desk.library.cache.parent / candidates.FOLDER


def left(browser: Browser) -> list[Path]:
    folder = trials_of(browser)
    return sorted(folder.rglob("*")) if folder.exists() else []


class Tap:
    """Calls a function at the nth image."""

    def __init__(self, host: Any, drawing: Drawing, at: int, act: Callable[[], object]) -> None:
        def latent(request: Any) -> Any:
            if len(drawing.drawn) == at:
                act()
            return drawing.latent(request)

        host.latent = latent


# What is found -----------------------------------------------------------------------------------------------------


def test_the_file_that_is_found_keeps_the_target_by_images_drawn_again(
    browser: Browser, drawing: Drawing, root: Path
) -> None:
    result = found(browser)
    best = result["best"]
    assert best["accepted"]
    assert best["kept"] >= 0.9
    assert best["worst"] >= 0.87
    assert best["seeds"] == 4
    assert result["seeds"] == [7, 8, 9, 10]
    assert result["basis"] == "latents"
    assert best["bytes"] < (root / "broth.safetensors").stat().st_size
    saved = browser.done(browser.ask("find_save", find=result["find"])["job"])
    path = root / f"{saved['output']}.safetensors"
    prompt = {"original": "a cat <lora:broth:0.8>", "without": "a cat"}
    distances: dict[str, list[float]] = {"resized": [], "without": []}
    for seed in result["seeds"]:
        original = drawing.latent({"prompt": prompt["original"], "seed": seed, "loras": ["broth"]})
        resized = drawing.latent({"prompt": "", "seed": seed, "loras": [path.stem]})
        bare = drawing.latent({"prompt": prompt["without"], "seed": seed})
        distances["resized"].append(squared_difference(resized, original))
        distances["without"].append(squared_difference(bare, original))
    assert best["kept"] == pytest.approx(1 - sum(distances["resized"]) / sum(distances["without"]), abs=1e-9)
    assert result["effect"] == pytest.approx(np.mean(distances["without"]))


def test_a_higher_target_needs_a_larger_file_and_kept_falls_with_the_size(browser: Browser) -> None:
    low, high = found(browser, target=0.8), found(browser, target=0.97)
    assert low["best"]["bytes"] < high["best"]["bytes"]
    for result in (low, high):
        full = sorted((one["bytes"], one["kept"]) for one in result["trials"] if one["seeds"] >= 2)
        assert [kept for _, kept in full] == sorted(kept for _, kept in full)


def test_the_prompts_are_those_of_the_person_with_and_without_the_lora(browser: Browser, drawing: Drawing) -> None:
    found(browser, seeds=1)
    prompts = {one["prompt"] for one in drawing.drawn}
    names = {one["loras"][0] for one in drawing.drawn if one.get("files")}
    assert prompts == {"a cat <lora:broth:0.8>", "a cat", *(f"a cat <lora:{name}:0.8>" for name in names)}
    assert all(one["sampler_name"] == "Euler" for one in drawing.drawn)
    assert [one.get("loras") for one in drawing.drawn if one["prompt"] == "a cat"] == [None]


def test_the_answer_counts_the_images_that_the_host_made(browser: Browser, host: Any) -> None:
    result = found(browser)
    made = [event for event in host.events if event[0] == "generate"]
    assert result["images"] == len(made) <= 25
    assert len({str(sorted(event[1].items(), key=str)) for event in made}) >= len(made) - 1  # one is made twice: noise


def test_a_prompt_that_hardly_shows_the_lora_ends_before_any_file_is_written(
    browser: Browser, drawing: Drawing
) -> None:
    drawing.noise = 50.0
    result = found(browser)
    assert result["weak"]
    assert result["best"] is None
    assert result["trials"] == []
    assert result["images"] == 5
    assert "hardly shows" in result["text"]
    assert not any(one.get("files") for one in drawing.drawn)


def test_a_prompt_that_turns_out_weak_with_more_images_ends_the_search(
    browser: Browser, drawing: Drawing, host: Any
) -> None:
    """Two seeds show the LoRA well enough, and the other two do not show it at all."""
    plain, again = drawing.latent, list[int]()

    def latent(request: Any) -> Any:
        seed = request["seed"]
        used = {**request, "loras": request.get("loras", []) if seed < 9 else []}
        found = plain(used)
        if request.get("loras") == ["broth"] and seed == 7:
            again.append(1)
            if len(again) == 2:  # the noise is a quarter of the effect: more than a third of that of all four
                bare = plain({"prompt": "", "seed": 7})
                return found + np.float32(np.sqrt(squared_difference(found, bare) / 4))
        return found

    host.latent = latent
    result = found(browser)
    assert result["weak"]
    assert result["best"] is None
    assert len(result["trials"]) > 1
    assert result["noise"] * 3 > result["effect"]


def test_a_file_that_one_image_rejects_is_drawn_no_more(browser: Browser) -> None:
    result = found(browser)
    rejected = [one for one in result["trials"] if one["seeds"] == 1]
    assert rejected
    assert all(not one["accepted"] and one["worst"] < 0.87 for one in rejected)


def test_a_target_that_no_size_reaches_ends_with_the_largest(browser: Browser, drawing: Drawing, host: Any) -> None:
    drawing.noise = 0.0
    plain = drawing.latent
    host.latent = lambda request: plain(request) + (3.0 if request.get("files") else 0.0)  # candidates draw worse
    result = found(browser, save=True)
    assert not result["best"]["accepted"]
    assert result["best"]["bytes"] == max(one["bytes"] for one in result["trials"])
    assert not result["larger"]
    assert "Even the largest file" in result["text"]
    assert result["result"] is None


def test_a_target_that_the_smallest_reaches_ends_with_the_smallest(
    browser: Browser, host: Any, drawing: Drawing
) -> None:
    plain = drawing.latent
    host.latent = lambda request: plain({**request, "files": {}, "loras": ["broth"] if request.get("loras") else []})
    result = found(browser)
    assert result["best"]["kept"] == 1.0
    assert not result["smaller"]
    assert result["best"]["recipe"].endswith("retain=0.000001")


# Files of candidates -------------------------------------------------------------------------------------------------


def test_one_decomposition_serves_all_sizes(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = getattr(analyses, "analyse")  # noqa: B009 - not exported

    def analyse(*args: Any, **more: Any) -> Any:
        calls.append(1)
        return real(*args, **more)

    monkeypatch.setattr(analyses, "analyse", analyse)
    result = found(browser)
    browser.done(browser.ask("find_more", find=result["find"], direction="larger")["job"])
    browser.done(browser.ask("find_save", find=result["find"])["job"])
    assert len(result["trials"]) > 3
    assert len(calls) == 1


def test_candidates_are_in_no_folder_that_the_host_scans_and_gone_afterwards(
    browser: Browser, drawing: Drawing, host: Any, root: Path
) -> None:
    before = sorted(root.rglob("*"))
    found(browser)
    files = {path for path in drawing.used if path.parent != root}
    assert len(files) > 3
    assert all(trials_of(browser) in path.parents for path in files)
    assert not any(folder in path.parents for path in files for folder in host.scanned_folders())
    assert left(browser) == []
    assert sorted(root.rglob("*")) == before


def test_a_cache_inside_of_a_scanned_folder_is_not_used(host: Any, root: Path, tmp_path: Path) -> None:
    assert candidates.places(root / "cache", host) == candidates.places(tmp_path, host)[1:]


def test_where_no_folder_is_possible_the_search_ends_with_what_to_do(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    for places in ([], [blocked / "below"]):
        monkeypatch.setattr(candidates, "places", lambda *_, places=places: places)
        job = browser.wait(find(browser))
        assert job["error"]["kind"] == "output"
        assert "RESIZE_LORA_CACHE" in job["error"]["message"]


def test_no_two_files_have_the_same_name_in_the_host(browser: Browser, drawing: Drawing) -> None:
    result = found(browser)
    browser.done(browser.ask("find_more", find=result["find"], direction="smaller")["job"])
    files: dict[str, set[Path]] = {}
    for one in drawing.drawn:
        for name, path in one.get("files", {}).items():
            files.setdefault(name, set()).add(path)
    assert all(len(paths) == 1 for paths in files.values())
    assert len({path for paths in files.values() for path in paths}) == len(files)


def test_no_candidate_is_left_after_an_error_of_the_host(browser: Browser, host: Any, drawing: Drawing) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    Tap(host, drawing, 12, fail)
    job = browser.wait(find(browser))
    assert job["state"] == "failed"
    assert left(browser) == []


def test_cancelling_stops_the_image_and_leaves_nothing(browser: Browser, host: Any, drawing: Drawing) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        go_on.wait(20)

    Tap(host, drawing, 12, hold)
    job = find(browser)
    assert reached.wait(20)
    assert left(browser)
    browser.ask("cancel", job=job)
    assert ("stop_generating",) in host.events
    go_on.set()
    assert browser.wait(job)["state"] == "cancelled"
    assert left(browser) == []
    assert len(drawing.drawn) == 13


def test_what_a_killed_server_left_is_removed_at_the_start_and_files_of_a_running_one_stay(
    browser: Browser, tmp_path: Path
) -> None:
    folder = trials_of(browser)
    code = (
        "import os, sys; from pathlib import Path; from lib_resize.files import private_folders\n"
        "made = private_folders.create([Path(sys.argv[1])])\n"
        "(made.path / 'broth.safetensors').write_bytes(b'x' * 100)\n"
        "print(made.path, flush=True)\n"
        "sys.stdin.readline(); os._exit(9)"
    )
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(2)
    ]  # fmt: skip
    killed, running = (Path(server.stdout.readline().strip()) for server in servers if server.stdout)
    servers[0].communicate("\n")
    (folder / "kept by hand").mkdir()
    recovery.start(browser.service.desk).join(20)
    assert not killed.exists()
    assert (running / "broth.safetensors").exists()
    assert (folder / "kept by hand").exists()
    servers[1].communicate("\n")
    private_folders.sweep(folder)
    assert not running.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the path of an open file")
def test_a_full_disk_is_reported_and_leaves_nothing(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def full(fd: int, data: Any) -> int:
        if candidates.FOLDER in os.path.realpath(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr("lib_resize.files.atomic.os.write", full)
    job = browser.wait(find(browser))
    assert job["error"]["kind"] == "output"
    assert "is full" in job["error"]["message"]
    assert "RESIZE_LORA_CACHE" in job["error"]["message"]
    assert left(browser) == []


def test_a_lora_that_is_changed_during_the_search_ends_it(
    browser: Browser, host: Any, drawing: Drawing, root: Path
) -> None:
    def change() -> None:
        write_small_lora(root / "broth.safetensors", seed=4)

    Tap(host, drawing, 8, change)
    job = browser.wait(find(browser))
    assert job["error"]["kind"] == "file"
    assert "changed" in job["error"]["message"]


def test_a_checkpoint_that_is_changed_during_the_search_ends_it(browser: Browser, host: Any, drawing: Drawing) -> None:
    Tap(host, drawing, 8, lambda: setattr(host, "selected", "other.safetensors"))
    job = browser.wait(find(browser))
    assert job["error"]["kind"] == "reference"
    assert "checkpoint was changed" in job["error"]["message"]


# While it runs -------------------------------------------------------------------------------------------------------


def test_the_job_counts_images_and_shows_the_last_trial(browser: Browser, host: Any, drawing: Drawing) -> None:
    seen: list[dict[str, Any]] = []
    id: list[str] = []

    def latent(request: Any) -> Any:
        if id:
            seen.append(Browser(browser.service).job(id[0]))
        return drawing.latent(request)

    gate = threading.Event()
    host.latent = lambda request: (gate.wait(20), latent(request))[1]
    id.append(find(browser))
    gate.set()
    result = browser.done(id[0])
    images = [job for job in seen if job["stage"] == "image"]
    assert [job["done"] for job in images] == sorted(job["done"] for job in images)
    assert all(0 <= job["done"] < job["total"] for job in images)
    assert images[-1]["done"] == result["images"] - 1
    assert abs(images[-1]["total"] - result["images"]) <= 2
    shown = [job["trial"] for job in images if job["trial"] is not None]
    assert shown[-1] in result["trials"]
    pictures = {one["what"]: one["id"] for one in shown[-1]["pictures"]}
    assert set(pictures) == {"original", "resized", "without"}
    assert browser.job(id[0])["trial"] is None
    assert browser.ask("picture", id=pictures["resized"])["png"]


def test_an_image_of_the_person_goes_first(browser: Browser, host: Any, drawing: Drawing) -> None:
    def begin() -> None:
        host.working_on = "txt2img"

    Tap(host, drawing, 6, begin)
    job = find(browser)
    browser.until(lambda: browser.job(job)["state"] == "waits")
    assert len(drawing.drawn) == 7
    host.working_on = None
    browser.done(job)


def test_stop_ends_after_the_current_image_with_the_best_so_far(browser: Browser, host: Any, drawing: Drawing) -> None:
    id: list[str] = []
    ready = threading.Event()
    Tap(host, drawing, 13, lambda: (ready.wait(20), Browser(browser.service).ask("find_stop", job=id[0])))
    id.append(find(browser, target=0.8))
    ready.set()
    result = browser.done(id[0])
    assert len(drawing.drawn) == 14
    assert result["best"] is not None
    assert result["best"] in result["trials"]
    assert left(browser) == []
    assert browser.ask("find_stop", job=id[0]) == {"stopped": False}
    more = browser.done(browser.ask("find_more", find=result["find"], direction="smaller")["job"])
    assert more["best"]["bytes"] < result["best"]["bytes"]


def test_a_search_that_is_stopped_before_its_first_trial_has_no_best(browser: Browser, host: Any) -> None:
    host.working_on = "txt2img"
    job = find(browser)
    browser.until(lambda: browser.job(job)["state"] == "waits")
    assert browser.ask("find_stop", job=job) == {"stopped": True}
    host.working_on = None
    result = browser.done(job)
    assert result["best"] is None
    assert result["images"] == 0
    assert not result["smaller"]
    assert "stopped" in result["text"]
    assert browser.error("find_save", find=result["find"])["kind"] == "gone"


# Afterwards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "sign"), [("smaller", -1), ("larger", 1)])
def test_one_step_more_reuses_images_and_becomes_the_best(
    browser: Browser, drawing: Drawing, direction: str, sign: int
) -> None:
    result = found(browser)
    before = len(drawing.drawn)
    more = browser.done(browser.ask("find_more", find=result["find"], direction=direction)["job"])
    assert sign * (more["best"]["bytes"] - result["best"]["bytes"]) > 0
    assert more["best"]["seeds"] == 4
    assert len(drawing.drawn) - before <= 4
    assert more["find"] == result["find"]
    assert more["images"] == len(drawing.drawn)
    saved = browser.done(browser.ask("find_save", find=result["find"])["job"])
    assert abs(saved["bytes_after"] - more["best"]["bytes"]) <= 1024


def test_the_saved_file_has_the_dimensions_and_the_bytes_of_the_candidate(
    browser: Browser, host: Any, drawing: Drawing, root: Path, tmp_path: Path
) -> None:
    copies: dict[int, dict[str, Any]] = {}

    def latent(request: Any) -> Any:
        for path in request.get("files", {}).values():
            copies[path.stat().st_size] = load_file(str(path))
        return drawing.latent(request)

    host.latent = latent
    result = found(browser)
    (root / "broth.civitai.info").write_text('{"id": 1}', "utf-8")
    saved = browser.done(browser.ask("find_save", find=result["find"])["job"])
    candidate, written = copies[result["best"]["bytes"]], load_file(str(root / f"{saved['output']}.safetensors"))
    assert candidate.keys() == written.keys()
    assert all(candidate[key].tobytes() == written[key].tobytes() for key in written)
    assert saved["name"] == "broth"
    assert saved["sidecars"] == 1
    assert browser.ask("undo", result=saved["result"])["result"]["state"] == "trashed"
    assert not (root / f"{saved['output']}.safetensors").exists()


def test_a_longer_name_does_not_change_the_dimensions_that_are_saved(browser: Browser, root: Path) -> None:
    result = found(browser, options={"suffix": "_{size}"})
    first = browser.done(browser.ask("find_save", find=result["find"])["job"])
    second = browser.done(browser.ask("find_save", find=result["find"])["job"])
    one, other = (load_file(str(root / f"{made['output']}.safetensors")) for made in (first, second))
    assert first["output"] != second["output"]
    assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in other.items()}


def test_the_figure_is_kept_with_the_result_and_in_the_file(browser: Browser, root: Path) -> None:
    result = found(browser)
    saved = browser.done(browser.ask("find_save", find=result["find"])["job"])
    best, effect = result["best"], saved["effect"]
    assert (effect["kept"], effect["worst"]) == (round(best["kept"], 4), round(best["worst"], 4))
    assert effect["seeds"] == 4
    assert (effect["sampler"], effect["steps"], effect["basis"]) == ("Euler", 4, "latents")
    with SafeFile(root / f"{saved['output']}.safetensors") as file:
        record = json.loads(file.header.metadata["resize_lora"])
    assert record["effect"]["kept"] == pytest.approx(best["kept"], abs=1e-4)
    assert "a cat" not in json.dumps(record)
    assert browser.ask("results")["results"][-1]["effect"] == effect


def test_a_header_that_became_longer_does_not_cost_a_dimension(browser: Browser, root: Path) -> None:
    """The size of the recipe is that of the header with the short name, to the byte."""
    result = found(browser)
    find_ = browser.service.desk.finds.get(result["find"])
    best = find_.best
    assert best is not None
    exact = f"{best.plan.recipe.rpartition('=')[0]}={best.plan.bytes_after / (1 << 20):.6f}"
    find_.measured[best.plan.bytes_after] = replace(best, plan=replace(best.plan, recipe=exact))
    find_.order = replace(find_.order, options=replace(find_.order.options, suffix="_{size}_of_a_very_long_name"))
    saved = browser.done(browser.ask("find_save", find=result["find"])["job"])
    ranks = [layer.new_rank for layer in best.plan.layers]
    tensors = load_file(str(root / f"{saved['output']}.safetensors"))
    assert sorted(len(value) for key, value in tensors.items() if "lora_down" in key) == sorted(ranks)
    assert saved["bytes_after"] > best.plan.bytes_after


def test_a_failed_search_takes_the_place_of_none(browser: Browser, host: Any, drawing: Drawing) -> None:
    ids = [found(browser, seeds=1, target=0.6)["find"] for _ in range(4)]
    host.latent = lambda _: 1 / 0
    assert browser.wait(find(browser))["state"] == "failed"
    host.latent = drawing.latent
    browser.done(browser.ask("find_save", find=ids[0])["job"])


def test_with_save_the_file_is_written_at_the_end(browser: Browser, root: Path) -> None:
    result = found(browser, save=True)
    assert result["result"]["name"] == "broth"
    assert (root / f"{result['result']['output']}.safetensors").exists()
    assert browser.ask("results")["results"][-1]["result"] == result["result"]["result"]


def test_a_lora_that_was_changed_since_is_neither_searched_on_nor_saved(browser: Browser, root: Path) -> None:
    result = found(browser)
    write_small_lora(root / "broth.safetensors", seed=4)
    for method, more in (("find_more", {"direction": "larger"}), ("find_save", {})):
        job = browser.wait(browser.ask(method, find=result["find"], **more)["job"])
        assert job["error"]["kind"] == "file"
        assert "since the search began" in job["error"]["message"]


def test_another_checkpoint_ends_one_step_more(browser: Browser, host: Any) -> None:
    result = found(browser)
    host.selected = "other.safetensors"
    job = browser.wait(browser.ask("find_more", find=result["find"], direction="larger")["job"])
    assert job["error"]["kind"] == "reference"


def test_the_last_four_searches_are_kept(browser: Browser) -> None:
    ids = [found(browser, seeds=1, target=0.6)["find"] for _ in range(5)]
    assert browser.error("find_save", find=ids[0])["kind"] == "gone"
    browser.done(browser.ask("find_save", find=ids[1])["job"])


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"target": 1.0}, "request"),
        ({"target": 0.4}, "request"),
        ({"seeds": 3}, "request"),
        ({"options": {"rescale": 0.5}}, "request"),
        ({"fit": True}, "unavailable"),
        ({"name": "nobody"}, "file"),
        ({"settings": {"outdir": "/tmp"}}, "request"),
        ({"options": {"folder": "../up"}}, "request"),
        ({"options": {"scores": "fro_ckpt=1"}}, "reference"),
    ],
)
def test_what_cannot_be_searched_is_reported_at_once(browser: Browser, params: Any, kind: str) -> None:
    given = {"name": "broth", "target": 0.9, "settings": SETTINGS, **params}
    assert browser.error("find", **given)["kind"] == kind


def test_a_host_that_makes_no_images_refuses(browser: Browser, host: Any) -> None:
    host.features = frozenset()
    assert browser.error("find", name="broth", target=0.9)["kind"] == "unavailable"


def test_an_archived_original_is_what_is_drawn_and_resized(browser: Browser, drawing: Drawing, root: Path) -> None:
    whole = (root / "broth.safetensors").stat().st_size
    browser.done(browser.ask("shrink", names=["broth"], target={"preset": "low"}, least_gain=0.0)["job"])
    assert (root / "broth.safetensors").stat().st_size < whole
    result = found(browser)
    original = next(one for one in drawing.drawn if one.get("loras") == ["broth original"])
    assert original["prompt"] == "a cat <lora:broth original:0.8>"
    assert original["files"]["broth original"].stat().st_size == whole
    assert result["best"]["accepted"]


# Several LoRAs ------------------------------------------------------------------------------------------------------


def work_of_a_call(browser: Browser, root: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> dict[str, int]:
    """How often a call about so many LoRAs goes through the host's list, and opens a file."""
    from PIL import Image

    host: Any = browser.service.desk.host
    names = [f"many {number}" for number in range(count)]
    for name in names:
        shutil.copy(root / "broth.safetensors", root / f"{name}.safetensors")
        (root / f"{name}.json").write_text('{"activation text": "steam"}', "utf-8")
        Image.new("RGB", (8, 8)).save(root / f"{name}.png")
    host.listed = [LoraFile(name, root / f"{name}.safetensors", None, root / f"{name}.png") for name in names]
    browser.listed()
    host.working_on = "an image of the person"  # so that no job begins
    done: Counter[str] = Counter()
    with monkeypatch.context() as patch:
        for place, name in ((LoraList, "__iter__"), (Path, "read_text"), (Path, "open"), (Image, "open")):
            plain = getattr(place, name)

            def counted(*given: Any, _plain: Any = plain, _name: str = name, **named: Any) -> Any:
                done[_name] += 1
                return _plain(*given, **named)

            patch.setattr(place, name, counted)
        answer = browser.ask("find", names=names, target=0.8, settings={"prompt": "{trigger}"})
    assert len(answer["jobs"]) == count
    browser.ask("cancel", jobs=answer["jobs"])
    host.working_on = None
    return dict(done)


def test_the_work_of_a_call_does_not_grow_with_its_loras(
    browser: Browser, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Example images and notes are read, and names compared, in the job of each LoRA."""
    few = work_of_a_call(browser, root, monkeypatch, 2)
    assert "open" not in few
    assert work_of_a_call(browser, root, monkeypatch, 20) == few


def test_names_are_compared_without_going_through_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    loras = LoraList(LoraFile(name, Path(f"/l/{name}.safetensors")) for name in ("a", "a original", "a_s", "b"))
    monkeypatch.setattr(LoraList, "__iter__", lambda _: pytest.fail("the list was read"))
    assert names_of(loras, {"a", "a_s"}, "a") == {"a", "a_s"}
    assert hidden_name("a", loras) == "a original 2"


def jobs_of(browser: Browser, **params: Any) -> list[Any]:
    answer = browser.ask("find", target=0.8, seeds=1, **params)
    return [browser.done(job) for job in answer["jobs"]]


def prompts_of(drawing: Drawing, name: str) -> set[str]:
    return {one["prompt"] for one in drawing.drawn if one.get("loras") == [name]}


def test_several_loras_are_found_and_saved_with_prompts_of_their_own(
    browser: Browser, drawing: Drawing, root: Path
) -> None:
    for seed, name in enumerate(("salt", "sugar", "plain")):
        write_small_lora(root / f"{name}.safetensors", seed=seed)
    (root / "salt.json").write_text('{"activation text": "grains", "preferred weight": 0.7}', "utf-8")
    (root / "sugar.civitai.info").write_text('{"trainedWords": ["cubes"]}', "utf-8")
    settings = {"prompt": "a photo of {trigger}, on a table", "seed": 5}
    answer = browser.ask(
        "find", names=["salt", "sugar", "plain", "nobody"], target=0.8, seeds=1, settings=settings, save=True
    )
    assert [one["name"] for one in answer["refused"]] == ["nobody"]
    results = [browser.done(job) for job in answer["jobs"]]
    assert [one["name"] for one in results] == ["salt", "sugar", "plain"]
    assert all((root / f"{one['result']['output']}.safetensors").exists() for one in results)
    assert prompts_of(drawing, "salt") == {"a photo of grains, on a table <lora:salt:0.7>"}
    assert prompts_of(drawing, "sugar") == {"a photo of cubes, on a table <lora:sugar:1>"}
    assert prompts_of(drawing, "plain") == {"a photo of , on a table <lora:plain:1>"}


def test_a_template_without_a_place_for_trigger_words_gets_them_added(
    browser: Browser, drawing: Drawing, root: Path
) -> None:
    (root / "broth.json").write_text('{"activation text": "steam"}', "utf-8")
    jobs_of(browser, names=["broth"], settings={"prompt": "a bowl"})
    assert prompts_of(drawing, "broth") == {"a bowl, steam <lora:broth:1>"}


INFOTEXT = (
    "a bowl of soup\non a table <lora:broth:0.6> <lora:lost:1>\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"
)


@pytest.mark.parametrize("form", ["png", "jpg"])
def test_the_prompt_of_an_example_image_is_used(
    browser: Browser, drawing: Drawing, host: Any, root: Path, form: str
) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    image, path = Image.new("RGB", (8, 8)), root / f"broth.{form}"
    if form == "png":
        info = PngInfo()
        info.add_text("parameters", INFOTEXT)
        image.save(path, pnginfo=info)
    else:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + INFOTEXT.encode("utf-16-be")
        image.save(path, exif=exif)
    host.listed = [LoraFile("broth", root / "broth.safetensors", None, path)]
    jobs_of(browser, names=["broth"], settings={"prompt": "{trigger}"})
    assert prompts_of(drawing, "broth") == {"a bowl of soup\non a table <lora:broth:0.6>"}
    assert {one["negative_prompt"] for one in drawing.drawn} == {"blurry"}


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n broken"])
def test_a_damaged_example_image_is_ignored(browser: Browser, drawing: Drawing, root: Path, content: bytes) -> None:
    (root / "broth.png").write_bytes(content)
    jobs_of(browser, names=["broth"], settings={"prompt": "a bowl"})
    assert prompts_of(drawing, "broth") == {"a bowl <lora:broth:1>"}


# A pixel-only host ---------------------------------------------------------------------------------------------------


def test_without_latents_pixels_are_compared(browser: Browser, host: Any, drawing: Drawing) -> None:
    def picture(request: Any) -> Any:
        from PIL import Image

        flat = drawing.latent(request)[:3].transpose(1, 2, 0)
        return Image.fromarray(np.clip(flat * 8 + 128, 0, 255).astype(np.uint8), "RGB")

    host.latent, host.picture = None, picture
    result = found(browser, target=0.8, seeds=2)
    assert result["basis"] == "pixels"
    assert result["best"]["accepted"]


def test_a_second_service_of_the_same_cache_leaves_a_running_search_alone(
    browser: Browser, host: Any, drawing: Drawing, tmp_path: Path
) -> None:
    def start_another() -> None:
        other = Service(host, tmp_path / "cache" / "library.json")
        other.recovering.join(20)
        other.close()

    Tap(host, drawing, 14, start_another)
    assert found(browser)["best"]["accepted"]

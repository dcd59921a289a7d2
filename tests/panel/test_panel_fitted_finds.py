"""The search for the smallest file with a fit: what is drawn is what is saved, and the fit's images count."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lib_resize.engine.fitting_job import with_fit
from lib_resize.files.metadata import FitRecord
from lib_resize.files.reader import SafeFile
from lib_resize.linalg.factor import Pair, Stored
from lib_resize.linalg.truncate import truncated
from lib_resize.panel import recovery
from lib_resize.panel.picturing import candidates
from lib_resize.panel.picturing.drawn import _fitting_name
from lib_resize.plans import Plan
from tests.panel.drawing import Drawing
from tests.panel.panelhost import Browser, fake_host

SETTINGS = {"prompt": "a cat <lora:broth:0.8>", "seed": 7, "steps": 4, "sampler_name": "Euler"}
RECORDED = 5


@dataclass
class Wobbly:
    """A fit that needs images as the real one does, and never gives the same factors twice."""

    host: Any
    images_left: int = RECORDED
    fits: int = 0
    longest: FitRecord = field(default_factory=lambda: FitRecord.longest(["unet"]))

    def __call__(self, job: Any, runtime: Any) -> Any:
        runtime.progress.start("make images", RECORDED)
        for _ in range(self.images_left):
            self.image(runtime.progress)
            runtime.progress.step()
        self.images_left = 0
        self.image(runtime.progress)
        self.fits += 1
        rng = np.random.default_rng(self.fits)
        pairs = {}
        for index, kept in enumerate(job.choice.kept):
            source = job.analysis.adapter.layers[index].form.pair
            up, down = truncated(source, job.analysis.spectra[index], kept, runtime.arrays, 1.0)
            wobble = (1 + 1e-3 * rng.standard_normal(up.shape)).astype(np.float32)
            pairs[index] = Pair(Stored(np.asarray(up) * wobble, "F32"), Stored(np.asarray(down), "F32"))
        record = FitRecord(4, 4, "0" * 16, len(pairs), {"unet": (0.02, 0.01)})
        return with_fit(job, pairs, record, ["fitted to images: all layers"], runtime.arrays)

    def image(self, progress: Any) -> None:
        progress.wait_for_host()
        self.host.generate({"prompt": "a cat <lora:broth:1>", "seed": 1007, "loras": ["broth"]})
        progress.image_made()


@pytest.fixture
def root(broth_root: Path) -> Path:
    return broth_root


class Watched:
    """The latents of a drawing; keeps the tensors of each candidate that was drawn, and may do more."""

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        self.tensors: dict[str, dict[str, Any]] = {}
        """Name of a candidate in the host -> its tensors."""
        self.act: Callable[[], object] = lambda: None

    def __call__(self, request: Any) -> Any:
        self.act()
        for name, path in request.get("files", {}).items():
            self.tensors[name] = load_file(str(path))
        return self._drawing.latent(request)


@pytest.fixture
def watched(drawing: Drawing) -> Watched:
    return Watched(drawing)


@pytest.fixture
def host(root: Path, watched: Watched) -> Any:
    return fake_host(root, latent=watched)


@pytest.fixture(autouse=True)
def fit(host: Any, monkeypatch: pytest.MonkeyPatch) -> Wobbly:
    made = Wobbly(host)
    monkeypatch.setattr("lib_resize.panel.picturing.finder.refine_for", lambda *_: made)
    monkeypatch.setattr("lib_resize.panel.methods.finding.check_can_fit", lambda _: None)
    return made


def find(browser: Browser, **params: Any) -> Any:
    return browser.ask("find", **{"name": "broth", "target": 0.9, "settings": SETTINGS, "fit": True, **params})["job"]


def found(browser: Browser, **params: Any) -> Any:
    return browser.done(find(browser, **params))


def saved(browser: Browser, result: Any) -> Any:
    return browser.done(browser.ask("find_save", find=result["find"])["job"])


def drawn(browser: Browser, watched: Watched, result: Any) -> dict[str, Any]:
    """The tensors with which the images of the best file were made."""
    one = browser.service.desk.finds.get(result["find"])
    assert one.files is not None
    assert one.best is not None
    candidate = one.files.get(one.best.key)
    assert candidate is not None
    return watched.tensors[candidate.name]


def assert_same(tensors: dict[str, Any], path: Path) -> None:
    written = load_file(str(path))
    assert tensors.keys() == written.keys()
    for key, value in written.items():
        assert (value.dtype, value.shape, value.tobytes()) == (
            tensors[key].dtype,
            tensors[key].shape,
            tensors[key].tobytes(),
        )


def trials(browser: Browser) -> Path:
    return browser.service.desk.library.cache.parent / candidates.FOLDER


def files_left(browser: Browser) -> list[Path]:
    return sorted(trials(browser).rglob("*.safetensors"))


def images(host: Any) -> int:
    return sum(event[0] == "generate" for event in host.events)


def record_of(path: Path) -> Any:
    with SafeFile(path) as file:
        return file.header.metadata, json.loads(file.header.metadata["resize_lora"])


# What is saved -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"dtype": "32"}])
def test_the_saved_file_is_the_one_that_was_drawn_and_needs_no_image(
    browser: Browser, host: Any, watched: Watched, fit: Wobbly, root: Path, options: Any
) -> None:
    result = found(browser, options=options)
    assert result["best"]["accepted"]
    assert result["best"]["fitted"]
    before = (images(host), fit.fits)
    made = saved(browser, result)
    assert (images(host), fit.fits) == before
    path = root / f"{made['output']}.safetensors"
    assert_same(drawn(browser, watched, result), path)
    assert made["bytes_after"] == path.stat().st_size
    metadata, record = record_of(path)
    assert metadata["ss_output_name"] == made["output"]
    assert record["effect"]["kept"] == pytest.approx(result["best"]["kept"], abs=1e-4)
    assert record["fit"]["images"] == 4
    assert "fitted to images: all layers" in made["notes"]
    assert browser.ask("undo", result=made["result"])["result"]["state"] == "trashed"


def test_the_image_of_the_best_is_of_the_tensors_that_are_saved(
    browser: Browser, watched: Watched, fit: Wobbly
) -> None:
    """No file is fitted twice: the images that one fit made would be those of another."""
    result = found(browser, target=0.97)
    assert fit.fits == len(watched.tensors) == len({one["bytes"] for one in result["trials"]})


def test_one_size_more_is_saved_with_the_tensors_that_were_drawn(
    browser: Browser, watched: Watched, root: Path, host: Any
) -> None:
    result = found(browser)
    for direction in ("larger", "smaller"):
        more = browser.done(browser.ask("find_more", find=result["find"], direction=direction)["job"])
        before = images(host)
        made = saved(browser, more)
        assert images(host) == before
        assert_same(drawn(browser, watched, more), root / f"{made['output']}.safetensors")
        assert more["images"] == images(host)


def test_where_more_images_reject_smaller_files_the_first_one_is_saved_and_not_fitted_again(
    browser: Browser, watched: Watched, fit: Wobbly, host: Any, root: Path
) -> None:
    drawn_files: list[str] = []
    rejected: set[str] = set()

    def latent(request: Any) -> Any:
        (name,) = request.get("files") or [""]
        drawn_files.extend([name] if name and name not in drawn_files else [])
        off = bool(name) and request["seed"] >= 9 and name != drawn_files[0]  # the images that decide last
        rejected.update([name] if off else [])
        return watched(request) + (3.0 if off else 0.0)

    host.latent = latent
    result = found(browser, target=0.6)
    assert rejected
    assert fit.fits == len(watched.tensors) == len({one["bytes"] for one in result["trials"]})
    made = saved(browser, result)
    assert_same(watched.tensors[drawn_files[0]], root / f"{made['output']}.safetensors")


def test_with_save_the_file_is_the_one_that_was_drawn(browser: Browser, watched: Watched, root: Path) -> None:
    result = found(browser, save=True)
    assert_same(drawn(browser, watched, result), root / f"{result['result']['output']}.safetensors")


def test_a_name_with_the_size_has_that_of_the_file_and_is_free(browser: Browser, root: Path) -> None:
    result = found(browser, options={"suffix": "_{size}_r{rank}"})
    first, second = saved(browser, result), saved(browser, result)
    assert first["output"] != second["output"]
    kilobytes = round((root / f"{first['output']}.safetensors").stat().st_size / 1024)
    assert first["output"].startswith(f"broth_{kilobytes}kb_r")
    assert record_of(root / f"{second['output']}.safetensors")[0]["ss_output_name"] == second["output"]


def test_a_name_that_makes_the_file_longer_has_the_size_of_the_longer_file(root: Path) -> None:
    """Without the name the header is a few bytes shorter, which is another number of kilobytes here."""
    plan = Plan("broth", "", "", None, 10**6, 0, 1.0, (), (), ())

    def planned(path: Path) -> Plan:
        return replace(plan, bytes_after=10 * 1024 + 508 + len(path.stem), output=str(path))

    made, path = _fitting_name(lambda ending: root / f"broth{ending}.safetensors", "_{size}", planned)
    assert path.stem == "broth_11kb"
    assert made == planned(path)


def test_a_file_that_was_changed_or_removed_meanwhile_is_not_saved(browser: Browser, root: Path) -> None:
    result = found(browser)
    (path,) = files_left(browser)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    error = browser.wait(browser.ask("find_save", find=result["find"])["job"])["error"]
    assert (error["kind"], "changed since it was written" in error["message"]) == ("output", True)
    path.unlink()
    error = browser.wait(browser.ask("find_save", find=result["find"])["job"])["error"]
    assert error["kind"] == "gone"
    assert "Find the smallest file again" in error["message"]
    assert [one.name for one in root.glob("*.safetensors")] == ["broth.safetensors"]


def test_one_size_more_needs_no_folder_of_before(browser: Browser, watched: Watched, root: Path) -> None:
    """Programs that tidy disks may have removed it."""
    result = found(browser)
    one = browser.service.desk.finds.get(result["find"])
    assert one.files is not None
    one.files._folder.close()
    more = browser.done(browser.ask("find_more", find=result["find"], direction="larger")["job"])
    made = saved(browser, more)
    assert_same(drawn(browser, watched, more), root / f"{made['output']}.safetensors")


# Files of candidates -----------------------------------------------------------------------------------------------


def test_only_the_best_file_is_left_and_none_after_the_last_searches_are_forgotten(browser: Browser) -> None:
    first = found(browser, seeds=1)
    assert len(files_left(browser)) == 1
    for count in range(4):
        found(browser, seeds=1)
        assert len(files_left(browser)) == min(4, count + 2)
    assert browser.error("find_save", find=first["find"])["kind"] == "gone"
    browser.service.close()
    browser.service.desk.queue.join()
    assert list(trials(browser).iterdir()) == []


def test_a_save_that_waits_keeps_its_file(browser: Browser, watched: Watched, root: Path) -> None:
    """Four searches end before it, and the search that it saves is forgotten."""
    first = found(browser, seeds=1)
    tensors = drawn(browser, watched, first)
    hold, reached = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        hold.wait(20)

    watched.act = wait
    jobs = [find(browser, seeds=1) for _ in range(4)]
    assert reached.wait(20)
    job = browser.ask("find_save", find=first["find"])["job"]
    watched.act = lambda: None
    hold.set()
    for one in jobs:
        browser.done(one)
    made = browser.done(job)
    assert_same(tensors, root / f"{made['output']}.safetensors")
    found(browser, seeds=1)
    assert len(files_left(browser)) == 4


@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_a_search_that_ends_early_leaves_no_file(browser: Browser, watched: Watched, how: str) -> None:
    seen: list[int] = []
    job: list[str] = []
    begun = threading.Event()

    def act() -> None:
        begun.wait(20)
        seen.append(1)
        if len(seen) == 18 and how == "cancel":
            Browser(browser.service).ask("cancel", job=job[0])
        elif len(seen) == 18:
            raise RuntimeError("out of memory")

    watched.act = act
    job.append(find(browser))
    begun.set()
    assert browser.wait(job[0])["state"] == ("cancelled" if how == "cancel" else "failed")
    assert list(trials(browser).iterdir()) == []


def test_what_a_killed_server_left_is_removed_at_the_next_start(browser: Browser) -> None:
    found(browser, seeds=1)
    (folder,) = trials(browser).iterdir()
    one = browser.service.desk.finds._kept.popitem()[1]
    assert one.files is not None
    os.close(one.files._folder._lock)  # as the end of its process does
    one.files._folder._lock = -1
    recovery.start(browser.service.desk).join(20)
    assert not folder.exists()


# Its images ----------------------------------------------------------------------------------------------------------


def test_images_of_the_fit_count_in_the_progress_and_in_the_answer(
    browser: Browser, host: Any, watched: Watched, fit: Wobbly
) -> None:
    seen: list[tuple[str, int, int, int]] = []

    def look() -> None:
        job = Browser(browser.service).ask("status")["queue"][-1]
        seen.append((job["stage"], job["done"], job["total"], images(host) - 1))

    watched.act = look
    result = found(browser)
    assert result["images"] == images(host) == len(seen)
    assert {stage for stage, *_ in seen} == {"image"}
    assert all(done == made for _, done, _, made in seen)
    assert all(done < total for _, done, total, _ in seen)
    first, used = seen[0][2], images(host)
    seen.clear()
    host.events.clear()
    plain = found(browser, fit=False)
    assert plain["images"] == images(host) == used - RECORDED - fit.fits
    one = browser.service.desk.finds.get(plain["find"])
    assert first == seen[0][2] + RECORDED + 1 + _steps(one)


def _steps(one: Any) -> int:
    """The sizes between both ends that a search expects before its first image."""
    from lib_resize.effect.search import SizeSearch

    return SizeSearch(one.search._sizes, one.order.target, 4).sizes_left() - 1


def test_one_size_more_counts_its_image(browser: Browser, host: Any, watched: Watched) -> None:
    result = found(browser)
    host.events.clear()
    totals: list[int] = []
    watched.act = lambda: totals.append(Browser(browser.service).ask("status")["queue"][-1]["total"])
    browser.done(browser.ask("find_more", find=result["find"], direction="larger")["job"])
    assert set(totals) == {4 + 1}
    assert images(host) == 4 + 1

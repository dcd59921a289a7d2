"""Fit to images of a WebUI's loaded model, from the question of the page to the written file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.fitting import moments
from lib_resize.hosts.a1111 import A1111Host
from lib_resize.hosts.forge import ForgeHost
from lib_resize.hosts.host import FIT
from lib_resize.panel.service import Service
from tests.fitting.small_net import SHAPES, save_lora
from tests.hosts.live_webui import MERGED, PATCHED, SEPARATE, LiveWebUI, lora_deltas
from tests.panel.panelhost import Browser, end_services

KINDS = [MERGED, SEPARATE, PATCHED]
PROMPT = "a red fox <lora:style:0.5>"
FITTED = {"settings": {"prompt": PROMPT, "seed": 5, "steps": 6}, "images": 4, "steps": 3}
ORDER = {"names": ["style"], "recipe": "rank=2", "options": {"dtype": "32", "sidecars": False}, "fit": FITTED}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


_CHECKED = (
    2 * 3
)  # calls by which the state of the model is found: each recorded one of an image, without and with the LoRA


class Scene:
    """A running WebUI with a LoRA, and a page that asks."""

    def __init__(self, live: LiveWebUI, browser: Browser) -> None:
        self.live, self.browser = live, browser

    def result(self, **changes: Any) -> Any:
        (job,) = self.browser.ask("resize", **{**ORDER, "again": True, **changes})["jobs"]
        return self.browser.done(job)

    def ended(self, **changes: Any) -> Any:
        (job,) = self.browser.ask("resize", **{**ORDER, "again": True, **changes})["jobs"]
        return self.browser.wait(job)

    def done(self, job: str) -> Any:
        """Wait for a job with many images, and return its result."""
        ended = self.browser.wait(job, seconds=300)
        assert ended["state"] == "done", ended["error"]
        return ended["result"]

    def path(self, result: Any) -> Path:
        return self.live.folder / f"{result['output']}.safetensors"

    def check_nothing_is_left(self) -> None:
        live = self.live
        assert live.hooks == 0
        assert live.webui.lock.acquire(blocking=False), "the lock is still held"
        live.webui.lock.release()
        now = live.weights()
        assert all(torch.equal(now[name], weight) for name, weight in live.after_image.items())


@pytest.fixture
def open_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scene]]:
    services: list[Service] = []

    def open_one(kind: str, **options: Any) -> Scene:
        number = len(services)
        live = LiveWebUI(tmp_path / f"Lora{number}", kind, **options)
        live.webui.install(monkeypatch)
        path = save_lora(live.folder / "style.safetensors")
        live.webui.add_lora("style", path)
        service = Service(ForgeHost() if kind == PATCHED else A1111Host(), tmp_path / f"cache{number}" / "library.json")
        services.append(service)
        return Scene(live, Browser(service))

    yield open_one
    end_services(services)


@pytest.fixture(params=KINDS)
def scene(request: Any, open_scene: Callable[..., Scene]) -> Scene:
    return open_scene(request.param)


def errors_of(result: Any) -> tuple[float, float]:
    """Of the note: the fitted file's and that of plain truncation."""
    (note,) = [note for note in result["notes"] if note.startswith("unet: error")]
    words = note.partition("not used ")[2].replace(",", "").replace(";", "").split()
    return float(words[0]), float(words[3])


# What it is for -------------------------------------------------------------------------------------------------


def test_the_fitted_file_is_nearer_to_the_original_on_unseen_seeds_at_the_same_size(scene: Scene) -> None:
    fitted, plain = scene.result(), scene.result(fit=None)
    for result in (fitted, plain):
        scene.live.webui.add_lora(result["output"], scene.path(result))
    # the fit's record is all that the files differ by
    assert abs(fitted["bytes_after"] - plain["bytes_after"]) < 600
    assert lora_deltas(scene.path(fitted)).keys() == SHAPES.keys()

    def distance(name: str) -> float:
        total = 0.0
        with torch.no_grad():
            for seed in range(100, 108):
                one = scene.live.sample(f"a red fox <lora:{name}:1>", seed)
                total += float((one - scene.live.sample("a red fox <lora:style:1>", seed)).square().sum())
        return total

    assert distance(fitted["output"]) < 0.9 * distance(plain["output"])
    own, other = errors_of(fitted)
    assert own < other


def test_the_model_is_unchanged_and_without_hooks(scene: Scene) -> None:
    before = scene.live.weights()
    scene.result()
    scene.check_nothing_is_left()
    with torch.no_grad():
        scene.live.sample("a red fox", 1)  # the host removes its LoRA
    after = scene.live.weights()
    assert all(torch.equal(before[name], weight) for name, weight in after.items())


def test_the_lora_is_at_strength_1_and_the_rest_of_the_prompt_stays(scene: Scene) -> None:
    other = save_lora(scene.live.folder / "other.safetensors", strongest=0.1)
    scene.live.webui.add_lora("other", other)
    fit = {**FITTED, "settings": {**FITTED["settings"], "prompt": "a <lora:other:0.3> fox <lora:style:0.5>"}}  # type: ignore[dict-item]
    own, plain = errors_of(scene.result(fit=fit))
    assert own < plain
    assert {one["prompt"] for one in scene.live.requests} == {"a <lora:other:0.3> fox <lora:style:1>"}
    assert [one["seed"] for one in scene.live.requests] == [5, 6, 7, 8, 9, 9]


def test_a_prompt_without_the_lora_gets_it(scene: Scene) -> None:
    scene.result(fit={"settings": {"prompt": "a red fox", "seed": 1}})
    assert {one["prompt"] for one in scene.live.requests} == {"a red fox <lora:style:1>"}


def test_all_hosts_give_the_same_factors(open_scene: Callable[..., Scene]) -> None:
    found = []
    for kind in KINDS:
        scene = open_scene(kind)
        found.append(lora_deltas(scene.path(scene.result())))
    for other in found[1:]:
        for name, delta in found[0].items():
            assert float((other[name] - delta).norm()) < 2e-3 * float(delta.norm()), name


def test_images_are_made_once_for_several_sizes(scene: Scene) -> None:
    jobs = scene.browser.ask("resize", **{**ORDER, "recipe": "rank=2:rank=3"})["jobs"]
    results = [scene.browser.done(job) for job in jobs]
    assert all(errors_of(result)[0] < errors_of(result)[1] for result in results)
    assert scene.live.count == 5 + 2  # one more for each file, so that the host applies the LoRA


def test_the_same_fit_is_not_made_twice_but_another_is(scene: Scene) -> None:
    first = scene.browser.ask("resize", **ORDER)
    scene.browser.done(first["jobs"][0])
    assert scene.browser.ask("resize", **ORDER)["jobs"] == []
    assert len(scene.browser.ask("resize", **{**ORDER, "fit": None})["jobs"]) == 1


def test_a_search_fits_each_size_and_saves_what_it_drew(scene: Scene) -> None:
    """The fit's images have seeds of their own, so the figure is of images that were not used."""
    settings = {"prompt": "a red fox <lora:style:1>", "seed": 50, "steps": 6}
    options = {"dtype": "32", "sidecars": False}
    order = {"name": "style", "target": 0.99, "settings": settings, "seeds": 2, "options": options}
    found = scene.done(scene.browser.ask("find", **order, fit=True)["job"])
    assert found["trials"]
    assert all(trial["fitted"] for trial in found["trials"])
    seeds = [request["seed"] for request in scene.live.requests]
    assert {seed for seed in seeds if seed < 100} == {50, 51}
    assert [seed for seed in dict.fromkeys(seeds) if seed > 100] == [1050, 1051, 1052, 1053, 1054]
    saved = scene.done(scene.browser.ask("find_save", find=found["find"])["job"])
    assert any(note.startswith("fitted to images") for note in saved["notes"])
    assert saved["effect"]["kept"] == pytest.approx(found["best"]["kept"], abs=1e-3)
    plain = scene.done(scene.browser.ask("find", **order, save=True)["job"])["result"]
    assert saved["bytes_after"] < plain["bytes_after"]
    scene.check_nothing_is_left()


def test_a_search_with_a_fit_ends(open_scene: Callable[..., Scene]) -> None:
    """A fitted file may be smaller than planned by its record; the search must know it by the planned size."""
    scene = open_scene(MERGED)
    order = {"name": "style", "target": 0.9, "settings": {**FITTED["settings"]}, "seeds": 2, "fit": True}  # type: ignore[dict-item]
    found = scene.done(scene.browser.ask("find", **order, options={"dtype": "32"})["job"])
    assert found["best"]["accepted"]
    assert scene.live.count < 60


@pytest.mark.parametrize("target", [{"recipe": "rank=2"}, {"target": {"effect": 0.9}}], ids=["recipe", "images"])
def test_a_run_over_the_library_fits_what_it_replaces(open_scene: Callable[..., Scene], target: Any) -> None:
    scene = open_scene(MERGED)
    settings = {"prompt": "a red fox", "seed": 50, "steps": 6}
    order = {**target, "settings": settings, "seeds": 2, "options": {"dtype": "32"}, "fit": True, "least_gain": 0.0}
    started = scene.browser.ask("shrink", **order)
    scene.done(started["job"])
    (item,) = scene.browser.ask("run", run=started["run"])["items"]
    assert item["state"] == "resized", item
    assert any(note.startswith("fitted to images") for note in item["notes"])
    assert all(one["prompt"] == "a red fox <lora:style:1>" for one in scene.live.requests if one["seed"] > 100)
    scene.check_nothing_is_left()


# The host, meanwhile --------------------------------------------------------------------------------------------


def test_the_model_is_called_under_the_hosts_lock_alone_and_in_its_image_thread(scene: Scene) -> None:
    threads = set()

    def look(_: Any) -> None:
        assert scene.live.webui.lock._lock.locked()
        assert not torch.is_grad_enabled()
        threads.add(threading.current_thread().name)

    scene.live.net.on_call = look
    scene.result()
    assert threads == {"host's main thread"} if scene.live.kind == PATCHED else {"resize-lora-jobs"}
    if scene.live.kind == PATCHED:
        kinds = [one[0] for one in scene.live.webui.calls if one[0] in ("prepare", "cleanup")]
        assert kinds == ["prepare", "cleanup"] * 2  # calls are repeated, then layers are fitted


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_image_goes_first_and_changes_nothing(open_scene: Callable[..., Scene], kind: str) -> None:
    first = open_scene(kind)
    alone = lora_deltas(first.path(first.result()))
    scene = open_scene(kind)
    live, begun = scene.live, threading.Semaphore(0)
    proceed = [threading.Event(), threading.Event()]
    users: list[int] = []

    def user(number: int) -> None:
        with live.webui.lock:
            proceed[number].wait(20)
            with torch.no_grad():
                live.sample("something else", 1)
            users.append(live.count)

    def begin(count: int) -> None:
        if count in (2, 5):  # the last one is that for the comparison: then the model is called again
            threading.Thread(target=user, args=(int(count == 5),)).start()
            scene.browser.until(lambda: live.webui.lock._pending_threads)
            begun.release()

    live.drawn = begin
    (job,) = scene.browser.ask("resize", **ORDER)["jobs"]
    for event in proceed:
        assert begun.acquire(timeout=20)
        scene.browser.wait(job, ("waits",))
        event.set()
    found = lora_deltas(scene.path(scene.browser.done(job)))
    assert users == [2, 5]
    assert all(torch.equal(found[name], delta) for name, delta in alone.items())
    scene.check_nothing_is_left()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [1, 4])
def test_a_pass_of_the_fit_is_abandoned_for_a_users_image_and_repeated_at_most_three_times(
    open_scene: Callable[..., Scene], kind: str, times: int
) -> None:
    first = open_scene(kind)
    alone = lora_deltas(first.path(first.result()))
    scene = open_scene(kind)
    live, users, calls = scene.live, list[int](), list[int]()
    threads: list[threading.Thread] = []

    def user() -> None:
        with live.webui.lock, torch.no_grad():
            users.append(live.count)
            live.net.on_call = None
            live.sample("something else", 1)
            live.net.on_call = look

    def look(_: Any) -> None:
        """In the second mini-batch of each pass a person asks for an image."""
        calls.append(live.count)
        begun = calls.count(live.count)
        if live.count >= 6 and begun == _CHECKED + 2 and len(threads) < times:
            threads.append(threading.Thread(target=user))
            threads[-1].start()
            scene.browser.until(lambda: live.webui.lock._pending_threads)

    live.net.on_call = look
    found = lora_deltas(scene.path(scene.result()))
    for thread in threads:
        thread.join(20)
    passes = 1 + min(times, 3)
    assert live.count == 5 + passes
    assert users == [6, 7, 8, 9][:times]
    assert calls.count(6) == _CHECKED + 2 + 4  # the pass ended there; then comes the next short image
    assert all(torch.equal(found[name], delta) for name, delta in alone.items())
    assert live.hooks == 0
    if times == 1:  # with more, the last image is a user's
        scene.check_nothing_is_left()


def test_a_thread_of_this_program_that_reads_the_model_interrupts_no_pass(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene(MERGED)
    live, threads = scene.live, list[threading.Thread]()
    host = scene.browser.service.desk.host

    def read() -> None:
        with host.lock():
            pass

    def look(_: Any) -> None:
        if live.count == 6 and not threads:
            threads.append(threading.Thread(target=read))
            threads[0].start()
            scene.browser.until(lambda: live.webui.lock._pending_threads)
            assert not host.is_wanted()

    live.net.on_call = look
    scene.result()
    threads[0].join(20)
    assert live.count == 5 + 1


def test_after_an_error_the_model_is_unchanged(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(moments.Target, "solve", fail)
    assert scene.ended()["state"] == "failed"
    scene.check_nothing_is_left()
    assert [path.name for path in scene.live.folder.iterdir()] == ["style.safetensors"]


@pytest.mark.parametrize("when", ["during an image", "during the fit"])
def test_a_cancelled_fit_leaves_nothing(scene: Scene, when: str) -> None:
    calls = 6 * 3 if when == "during an image" else 6 * 5 + 4 + 12
    seen: list[Any] = []

    def cancel(_: Any) -> None:
        seen.append(None)
        if len(seen) == calls:
            page = Browser(scene.browser.service)
            page.ask("cancel", job=page.ask("status")["queue"][-1]["id"])

    scene.live.net.on_call = cancel
    ended = scene.ended()
    assert ended["state"] == "cancelled"
    assert (scene.live.count > 5) == (when == "during the fit")
    assert scene.live.hooks == 0
    assert [path.name for path in scene.live.folder.iterdir()] == ["style.safetensors"]
    if when == "during the fit":
        scene.check_nothing_is_left()


# What cannot be fitted ------------------------------------------------------------------------------------------


def test_a_model_that_does_not_repeat_itself_is_not_fitted_to(scene: Scene) -> None:
    scene.live.net.noise = 0.5
    assert scene.result()["notes"][-1].startswith("not fitted, truncated plainly")
    scene.check_nothing_is_left()


def test_calls_with_functions_of_extensions_are_left_out_and_counted(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene(PATCHED)
    plain = scene.live._options

    def options(step: int) -> dict[str, Any]:
        found = plain(step)
        if step == 1:
            found["transformer_options"]["patches"] = {"attn1_patch": [print]}
        return found

    scene.live._options = options  # type: ignore[method-assign]
    result = scene.result()
    assert "5 calls of the model left out, because they cannot be repeated" in result["notes"]
    own, plain_error = errors_of(result)
    assert own < plain_error


def test_without_the_feature_a_fit_is_refused(
    open_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = open_scene(MERGED)
    assert FIT in scene.browser.ask("hello")["features"]
    monkeypatch.setattr(A1111Host, "_live", lambda _: None)
    assert FIT not in scene.browser.ask("hello")["features"]
    assert scene.browser.error("resize", **ORDER)["kind"] == "unavailable"


def test_without_a_loaded_model_a_fit_is_refused(scene: Scene) -> None:
    scene.live.webui.load(None)
    error = scene.browser.error("resize", **ORDER)
    assert error["kind"] == "reference"
    assert "No model is loaded" in error["message"]


def test_a_selected_checkpoint_that_is_not_loaded_is_refused(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene(PATCHED)
    info = SimpleNamespace(filename="other.safetensors", title="other.safetensors")
    scene.live.webui.data.forge_loading_parameters = {"checkpoint_info": info}
    assert "other.safetensors is selected but not loaded" in scene.browser.error("resize", **ORDER)["message"]


def test_a_quantised_model_is_refused(scene: Scene) -> None:
    scene.live.net.last.weight = torch.nn.Parameter(
        scene.live.net.last.weight.detach().to(torch.float8_e4m3fn), requires_grad=False
    )
    error = scene.browser.error("resize", **ORDER)
    assert error["kind"] == "refused"
    assert "fp8" in error["message"]


def test_a_model_of_another_family_is_refused(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene(MERGED)
    path = write_lora(scene.live.folder / "pastry.safetensors", LoraOptions(rank=2, text_encoders=False))
    scene.live.webui.add_lora("pastry", path)
    scene.live.webui.model.is_sd1 = True
    error = scene.ended(names=["pastry"], recipe="rank=1")["error"]
    assert error["kind"] == "reference"
    assert "pastry is made for SDXL, the loaded model tiny.safetensors [abc] is SD1.5" in error["message"]
    assert scene.live.count == 0


def test_a_model_that_changes_during_the_fit_ends_it(open_scene: Callable[..., Scene]) -> None:
    scene = open_scene(MERGED)

    def change(count: int) -> None:
        if count == 3:
            scene.live.webui.model.sd_checkpoint_info.title = "other.safetensors"

    scene.live.drawn = change
    ended = scene.ended()
    assert ended["state"] == "failed"
    assert "changed from tiny.safetensors [abc] to other.safetensors" in ended["error"]["message"]

"""Fit of text encoders in a WebUI: the host's own method encodes the recorded texts again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from lib_resize.fitting import moments
from lib_resize.hosts.a1111 import A1111Host
from lib_resize.hosts.forge import ForgeHost
from lib_resize.hosts.webui_texts import text_route
from lib_resize.panel.service import Service
from tests.fitting.small_net import SHAPES, save_lora
from tests.hosts.live_texts import TEXT_SHAPES, Texts
from tests.hosts.live_webui import MERGED, PATCHED, SEPARATE, LiveWebUI
from tests.panel.panelhost import Browser, end_services

KINDS = [MERGED, SEPARATE, PATCHED]
ENCODERS = ["text encoder 1", "text encoder 2"]
PROMPT = "a (red fox:1.2), oil on canvas, autumn forest <lora:style:1>"
FITTED = {
    "settings": {"prompt": PROMPT, "negative_prompt": "blurry, low quality", "seed": 5, "steps": 6},
    "images": 3,
    "steps": 3,
}
ORDER = {"names": ["style"], "recipe": "rank=3", "options": {"dtype": "32", "sidecars": False}, "fit": FITTED}
IMAGE = {f"lora_unet_{name}": shape for name, shape in SHAPES.items()}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TextScene:
    """A running WebUI with text encoders and a LoRA, and a page that asks."""

    def __init__(self, live: LiveWebUI, browser: Browser) -> None:
        self.live, self.browser = live, browser
        assert live.texts is not None
        self.texts = live.texts

    def image(self, prompt: str) -> None:
        """A user's image."""
        with torch.no_grad():
            self.live.sample(prompt, 5, 1, "blurry, low quality")

    def ended(self, **changes: Any) -> Any:
        (job,) = self.browser.ask("resize", **{**ORDER, "again": True, **changes})["jobs"]
        return self.browser.wait(job, seconds=300)

    def notes(self, **changes: Any) -> list[str]:
        ended = self.ended(**changes)
        assert ended["state"] == "done", ended["error"]
        return list(ended["result"]["notes"])

    def check_nothing_is_left(self) -> None:
        assert self.live.hooks == 0
        assert "get_learned_conditioning" not in vars(self.live.webui.model)


@pytest.fixture
def open_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TextScene]]:
    services: list[Service] = []

    def open_one(kind: str, shapes: Any = None) -> TextScene:
        live = LiveWebUI(tmp_path / f"Lora{len(services)}", kind, with_texts=True)
        live.webui.install(monkeypatch)
        shapes = {**IMAGE, **TEXT_SHAPES} if shapes is None else shapes
        path = save_lora(live.folder / "style.safetensors", shapes, prefix="", strongest=0.4)
        live.webui.add_lora("style", path)
        host = ForgeHost() if kind == PATCHED else A1111Host()
        services.append(Service(host, tmp_path / f"cache{len(services)}" / "library.json"))
        return TextScene(live, Browser(services[-1]))

    yield open_one
    end_services(services)


@pytest.fixture(params=KINDS)
def scene(request: Any, open_scene: Callable[..., TextScene]) -> TextScene:
    return open_scene(request.param)


def errors_of(notes: list[str]) -> dict[str, tuple[float, float]]:
    """Part -> errors of the fitted file and of plain truncation."""
    found = (
        re.match(r"(.*): error on an? \w+ that was not used (\S+), plain truncation (\S+)", note) for note in notes
    )
    return {match[1]: (float(match[2]), float(match[3])) for match in found if match}


# What it is for -------------------------------------------------------------------------------------------------


def test_text_encoders_and_denoiser_are_fitted_with_less_error_on_what_was_not_used(scene: TextScene) -> None:
    notes = scene.notes()
    errors = errors_of(notes)
    assert list(errors) == [*ENCODERS, "unet"], notes
    assert all(own < 0.9 * plain for own, plain in errors.values()), errors
    fitted = len(IMAGE) - 2 + len(TEXT_SHAPES)  # of the denoiser, a grouped convolution and a layer that never runs
    if scene.live.kind == MERGED:
        fitted -= 1  # the last map of OpenCLIP's attention is not called as a module
    assert f"fitted to images: {fitted} of {len(IMAGE) + len(TEXT_SHAPES)} layers" in notes
    scene.check_nothing_is_left()


def test_weights_are_bit_identical_afterwards(scene: TextScene) -> None:
    before = scene.texts.weights()
    scene.notes()
    after = scene.texts.weights()
    if scene.live.kind != SEPARATE:  # the LoRA of the last image stays
        assert any(not torch.equal(before[name], weight) for name, weight in after.items())
    scene.image("a cat")  # the host removes its LoRA
    assert all(torch.equal(before[name], weight) for name, weight in scene.texts.weights().items())


def test_the_texts_are_those_of_the_image_shorter_ones_and_another_order(open_scene: Callable[..., TextScene]) -> None:
    scene = open_scene(MERGED)
    scene.notes()
    encoded = {text: one.is_negative_prompt for one in scene.texts.encoded for text in one}
    assert encoded == {
        "a (red fox:1.2), oil on canvas, autumn forest": False,
        "a (red fox:1.2), oil on canvas": False,
        "forest autumn canvas, on oil (red fox:1.2), a": False,
        "blurry, low quality": True,
        "blurry": True,
        "quality low blurry,": True,
    }


def test_a_lora_of_text_encoders_alone_is_fitted(open_scene: Callable[..., TextScene]) -> None:
    scene = open_scene(PATCHED, TEXT_SHAPES)
    assert list(errors_of(scene.notes())) == ENCODERS
    scene.check_nothing_is_left()


# What it costs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_without_text_layers_costs_no_encoding(open_scene: Callable[..., TextScene], kind: str) -> None:
    scene = open_scene(kind, IMAGE)
    caches, method = [], []
    scene.live.drawn = lambda _: caches.append([id(cache[1]) for cache in scene.live.caches])
    scene.live.net.on_call = lambda _: method.append("get_learned_conditioning" in vars(scene.live.webui.model))
    scene.image(PROMPT)
    scene.texts.encoded.clear()
    assert list(errors_of(scene.notes())) == ["unet"]
    assert scene.texts.encoded == []
    assert all(one == caches[0] for one in caches)
    assert not any(method)


def test_caches_are_emptied_for_one_image_alone(scene: TextScene) -> None:
    encoded: list[int] = []
    wrapped: list[bool] = []
    scene.image(PROMPT)
    scene.texts.encoded.clear()
    scene.texts.on_encode = lambda _: wrapped.append("get_learned_conditioning" in vars(scene.live.webui.model))
    scene.live.drawn = lambda _: encoded.append(len(scene.texts.encoded))
    scene.notes()
    assert encoded[:4] == [2, 2, 2, 2]  # each text once, although the host had both
    assert wrapped[:2] == [True, True]
    assert not any(wrapped[2:])


# Faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["encoding for the image", "the fit"])
def test_after_an_error_nothing_is_left(scene: TextScene, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault")

    if when == "the fit":
        monkeypatch.setattr(moments.Target, "solve", fail)
    else:
        scene.texts.on_encode = fail
    assert scene.ended()["state"] == "failed"
    scene.check_nothing_is_left()


def test_encoders_that_do_not_repeat_themselves_are_truncated_plainly_and_the_rest_is_fitted(scene: TextScene) -> None:
    scene.texts.noise = 0.5
    notes = scene.notes()
    assert list(errors_of(notes)) == ["unet"]
    count = len(TEXT_SHAPES)
    assert (
        f"layers truncated plainly: {count} of a text encoder that gave other results when texts were encoded again"
        in notes
    )
    scene.check_nothing_is_left()


def test_a_host_that_does_not_encode_several_texts_at_once_is_fitted_without_them(scene: TextScene) -> None:
    def alone(texts: Any) -> None:
        if len(texts) > 1:
            raise ValueError("one text at a time")

    scene.texts.on_encode = alone
    assert list(errors_of(scene.notes())) == ["unet"]
    scene.check_nothing_is_left()


def test_a_denoiser_that_does_not_repeat_itself_leaves_the_text_encoders_fitted(scene: TextScene) -> None:
    scene.live.net.noise = 0.5
    notes = scene.notes()
    assert list(errors_of(notes)) == ENCODERS
    assert any("of a denoiser that gave other results when its calls were repeated" in note for note in notes)


def test_open_clip_with_a_lora_that_only_hooks_could_add_is_truncated_plainly(
    open_scene: Callable[..., TextScene],
) -> None:
    """The outputs of its attention pass no hook, so the state of the image cannot be made again."""
    scene = open_scene(MERGED)
    scene.texts._outside = True
    assert list(errors_of(scene.notes())) == ["unet"]


# The method of the model ----------------------------------------------------------------------------------------


class Model:
    """A host's model."""

    def get_learned_conditioning(self, texts: Any) -> str:
        return f"of {list(texts)}"


def test_texts_are_heard_until_the_end_alone() -> None:
    model, heard = Model(), []
    route = text_route(model)
    assert route is not None
    end = route.listen(lambda texts, found: heard.append((list(texts), found)))
    assert model.get_learned_conditioning(Texts(["a"])) == "of ['a']"
    end()
    assert model.get_learned_conditioning(Texts(["b"])) == "of ['b']"
    assert heard == [(["a"], "of ['a']")]
    assert vars(model) == {}
    assert text_route(object()) is None


def test_what_an_extension_put_on_the_model_is_put_back_or_left() -> None:
    model: Any = Model()
    own = lambda texts: "theirs"  # noqa: E731
    model.get_learned_conditioning = own
    route = text_route(model)
    assert route is not None
    route.listen(lambda *_: None)()
    assert model.get_learned_conditioning is own
    heard: list[Any] = []
    end = route.listen(lambda *found: heard.append(found))
    inner, later = model.get_learned_conditioning, lambda texts: inner(texts)
    model.get_learned_conditioning = later
    end()
    assert model.get_learned_conditioning is later
    assert later(["a"]) == "theirs"
    assert heard == []

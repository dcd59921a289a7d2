"""Replace a LoRA while the WebUI is running: its next image uses the new file, and after a restore the original."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.hosts_real.kit import wait_for
from tests.hosts_real.rest import Api, Rest
from tests.panel_page import ask

pytestmark = pytest.mark.needs("generate")
TARGET = {"rank": 1}
FEW = {"seed": 7, "steps": 2, "width": 64, "height": 64, "sampler_name": "Euler"}
"""Settings of an image. Without a sampler, the API of a host and its page use different ones."""


@pytest.fixture
def name(api: Api) -> str:
    """The smallest LoRA whose rank can be reduced."""
    sound = [one for one in api.files() if not one["problem"] and not one["ours"] and one["fits"] is not False]
    return str(min((one for one in sound if (one["rank"] or 0) > 2), key=lambda one: one["bytes"])["name"])


@pytest.fixture
def replaced(api: Api, name: str) -> Iterator[str]:
    """Id of the run that replaced the LoRA; what is left of it is restored at the end."""
    answer = api.post("shrink", 202, names=[name], target=TARGET, least_gain=0, floor=None, again=True)
    job = api.done(answer["job"])
    assert job["state"] == "done", job["error"]
    yield answer["run"]
    with contextlib.suppress(AssertionError):  # restored by the test
        api.done(api.post("restore_originals", 202, run=answer["run"])["job"])


def image(host: Rest, what: str | dict[str, Any]) -> Any:
    """Return an image with a LoRA, or with settings of the WebUI's API, as an array of integers."""
    few = {"prompt": f"a cake <lora:{what}:1>", **FEW}
    settings: dict[str, Any] = few if isinstance(what, str) else what
    return _pixels(host.post("sdapi/v1/txt2img", **settings)["images"][0])


def of(api: Api, name: str) -> Any:
    (one,) = [one for one in api.files() if one["name"] == name]
    return one


def test_the_next_image_uses_the_new_file_and_after_a_restore_the_original(
    host: Rest, api: Api, name: str, request: pytest.FixtureRequest
) -> None:
    before, size = image(host, name), of(api, name)["bytes"]
    run = request.getfixturevalue("replaced")
    smaller = of(api, name)
    assert smaller["bytes"] < size
    assert smaller["archived"]
    after = image(host, name)
    assert np.abs(after - before).max() > 0
    (made,) = api.get(f"run?run={run}")["items"]
    assert (made["state"], made["bytes_before"], made["bytes_after"]) == ("resized", size, smaller["bytes"])
    job = api.done(api.post("restore_originals", 202, run=run)["job"])
    assert (job["state"], job["result"]["restored"]) == ("done", [name])
    assert of(api, name)["bytes"] == size
    assert np.array_equal(image(host, name), before)


def test_the_image_is_that_of_the_same_file_under_a_new_name(host: Rest, api: Api, name: str) -> None:
    """A file under a new name is read for the first time, as after a restart of the WebUI."""
    image(host, name)
    copy = api.resized(name, target=TARGET, options={"suffix": "_probe"})
    answer = api.post("shrink", 202, names=[name], target=TARGET, least_gain=0, floor=None, again=True)
    assert api.done(answer["job"])["state"] == "done"
    try:
        assert np.array_equal(image(host, name), image(host, copy["output"]))
    finally:
        api.done(api.post("restore_originals", 202, run=answer["run"])["job"])
        api.post("undo", result=copy["result"])


@pytest.mark.needs("fit")
@pytest.mark.parametrize("fit", [False, True])
def test_a_run_by_images_finds_the_size_replaces_the_lora_and_restores_it(
    host: Rest, api: Api, name: str, fit: bool
) -> None:
    before, size, listed = image(host, name), of(api, name)["bytes"], api.names()
    settings = {"prompt": "a cake, {trigger}", **FEW}
    order = {"target": {"effect": 0.9}, "settings": settings, "seeds": 2, "fit": fit}
    answer = api.post("shrink", 202, names=[name], least_gain=0, floor=None, again=True, **order)
    try:
        assert api.done(answer["job"])["state"] == "done"
        (made,) = api.get(f"run?run={answer['run']}")["items"]
        assert made["state"] == "resized", made
        assert made["effect"]["kept"] >= 0.9
        assert made["bytes_after"] == of(api, name)["bytes"] < size
        assert api.names() == listed
        assert np.abs(image(host, name) - before).max() > 0
    finally:
        api.done(api.post("restore_originals", 202, run=answer["run"])["job"])
    assert np.array_equal(image(host, name), before)


@pytest.mark.needs("cards", "prompt", "a1111_page")
def test_the_comparison_of_a_replaced_lora_is_made_from_the_archive(
    host: Rest, api: Api, name: str, webui: Any, request: pytest.FixtureRequest
) -> None:
    original = image(host, name)
    request.getfixturevalue("replaced")
    smaller = image(host, name)
    settings = {"prompt": f"a cake <lora:{name}:1>", **FEW}
    job = ask(webui, "compare", {"name": name, "settings": settings})["job"]
    wait_for(webui, [job])
    result = next(one for one in ask(webui, "status")["queue"] if one["id"] == job)["result"]
    pictures = {one["what"]: picture(webui, one["id"]) for one in result["pictures"]}
    assert np.array_equal(pictures["original"], original)
    assert away(pictures["resized"], smaller) < away(pictures["resized"], original) / 4  # Forge Neo: off by 1 of 255
    assert result["number"] > 0
    assert np.array_equal(image(host, name), smaller)
    assert all("archive" not in one for one in api.names())


def away(one: Any, other: Any) -> float:
    """Mean difference of two images, 0 to 255."""
    return float(np.abs(one - other).mean())


def picture(page: Any, id: str) -> Any:
    return _pixels(ask(page, "picture", {"id": id})["png"])


def _pixels(png: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int)

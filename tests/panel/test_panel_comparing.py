"""The figure of a comparison: made from images of one seed each, kept with the result, and never more than it says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib_resize.archive.entries import Entry
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.effect.figures import EffectFigure
from lib_resize.errors import Cancelled, OutputError
from lib_resize.files.effect_record import EffectRecord
from lib_resize.files.header import read_header
from lib_resize.files.metadata import RECORD, prompt_hash
from lib_resize.files.reader import SafeFile
from lib_resize.hosts.host import GeneratedImage
from lib_resize.panel.compare import figure_text
from lib_resize.panel.faults import Fault
from lib_resize.panel.jobs import JobSpec
from lib_resize.panel.names import Notes, size_word
from lib_resize.panel.options import read_options
from lib_resize.panel.picturing.prompting import ComparedFiles, seeds_from
from lib_resize.panel.picturing.takes import Takes, squared_distance
from lib_resize.panel.protocol.objects import OPTIONS
from lib_resize.panel.protocol.types import read_object
from lib_resize.panel.records import Records
from lib_resize.panel.resizing import NewFile, ResizeOrder, write
from lib_resize.panel.runs.effects import keep_effect
from lib_resize.panel.service import Service
from lib_resize.recipe.grammar import parse_recipe
from lib_resize.shown import shown_share
from tests.panel.panelhost import Browser, fake_host

PROMPT = "a cake <lora:pastry:1>"
SETTINGS = {"prompt": PROMPT, "seed": 7, "steps": 5, "sampler_name": "Euler", "negative_prompt": "blurry"}
SHAPE = (4, 2, 2)


def noise_of(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def latents(new: float = 0.5, without: float = 2.0, noise: float = 0.0) -> Callable[[Mapping[str, Any]], Any]:
    """A host whose image of a seed is moved by one number with the new file, and by another without a LoRA.

    Every second image of a request is moved by `noise`.
    """
    seen: list[tuple[str, int]] = []

    def latent(request: Mapping[str, Any]) -> Any:
        place = (request["prompt"], request["seed"])
        moved = noise * seen.count(place)
        seen.append(place)
        if "<lora:pastry:" not in request["prompt"]:
            moved += new * (1 + request["seed"] % 2) if "<lora:" in request["prompt"] else without
        return noise_of(request["seed"]) + np.float32(moved)

    return latent


def requests(host: Any) -> list[dict[str, Any]]:
    return [event[1] for event in host.events if event[0] == "generate"]


def compared(browser: Browser, made: Mapping[str, Any], **params: Any) -> Any:
    asked = {"result": made["result"], "settings": SETTINGS, "without": True, **params}
    return browser.done(browser.ask("compare", **asked)["job"])


def result_of(browser: Browser, id: str) -> dict[str, Any]:
    return next(one for one in browser.ask("results")["results"] if one["result"] == id)


# The images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_seed_is_rendered_once_for_each_file_and_the_first_one_again(
    browser: Browser, host: Any, count: int
) -> None:
    made = browser.resized("pastry")
    found = compared(browser, made, seeds=count)
    assert found["seeds"] == list(range(7, 7 + count))
    asked = [(one["prompt"], one["seed"]) for one in requests(host)]
    texts = (PROMPT, f"a cake <lora:{made['output']}:1>", "a cake")
    assert sorted(asked) == sorted([*((text, 7 + i) for text in texts for i in range(count)), (PROMPT, 7)])
    assert [one["what"] for one in found["pictures"]] == ["original", "resized", "without", "difference"]


def test_without_the_image_without_there_is_no_figure_and_one_seed(browser: Browser, host: Any) -> None:
    host.latent = latents()
    made = browser.resized("pastry")
    found = compared(browser, made, without=False, seeds=4)
    assert len(requests(host)) == 2
    assert [found[name] for name in ("kept", "worst", "noise", "basis")] == [None] * 4
    assert (found["seeds"], found["weak"]) == ([7], False)
    assert found["text"].startswith("mean pixel difference")
    assert result_of(browser, made["result"])["effect"] is None


@pytest.mark.parametrize("count", [0, 3, 5, True, "2", 1.5])
def test_other_numbers_of_seeds_are_refused_with_those_that_are_allowed(browser: Browser, count: Any) -> None:
    made = browser.resized("pastry")
    error = browser.error("compare", result=made["result"], settings={}, seeds=count)
    assert error["kind"] == "request"
    assert f"seeds must be one of 1, 2, 4, found {count!r}" in error["message"]


def test_every_image_waits_for_the_host(browser: Browser, host: Any) -> None:
    """A person's own image begins while ours is made; the next of ours waits for it."""
    made = browser.resized("pastry")
    begun = threading.Event()

    def busy(request: Mapping[str, Any]) -> Any:
        host.working_on = "an image"
        begun.set()
        return latents()(request)

    host.latent = busy
    id = browser.ask("compare", result=made["result"], settings=SETTINGS, without=True)["job"]
    assert begun.wait(10)
    browser.wait(id, ("waits",))
    assert len(requests(host)) == 1
    for count in range(2, 5):
        begun.clear()
        host.working_on = None
        assert begun.wait(10)
        assert len(requests(host)) == count
    browser.wait(id, ("waits",))  # the file gets the figure between two images
    host.working_on = None
    assert browser.done(id)["kept"] is not None


# The figure ------------------------------------------------------------------------------------------------------


def test_the_figure_is_that_of_the_latents(browser: Browser, host: Any) -> None:
    """Seeds 7 and 8 are moved by 1 and by 0.5 with the new file, and both by 2 without a LoRA."""
    host.latent = latents()
    found = compared(browser, browser.resized("pastry"), seeds=2)
    assert found["basis"] == "latents"
    assert found["kept"] == pytest.approx(1 - ((1 + 0.25) / 2) / 4, abs=1e-6)
    assert found["worst"] == pytest.approx(1 - 1 / 4, abs=1e-6)
    assert (found["noise"], found["weak"]) == (0.0, False)
    assert found["text"] == "keeps 84.4 % of the LoRA's effect (worst image 75.0 %)"


def pixels(request: Mapping[str, Any]) -> Any:
    """Gray images: 100 with the original, 110 with the new file, 150 without a LoRA."""
    from PIL import Image

    prompt = request["prompt"]
    value = 100 if "<lora:pastry:" in prompt else 110 if "<lora:" in prompt else 150
    return Image.new("RGB", (8, 6), (value, value, value))


def test_without_latents_the_figure_is_that_of_the_pixels(browser: Browser, host: Any) -> None:
    host.picture = pixels
    found = compared(browser, browser.resized("pastry"))
    assert found["basis"] == "pixels"
    assert found["kept"] == pytest.approx(1 - 10**2 / 50**2)
    assert found["text"] == "keeps 96.0 % of the LoRA's effect"


@pytest.mark.parametrize("odd", ["missing", "of another shape"])
def test_latents_are_used_only_where_all_images_have_them(browser: Browser, host: Any, odd: str) -> None:
    host.picture = pixels
    plain = latents()

    def latent(request: Mapping[str, Any]) -> Any:
        if "<lora:" in request["prompt"]:
            return plain(request)
        return None if odd == "missing" else np.zeros((16, 2, 2), np.float32)

    host.latent = latent
    found = compared(browser, browser.resized("pastry"))
    assert (found["basis"], found["kept"]) == ("pixels", pytest.approx(0.96))


def test_an_effect_that_is_hardly_above_the_noise_of_the_host_gives_no_figure(browser: Browser, host: Any) -> None:
    """2 ** 2 is below three times 1.2 ** 2."""
    host.latent = latents(noise=1.2)
    made = browser.resized("pastry")
    found = compared(browser, made)
    assert (found["kept"], found["worst"], found["weak"]) == (None, None, True)
    assert found["noise"] == pytest.approx(1.2**2, rel=1e-5)
    assert "hardly shows the LoRA" in found["text"]
    assert result_of(browser, made["result"])["effect"] is None
    host.latent = latents(noise=1.1)
    assert compared(browser, made)["weak"] is False


def test_equal_images_are_no_proof_where_the_lora_changes_nothing(browser: Browser, host: Any) -> None:
    """The host did not apply the LoRA, and does not show that in its list."""
    host.latent = lambda request: noise_of(request["seed"])
    found = compared(browser, browser.resized("pastry"), seeds=2)
    assert (found["kept"], found["weak"]) == (None, True)
    assert "no effect on this prompt, or the WebUI did not apply it" in found["text"]


def test_images_of_different_sizes_are_an_error(browser: Browser, host: Any) -> None:
    from PIL import Image

    host.picture = lambda request: Image.new("RGB", (8, 8) if "<lora:" in request["prompt"] else (8, 9))
    made = browser.resized("pastry")
    job = browser.wait(browser.ask("compare", result=made["result"], settings=SETTINGS, without=True)["job"])
    assert job["error"]["kind"] == "unavailable"
    assert "different sizes" in job["error"]["message"]


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1.0, "100.0 %"), (0.99999, "99.9 %"), (0.978, "97.8 %"), (0.0, "0.0 %"), (-2.0, "0.0 %")],
)
def test_only_equal_images_keep_100_percent_and_nothing_is_below_0(share: float, shown: str) -> None:
    assert shown_share(share) == shown


def test_the_sentence_has_the_worst_image_where_there_are_several() -> None:
    figure = EffectFigure(0.978, 0.961, 1.0, 0.0, "latents", (1, 2))
    assert figure_text(figure) == "keeps 97.8 % of the LoRA's effect (worst image 96.1 %)"


# What is kept ----------------------------------------------------------------------------------------------------


def expected() -> dict[str, Any]:
    return {
        "kept": 0.8438,
        "worst": 0.75,
        "seeds": 2,
        "sampler": "Euler",
        "steps": 5,
        "width": 32,
        "height": 32,
        "basis": "latents",
        "prompt": prompt_hash([PROMPT, "blurry"]),
    }


@pytest.mark.parametrize("by", ["result", "name"])
def test_the_figure_is_kept_with_the_result_and_survives_a_restart(
    browser: Browser, host: Any, root: Path, tmp_path: Path, by: str
) -> None:
    host.latent = latents()
    made = browser.resized("pastry")
    assert made["effect"] is None
    browser.listed()
    chosen = {} if by == "result" else {"result": None, "name": made["output"]}
    compared(browser, made, seeds=2, **chosen)
    effect = result_of(browser, made["result"])["effect"]
    assert effect.pop("made") > made["made"]
    assert effect == expected()
    later = Service(fake_host(root), tmp_path / "other.json")
    try:
        later.recovering.join(10)
        found = Browser(later).ask("results")["results"][0]["effect"]
        assert {**effect, "made": found["made"]} == found
    finally:
        later.close()
    assert browser.ask("undo", result=made["result"])["result"]["effect"] == found


def test_no_record_has_the_prompt(browser: Browser, host: Any, root: Path) -> None:
    host.latent = latents()
    compared(browser, browser.resized("pastry"))
    texts = [path.read_text("utf-8") for path in root.rglob("*.json")]
    assert any('"effect"' in text for text in texts)
    assert not any("a cake" in text or "blurry" in text for text in texts)


def test_a_file_that_was_changed_since_keeps_no_figure(browser: Browser, host: Any, root: Path) -> None:
    host.latent = latents()
    made = browser.resized("pastry")
    path = root / f"{made['output']}.safetensors"
    write_lora(path, LoraOptions(rank=2, text_encoders=False, seed=9))
    assert compared(browser, made)["kept"] is not None
    assert result_of(browser, made["result"])["effect"] is None


def test_a_weak_prompt_leaves_an_earlier_figure(browser: Browser, host: Any) -> None:
    host.latent = latents()
    made = browser.resized("pastry")
    compared(browser, made)
    kept = result_of(browser, made["result"])["effect"]
    host.latent = latents(without=0.0)
    assert compared(browser, made)["weak"]
    assert result_of(browser, made["result"])["effect"] == kept


def test_a_figure_that_cannot_be_recorded_is_shown_nevertheless(
    browser: Browser, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.latent = latents()
    made = browser.resized("pastry")

    def full(self: Records, record: Any) -> None:
        raise OutputError("no space left")

    monkeypatch.setattr(Records, "write", full)
    assert compared(browser, made)["kept"] is not None


def test_a_run_keeps_the_figure_of_its_file(browser: Browser, host: Any, tmp_path: Path, root: Path) -> None:
    def latent(request: Mapping[str, Any]) -> Any:
        """The new file has the old name here; its original is a hidden LoRA."""
        moved = 0.0 if "original" in request["prompt"] else 1.0 if "<lora:" in request["prompt"] else 2.0
        return noise_of(request["seed"]) + np.float32(moved)

    host.latent = latent
    browser.listed()
    run = browser.done(browser.ask("shrink", target={"preset": "low"}, least_gain=0.0)["job"])["run"]
    items = {item["name"]: item for item in browser.ask("run", run=run)["items"]}
    assert [item["effect"] for item in items.values()] == [None, None]
    asked = {"entry": items["pastry"]["entry"], "settings": SETTINGS, "without": True}
    assert browser.done(browser.ask("compare", **asked)["job"])["kept"] == pytest.approx(0.75)
    again = {item["name"]: item for item in browser.ask("run", run=run)["items"]}
    assert again["pastry"]["effect"]["kept"] == 0.75
    size = (root / "pastry.safetensors").stat().st_size  # with the figure in its record
    assert size > items["pastry"]["bytes_after"]
    assert {**again["pastry"], "effect": None} == {**items["pastry"], "bytes_after": size}
    assert again["ink"] == items["ink"]
    store = browser.service.desk.runs.store
    stored = store.read(run)
    assert stored is not None
    assert {item.name: item.effect for item in stored.items}["pastry"] == again["pastry"]["effect"]
    old = json.loads(json.dumps(stored.document()))
    for item in old["items"]:
        del item["effect"]  # as an earlier version wrote it
    (store.folder / f"{run}.json").write_text(json.dumps(old))
    (store.folder / f"{run}.log").unlink(missing_ok=True)
    found = store.read(run)
    assert found is not None
    assert [item.effect for item in found.items] == [None, None]


def test_a_file_that_no_run_replaced_keeps_no_figure(browser: Browser) -> None:
    entry = Entry("id", "", "closed", "pastry", Path("/a"), None, 1, 1, "", "")
    keep_effect(browser.service.desk.runs, entry, expected())
    assert browser.ask("runs")["runs"] == []


# The record of a file ---------------------------------------------------------------------------------------------


def written(browser: Browser, recipe: str, options: Any, effect: EffectRecord | None) -> NewFile:
    desk = browser.service.desk
    lora = desk.host.resolve("pastry")
    order = ResizeOrder(lora, lora, parse_recipe(recipe), read_options(options, remote=False))
    found: list[NewFile] = []

    def run(handle: Any) -> Any:
        found.append(write(desk.analyses, desk.host, order, handle, lambda plan, path: None, effect=effect))
        return {}

    browser.done(desk.queue.add(JobSpec(kind="resize", title="pastry", run=run, name="pastry")))
    return found[0]


@pytest.mark.parametrize("dtype", ["16", "8"])
@pytest.mark.parametrize("recipe", ["rank=2", "fro_lora=1,min_rank=1,size=0.2"])
def test_a_file_that_is_written_with_a_figure_has_it_in_its_record_and_the_planned_size(
    browser: Browser, recipe: str, dtype: str
) -> None:
    effect = EffectRecord(0.97841, 0.96119, 4, "Euler a", None, 832, 1216, "latents", prompt_hash([PROMPT, ""]))
    options = read_options_of(dtype)
    plain, new = written(browser, recipe, options, None), written(browser, recipe, options, effect)
    for one in (plain, new):
        assert one.path.stat().st_size == one.plan.bytes_after
        assert size_word(one.plan.bytes_after) in one.path.stem
    record = json.loads(read_header(new.path).metadata[RECORD])
    assert record.pop("effect") == {
        "kept": 0.9784,
        "worst": 0.9612,
        "seeds": 4,
        "sampler": "Euler a",
        "steps": None,
        "width": 832,
        "height": 1216,
        "basis": "latents",
        "prompt": effect.prompt,
    }
    assert record == json.loads(read_header(plain.path).metadata[RECORD])
    with SafeFile(plain.path) as first, SafeFile(new.path) as second:
        assert all(np.array_equal(first.bits(key), second.bits(key)) for key in first.header.entries)


def read_options_of(dtype: str) -> dict[str, Any]:
    return read_object({"dtype": dtype}, OPTIONS.fields, "options")


# Takes -----------------------------------------------------------------------------------------------------------


class Idle:
    """A handle of a job that nothing stops."""

    def __init__(self) -> None:
        self.steps = self.waits = 0

    def wait_for_host(self) -> None:
        self.waits += 1

    def step(self) -> None:
        self.steps += 1

    def measured(self, kind: str, amount: int, seconds: float) -> None:
        pass


def takes(root: Path, **fields: Any) -> tuple[Takes, Any, Any]:
    host = fake_host(root, latent=latents(), **fields)
    pair = ComparedFiles("pastry", "pastry", frozenset(), Notes())
    return Takes(host, pair, dict(SETTINGS)), host, Idle()


def test_each_image_is_made_once_and_announced_before(root: Path) -> None:
    made, host, handle = takes(root)
    assert made.missing("a", [7, 8]) == 2 + 2 + 2 + 1
    figure = made.figure("a", "small", Path("/hidden/a"), [7, 8], handle)
    assert (handle.steps, handle.waits, made.made) == (7, 7, 7)
    assert made.missing("b", [7, 8]) == 2
    assert made.figure("a", "small", Path("/hidden/a"), [7, 8], handle) == figure
    assert made.noise(handle) == 0.0
    assert len(requests(host)) == 7


def test_a_file_of_another_content_is_another_image_also_under_the_same_name(root: Path) -> None:
    made, host, handle = takes(root)
    for key in ("a", "b", "a"):
        made.candidate(key, "small", Path(f"/hidden/{key}"), 7, handle)
    assert [one["files"] for one in requests(host)] == [{"small": Path("/hidden/a")}, {"small": Path("/hidden/b")}]
    assert requests(host)[0]["loras"] == ["small"]
    assert requests(host)[0]["prompt"] == "a cake <lora:small:1>"


def test_a_take_has_the_image_and_what_is_compared(root: Path) -> None:
    made, _, handle = takes(root, picture=pixels)
    take = made.original(7, handle)
    assert (take.size, take.basis) == ((8, 6), "latents")
    assert take.image.startswith(b"\x89PNG")
    assert np.array_equal(take.sample, noise_of(7))
    assert take.pixels.shape == (6, 8, 3)
    assert take.pixels.dtype == np.float32
    assert np.allclose(take.pixels, 100 / 255)


def test_an_image_that_failed_is_not_kept(root: Path) -> None:
    made, host, handle = takes(root)
    host.latent, working = None, host.generate

    def cancelled(request: Mapping[str, Any]) -> GeneratedImage:
        raise Cancelled("The image was stopped.")

    host.generate = cancelled
    with pytest.raises(Cancelled):
        made.original(7, handle)
    host.generate = working
    assert made.made == 0
    assert made.original(7, handle).basis == "pixels"


def test_images_of_different_sizes_have_no_distance(root: Path) -> None:
    from PIL import Image

    made, _, handle = takes(root, picture=lambda request: Image.new("RGB", (8, request["seed"])))
    with pytest.raises(Fault, match="different sizes"):
        squared_distance([made.original(7, handle), made.original(8, handle)])


def test_the_seeds_follow_the_first() -> None:
    assert seeds_from(5, 1) == [5]
    assert seeds_from(5, 4) == [5, 6, 7, 8]

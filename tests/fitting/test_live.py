"""Calls that are recorded in a program that makes the images itself, and repeated later."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from lib_resize.errors import UnsupportedError
from lib_resize.fitting.calls import Call, call_repeated, outputs_of, samples_of
from lib_resize.fitting.fit import fit_job
from lib_resize.fitting.layers import Census, original_deltas, targets_of
from lib_resize.fitting.live import (
    IN_TEXT_ENCODER,
    ImageCalls,
    ImageRecorder,
    fit_live,
    of_steps,
    repeatable,
    strength_in,
)
from lib_resize.fitting.moments import Target
from lib_resize.fitting.paired import FitOptions, fit_targets
from lib_resize.fitting.places import applied
from lib_resize.fitting.texts import TextRecorder, TextsByNumber, reordered, shortened
from lib_resize.hosts.host import LivePart
from lib_resize.progress import Quiet
from tests.fitting.small_net import Net, Scene, calls_of


def at(*times: float) -> list[Call]:
    return [Call((torch.zeros(2, 3), torch.full((2,), time)), {}, 2) for time in times]


def times_of(calls: list[Call]) -> list[float]:
    return [float(call.args[1][0]) for call in calls]


def test_steps_are_spread_over_the_image_and_all_calls_of_a_step_stay_together() -> None:
    calls = at(*(time for time in range(20, 0, -1) for _ in range(2)))  # the prompts one after the other
    assert times_of(of_steps(calls, 4)) == [18, 18, 13, 13, 8, 8, 3, 3]
    assert times_of(of_steps(calls, 1)) == [10, 10]
    assert len(of_steps(calls, 100)) == len(calls)
    assert of_steps([], 4) == []


@pytest.mark.parametrize("name", ["timesteps", "timestep"])
def test_times_are_found_by_their_names_too(name: str) -> None:
    calls = [Call((torch.zeros(1, 3),), {name: torch.tensor([float(time)])}, 1) for time in (3, 3, 2, 2, 1, 1)]
    assert [float(call.kwargs[name]) for call in of_steps(calls, 1)] == [2, 2]


def test_what_says_which_sample_is_what_is_left_out_of_repeated_calls() -> None:
    options = {"cond_or_uncond": [1, 0], "sigmas": torch.ones(1), "block": ("input", 3), "patches": {}, "scale": 2.0}
    call = Call((torch.zeros(2, 3),), {"control": None, "transformer_options": options}, 2)
    found = repeatable(call)
    assert found is not None
    assert found.kwargs == {"control": None, "transformer_options": {"patches": {}, "scale": 2.0}}
    assert call.kwargs["transformer_options"] is options
    options["patches"] = {"attn1": [print]}
    assert repeatable(call) is None


@pytest.mark.parametrize("merged", [0.0, 1.0])
def test_how_the_model_has_the_lora_is_found(scene: Scene, net: Net, merged: float) -> None:
    job, calls = scene.job(), with_outputs(scene, net)
    with applied(original_deltas(job, scene.model(), merged)):
        assert strength_in([scene.model()], job, calls) == merged


@pytest.mark.parametrize("strength", [0.5, -1.0, 3.0])
def test_a_model_in_another_state_is_refused(scene: Scene, net: Net, strength: float) -> None:
    job, calls = scene.job(), with_outputs(scene, net)
    with applied(original_deltas(job, scene.model(), strength)):
        assert strength_in([scene.model()], job, calls) is None
    assert strength_in([scene.model()], job, []) is None
    assert strength_in([scene.model()], job, calls_of(2, 2)) is None  # no outputs to compare with
    broken = [replace(call, output=torch.full_like(call.output, torch.nan)) for call in calls]  # type: ignore[arg-type]
    assert strength_in([scene.model()], job, broken) is None


def with_outputs(scene: Scene, net: Net) -> list[Call]:
    """Calls as they are recorded with the original LoRA."""
    recorder = ImageRecorder(net)
    with torch.no_grad(), applied(original_deltas(scene.job(), scene.model())):
        for call in calls_of(3, 2):
            call_repeated(net, samples_of([call]), 1, torch.device("cpu"))
    recorder.close()
    calls, unused = recorder.calls(3)
    assert (len(calls), unused, recorder.device) == (3, 0, "cpu")
    return calls


def test_a_recording_ends_and_has_the_outputs(net: Net) -> None:
    recorder = ImageRecorder(net)
    (call,) = calls_of(1, 1)
    wanted = outputs_of(call_repeated(net, samples_of([call]), 1, torch.device("cpu")))
    recorder.close()
    assert not net._forward_hooks
    assert not net._forward_pre_hooks
    (found,), _ = recorder.calls(4)
    assert found.output is not None
    assert torch.equal(found.output, wanted)
    assert found.output is not wanted


def test_layers_that_are_set_aside_are_counted_with_the_reason(scene: Scene, net: Net) -> None:
    whole = scene.recordings()
    (recorded,) = whole.models
    index, *others = recorded.model.places
    places = {one: recorded.model.places[one] for one in others}
    models = [replace(recorded, model=replace(recorded.model, places=places))]
    aside = replace(whole, models=models, set_aside={index: IN_TEXT_ENCODER}, unused=3)
    notes = fit_job(scene.job(), aside, FitOptions(), scene.runtime).plan.notes
    assert "layers truncated plainly: 1 of a text encoder" in notes
    assert not any("not found in the model" in note for note in notes)
    assert "3 calls of the model left out, because they cannot be repeated" in notes


def test_a_lora_without_a_layer_in_the_model_is_refused(scene: Scene) -> None:
    recorded = ImageCalls([[]], [], 4, "0" * 16)
    with pytest.raises(UnsupportedError, match="none of its layers is in the loaded model"):
        fit_live(scene.job(), [LivePart("unet", "x", torch.nn.Linear(3, 3))], recorded, FitOptions(), scene.runtime)


def test_sums_have_their_own_dtype_where_the_host_casts_automatically(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of 16-bit numbers would lose all but the largest."""
    seen: dict[Target, list[torch.Tensor]] = defaultdict(list)
    add = Target.add

    def look(target: Target, z: torch.Tensor, e: torch.Tensor | None) -> None:
        seen[target].append(z.double())
        add(target, z, e)

    monkeypatch.setattr(Target, "add", look)
    targets = targets_of(scene.job(), scene.model(), Census())
    with torch.autocast("cpu", torch.bfloat16):
        fit_targets(scene.model(), targets, (), calls_of(2, 1), FitOptions(), Quiet())
    assert len(seen) > 5
    for target, rows in seen.items():
        wanted = sum(z.T @ z for z in rows)
        assert isinstance(wanted, torch.Tensor)
        assert float((torch.from_numpy(target.c) - wanted).norm()) < 1e-5 * float(wanted.norm())


# Text encoders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "shorter", "other"),
    [
        ("a red fox, on a wall", "a red fox", "wall a on fox, red a"),
        ("a (red fox, sitting:1.2), on a wall", "a (red fox, sitting:1.2)", "wall a on (red fox, sitting:1.2), a"),
        (r"a \(red fox\), on it", r"a \(red fox\)", r"it on fox\), \(red a"),
        ("cake", "", "a photo of cake"),
        ("fox fox", "", "a photo of fox fox"),
        ("a fox), (on a wall", "a fox)", "(on a wall fox), a"),
    ],
)
def test_other_texts_keep_what_is_in_brackets_together(prompt: str, shorter: str, other: str) -> None:
    assert shortened(prompt) == shorter
    assert reordered(prompt) == other


class Prompts(list):  # type: ignore[type-arg]
    """A list with attributes, as programs have."""

    width = 0


def test_texts_are_encoded_again_in_a_list_like_the_recorded_one() -> None:
    def encode(texts: Prompts) -> dict[str, torch.Tensor]:
        assert type(texts) is Prompts
        rows = torch.tensor([[float(len(text)), float(texts.width)] for text in texts])
        return {"crossattn": rows[:, :, None], "vector": rows}

    recorder = TextRecorder()
    for width, texts in ((64, ["a fox, red", "one"]), (32, ["", "fog"]), (16, ["", ""])):
        given = Prompts(texts)
        given.width = width
        recorder.hear(given, encode(given))
    calls = recorder.calls()
    assert calls is not None
    called = calls.called_by(encode)
    for call in calls.heard:
        assert call.output is not None
        assert torch.equal(called(*call.args, **call.kwargs), call.output)
    by_text = {calls.texts[int(call.args[0])]: call.kwargs["like"] for call in calls.calls}
    assert by_text == {"a fox": 0, "a fox, red": 0, "one": 0, "fog": 1}
    unseen = {calls.texts[int(call.args[0])]: call.kwargs["like"] for call in calls.held_out}
    assert unseen == {"red fox, a": 0, "a photo of one": 0, "a photo of fog": 1}


def test_what_is_no_conditioning_of_texts_is_not_recorded() -> None:
    recorder = TextRecorder()
    recorder.hear("a text", torch.ones(6, 2))
    recorder.hear([], torch.ones(0, 2))
    recorder.hear([1], torch.ones(1, 2))
    recorder.hear(["a", "b"], [torch.ones(1, 2), torch.ones(1, 2)])  # a tensor for each text
    recorder.hear(["a"], {"guidance": 3.5})
    recorder.hear([""], torch.ones(1, 2))  # nothing to fit to
    assert recorder.calls() is None
    with pytest.raises(ValueError, match="no tensor with so many rows"):
        TextsByNumber(lambda _: [torch.ones(1, 2)] * 2, ["a"], [["a"]])(torch.tensor([0, 0]), 0)


def test_texts_of_the_fit_are_not_used_for_the_comparison() -> None:
    recorder = TextRecorder()
    recorder.hear(["a red fox", "fox red a", "a cat"], torch.ones(3, 2))
    calls = recorder.calls()
    assert calls is not None
    assert [calls.texts[int(call.args[0])] for call in calls.held_out] == ["cat a"]

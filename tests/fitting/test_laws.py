"""What a fit is, and what it leaves unchanged: laws of the driver on a small net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lib_resize.adapters.forms.form import Form
from lib_resize.adapters.forms.lora import LowRank
from lib_resize.engine.fitting_job import with_fit
from lib_resize.errors import DeviceError
from lib_resize.files.metadata import FitRecord
from lib_resize.fitting.calls import Call, call_repeated, mini_batches, recording, samples_of
from lib_resize.fitting.fit import Recorded, Recordings, fit_job, held_out_errors
from lib_resize.fitting.layers import Census, original_deltas, pairs_of, targets_of
from lib_resize.fitting.moments import Target
from lib_resize.fitting.paired import FitOptions, fit_targets
from lib_resize.fitting.places import FitModel, LowRankDelta, Place, add_rows, applied, hooked, inner_products, rows_of
from lib_resize.progress import Quiet
from tests.fitting.small_net import CHANNELS, Net, Scene, calls_of, save_lora, scene_of

ALL = FitOptions(batch=10**6)


def fitted(scene: Scene, strength: float = 0.0, options: FitOptions = ALL, recipe: str = "rank=2") -> list[Target]:
    job, model = scene.job(recipe), scene.model(strength)
    targets = targets_of(job, model, Census())
    own = frozenset(target.index for target in targets)
    others = () if strength else original_deltas(job, model, without=own)
    fit_targets(model, targets, others, calls_of(8, 1), options, Quiet())
    return targets


def products(targets: Sequence[Target]) -> dict[int, np.ndarray]:
    found = {}
    for target in targets:
        if target.is_known:
            p, q = target.factors()
            found[target.index] = p @ q
    return found


def test_a_batch_of_pairs_is_two_separate_runs(scene: Scene) -> None:
    """First the original alone, then the small net, layer after layer, with the outputs of the original as the aim."""
    job, model, calls = scene.job(), scene.model(), calls_of(8, 1)
    batch = samples_of(calls)
    aims: dict[int, Tensor] = {}
    targets = targets_of(job, model, Census())
    by_module = {target.place.module: target for target in targets}

    def keep(module: nn.Module, _: object, output: Tensor) -> None:
        aims[by_module[module].index] = output

    originals = original_deltas(job, model)
    with torch.no_grad(), applied(originals), hooked([(target.place.module, keep) for target in targets]):
        call_repeated(model.module, batch, 1, model.device)

    def follow(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        target = by_module[module]
        z = inner_products(target.place, inputs[0], target.original.down)
        target.add(z, rows_of(target.place, aims[target.index]) - rows_of(target.place, output))
        target.solve()
        return add_rows(target.place, output, target.output(z))

    own = frozenset(target.index for target in targets)
    others = original_deltas(job, model, without=own)
    with torch.no_grad(), applied(others), hooked([(target.place.module, follow) for target in targets]):
        call_repeated(model.module, batch, 1, model.device)
    separate, together = products(targets), products(fitted(scene))
    assert separate.keys() == together.keys()
    assert len(together) == 7
    for index, one in separate.items():
        assert np.linalg.norm(one - together[index]) < 1e-4 * np.linalg.norm(one)


def test_streamed_moments_are_those_of_all_inputs_at_once(scene: Scene) -> None:
    target = fitted(scene)[0]
    rng = np.random.default_rng(0)
    z, e = (torch.tensor(rng.standard_normal((60, width)), dtype=torch.float32) for width in (8, 16))
    target.reset()
    for part in range(0, 60, 7):
        target.add(z[part : part + 7], e[part : part + 7])
    assert target.tokens == 60
    assert np.allclose(target.c, z.double().T @ z.double(), rtol=1e-5, atol=1e-5)
    assert np.allclose(target.s, e.T @ z, rtol=1e-4, atol=1e-4)


def test_all_ranks_give_the_lora_back(scene: Scene) -> None:
    """Nothing was lost before, so there is nothing to correct: also with mini-batches of 3."""
    for options in (ALL, FitOptions(batch=3)):
        job = scene.job("rank=8")
        for index, product in products(fitted(scene, recipe="rank=8", options=options)).items():
            true = delta_of(job.analysis.adapter.layers[index].form)
            assert np.linalg.norm(product - true) < 1e-4 * np.linalg.norm(true)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_a_merged_lora_is_fitted_as_one_that_is_not(scene: Scene, strength: float) -> None:
    """At strength 1 with the same result; at another strength for the outputs that this one gives."""
    job, model = scene.job(), scene.model()
    alone = products(fitted(scene))
    merge(scene, strength)
    own = {target.index for target in targets_of(job, model, Census())}
    merged = products(fitted(scene, strength=strength))
    assert merged.keys() == alone.keys()
    assert own >= merged.keys()
    if strength == 1.0:
        for index, one in alone.items():
            assert np.linalg.norm(one - merged[index]) < 1e-3 * np.linalg.norm(one)
    plain_error, own_error = compared(scene, strength)
    assert own_error < 0.5 * plain_error


def merge(scene: Scene, strength: float) -> None:
    """Add the LoRA to the weights, as WebUIs do."""
    for index, place in scene.model().places.items():
        weight = place.module.weight
        assert isinstance(weight, Tensor)
        delta = delta_of(scene.analysis.adapter.layers[index].form)
        weight += strength * torch.from_numpy(delta).reshape(weight.shape)


def delta_of(form: Form) -> np.ndarray:
    """Return the matrix that a LoRA layer adds, (n, m)."""
    assert isinstance(form, LowRank)
    return np.asarray(form.pair.scale * form.pair.up.bits @ form.pair.down.bits)


def compared(scene: Scene, strength: float = 0.0, options: FitOptions = ALL) -> tuple[float, float]:
    job, recordings = scene.job(), scene.recordings(strength)
    made = fit_job(job, recordings, options, scene.runtime)
    plain, own = held_out_errors([job, made], recordings.models[0])
    return plain, own


def test_the_fitted_file_is_nearer_to_the_original_on_unseen_calls(scene: Scene) -> None:
    for options, share in ((ALL, 0.5), (FitOptions(batch=4), 0.5), (FitOptions(batch=1), 0.6)):
        plain, own = compared(scene, options=options)
        assert own < share * plain


def test_all_layers_at_once_is_worse_than_in_the_order_of_the_model(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why the order matters: each layer then corrects the errors that all layers before it have corrected already."""
    job, model = scene.job(), scene.model()
    targets = targets_of(job, model, Census())
    own = frozenset(target.index for target in targets)
    with monkeypatch.context() as patched:  # every layer sees the inputs of the truncation
        patched.setattr(Target, "solve", lambda *_: None)
        fit_targets(model, targets, original_deltas(job, model, without=own), calls_of(8, 1), ALL, Quiet())
    at_once = with_fit(job, pairs_of(job, targets, 0.02, Census()), FitRecord.longest([]), [], scene.runtime.arrays)
    recordings = scene.recordings()
    in_order = fit_job(job, recordings, ALL, scene.runtime)
    first, second = held_out_errors([at_once, in_order], recordings.models[0])
    assert second < 0.8 * first


# What stays unchanged ---------------------------------------------------------------------------------------------


def hooks_of(net: nn.Module) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in net.modules())


def test_weights_are_the_same_bits_and_hooks_are_gone(scene: Scene, net: Net) -> None:
    before = {name: one.clone() for name, one in net.state_dict().items()}
    fit_job(scene.job(), scene.recordings(), FitOptions(), scene.runtime)
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    assert hooks_of(net) == 0


@pytest.mark.parametrize("where", ["fit", "record", "compare"])
def test_hooks_are_gone_after_an_error(scene: Scene, net: Net, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("in the last layer")

    recordings = scene.recordings()
    if where == "compare":
        from lib_resize.fitting import fit

        monkeypatch.setattr(fit, "outputs_of", fail)
    else:
        monkeypatch.setattr(net.last, "forward", fail)

    def record() -> None:
        with applied(original_deltas(scene.job(), scene.model())), recording(net):
            call_repeated(net, samples_of(calls_of(1, 1)), 1, torch.device("cpu"))

    def fit_all() -> None:
        fit_job(scene.job(), recordings, FitOptions(), scene.runtime)

    with pytest.raises(ValueError, match="in the last layer"):
        (record if where == "record" else fit_all)()
    assert hooks_of(net) == 0


def test_out_of_memory_halves_the_mini_batch_and_gives_the_same(
    scene: Scene, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = net.last.forward

    def limited(x: Tensor) -> Any:
        sizes.append(len(x))
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return forward(x)

    expected = products(fitted(scene, options=FitOptions(batch=2)))
    monkeypatch.setattr(net.last, "forward", limited)
    found = products(fitted(scene, options=FitOptions(batch=8)))
    assert sizes[:3] == [16, 8, 4]
    assert max(sizes[2:]) == 4
    assert all(np.array_equal(one, found[index]) for index, one in expected.items())


def test_a_device_that_holds_no_sample_is_an_error_with_a_way_out(
    scene: Scene, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(net.last, "forward", fail)
    with pytest.raises(DeviceError, match="smaller images"):
        fitted(scene)
    assert hooks_of(net) == 0


# Calls ------------------------------------------------------------------------------------------------------------


def test_calls_with_nan_are_left_out_of_the_layers_that_they_reach(scene: Scene) -> None:
    job, model = scene.job(), scene.model()
    good, bad = calls_of(8, 1), calls_of(1, 5)[0]
    bad.args[0][0, 0, 0, 0] = float("nan")
    expected = fitted(scene, options=FitOptions(batch=2))
    targets = targets_of(job, model, Census())
    own = frozenset(target.index for target in targets)
    fit_targets(model, targets, original_deltas(job, model, without=own), [*good, bad], FitOptions(batch=2), Quiet())
    by_index = {target.index: target for target in targets}
    stems = [layer.stem for layer in job.analysis.adapter.layers]
    first, context = (by_index[stems.index(f"lora_unet_{name}")] for name in ("first", "context"))
    assert (first.dropped, context.dropped) == (1, 0)
    assert first.tokens == next(one for one in expected if one.index == first.index).tokens
    assert all(np.isfinite(one).all() for one in products(targets).values())
    made = fit_job(
        job, Recordings([Recorded(model, [*good, bad], calls_of(4, 2))], 8, 1, ""), FitOptions(batch=2), scene.runtime
    )
    assert "calls of layers with NaN or infinite values left out" in made.plan.notes[-1]


def test_samples_are_called_together_only_where_their_calls_agree() -> None:
    one, other, third = calls_of(3, 1)
    other = Call((other.args[0], 0.7), other.kwargs, other.samples)
    third = Call(third.args, {"context": third.kwargs["context"][:, :2]}, third.samples)
    batches = mini_batches(samples_of([one, other, third, one]), 8, 0)
    assert sorted(len(batch) for batch in batches) == [2, 2, 4]
    assert all(len({id(sample.call) for sample in batch}) == 1 for batch in batches)


def test_a_call_is_repeated_with_its_arguments(net: Net) -> None:
    (call,) = calls_of(1, 7)
    with recording(net, lambda number: number == 1) as calls, torch.no_grad():
        net(*calls_of(1, 8)[0].args, **calls_of(1, 8)[0].kwargs)
        expected = net(*call.args, **call.kwargs)
    (found,) = calls
    call.args[0].zero_()  # copies are kept
    with torch.no_grad():
        twice = call_repeated(net, samples_of([found]), 2, torch.device("cpu"))
    assert torch.allclose(twice, torch.cat([expected, expected]), atol=1e-6)


def test_many_tokens_are_drawn_at_random_and_give_nearly_the_same(tmp_path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)).requires_grad_(False)
    x = torch.randn(2, 6000, 3, generator=torch.Generator().manual_seed(1)) @ torch.randn(3, 16)
    call = Call((x + 0.1 * torch.randn(x.shape),), {}, 2)
    with scene_of(net, save_lora(tmp_path / "b.safetensors", {"0": (16, 16), "2": (16, 16)})) as scene:
        found = []
        for share in (0.25, 1.0):
            job, model = scene.job(), scene.model()
            targets = targets_of(job, model, Census())
            fit_targets(model, targets, (), [call], FitOptions(share=share), Quiet())
            assert targets[0].tokens == 12000 * share
            found.append(products(targets))
    for index, part in found[0].items():
        assert np.linalg.norm(part - found[1][index]) < 0.1 * np.linalg.norm(part)


# Places -----------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """q, k and v pass no hook of their own, as in OpenCLIP; the batch is the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 2)
        self.mlp = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        h = x.transpose(0, 1)
        return self.mlp(torch.tanh(self.attn(h, h, h, need_weights=False)[0].transpose(0, 1)))


def test_an_attention_whose_outputs_are_not_seen_is_fitted_to_its_inputs_alone(tmp_path) -> None:
    torch.manual_seed(1)
    net = Attention().requires_grad_(False)
    shapes = {"q": (16, 16), "mlp": (16, 16)}
    x = torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(1)) @ torch.randn(3, 16)
    call = Call((x + 0.05 * torch.randn(x.shape),), {}, 40)
    with scene_of(net, save_lora(tmp_path / "c.safetensors", shapes)) as scene:
        stems = [layer.stem for layer in scene.analysis.adapter.layers]
        q, mlp = stems.index("lora_unet_q"), stems.index("lora_unet_mlp")
        places = {
            q: Place(net.attn, (0, 16), sees_output=False, batch_dimension=int(not net.attn.batch_first)),
            mlp: Place(net.mlp),
        }
        model, job = FitModel("te", net, places, 1.0), scene.job("rank=3")
        net.mlp.weight += torch.from_numpy(_dense(scene, mlp))
        net.attn.in_proj_weight[:16] += torch.from_numpy(_dense(scene, q))
        targets = targets_of(job, model, Census())
        fit_targets(model, targets, (), [call], ALL, Quiet())
        by_index = {target.index: target for target in targets}
        seen = call.args[0].reshape(-1, 16).double().numpy()
        target, true = by_index[q], _dense(scene, q)
        assert target.tokens == 200
        p, v = target.factors()
        u, s, vt = np.linalg.svd(true)
        plain = u[:, :3] * s[:3] @ vt[:3]
        assert np.linalg.norm(seen @ (p @ v - true).T) < 0.5 * np.linalg.norm(seen @ (plain - true).T)


class Block(nn.Module):
    """Attention with the tokens first, and a map in the same block that sees them so too."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.mid = nn.Module()
        self.mid.attn, self.mid.mlp = nn.MultiheadAttention(16, 2, batch_first=batch_first), nn.Linear(16, 16)
        self.after = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        h = x if self.mid.attn.batch_first else x.transpose(0, 1)  # type: ignore[union-attr]
        h = torch.tanh(self.mid.mlp(torch.tanh(self.mid.attn(h, h, h, need_weights=False)[0])))  # type: ignore[operator]
        return self.after(h if self.mid.attn.batch_first else h.transpose(0, 1))  # type: ignore[union-attr]


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_block_with_the_tokens_first_is_fitted_as_one_with_the_samples_first(tmp_path, strength: float) -> None:
    path = save_lora(tmp_path / "block.safetensors", {"mid.mlp": (16, 16), "after": (16, 16)})
    x = torch.randn(12, 5, 4, generator=torch.Generator().manual_seed(1)) @ torch.randn(4, 16)
    found = []
    for batch_first in (True, False):
        torch.manual_seed(7)
        net = Block(batch_first=batch_first).requires_grad_(False)
        with scene_of(net, path) as scene:
            model, job = scene.model(strength), scene.job("rank=3")
            if strength:
                for index, place in model.places.items():
                    place.module.weight += torch.from_numpy(_dense(scene, index))  # type: ignore[operator]
            recorded = Recorded(model, [Call((x,), {}, 12)], [Call((x[:3],), {}, 3)])
            fitted = fit_job(job, Recordings([recorded], 1, 1, "0" * 16), FitOptions(), scene.runtime)
            notes = fitted.plan.notes
            assert "fitted to images: 2 of 2 layers" in notes, notes
            found.append([*held_out_errors([fitted], recorded), *held_out_errors([job], recorded)])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert found[0][0] < found[0][1]


def _dense(scene: Scene, index: int) -> np.ndarray:
    return delta_of(scene.analysis.adapter.layers[index].form)


def test_a_layer_that_is_not_run_sample_by_sample_is_truncated_plainly(tmp_path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(16, 16)
            self.last = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Any:
            return self.last(x + self.shared(torch.ones(3, 16)).mean(0))

    net = Odd().requires_grad_(False)
    call = Call((torch.randn(40, 16, generator=torch.Generator().manual_seed(1)),), {}, 40)
    with scene_of(net, save_lora(tmp_path / "d.safetensors", {"shared": (16, 16), "last": (16, 16)})) as scene:
        job, census = scene.job(), Census()
        targets = targets_of(job, scene.model(), census)
        fit_targets(scene.model(), targets, (), [call], ALL, Quiet())
        pairs = pairs_of(job, targets, 0.02, census)
        assert [job.analysis.adapter.layers[index].stem for index in pairs] == ["lora_unet_last"]
        assert census.plain == {"not run sample by sample": 1}


def test_a_piece_of_a_fused_layer_acts_on_its_rows(net: Net) -> None:
    place = Place(net.qkv, (16, 32))
    x = torch.randn(2, 5, 16)
    delta = LowRankDelta(torch.randn(16, 2), torch.randn(2, 16))
    plain = net.qkv(x)
    with applied([(place, delta)]):
        changed = net.qkv(x)
    assert torch.equal(changed[..., :16], plain[..., :16])
    assert torch.equal(changed[..., 32:], plain[..., 32:])
    assert torch.allclose(changed[..., 16:32] - plain[..., 16:32], x @ delta.down.T @ delta.up.T, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "supported"),
    [
        (nn.Linear(4, 4), True),
        (nn.Conv2d(4, 4, 3, stride=2, padding=1, dilation=2), True),
        (nn.Conv2d(4, 4, 3, groups=2), False),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), False),
        (nn.ConvTranspose2d(4, 4, 3), False),
        (nn.Embedding(4, 4), False),
    ],
)
def test_only_modules_whose_delta_can_be_followed_are_fitted(module: nn.Module, supported: bool) -> None:
    assert Place(module).is_supported is supported


def test_other_kinds_than_lora_are_truncated_plainly_and_counted(net: Net, tmp_path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(save_lora(tmp_path / "lora.safetensors"))
    rng = np.random.default_rng(0)
    for word in ("lora_up", "lora_down"):
        del tensors[f"lora_unet_mlp.{word}.weight"]
    for name, shape in (("w1_a", (24, 4)), ("w1_b", (4, 16)), ("w2_a", (24, 4)), ("w2_b", (4, 16))):
        tensors[f"lora_unet_mlp.hada_{name}"] = rng.standard_normal(shape).astype(np.float32) / 4
    tensors["lora_unet_last.dora_scale"] = np.ones((CHANNELS, 1), np.float32)
    save_file(tensors, tmp_path / "mixed.safetensors")
    with scene_of(net, tmp_path / "mixed.safetensors") as scene:
        job, census = scene.job("fro_lora=1,retain=0.8", convert="none"), Census()
        targets = targets_of(job, scene.model(), census)
        assert census.plain["of another kind than LoRA"] == 2
        stems = [job.analysis.adapter.layers[target.index].stem for target in targets]
        assert {"lora_unet_mlp", "lora_unet_last"}.isdisjoint(stems)
        made = fit_job(job, scene.recordings(), FitOptions(), scene.runtime)
        assert "layers truncated plainly: 2 of another kind than LoRA" in made.plan.notes
        plain, own = held_out_errors([job, made], scene.recordings().models[0])
        assert own < plain

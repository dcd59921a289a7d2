"""IA3, OFT and BOFT are merged where the base model is given, by what LyCORIS and PEFT themselves make of its weights.

Without the base, and where no reader could be tried, they are refused by name.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lycoris")

import torch

from lib_resize import Outcome
from lib_resize.adapters.write.style import Style
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.errors import LayerError, UnsupportedError
from lib_resize.prompts.sources import Member, Source
from lib_resize.recipe.grammar import parse_recipes
from tests.readers.host_rules import a1111_layers
from tests.readers.lora_material import Matrix, Tensors, difference, load, output, save
from tests.readers.lycoris_material import PREFIX, Case, Net, base_weights, shapes, write_lycoris

pytestmark = pytest.mark.filterwarnings("ignore")  # those of third parties are not our business

EXACT = 1e-6

CASES = {
    "ia3": Case({"algo": "ia3"}),
    "ia3_input": Case({"algo": "ia3", "train_on_input": True}),
    "oft": Case({"algo": "diag-oft"}),
    "oft_limit": Case({"algo": "diag-oft", "constraint": 0.02}),
    "oft_rescaled": Case({"algo": "diag-oft", "rescaled": True}),
    "boft": Case({"algo": "boft"}, dim=8, conv_dim=8),
    "boft_limit": Case({"algo": "boft", "constraint": 0.02, "rescaled": True}, dim=16, conv_dim=16),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rotations")
    cases = {**CASES, "lora": Case({"algo": "locon"})}
    return {name: write_lycoris(folder / f"{name}.safetensors", case) for name, case in cases.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), base_weights())


def write_base(folder: Path, weights: Mapping[str, Matrix]) -> Path:
    """A model with these of LyCORIS' layers."""
    made = {f"diffusion_model.blk.{name}.weight": value.reshape(shapes()[name]) for name, value in weights.items()}
    path: Path = save(folder / "base.safetensors", made, "F32")
    return path


def merged(folder: Path, *parts: tuple[Path, float], base: Path | None = None) -> Outcome:
    members = tuple(Member(path, weight) for path, weight in parts)
    style = Style("F32")
    settings = Settings(recipes=parse_recipes("retain=1"), output=folder, base=base, style=style, threads=1)
    (outcome,) = resize([Source(members)], settings)
    return outcome


def added(outcome: Outcome) -> dict[str, Matrix]:
    """What A1111 adds of the result, flattened."""
    assert outcome.error is None, outcome.error
    found: dict[str, Matrix] = a1111_layers(load(output(outcome)), PREFIX, base_weights())
    return found


def by_lycoris(path: Path, strength: float = 1) -> dict[str, Matrix]:
    """Layer -> what the weight that LyCORIS' module merges differs from the base weight by."""
    from lycoris.modules.boft import ButterflyOFTModule
    from lycoris.modules.diag_oft import DiagOFTModule
    from lycoris.modules.ia3 import IA3Module

    state, found = load(path), {}
    for name in shapes():
        own = {
            key.split(".", 1)[1]: torch.from_numpy(value) for key, value in state.items() if f"{PREFIX}{name}." in key
        }
        layer = getattr(Net().blk, name)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            if "on_input" in own:
                module: Any = IA3Module(name, layer, train_on_input=bool(own["on_input"]))
                module.weight.copy_(own["weight"])
            else:
                kind = DiagOFTModule if own["oft_blocks"].ndim == 3 else ButterflyOFTModule
                module = kind.make_module_from_state_dict(
                    name, layer, own["oft_blocks"].float(), own.get("rescale"), own["alpha"]
                )
            change = module.get_diff_weight(strength)[0]
        found[name] = np.asarray(change.double().reshape(len(change), -1).numpy())
    return found


@pytest.mark.parametrize("name", sorted(CASES))
def test_alone_in_a_merge_it_is_what_lycoris_makes_of_the_base(files, checkpoint, tmp_path, name) -> None:
    """At a strength, the change of the weight times that, as A1111 has it."""
    outcome = merged(tmp_path, (files[name], 0.5), base=checkpoint)
    found, wanted = added(outcome), by_lycoris(files[name])
    assert found.keys() == wanted.keys()
    assert max(difference(found[layer], 0.5 * wanted[layer]) for layer in wanted) < EXACT
    kind = "IA3" if "ia3" in name else "OFT"
    assert outcome.plan is not None
    assert f"{name}: 3 layers ({kind}) were merged with base.safetensors and fit only that model" in outcome.plan.notes


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_is_added_to_another_lora(files, checkpoint, tmp_path, name) -> None:
    outcome = merged(tmp_path, (files[name], 0.6), (files["lora"], -1.5), base=checkpoint)
    assert outcome.plan is not None
    assert any(
        note.startswith("3 layers (such as IA3, OFT or DoRA) depend on the base weights") for note in outcome.plan.notes
    )
    found = added(outcome)
    other = a1111_layers(load(files["lora"]), PREFIX, base_weights())
    wanted = {layer: 0.6 * delta - 1.5 * other[layer] for layer, delta in by_lycoris(files[name]).items()}
    assert max(difference(found[layer], wanted[layer]) for layer in wanted) < 3 * EXACT


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"boft", "boft_limit", "oft_rescaled"}))
def test_lycoris_too_is_linear_in_the_strength_here(files, name) -> None:
    """And not for the others, where A1111's rule is ours."""
    whole, half = by_lycoris(files[name]), by_lycoris(files[name], 0.5)
    assert max(difference(half[layer], 0.5 * whole[layer]) for layer in whole) < EXACT


def test_the_limit_and_the_factors_of_the_files_are_at_work(files) -> None:
    """Else the cases above would show less than they say."""
    for name in ("oft_limit", "boft_limit"):
        tensors = load(files[name])
        for layer, shape in shapes().items():
            blocks = tensors[f"{PREFIX}{layer}.oft_blocks"]
            assert np.linalg.norm(blocks - np.swapaxes(blocks, -1, -2)) > 2 * 0.02 * shape[0]
    assert all(blocks.shape[0] > 2 for key, blocks in load(files["boft"]).items() if key.endswith("oft_blocks"))


def test_small_turns_keep_their_digits(checkpoint, tmp_path) -> None:
    """A rotation by 1e-5 is not lost in the rounding of W: its change is 2 Q^T W to first order."""
    q = np.zeros((4, 16, 16))
    q[:, 0, 1] = 1e-5
    rotation = {f"{PREFIX}lin.oft_blocks": q, f"{PREFIX}lin.alpha": np.zeros(())}
    found = added(merged(tmp_path / "out", (save(tmp_path / "x.safetensors", rotation, "F32"), 0.5), base=checkpoint))
    skew = np.kron(np.eye(4), 2 * (q - np.swapaxes(q, 1, 2))[0].T)
    assert difference(found["lin"], 0.5 * skew @ base_weights()["lin"]) < 2e-5


def test_old_files_hold_the_rotation_itself(files, checkpoint, tmp_path) -> None:
    """R as LyCORIS makes it of the same blocks; alpha says nothing there."""
    from lycoris.functional.diag_oft import get_r

    tensors = load(files["oft_rescaled"])
    for key in [key for key in tensors if key.endswith(".oft_blocks")]:
        blocks = torch.from_numpy(tensors.pop(key))
        tensors[key.replace("oft_blocks", "oft_diag")] = get_r(blocks.float()).numpy()
        tensors[key.replace("oft_blocks", "alpha")] = np.array(0.001)
    old = save(tmp_path / "old.safetensors", tensors, "F32")
    found, wanted = added(merged(tmp_path / "out", (old, 0.5), base=checkpoint)), by_lycoris(files["oft_rescaled"])
    assert max(difference(found[layer], 0.5 * wanted[layer]) for layer in wanted) < EXACT


def test_without_alpha_there_is_no_limit(files, checkpoint, tmp_path) -> None:
    tensors = {key: value for key, value in load(files["oft"]).items() if not key.endswith(".alpha")}
    path = save(tmp_path / "x.safetensors", tensors, "F32")
    found, wanted = added(merged(tmp_path / "out", (path, 0.5), base=checkpoint)), by_lycoris(files["oft"])
    assert max(difference(found[layer], 0.5 * wanted[layer]) for layer in wanted) < EXACT


def test_kohyas_oft_comes_out_under_the_names_of_a_lora(files, checkpoint, tmp_path) -> None:
    tensors = {f"oft_unet_{key.removeprefix('lycoris_')}": value for key, value in load(files["oft"]).items()}
    outcome = merged(tmp_path / "out", (save(tmp_path / "x.safetensors", tensors, "F32"), 0.5), base=checkpoint)
    assert outcome.error is None, outcome.error
    assert all(key.startswith("lora_unet_blk_") for key in load(output(outcome)))


def test_a_file_may_mix_them_with_layers_that_have_ranks(files, checkpoint, tmp_path) -> None:
    take = {"lin": "oft", "conv": "lora", "one": "ia3"}
    tensors = {
        key: value
        for layer, name in take.items()
        for key, value in load(files[name]).items()
        if key.startswith(f"{PREFIX}{layer}.")
    }
    outcome = merged(tmp_path / "out", (save(tmp_path / "x.safetensors", tensors, "F32"), 2.0), base=checkpoint)
    assert outcome.plan is not None
    assert not any("depend on the base weights" in note for note in outcome.plan.notes)
    found = added(outcome)
    wanted = {name: by_lycoris(files[name]) for name in ("oft", "ia3")}
    wanted["lora"] = a1111_layers(load(files["lora"]), PREFIX, base_weights())
    assert found.keys() == take.keys()
    assert max(difference(found[layer], 2 * wanted[name][layer]) for layer, name in take.items()) < EXACT


# Names --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flux(tmp_path_factory) -> tuple[Path, Matrix]:
    """Flux in its own names: one block, q, k and v in one weight; and that weight."""
    chance = np.random.default_rng(2)
    shapes = {"double_blocks.0.img_attn.qkv": (36, 12), "double_blocks.0.img_attn.proj": (12, 12), "img_in": (12, 4)}
    base = {f"model.diffusion_model.{name}.weight": chance.standard_normal(shape) for name, shape in shapes.items()}
    path = save(tmp_path_factory.mktemp("flux") / "flux.safetensors", base, "F32")
    return path, load(path)["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"]


def test_a_part_of_a_fused_weight_is_found_in_it(flux, tmp_path) -> None:
    base, qkv = flux
    swap = np.stack([np.eye(6)[::-1]] * 2)
    stem = "transformer.transformer_blocks.0.attn.to_k"
    path = save(tmp_path / "x.safetensors", {f"{stem}.oft_diag": swap, f"{stem}.rescale": np.full(12, 2.0)}, "F32")
    outcome = merged(tmp_path / "out", (path, 0.25), base=base)
    assert outcome.error is None, outcome.error
    found = load(output(outcome))
    made = found[f"{stem}.diff"] if f"{stem}.diff" in found else product(found, stem)
    k = qkv[12:24]
    assert difference(made, 0.25 * (2 * k.reshape(2, 6, 12)[:, ::-1].reshape(12, 12) - k)) < EXACT


def product(tensors: Tensors, stem: str) -> Matrix:
    up, down = tensors[f"{stem}.lora_up.weight"], tensors[f"{stem}.lora_down.weight"]
    return np.asarray(float(tensors.get(f"{stem}.alpha", len(down))) / len(down) * up @ down)


def test_a_base_of_another_family_is_no_base(flux, tmp_path) -> None:
    """Even if they share words."""
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_{}"
    tensors = {f"{stem.format(word)}.lora_up.weight": np.ones((12, 1)) for word in "qkv"}
    tensors |= {f"{stem.format(word)}.lora_down.weight": np.ones((1, 12)) for word in "qkv"}
    tensors |= {"lora_unet_img_in.oft_diag": np.stack([np.eye(6)] * 2)}
    error = merged(tmp_path, (save(tmp_path / "x.safetensors", tensors, "F32"), 0.5), base=flux[0]).error
    assert isinstance(error, UnsupportedError)
    assert "lora_unet_img_in.oft_diag (OFT): flux.safetensors has no such layer" in str(error)


# PEFT's -------------------------------------------------------------------------------------------------------


class Peft(torch.nn.Module):
    """Named as a checkpoint that no table knows."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blk = torch.nn.Module()
        self.blk.lin = torch.nn.Linear(48, 64, bias=bias)
        self.blk.ff = torch.nn.Linear(64, 48, bias=bias)
        self.blk.conv = torch.nn.Conv2d(16, 24, 3, bias=bias)


NAMES = ("lin", "ff", "conv")
OFT = {"oft_block_size": 8, "r": 0, "use_cayley_neumann": False}
SERIES = {"oft_block_size": 8, "r": 0, "use_cayley_neumann": True}
PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "ia3": ("IA3Config", {"feedforward_modules": ["ff"]}),
    "ia3_conv_input": ("IA3Config", {"feedforward_modules": ["ff", "conv"]}),
    "oft": ("OFTConfig", OFT),
    "oft_shared": ("OFTConfig", {**OFT, "block_share": True}),
    **{f"oft_series_{n}": ("OFTConfig", {**SERIES, "num_cayley_neumann_terms": n}) for n in range(2, 8)},
    "boft": ("BOFTConfig", {"boft_block_size": 8}),
}


def peft_file(folder: Path, name: str, *, bias: bool = False) -> tuple[Path, Path, dict[str, Matrix]]:
    """PEFT's adapter as it saves it, the model as a checkpoint next to it, and what merging changes of each weight."""
    import peft

    kind, options = PEFT[name]
    model: Any = Peft(bias=bias)
    before = {key: model.get_submodule(f"blk.{key}").weight.detach().clone() for key in NAMES}
    tuned: Any = peft.get_peft_model(model, getattr(peft, kind)(target_modules=list(NAMES), **options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in tuned.named_parameters():
            if any(word in key for word in ("ia3_l", "oft_R", "boft_")):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    tuned.save_pretrained(str(folder / "adapter"))
    state = {f"diffusion_model.blk.{key}.weight": value.numpy() for key, value in before.items()}
    if bias:
        state |= {f"diffusion_model.blk.{key}.bias": np.ones(len(value)) for key, value in before.items()}
    base = save(folder / "base.safetensors", state, "F32")
    with torch.no_grad():
        merged_model = tuned.merge_and_unload()
        after = {key: merged_model.get_submodule(f"blk.{key}").weight for key in NAMES}
        change = {key: (after[key].double() - before[key].double()).reshape(len(before[key]), -1) for key in NAMES}
    return folder / "adapter" / "adapter_model.safetensors", base, {key: one.numpy() for key, one in change.items()}


def peft_deltas(outcome: Outcome) -> dict[str, Matrix]:
    assert outcome.error is None, outcome.error
    tensors: Tensors = load(output(outcome))
    found = {}
    for key in tensors:
        name = key.partition("blk.")[2].partition(".")[0]
        if key.endswith(".diff"):
            found[name] = tensors[key].reshape(len(tensors[key]), -1)
        elif key.endswith(".lora_B.weight"):
            up, down = tensors[key], tensors[key.replace("lora_B", "lora_A")]
            found[name] = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
    return found


@pytest.mark.parametrize("name", sorted(PEFT))
def test_peft_merges_the_same(tmp_path, name) -> None:
    pytest.importorskip("peft")
    path, base, wanted = peft_file(tmp_path, name)
    found = peft_deltas(merged(tmp_path / "out", (path, 0.5), base=base))
    assert found.keys() == wanted.keys()
    for key, one in found.items():
        weight = np.linalg.norm(load(base)[f"diffusion_model.blk.{key}.weight"])
        assert np.linalg.norm(one - 0.5 * wanted[key]) < EXACT * weight  # PEFT has rounded the sum W'


# Refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ia3", "oft", "boft"])
def test_without_the_base_it_is_refused_with_a_remedy(files, tmp_path, name) -> None:
    for others in ((), ((files["lora"], 1.0),)):
        error = merged(tmp_path, (files[name], 0.5), *others).error
        assert isinstance(error, UnsupportedError)
        assert re.search(rf"{name}.safetensors: {PREFIX}conv\.\w+ \((IA3|OFT)\).* Name the checkpoint", str(error))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ia3", "oft", "boft"])
def test_resized_by_itself_it_stays_as_it_is(files, checkpoint, tmp_path, name) -> None:
    """With the base model, too: a matrix in full in place of a few numbers is nothing smaller."""
    error = merged(tmp_path, (files[name], 1.0), base=checkpoint).error
    assert isinstance(error, UnsupportedError)
    assert "nothing to resize" in str(error)


def test_a_base_that_lacks_the_layer_is_reported_by_name(files, tmp_path) -> None:
    base = write_base(tmp_path, {name: value for name, value in base_weights().items() if name != "conv"})
    error = merged(tmp_path / "out", (files["oft"], 0.5), (files["lora"], 1.0), base=base).error
    assert isinstance(error, UnsupportedError)
    assert re.search(rf"oft.safetensors: {PREFIX}conv\.\w+ \(OFT\): base.safetensors has no such layer", str(error))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"oft_blocks": (4, 15, 15), "alpha": ()}, "oft_blocks .* 64 numbers"),
        ({"oft_blocks": (4, 15, 16), "alpha": ()}, "oft_blocks .* 64 numbers"),
        ({"oft_blocks": (6, 4, 16, 16), "alpha": ()}, "oft_blocks .* 64 numbers"),
        ({"oft_blocks": (64,), "alpha": ()}, "oft_blocks .* 64 numbers"),
        ({"oft_diag": (2, 4, 16, 16)}, "oft_diag .* square blocks"),
        ({"oft_blocks": (4, 16, 16), "rescale": (48, 1)}, "rescale .* 64 numbers"),
        ({"on_input": (), "weight": (48,)}, "weight .* 64 numbers"),
        ({"ia3_l": (1, 64)}, "ia3_l .* 48 numbers"),
        ({"boft_R": (1, 4, 16, 16), "boft_s": (64, 1)}, "boft_R .* 48 numbers"),
    ],
)
def test_shapes_that_do_not_fit_the_base_are_reported_by_key(checkpoint, tmp_path, tensors, message) -> None:
    made = {f"{PREFIX}lin.{role}": np.zeros(shape) for role, shape in tensors.items()}
    error = merged(tmp_path, (save(tmp_path / "x.safetensors", made, "F32"), 0.5), base=checkpoint).error
    assert isinstance(error, LayerError)
    assert re.search(rf"x.safetensors: layer {PREFIX}lin: .*{message}", str(error))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lin.oft_R.weight": (6, 28)}, "no adapter_config.json"),
        ({"lin.oft_R.weight": (6, 28), "lin.oft_R.scaled_oft": (1,)}, "oft_R, scaled_oft together"),
        ({"lin.oft_blocks": (4, 16, 16), "lin.dora_scale": (64, 1)}, "magnitude, oft_blocks together"),
        ({"lin.boft_R": (2, 6, 8, 8), "lin.boft_s": (64, 1)}, "2 stages"),
    ],
)
def test_what_no_reader_could_judge_is_refused_by_name(checkpoint, tmp_path, tensors, message) -> None:
    made = {f"{PREFIX}{key}": np.zeros(shape) for key, shape in tensors.items()}
    error = merged(tmp_path, (save(tmp_path / "x.safetensors", made, "F32"), 0.5), base=checkpoint).error
    assert isinstance(error, UnsupportedError)
    assert re.search(rf"x.safetensors: layer {PREFIX}lin .*{message}", str(error))
    assert "extract a LoRA" in str(error)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"coft": True}, "coft"),
        ({"peft_version": "0.17.1"}, "before 0.18"),
        ({"num_cayley_neumann_terms": None}, "before 0.18"),
    ],
)
def test_pefts_oft_that_it_would_not_read_itself_is_refused(tmp_path, edit, message) -> None:
    pytest.importorskip("peft")
    path, base, _ = peft_file(tmp_path, "oft_series_5")
    config = path.parent / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), **edit}), "utf-8")
    error = merged(tmp_path / "out", (path, 0.5), base=base).error
    assert isinstance(error, UnsupportedError)
    assert message in str(error)


def test_pefts_ia3_that_multiplies_a_bias_is_refused(tmp_path) -> None:
    pytest.importorskip("peft")
    path, base, _ = peft_file(tmp_path, "ia3", bias=True)
    error = merged(tmp_path / "out", (path, 0.5), base=base).error
    assert isinstance(error, UnsupportedError)
    assert "multiplies the layer's bias" in str(error)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["ia3", "oft", "boft_limit", "oft_rescaled"])
def test_values_that_are_not_finite_are_reported_by_layer(files, checkpoint, tmp_path, name, bad) -> None:
    tensors = load(files[name])
    key = next(key for key in tensors if "lin." in key and key.rpartition(".")[2] in ("weight", "oft_blocks"))
    tensors[key].reshape(-1)[1] = bad
    error = merged(tmp_path, (save(tmp_path / "x.safetensors", tensors, "F32"), 0.5), base=checkpoint).error
    assert isinstance(error, LayerError)
    assert f"layer {PREFIX}lin" in str(error)


def test_pefts_ia3_of_a_square_convolution_does_not_show_its_side(tmp_path) -> None:
    base = save(tmp_path / "base.safetensors", {"diffusion_model.blk.conv.weight": np.ones((16, 16, 3, 3))}, "F32")
    path = save(tmp_path / "x.safetensors", {"lora_unet_blk_conv.ia3_l": np.ones((1, 16, 1, 1))}, "F32")
    error = merged(tmp_path / "out", (path, 0.5), base=base).error
    assert isinstance(error, UnsupportedError)
    assert "lora_unet_blk_conv does not show whether PEFT's IA3 multiplies its 16 inputs or its outputs" in str(error)

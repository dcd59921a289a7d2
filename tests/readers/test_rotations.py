"""IA3, OFT and BOFT are merged where the base model is given: by what LyCORIS' and PEFT's own modules make of its weights.

Without the base, and where no reader could be tried, they are refused by name.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lycoris")

import torch
from host_rules import a1111_layers
from lora_material import Matrix, Tensors, difference, load, output, save
from lycoris_material import PREFIX, Case, Net, base_weights, shapes, write_lycoris

from lib_resize import Outcome
from lib_resize.adapters.write import Style
from lib_resize.batch import Settings, resize
from lib_resize.errors import LayerError, UnsupportedError
from lib_resize.recipe.grammar import parse_recipes
from lib_resize.sources import Member, Source

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
    return save(folder / "base.safetensors", made, "F32")


def merged(folder: Path, *parts: tuple[Path, float], base: Path | None = None) -> Outcome:
    members = tuple(Member(path, weight) for path, weight in parts)
    style = Style("F32")
    settings = Settings(recipes=parse_recipes("retain=1"), output=folder, base=base, style=style, threads=1)
    (outcome,) = resize([Source(members)], settings)
    return outcome


def added(outcome: Outcome) -> dict[str, Matrix]:
    """What A1111 adds of the result, flattened."""
    assert outcome.error is None, outcome.error
    return a1111_layers(load(output(outcome)), PREFIX, base_weights())


def by_lycoris(path: Path) -> dict[str, Matrix]:
    """Layer -> what the weight that LyCORIS' module merges differs from the base weight by."""
    from lycoris.modules.boft import ButterflyOFTModule
    from lycoris.modules.diag_oft import DiagOFTModule
    from lycoris.modules.ia3 import IA3Module

    state, found = load(path), {}
    for name in shapes():
        own = {key.split(".", 1)[1]: torch.from_numpy(value) for key, value in state.items() if f"{PREFIX}{name}." in key}
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
            change = module.get_diff_weight(1)[0]
        found[name] = np.asarray(change.double().reshape(len(change), -1).numpy())
    return found


@pytest.mark.parametrize("name", sorted(CASES))
def test_alone_in_a_merge_it_is_what_lycoris_makes_of_the_base(files, checkpoint, tmp_path, name) -> None:
    """At a strength, the change of the weight times that, as A1111 has it."""
    outcome = merged(tmp_path, (files[name], 0.5), base=checkpoint)
    found, wanted = added(outcome), by_lycoris(files[name])
    assert found.keys() == wanted.keys()
    assert max(difference(found[layer], 0.5 * wanted[layer]) for layer in wanted) < EXACT
    assert any("fit that model alone" in note for note in outcome.plan.notes)


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_is_added_to_another_lora(files, checkpoint, tmp_path, name) -> None:
    found = added(merged(tmp_path, (files[name], 0.6), (files["lora"], -1.5), base=checkpoint))
    other = a1111_layers(load(files["lora"]), PREFIX, base_weights())
    wanted = {layer: 0.6 * delta - 1.5 * other[layer] for layer, delta in by_lycoris(files[name]).items()}
    assert max(difference(found[layer], wanted[layer]) for layer in wanted) < 3 * EXACT

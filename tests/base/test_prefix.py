"""A prefix that only one checkpoint has is no part of a layer's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lib_resize.base.checkpoint import Checkpoint
from lib_resize.base.checkpoint_keys import looks_like_checkpoint, name_in_denoiser
from lib_resize.base.model_index import read_base
from lib_resize.base.pairing import partner
from lib_resize.base.prefix import own_prefix
from lib_resize.names.families import WAN
from lib_resize.names.family import flatten, layers

BODIES = [
    f"blocks.{n}.{name}" for n in range(3) for name in ("self_attn.q_proj", "cross_attn.output_proj", "mlp.layer1")
]
PREFIXES = ["net.", "dit.", "conditional_transformer.", "model.net.", "module.", "state.dict.of.somebody.", "净."]


def shapes(prefix: str, bodies: list[str] = BODIES) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{body}.weight": (48, 48) for body in bodies}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_layers_pair_by_what_follows_the_prefix(prefix: str) -> None:
    base = read_base(shapes(prefix))
    assert base.prefix == prefix
    assert base.generic.keys() == {f"lora_unet_{flatten(body)}" for body in BODIES}
    for body in BODIES:
        dotted = [f"{other}{body}" for other in ("", "diffusion_model.", "net.", "dit.", "some.other.", prefix)]
        flat = [f"lora_unet_{flatten(other + body)}" for other in ("", prefix)]
        for stem in (*dotted, *flat):
            found = partner(base, None, stem)
            assert found is not None, stem
            assert found.key == f"{prefix}{body}.weight"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_it_looks_like_a_checkpoint(prefix: str) -> None:
    keys = shapes(prefix)
    assert looks_like_checkpoint(keys)
    assert not looks_like_checkpoint([*keys, f"{prefix}blocks.0.self_attn.q_proj.lora_A.weight"])


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_family_is_known_behind_it(prefix: str) -> None:
    rows = [row for row in layers(WAN[2]).values() if row.block != "EDGE"]
    base = read_base({f"{prefix}{row.dotted_names[0]}.weight": row.shape for row in rows})
    assert base.family == WAN[2]
    assert base.weights.keys() == {row.id for row in rows}


@pytest.mark.parametrize(
    "bodies",
    [
        ["double_blocks.0.img_attn.qkv", "txt_in.individual_token_refiner.blocks.0.mlp", "distilled.layers.0.x"],
        ["down_blocks.0.attentions.0.proj_in", "mid_block.attentions.0.proj_in", "up_blocks.1.attentions.0.proj_in"],
        ["blocks.0.q", "blocks.1.q", "llm_adapter.blocks.0.q"],
        ["d0t.attn1.to_q", "d0r.conv1", "mid.attn.0.q", "head"],
        ["text_model.encoder.layers.0.mlp.fc1", "text_model.encoder.layers.1.mlp.fc1"],
        ["encoder.block.0.layer.0.SelfAttention.q", "encoder.block.1.layer.0.SelfAttention.q"],
        ["decoder.up.0.block.0.conv1", "encoder.down.0.block.0.conv1"],
        [],
    ],
    ids=["Flux", "UNet", "with an adapter", "toy", "CLIP", "T5", "VAE", "nothing"],
)
def test_names_without_a_prefix_stay_whole(bodies: list[str]) -> None:
    assert own_prefix(f"{body}.weight" for body in bodies) == ""
    assert read_base(shapes("", bodies)).generic.keys() == {f"lora_unet_{flatten(body)}" for body in bodies}


def test_of_two_guides_in_one_file_the_first_is_the_model() -> None:
    base = read_base(shapes("conditional_transformer.") | shapes("unconditional_transformer."))
    found = partner(base, None, "lora_unet_" + flatten(BODIES[0]))
    assert found is not None
    assert found.key == f"conditional_transformer.{BODIES[0]}.weight"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("net.blocks.0.q.weight", "blocks.0.q.weight"),
        ("model.diffusion_model.img_in.weight", "img_in.weight"),
        ("double_blocks.0.x.weight", "double_blocks.0.x.weight"),
        ("conditioner.embedders.0.transformer.x.weight", None),
        ("first_stage_model.conv.weight", None),
    ],
)
def test_a_key_of_the_denoiser_has_a_name_without_prefix(key: str, name: str | None) -> None:
    assert name_in_denoiser(key, "net.") == name


def test_names_of_a_model_that_is_no_denoiser_are_no_checkpoint() -> None:
    assert not looks_like_checkpoint(["text_model.encoder.layers.0.mlp.fc1.weight"])
    assert not looks_like_checkpoint(["encoder.block.0.layer.0.SelfAttention.q.weight"])


def test_the_file_itself_is_read_so(tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    save_file({f"net.{body}.weight": np.eye(4, dtype=np.float32) for body in BODIES}, path)
    checkpoint = Checkpoint(path)
    assert checkpoint.partner(None, "lora_unet_" + flatten(BODIES[0]), (4, 4)) is not None
    assert set(checkpoint.weights) == {f"lora_unet_{flatten(body)}" for body in BODIES}
    checkpoint.close()

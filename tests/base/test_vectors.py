"""Biases and norms have the names of LoRA files, for all names in checkpoints."""

from __future__ import annotations

import pytest

from lib_resize.base.vectors import named_vectors
from lib_resize.base.weights import BaseWeight

CASES = {
    "SDXL, Stability's words": (
        "lora_unet_input_blocks_4_0_in_layers_2",
        "model.diffusion_model.input_blocks.4.0.in_layers.2",
        "model.diffusion_model.input_blocks.4.0.in_layers.0",
        "lora_unet_input_blocks_4_0_in_layers_0",
    ),
    "SDXL, diffusers' words": (
        "lora_unet_input_blocks_4_0_in_layers_2",
        "unet.down_blocks.1.resnets.0.conv1",
        "unet.down_blocks.1.resnets.0.norm1",
        "lora_unet_input_blocks_4_0_in_layers_0",
    ),
    "SD1.5, Stability's words": (
        "lora_unet_down_blocks_0_resnets_0_conv2",
        "model.diffusion_model.input_blocks.1.0.out_layers.3",
        "model.diffusion_model.input_blocks.1.0.out_layers.0",
        "lora_unet_down_blocks_0_resnets_0_norm2",
    ),
    "in a transformer": (
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2",
        "middle_block.1.transformer_blocks.0.ff.net.2",
        "middle_block.1.transformer_blocks.0.norm3",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm3",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_norm_is_named_after_the_layer_behind_it(case: str) -> None:
    name, layer, norm, wanted = CASES[case]
    vectors = {f"{layer}.bias": (4,), f"{norm}.weight": (4,), f"{norm}.bias": (4,)}
    weights = {name: BaseWeight(f"{layer}.weight", (4, 4))}
    found = {one.name: one.key for one in named_vectors(weights, vectors, norms=True).values()}
    assert found == {
        f"{name}.diff_b": f"{layer}.bias",
        f"{wanted}.w_norm": f"{norm}.weight",
        f"{wanted}.b_norm": f"{norm}.bias",
    }
    assert named_vectors(weights, vectors, norms=False).keys() == {f"{name}.diff_b"}


def test_norms_of_text_encoders_have_no_name() -> None:
    weights = {"lora_te1_x_proj_in": BaseWeight("x.proj_in.weight", (4, 4))}
    assert named_vectors(weights, {"x.norm.weight": (4,)}, norms=True) == {}

"""The tables of families: counts, canonical ids, components, blocks and groups."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter

import pytest

from lib_resize.names.families import FAMILIES, SD2, SD15, SDXL, attention_group, block, component
from lib_resize.names.family import Family, LayerName, flatten, layers
from lib_resize.names.identify import canonical_id

family_cases = pytest.mark.parametrize("family", FAMILIES, ids=[f"{one.name} {one.size}".strip() for one in FAMILIES])


def test_every_family_has_the_layers_of_its_parts() -> None:
    assert Counter(row.component for row in layers(SDXL).values()) == {"unet": 794, "te1": 72, "te2": 193}
    assert Counter(row.component for row in layers(SD15).values()) == {"unet": 282, "te": 72}
    assert Counter(row.component for row in layers(SD2).values()) == {"unet": 282, "te": 144}


@family_cases
def test_an_id_is_a_key_format_of_its_layer(family: Family) -> None:
    starts = ("lora_unet_", "lora_transformer_", "lora_prior_unet_", "lora_prior_te_")
    for name, row in layers(family).items():
        assert name == row.id
        assert name in {
            f"{start}{flatten(spelling)}"
            for spelling in row.dotted_names
            for start in (f"lora_{row.component}_", *starts)
        }


@family_cases
def test_an_id_is_found_again_by_itself(family: Family) -> None:
    assert all(canonical_id(name, family) == name for name in layers(family))


@family_cases
def test_every_key_format_leads_to_its_layer(family: Family) -> None:
    rows = [row for row in layers(family).values() if row.component == "unet"]
    for row in rows:
        for spelling in row.dotted_names:
            assert canonical_id(f"diffusion_model.{spelling}", family) == row.id
            assert canonical_id(f"lycoris_{flatten(spelling)}", family) == row.id


@family_cases
def test_the_pieces_of_a_weight_cover_it_once_and_in_order(family: Family) -> None:
    table = layers(family)
    pieces: dict[str, list[LayerName]] = {}
    for row in table.values():
        if row.whole is not None:
            pieces.setdefault(row.whole, []).append(row)
    for whole, found in pieces.items():
        rows = table[whole].shape[0]
        spans = []
        for row in found:
            span = row.share.rows(rows)
            assert span is not None
            spans.append(span)
        assert all(stop - start == row.shape[0] for (start, stop), row in zip(spans, found, strict=True))
        assert all(row.shape[1:] == table[whole].shape[1:] for row in found)
        cuts = [span for span, row in zip(spans, found, strict=True) if not row.id.endswith("linear1_qkv")]
        assert [start for start, _ in cuts] == [0, *(stop for _, stop in cuts[:-1])]
        assert cuts[-1][1] == rows


@family_cases
def test_the_entrance_is_a_layer(family: Family) -> None:
    assert family.input_layer in layers(family)


@family_cases
def test_no_two_layers_of_a_component_share_a_key_format(family: Family) -> None:
    for owner in family.components:
        rows = [row for row in layers(family).values() if row.component == owner]
        dotted = Counter(spelling for row in rows for spelling in row.dotted_names)
        flat = Counter(spelling for row in rows for spelling in set(map(flatten, row.dotted_names)))
        assert max(dotted.values()) == max(flat.values()) == 1


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (SDXL, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"),
        (SDXL, "lora_unet_output_blocks_5_2_conv"),
        (SDXL, "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        (SDXL, "lora_te2_text_model_encoder_layers_31_self_attn_out_proj"),
        (SDXL, "lora_te2_text_projection"),
        (SD15, "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_out_0"),
        (SD15, "lora_te_text_model_encoder_layers_11_mlp_fc2"),
        (SD2, "lora_unet_mid_block_attentions_0_proj_in"),
        (SD2, "lora_te_text_model_encoder_layers_22_self_attn_q_proj"),
    ],
)
def test_known_names_are_ids(family: Family, name: str) -> None:
    assert name in layers(family)


def test_the_table_of_a_family_is_made_once_and_cannot_be_changed() -> None:
    assert layers(SDXL) is layers(SDXL)
    with pytest.raises(TypeError):
        layers(SDXL)["x"] = next(iter(layers(SDXL).values()))  # type: ignore[index]


@family_cases
def test_a_family_stays_itself_in_another_process(family: Family) -> None:
    assert pickle.loads(pickle.dumps(family)) == family


@family_cases
def test_the_component_of_every_layer_can_be_read_from_its_id(family: Family) -> None:
    assert all(component(name) == row.component for name, row in layers(family).items())


def test_a_name_of_no_component_is_other() -> None:
    assert component("lora_unet_d0t_attn1_to_q") == "unet"
    assert component("transformer.x") == "other"


def test_blocks_of_sdxl_are_counted_as_in_its_checkpoint() -> None:
    found = Counter(block(name) for name in layers(SDXL))
    ins, outs = {f"IN{n:02d}" for n in range(9)}, {f"OUT{n:02d}" for n in range(9)}
    assert found.keys() == ins | outs | {"MID", "TIME", "LABEL", "OUT", "TE1", "TE2"}
    assert block("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q") == "IN04"
    assert block("lora_unet_output_blocks_2_2_conv") == "OUT02"


def test_sd15_uses_the_same_block_labels_as_a_checkpoint() -> None:
    assert block("lora_unet_down_blocks_0_attentions_0_proj_in") == "IN01"
    assert block("lora_unet_up_blocks_3_attentions_2_proj_out") == "OUT11"
    assert block("lora_unet_mid_block_resnets_1_conv1") == "MID"
    assert block("lora_te_text_model_encoder_layers_0_mlp_fc1") == "TE"


def test_a_layer_of_no_family_is_in_block_other() -> None:
    assert block("lora_unet_d0t_attn1_to_q") == "OTHER"


@pytest.mark.parametrize(("family", "owner", "depth"), [(SDXL, "te2", 32), (SD2, "te", 24)])
def test_open_clip_attention_comes_in_groups_of_four(family: Family, owner: str, depth: int) -> None:
    groups: dict[str, set[str]] = {}
    for name in layers(family):
        key = attention_group(name, family)
        if key is not None:
            groups.setdefault(key, set()).add(name)
    assert len(groups) == depth
    start = f"lora_{owner}_text_model_encoder_layers_7_self_attn"
    assert groups[start] == {f"{start}_{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")}
    assert all(len(members) == 4 for members in groups.values())


def test_layers_of_the_other_encoders_are_alone() -> None:
    assert all(attention_group(name, SD15) is None for name in layers(SD15))
    assert all(attention_group(n, SDXL) is None for n, row in layers(SDXL).items() if row.component != "te2")
    assert attention_group("lora_te2_text_model_encoder_layers_0_mlp_fc1", SDXL) is None
    assert attention_group("no such layer", SDXL) is None


def test_names_need_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, lib_resize.names.identify\nprint(sorted({'numpy', 'torch', 'safetensors'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

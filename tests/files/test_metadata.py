"""Laws of the metadata: nothing is lost, and nothing that is left is false."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_resize.files.header import PLACEHOLDERS
from lib_resize.files.metadata import (
    LayerFact,
    MergedSource,
    MetadataFacts,
    ResizeRecord,
    has_resize_record,
    shared_metadata,
    updated_metadata,
)

RECORD = ResizeRecord("0.1.0", "源.safetensors", "ab" * 32, "fro_lora=1,retain=0.9", threshold=-1.5, retention=0.93)
KOHYA = {
    "ss_network_module": "networks.lora",
    "ss_network_dim": "32",
    "ss_network_alpha": "16.0",
    "ss_network_args": json.dumps({"conv_dim": "8", "conv_alpha": "4", "algo": "locon", "preset": "full"}),
    "ss_output_name": "old_name",
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_training_comment": "my comment",
    "ss_tag_frequency": '{"10_x": {"1girl": 3}}',
    "ss_sd_model_hash": "e6bb9ea8",
    "sshs_model_hash": "1" * 64,
    "sshs_legacy_hash": "1" * 8,
    "unet:0:rank": "4",
    "<s1>": "<embed>",
    "own key": "中文",
}
MODELSPEC = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.title": "My Style",
    "modelspec.author": "someone",
    "modelspec.hash_sha256": "0xabc",
    "modelspec.unet_dtype": "float32",
}


def facts(layers: Mapping[str, LayerFact], **changes) -> MetadataFacts:
    return MetadataFacts(**{"output_name": "new_name", "record": RECORD, "layers": layers, **changes})


def uniform(rank: int = 8, alpha: float | None = 8.0, conv: bool = False) -> dict[str, LayerFact]:
    return {f"lora_unet_{conv}_{i}": LayerFact(rank, alpha, conv) for i in range(3)}


def test_uniform_ranks_are_numbers():
    stamped = updated_metadata(KOHYA, facts(uniform(8, 4.0), source_rank=32))
    assert stamped["ss_network_dim"] == "8"
    assert float(stamped["ss_network_alpha"]) == 4.0
    assert stamped["ss_training_comment"] == "dimension is resized from 32 to 8; my comment"


def test_mixed_ranks_are_dynamic_while_a_constant_alpha_is_a_number():
    stamped = updated_metadata(KOHYA, facts({"a": LayerFact(8, 8.0), "b": LayerFact(3, 8.0)}, source_rank=None))
    assert stamped["ss_network_dim"] == "Dynamic"
    assert float(stamped["ss_network_alpha"]) == 8.0
    assert stamped["ss_training_comment"] == "dimension is resized from Dynamic to Dynamic; my comment"


def test_mixed_alphas_are_dynamic():
    layers = {"a": LayerFact(8, 8.0), "b": LayerFact(3, 3.0)}
    assert updated_metadata(KOHYA, facts(layers))["ss_network_alpha"] == "Dynamic"


def test_a_file_without_alphas_has_alpha_equal_to_rank():
    assert float(updated_metadata(KOHYA, facts(uniform(8, None)))["ss_network_alpha"]) == 8
    assert updated_metadata(KOHYA, facts({"a": LayerFact(8), "b": LayerFact(3)}))["ss_network_alpha"] == "Dynamic"


def arguments(layers: Mapping[str, LayerFact], source: Mapping[str, str] = KOHYA) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(updated_metadata(source, facts(layers))["ss_network_args"])
    return found


def test_convolutions_have_a_rank_of_their_own():
    layers = {**uniform(8, 8.0), **uniform(2, 1.0, conv=True)}
    assert arguments(layers) == {"algo": "locon", "preset": "full", "conv_dim": "2", "conv_alpha": "1.0"}
    assert updated_metadata(KOHYA, facts(layers))["ss_network_dim"] == "8"


@pytest.mark.parametrize(
    "layers", [uniform(), {**uniform(), "c": LayerFact(2, 1.0, True), "d": LayerFact(3, 1.0, True)}]
)
def test_no_one_rank_of_convolutions_no_conv_dim(layers):
    assert arguments(layers) == {"algo": "locon", "preset": "full"}


def test_ranks_per_part_of_the_model_are_gone():
    source = {**KOHYA, "ss_network_args": json.dumps({"block_dims": "2,4", "block_alphas": "1,1", "dropout": 0.1})}
    assert arguments(uniform(), source) == {"dropout": 0.1}


@pytest.mark.parametrize("text", ["null", "None", "[1]", "{broken", "[" * 100_000])
def test_arguments_that_cannot_be_read_are_kept(text):
    assert updated_metadata({**KOHYA, "ss_network_args": text}, facts(uniform()))["ss_network_args"] == text


def test_only_convolutions_give_the_rank_of_the_file():
    assert updated_metadata({}, facts(uniform(4, 4.0, conv=True)))["ss_network_dim"] == "4"


def test_a_file_without_low_rank_layers_keeps_what_it_said():
    stamped = updated_metadata(KOHYA, facts({}))
    assert stamped["ss_network_dim"] == "32"
    assert stamped["ss_network_args"] == KOHYA["ss_network_args"]


def test_everything_else_is_copied():
    stamped = updated_metadata(KOHYA, facts(uniform()))
    for key in ("ss_network_module", "ss_tag_frequency", "ss_sd_model_hash", "unet:0:rank", "<s1>", "own key"):
        assert stamped[key] == KOHYA[key]
    assert stamped["ss_output_name"] == "new_name"
    assert stamped.items() >= PLACEHOLDERS.items()


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=6))
def test_no_key_is_lost_and_all_is_text(source):
    stamped = updated_metadata(source, facts(uniform()))
    gone = source.keys() - stamped.keys()
    assert gone <= {"modelspec.hash_sha256", "modelspec.unet_dtype", "lora_adapter_metadata"}
    assert all(isinstance(key, str) and isinstance(text, str) for key, text in stamped.items())
    assert has_resize_record(stamped)


def test_the_source_is_not_changed():
    source = dict(KOHYA)
    updated_metadata(source, facts(uniform()))
    assert source == KOHYA


def test_the_module_is_named_anew_where_the_kind_changed():
    stamped = updated_metadata(KOHYA, facts(uniform(), network_module="networks.lora_new"))
    assert stamped["ss_network_module"] == "networks.lora_new"


@pytest.mark.parametrize(
    ("source", "known", "version", "second"),
    [
        ({}, None, None, None),
        ({}, "sdxl_base_v1-0", "sdxl_base_v1-0", None),
        ({}, "sd_v1", "sd_v1", None),
        ({}, "sd_v2", "sd_v2", "True"),
        ({"ss_base_model_version": "sd_v2_v"}, None, "sd_v2_v", "True"),
        ({"ss_base_model_version": "sdxl_base_v0-9"}, "sdxl_base_v1-0", "sdxl_base_v0-9", None),
        ({"ss_v2": "False"}, "sd_v1", "sd_v1", "False"),
    ],
)
def test_the_family_is_kept_or_written(source, known, version, second):
    stamped = updated_metadata(source, facts(uniform(), base_model_version=known))
    assert stamped.get("ss_base_model_version") == version
    assert stamped.get("ss_v2") == second


@pytest.mark.parametrize("old", [None, "", "None"])
def test_no_comment_before_none_after(old):
    source = {} if old is None else {"ss_training_comment": old}
    assert updated_metadata(source, facts(uniform(), source_rank=32))["ss_training_comment"] == (
        "dimension is resized from 32 to 8; "
    )


def test_modelspec_keeps_the_work_and_drops_the_bytes():
    stamped = updated_metadata({**KOHYA, **MODELSPEC}, facts(uniform()))
    spec = {key: text for key, text in stamped.items() if key.startswith("modelspec.")}
    assert spec == {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": "My Style",
        "modelspec.author": "someone",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    }


def test_an_architecture_that_is_there_is_kept_and_none_is_invented():
    named = {"modelspec.architecture": "flux-1-dev/lora"}
    assert updated_metadata({**KOHYA, **named}, facts(uniform()))["modelspec.architecture"] == "flux-1-dev/lora"
    assert not any(key.startswith("modelspec.") for key in updated_metadata(KOHYA, facts(uniform())))
    assert "modelspec.architecture" not in updated_metadata(MODELSPEC, facts(uniform()))


@pytest.mark.parametrize(
    ("version", "architecture"),
    [
        ("sd_v1", "stable-diffusion-v1/lora"),
        ("sd_v2", "stable-diffusion-v2-512/lora"),
        ("sd_v2_v", "stable-diffusion-v2-768-v/lora"),
    ],
)
def test_architectures_follow_the_family(version, architecture):
    stamped = updated_metadata(MODELSPEC, facts(uniform(), base_model_version=version))
    assert stamped["modelspec.architecture"] == architecture


MERGED = [MergedSource("a.safetensors", "aa" * 32, 0.6), MergedSource("b.safetensors", "bb" * 32, 0.4)]


def test_a_merge_names_its_sources():
    record = ResizeRecord("0.1.0", "a.safetensors", "aa" * 32, "rank=8", merged=MERGED)
    stamped = updated_metadata(MODELSPEC, facts(uniform(), record=record))
    assert stamped["modelspec.merged_from"] == "a.safetensors, b.safetensors"
    assert stamped["ss_training_comment"].startswith("merged from 2 files; dimension is resized from")
    assert json.loads(stamped["resize_lora"])["merged"] == [
        {"name": "a.safetensors", "sha256": "aa" * 32, "weight": 0.6},
        {"name": "b.safetensors", "sha256": "bb" * 32, "weight": 0.4},
    ]


def test_the_record_names_where_the_file_comes_from():
    record = json.loads(updated_metadata(KOHYA, facts(uniform()))["resize_lora"])
    assert record == {
        "version": "0.1.0",
        "source": "源.safetensors",
        "source_sha256": "ab" * 32,
        "source_model_hash": "1" * 64,
        "recipe": "fro_lora=1,retain=0.9",
        "threshold": -1.5,
        "retention": 0.93,
    }


def test_a_record_holds_no_words_that_json_does_not_know():
    record = ResizeRecord("1", "a", "b", "c", threshold=float("-inf"), retention=float("nan"))
    text = updated_metadata({}, facts(uniform(), record=record))["resize_lora"]
    assert json.loads(text, parse_constant=pytest.fail)["threshold"] is None


def test_earlier_records_are_kept_oldest_first():
    metadata: dict[str, str] = {}
    for version in "123":
        metadata = updated_metadata(metadata, facts(uniform(), record=ResizeRecord(version, "s", "h", "r")))
    record = json.loads(metadata["resize_lora"])
    assert record["version"] == "3"
    assert [earlier["version"] for earlier in record["earlier"]] == ["1", "2"]
    assert all("earlier" not in earlier for earlier in record["earlier"])


@pytest.mark.parametrize("text", [None, "", "1", "{}", "{broken", '{"a": 1}'])
def test_what_is_not_our_record_is_not_ours(text):
    assert not has_resize_record({} if text is None else {"resize_lora": text})


def test_a_merge_begins_with_what_all_agree_on():
    first = {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False", "a": "1", "b": "2", "c": "3"}
    second = {"ss_v2": "True", "b": "2", "a": "x"}
    assert shared_metadata([first, second]) == {"b": "2", "ss_base_model_version": "sdxl_base_v1-0"}
    assert shared_metadata([first]) == first
    assert shared_metadata([]) == {}


def settings_of(prefix: str = "unet.", **changes) -> dict[str, str]:
    described = {
        "r": 16,
        "lora_alpha": 8,
        "rank_pattern": {"old": 4},
        "alpha_pattern": {"old": 2},
        "use_rslora": True,
        "target_modules": ["to_q"],
        "use_dora": False,
    }
    described = {f"{prefix}{key}": value for key, value in described.items()}
    return {"lora_adapter_metadata": json.dumps({**described, **changes})}


def peft_ranks(stamped: Mapping[str, str], prefix: str, names: list[str]) -> dict[str, tuple[int, int]]:
    """Rank and alpha that PEFT gives each layer: the first pattern that ends its name, else the defaults."""
    configuration = json.loads(stamped["lora_adapter_metadata"])

    def look_up(pattern: dict[str, int], name: str, default: int) -> int:
        hits = [value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)]
        return hits[0] if hits else default

    return {
        name: (
            look_up(configuration[f"{prefix}rank_pattern"], name, configuration[f"{prefix}r"]),
            look_up(configuration[f"{prefix}alpha_pattern"], name, configuration[f"{prefix}lora_alpha"]),
        )
        for name in names
    }


@pytest.mark.parametrize("prefix", ["unet.", ""])
@pytest.mark.parametrize("ranks", [[4, 4, 4, 4], [4, 2, 4, 1], [1, 2, 3, 4], [9, 1, 1, 1]])
def test_adapter_settings_give_every_layer_its_rank_and_scale_one(ranks, prefix):
    names = ["down.0.to_q", "down.1.to_q", "proj_out", "transformer.proj_out"]
    layers = {f"{prefix}{name}": LayerFact(rank) for name, rank in zip(names, ranks, strict=True)}
    source = settings_of(prefix=prefix)
    stamped = updated_metadata(source, facts(layers))
    expected = {name: (rank, rank) for name, rank in zip(names, ranks, strict=True)}
    assert peft_ranks(stamped, prefix, names) == expected
    configuration = json.loads(stamped["lora_adapter_metadata"])
    assert configuration[f"{prefix}use_rslora"] is False
    assert configuration[f"{prefix}target_modules"] == ["to_q"]


def test_adapter_settings_of_text_encoders_match_both_key_formats():
    ranks: dict[str, Any] = {"text_encoder.r": 16, "text_encoder_2.r": 16}
    source = settings_of(**ranks)
    layers = {
        "unet.to_q": LayerFact(4),
        "text_encoder.text_model.encoder.layers.0.q_proj": LayerFact(2),
        "text_encoder.text_model.encoder.layers.1.q_proj": LayerFact(3),
        "text_encoder.text_model.encoder.layers.2.q_proj": LayerFact(3),
        "text_encoder_2.text_model.encoder.layers.0.q_proj": LayerFact(5),
    }
    stamped = updated_metadata(source, facts(layers))
    for lead in ("", "text_model."):
        names = [f"{lead}encoder.layers.{i}.q_proj" for i in range(3)]
        assert list(peft_ranks(stamped, "text_encoder.", names).values()) == [(2, 2), (3, 3), (3, 3)]
        assert list(peft_ranks(stamped, "text_encoder_2.", names[:1]).values()) == [(5, 5)]


@pytest.mark.parametrize(
    "layers",
    [
        {},
        {"lora_unet_to_q": LayerFact(4)},
        {"unet.to_q": LayerFact(4), "lora_te1_x": LayerFact(4)},
        {"unet.to_q": LayerFact(4, alpha=4.0)},
        {"unet.attn1.processor.to_q": LayerFact(4)},
    ],
)
def test_adapter_settings_that_cannot_be_made_true_are_gone(layers):
    assert "lora_adapter_metadata" not in updated_metadata(settings_of(), facts(layers))


def test_damaged_adapter_settings_are_gone():
    assert "lora_adapter_metadata" not in updated_metadata({"lora_adapter_metadata": "{r:"}, facts(uniform()))


@pytest.mark.parametrize("version", ["hunyuan_video_1_5", "wan_2_2", "qwen_image_2", "ideogram4"])
def test_another_version_of_a_model_gets_no_architecture(version):
    assert "modelspec.architecture" not in updated_metadata(
        {**MODELSPEC, "ss_base_model_version": version}, facts(uniform())
    )


@pytest.mark.parametrize("key", ["lora_adapter_metadata", "resize_lora", "ss_network_args"])
@pytest.mark.parametrize(("start", "stop"), [("[", "]"), ('{"a":', "}")])
def test_documents_nested_too_deeply_to_be_written_again_are_as_good_as_none(key, start, stop):
    """The depth of Python's stack varies, so the limit of this program comes first."""
    layers = {"unet.a": LayerFact(2)}

    def stamped(depth: int) -> dict[str, str]:
        deep = start * depth + "1" + stop * depth
        return updated_metadata({key: f'{{"unet.r": 4, "version": "1", "deep": {deep}}}'}, facts(layers))

    assert '"deep"' in stamped(90)[key]
    assert '"deep"' not in json.dumps(stamped(150).get(key, "")) or key == "ss_network_args"
    assert stamped(150) == stamped(100_000) | ({key: stamped(150)[key]} if key == "ss_network_args" else {})

"""What users of SD.Next should know of a tag, where SD.Next reads it in another way than A1111."""

from __future__ import annotations

import pytest

from lib_resize.prompts.sdnext_tags import warnings_in_sdnext
from lib_resize.prompts.tags import parse_prompt


def warnings(text: str) -> tuple[str, ...]:
    (tag,) = parse_prompt(text).tags
    return warnings_in_sdnext(tag)


@pytest.mark.parametrize(
    "text",
    ["<lora:a>", "<lora:a:0.5>", "<lora:a:te=0.5:unet=1.5:dyn=8>", "<lora:a:0.5:in=0:mid=1:out=0.5>", "<lora:a:te=0>"],
)
def test_its_own_syntax_needs_no_remark(text: str) -> None:
    assert warnings(text) == ()


@pytest.mark.parametrize("text", ["<lora:a:0.5:1.5>", "<lora:a:0.5:1.5:8>", "<lora:a:1:1>"])
def test_it_reads_one_value_behind_the_name(text: str) -> None:
    (warning,) = warnings(text)
    assert warning.startswith("SD.Next reads one strength behind the name")


def test_it_has_no_lyco_and_no_block_weights() -> None:
    assert warnings("<lyco:a:1>") == ("SD.Next ignores <lyco:…>, but it is baked",)
    (warning,) = warnings("<lora:a:1:lbw=OUTALL>")
    assert warning.startswith("SD.Next ignores lbw=OUTALL")


def test_an_old_place_of_block_weights_counts_as_a_value() -> None:
    assert len(warnings("<lora:a:1:OUTALL>")) == 2


def test_an_unknown_option_is_named_as_everywhere() -> None:
    assert warnings("<lora:a:1:foo=2>") == ("foo=2 is not an option of any known host and was ignored",)

"""PEFT's rank_pattern and alpha_pattern: what PEFT matches, without running what a file brought."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lib_resize.adapters.read import patterns as module
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.adapters.read.patterns import NamePatterns
from lib_resize.errors import LayerError, UnsupportedError
from lib_resize.files.reader import SafeFile
from tests.adapters.lorafiles import factors, write

KEYS = [
    "to_q",
    "attn.to_q",
    r"blocks\.0\.attn\.to_q",
    "^blocks.0.attn.to_q",
    "to_q$",
    "^to_q",
    "to_k|to_v",
    "^blocks.1.attn.to_k|out.0",
    re.escape("blocks.1.my-attn.to_k"),
]
NAMES = [
    "to_q",
    "attn.to_q",
    "blocks.0.attn.to_q",
    "blocks.10.attn.to_q",
    "xto_q",
    "blocks.1.attn.to_k",
    "blocks.0.attn.to_v",
    "blocks.0.attn.to_out.0",
    "blocks.0.out.0",
    "blocks.1.my-attn.to_k",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_key_that_peft_matches_wins(name: str) -> None:
    get_pattern_key = pytest.importorskip("peft.utils.other").get_pattern_key
    for keys in ([key] for key in KEYS):
        assert NamePatterns(dict.fromkeys(keys, 7)).get(name, 1) == (7 if get_pattern_key(keys, name) in keys else 1)
    for keys in (KEYS, KEYS[::-1]):
        values = {key: place for place, key in enumerate(keys)}
        assert NamePatterns(values).get(name, -1) == values.get(get_pattern_key(keys, name), -1)


@pytest.mark.parametrize(
    "key", ["(a+)+", ".*to_q", r"layers\.\d+\.to_q", "to_[qk]", "a{999999999}", "", "to_q|", "a b"]
)
def test_a_regular_expression_is_named_and_not_run(key: str) -> None:
    with pytest.raises(ValueError, match=re.escape("the regular expression")):
        NamePatterns({key: 2})


def adapter(path: Path, fields: dict[str, object], stem: str = "unet.mid.to_q") -> Path:
    up, down = factors(12, 10, 4)
    tensors = {f"{stem}.lora_B.weight": up, f"{stem}.lora_A.weight": down}
    written: Path = write(path, tensors, {"lora_adapter_metadata": json.dumps(fields)})
    return written


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_file_with_a_regular_expression_is_refused_by_that_name(tmp_path: Path, field: str) -> None:
    fields = {"unet.r": 4, "unet.lora_alpha": 1, f"unet.{field}": {"(a+)+" * 1000: 2}}
    path = adapter(tmp_path / "x.safetensors", fields, stem="unet." + "a" * 40 + "b")
    with SafeFile(path) as file, pytest.raises(UnsupportedError, match=field) as caught:
        read_adapter(file)
    assert "(a+)+" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [10**400, "4", None, [], float("nan"), 0, -1])
def test_a_rank_that_is_no_number_is_an_error_of_that_layer(tmp_path: Path, value: object) -> None:
    path = adapter(tmp_path / "x.safetensors", {"unet.lora_alpha": 1, "unet.rank_pattern": {"to_q": value}})
    with SafeFile(path) as file, pytest.raises(LayerError, match=r"mid\.to_q") as caught:
        read_adapter(file)
    assert len(str(caught.value)) < 600


def test_metadata_too_deep_for_json_is_ignored_as_by_other_tools(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.safetensors",
        {f"unet.q.lora_{word}.weight": np.ones((4, 4), np.float32) for word in "AB"},
        {"lora_adapter_metadata": "[" * 100_000},
    )
    with SafeFile(path) as file:
        assert read_adapter(file).layers[0].form.scale == 1.0


def test_a_look_up_compares_no_more_than_the_lengths_of_keys() -> None:
    """A look-up of a name with many dots, among keys of one length: one piece of the name is looked at."""
    found = NamePatterns({f"key{i:06}": i for i in range(1000)})
    assert found._endings("a." * 50_000 + "key000999") == ["key000999"]
    assert found.get("a." * 50_000 + "key000999", None) == 999


def test_no_key_of_a_file_becomes_a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Spy:
        def __getattr__(self, name: str) -> object:
            seen.append(name)
            return getattr(re, name)

    monkeypatch.setattr(module, "re", Spy())
    NamePatterns({"to_q": 2}).get("blocks.0.to_q", 1)
    assert seen == []

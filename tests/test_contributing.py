"""The examples of CONTRIBUTING.md work: each block is put where its first line says."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def examples(title: str) -> Iterator[tuple[str, str, str]]:
    """Yield module, name of the table (or "") and text of each Python block of a section."""
    text = re.split(rf"^## {title}$", PAGE, flags=re.MULTILINE)[1].split("\n## ")[0]
    pattern = r"^```python\n# (lib_resize/[\w/]+)\.py(?:, in (\w+))?\n(.*?)^```$"
    for path, table, block in re.findall(pattern, text, re.MULTILINE | re.DOTALL):
        yield path.replace("/", "."), table, block


def module_of(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module, or an empty one of that name where the example is a new file."""
    if (ROOT / f"{name.replace('.', '/')}.py").exists():
        return importlib.import_module(name)
    made = ModuleType(name)
    made.__package__ = name.rpartition(".")[0]
    monkeypatch.setitem(sys.modules, name, made)
    return made


def apply(title: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Apply the examples of a section for the time of a test. Return the new names."""
    new: dict[str, Any] = {}
    for name, table, block in examples(title):
        module = module_of(name, monkeypatch)
        if table:
            _add_rows(module, table, block, monkeypatch)
            continue
        scope = dict(vars(module))
        exec(compile(block, name, "exec"), scope)
        added = {key: value for key, value in scope.items() if key not in vars(module) and key != "__builtins__"}
        for key, value in added.items():
            monkeypatch.setattr(module, key, value, raising=False)
        new |= added
    assert list(examples(title))
    return new


def _add_rows(module: ModuleType, table: str, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = getattr(module, table)
    if isinstance(old, dict):
        for key, value in eval(f"{{{rows}}}", vars(module)).items():
            monkeypatch.setitem(old, key, value)
    else:
        monkeypatch.setattr(module, table, (*eval(f"({rows})", vars(module)), *old))


def test_a_kind_of_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_resize.adapters.read.adapter import layers_by_stem

    apply("A kind of adapter", monkeypatch)
    ((kind, parts),) = layers_by_stem(["lora_unet_mid_block_x.toy_gate"]).values()
    assert (kind.name, kind.verdict, list(parts)) == ("Toy gate", "copy", ["toy_gate"])


def test_a_model_family(monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_resize.names import families
    from lib_resize.names.family import layers

    apply("A model family", monkeypatch)
    (toy,) = (family for family in families.FAMILIES if family.name == "Toy DiT")
    rows = layers(toy)
    assert rows["lora_unet_blocks_23_attn_qkv"].shape == (4608, 1536)
    assert rows["lora_transformer_transformer_blocks_0_attn_to_q"].whole == "lora_unet_blocks_0_attn_qkv"


def test_a_recipe_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_resize.recipe.grammar import parse_recipe
    from lib_resize.recipe.scores import LayerFacts
    from lib_resize.recipe.select import SelectionInput, choose

    apply("A recipe word", monkeypatch)
    layer = LayerFacts("x", np.array([4.0, 3.0, 2.0, 1.0]), 64)
    choice = choose(parse_recipe("sv_part=0.5"), SelectionInput((layer,)))
    assert [list(kept) for kept in choice.kept] == [[0, 1]]


def test_a_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host_class = apply("A host", monkeypatch)["ToyHost"]
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "ink.safetensors").write_bytes(b"")
    host = host_class(tmp_path)
    assert [lora.name for lora in host.loras()] == ["ink"]
    assert host.settings() == {"resize_lora_preset": "High"}
    assert host.features == frozenset()


def test_a_translation() -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    known = json.loads((ROOT / "localizations" / "ja.json").read_text("utf-8"))
    example = json.loads(block)
    assert example.keys() <= known.keys()
    assert all(re.findall(r"\{\w+\}", key) == re.findall(r"\{\w+\}", value) for key, value in example.items())

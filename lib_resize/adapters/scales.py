"""The scale of a layer whose file keeps it outside the tensors: PEFT's and diffusers' configurations.

PEFT multiplies ``up @ down`` by ``lora_alpha / r``, or by ``lora_alpha / sqrt(r)`` with ``use_rslora``; rank and
alpha of single layers stand in ``rank_pattern`` and ``alpha_pattern``, whose keys match the end of a layer's name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DamagedFileError, LayerError, UnsupportedError
from ..files.stamp import made_by_us

CONFIG_NAME = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"


@dataclass(frozen=True)
class Config:
    """One configuration, for the stems that start with its prefix."""

    prefix: str
    fields: Mapping[str, Any]
    origin: str
    """Where it was found, for notes."""
    path: Path
    """The adapter's file, for messages."""

    def scale(self, stem: str, rank: int | None) -> float:
        """Scale of a layer, `rank` being its rank on disk.

        Where the configuration tells another rank than the file has, somebody has resized the tensors since and left
        the configuration; the scale is that of training all the same. `rank` is None for a layer that has none of
        its own (a LoKr in full), which PEFT scales all the same.
        """
        name = stem[len(self.prefix) :]
        trained = self._number("r", "rank_pattern", name, 1 if rank is None else rank)
        alpha = self._number(self._alpha, "alpha_pattern", name, trained)
        return alpha / (math.sqrt(trained) if self.fields.get("use_rslora") else trained)

    @property
    def _alpha(self) -> str:
        """PEFT's LoHa and LoKr call it ``alpha``."""
        return "lora_alpha" if "lora_alpha" in self.fields else "alpha"

    def _number(self, field: str, patterns: str, name: str, default: float) -> float:
        value = _patterned(self.fields.get(patterns), name, self.fields.get(field, default))
        if not isinstance(value, (int, float)) or not math.isfinite(value) or (field == "r" and value <= 0):
            raise LayerError(
                f"{self.path}: layer {name}: {self.origin} gives {field} as {value!r}; a number was expected. "
                f"Put the right one there, or take the field out to use scale 1."
            )
        return float(value)


def find_configs(path: Path, metadata: Mapping[str, str], stems: list[str]) -> list[Config]:
    """The configurations that belong to a file: in its metadata, or beside it for a PEFT adapter."""
    found = _configs(path, metadata, stems)
    for config in found:
        for flag, name in _NOT_A_PRODUCT.items():
            if config.fields.get(flag):
                raise UnsupportedError(
                    f"{path}: {config.origin} tells {flag}: {name}, whose delta is not up times down. It is read by "
                    f"PEFT alone; have PEFT merge it into the model, and extract a LoRA from that."
                )
    return found


_NOT_A_PRODUCT = {"use_qalora": "QA-LoRA", "use_bdlora": "BD-LoRA"}


def _configs(path: Path, metadata: Mapping[str, str], stems: list[str]) -> list[Config]:
    if METADATA_KEY in metadata:
        return _from_metadata(metadata[METADATA_KEY], path)
    if made_by_us(metadata):
        return []  # a result of ours has scale 1, and the configuration beside it is that of its source
    beside = path.parent / CONFIG_NAME
    is_peft = path.stem.startswith("adapter_model") or any(stem.startswith("base_model.model.") for stem in stems)
    if is_peft and beside.is_file():
        return [Config(prefix="base_model.model.", fields=_read(beside), origin=CONFIG_NAME, path=path)]
    return []


def outer_scale(configs: list[Config], stem: str, rank: int | None) -> tuple[float, str] | None:
    """Scale and its origin for a stem; None where no configuration speaks of it."""
    for config in configs:
        if stem.startswith(config.prefix):
            return config.scale(stem, rank), config.origin
    return None


def _from_metadata(text: str, path: Path) -> list[Config]:
    try:
        fields = json.loads(text)
    except ValueError:
        return []  # other tools ignore it as well
    if not isinstance(fields, dict):
        return []
    by_prefix: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        prefix, _, field = name.rpartition(".")
        by_prefix.setdefault(prefix, {})[field] = value
    return [
        Config(prefix=f"{prefix}." if prefix else "", fields=values, origin=METADATA_KEY, path=path)
        for prefix, values in sorted(by_prefix.items(), reverse=True)
        if "lora_alpha" in values
    ]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedFileError(
            f"{path}: cannot be read as JSON ({error}). The adapter beside it needs its lora_alpha; "
            f"repair the file, or move it away to use scale 1."
        ) from error
    if not isinstance(fields, dict):
        raise DamagedFileError(f"{path}: an object was expected, found {type(fields).__name__}.")
    return fields


def _patterned(patterns: Any, name: str, default: Any) -> Any:
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
        except re.error:
            continue
    return default

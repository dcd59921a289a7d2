"""The scale of a layer from outside of its tensors: PEFT's and diffusers' configurations.

PEFT multiplies ``up @ down`` by ``lora_alpha / r``, or by ``lora_alpha / sqrt(r)`` with ``use_rslora``. Rank and alpha
of single layers are in ``rank_pattern`` and ``alpha_pattern``, whose keys match the end of a layer's name; see
`patterns`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import DamagedFileError, LayerError, UnsupportedError
from ...files.metadata import has_resize_record
from .patterns import NamePatterns, shortened

CONFIG_NAME = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"


@dataclass(frozen=True)
class ScaleConfig:
    """One configuration, for the stems that start with its prefix."""

    prefix: str
    fields: Mapping[str, Any]
    origin: str
    """Where it was found, for notes."""
    path: Path
    """The adapter's file, for messages."""

    @property
    def has_scale(self) -> bool:
        """Whether readers find a scale in it. In the metadata of a file, diffusers looks for ``lora_alpha``."""
        return self.origin != METADATA_KEY or "lora_alpha" in self.fields

    def scale(self, stem: str, rank: int | None) -> float:
        """Return the scale of a layer. `rank` is its rank in the file.

        If the configuration has another rank, the tensors were resized after training, and the scale is still that of
        training. `rank` is None for a layer without one (a LoKr in full), which PEFT scales as well.
        """
        name = stem[len(self.prefix) :]
        trained = self._number("r", self._ranks.get(name, self.fields.get("r", 1 if rank is None else rank)), name)
        alpha = self._number(self._alpha, self._alphas.get(name, self.fields.get(self._alpha, trained)), name)
        return alpha / (math.sqrt(trained) if self.fields.get("use_rslora") else trained)

    @property
    def _alpha(self) -> str:
        """The name of the field: PEFT's LoHa and LoKr call it ``alpha``."""
        return "lora_alpha" if "lora_alpha" in self.fields else "alpha"

    @cached_property
    def _ranks(self) -> NamePatterns:
        return self._patterns("rank_pattern")

    @cached_property
    def _alphas(self) -> NamePatterns:
        return self._patterns("alpha_pattern")

    def _patterns(self, field: str) -> NamePatterns:
        try:
            return NamePatterns(self.fields.get(field))
        except ValueError as error:
            raise UnsupportedError(
                f"{self.path}: {self.origin} has {error} in {field}. Only layer names, or the ends of them, are read "
                f"there; patterns from a file are never run. Write the names instead."
            ) from error

    def _number(self, field: str, value: Any, name: str) -> float:
        number = _finite(value)
        if number is None or (field == "r" and number <= 0):
            raise LayerError(
                f"{self.path}: layer {shortened(name)}: {self.origin} has {field} = {shortened(value)}; a number was "
                f"expected. Correct it, or remove the field to use scale 1."
            )
        return number


def _finite(value: Any) -> float | None:
    """Return a finite number as float; None for anything else. An integer may be too large for a float."""
    try:
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:
        return None


def find_configs(path: Path, metadata: Mapping[str, str], stems: list[str]) -> list[ScaleConfig]:
    """Return the configurations that belong to a file: in its metadata, or in the same folder for a PEFT adapter.

    Raises UnsupportedError if one describes deltas that are more than up times down.
    """
    found = _configs(path, metadata, stems)
    for config in found:
        for flag, name in _NOT_A_PRODUCT.items():
            if config.fields.get(flag):
                raise UnsupportedError(
                    f"{path}: {config.origin} has {flag}: {name}, whose delta is not up times down. Only PEFT reads "
                    f"it; merge it into the model with PEFT, and extract a LoRA from that."
                )
    return [config for config in found if config.has_scale]


_NOT_A_PRODUCT = {
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "target_parameters": "LoRAs of stacked experts in one pair of factors",
}


def _configs(path: Path, metadata: Mapping[str, str], stems: list[str]) -> list[ScaleConfig]:
    if METADATA_KEY in metadata:
        return _from_metadata(metadata[METADATA_KEY], path)
    if has_resize_record(metadata):
        return []  # our results have scale 1; the configuration in the same folder is that of the source
    config = path.parent / CONFIG_NAME
    is_peft = path.stem.startswith("adapter_model") or any(stem.startswith("base_model.model.") for stem in stems)
    if is_peft and config.is_file():
        return [ScaleConfig(prefix="base_model.model.", fields=_read(config), origin=CONFIG_NAME, path=path)]
    return []


def config_scale(configs: list[ScaleConfig], stem: str, rank: int | None) -> tuple[float, str] | None:
    """Return the scale of a stem and its origin; None if no configuration applies."""
    for config in configs:
        if stem.startswith(config.prefix):
            return config.scale(stem, rank), config.origin
    return None


def _from_metadata(text: str, path: Path) -> list[ScaleConfig]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return []  # as in other tools
    if not isinstance(fields, dict):
        return []
    by_prefix: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        prefix, _, field = name.rpartition(".")
        by_prefix.setdefault(prefix, {})[field] = value
    return [
        ScaleConfig(prefix=f"{prefix}." if prefix else "", fields=values, origin=METADATA_KEY, path=path)
        for prefix, values in sorted(by_prefix.items(), reverse=True)
    ]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path}: cannot be read as JSON ({error}). The adapter in the same folder needs its lora_alpha; "
            f"repair the file, or move it away to use scale 1."
        ) from error
    if not isinstance(fields, dict):
        raise DamagedFileError(f"{path}: an object was expected, found {type(fields).__name__}.")
    return fields

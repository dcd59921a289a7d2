"""The metadata of an extracted LoRA: the fields that trainers write and that are true of it."""

from __future__ import annotations

from pathlib import Path

from ..names.family import Family

_RESOLUTIONS = {"SDXL": "1024x1024", "SD1.5": "512x512", "SD2": "512x512"}


def metadata(family: Family | None, tuned: Path, base: Path) -> dict[str, str]:
    """Return the metadata of a difference of two models of a family."""
    found = {"ss_network_module": "networks.lora", "ss_sd_model_name": base.name, "modelspec.title": tuned.stem}
    found["modelspec.sai_model_spec"] = "1.0.0"
    if family is None:
        return found
    if family.base_model_version is not None:
        found["ss_base_model_version"] = family.base_model_version
        found["ss_v2"] = str(family.base_model_version.startswith("sd_v2"))
    if family.modelspec_architecture is not None:
        found["modelspec.architecture"] = family.modelspec_architecture
    if family.name in _RESOLUTIONS:
        found["modelspec.implementation"] = "https://github.com/Stability-AI/generative-models"
        found["modelspec.resolution"] = _RESOLUTIONS[family.name]
    return found

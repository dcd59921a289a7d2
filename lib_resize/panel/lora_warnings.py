"""The warnings about LoRAs and plans, before anything is written."""

from __future__ import annotations

from ..adapters.write.float8 import float8_source
from ..files.metadata import has_resize_record
from ..hosts.host import IGNORES_TEXT_ENCODERS
from ..plans import Plan
from .cached import CachedAnalysis
from .protocol.types import Json
from .references import ReferenceInfo
from .snapshot import HostLists

FLOOR = 0.88
"""Weight retention below which a plan warns."""
FLAT = 0.10
"""Share of the values that High must save, else the spectrum counts as flat."""
_TEXT_ENCODER = "TE"  # how the names of their blocks begin

TEMPLATES = {
    "flat": "Little to gain: High saves only {saved}. The singular values are nearly flat, as in LoRAs extracted from "
    "checkpoints.",
    "not_smaller": "The new file would not be smaller than this one.",
    "low_retention": "Weight retention {retention} is under {floor}: expect visible change.",
    "fp32": "fp32 file: half of it is free.",
    "fp8": "float8 file: {programs} cannot load it.",
    "unknown_family": "Unknown model family: its own norms are used.",
    "other_family": "{family} LoRA, {loaded} loaded: will use its own norms.",
    "ignored_text_encoders": "{count} of {all} layers change text encoders, and {host} ignores these.",
    "resized": "This file has already been resized. Resize the original instead; the discarded detail cannot be "
    "recovered.",
}
"""Kind of a warning -> its text, with places for values; the keys of localizations/*.json."""


def warnings_of(kept: CachedAnalysis, reference: ReferenceInfo, host: HostLists) -> list[Json]:
    """Return the warnings about a LoRA that hold for any recipe."""
    adapter, found = kept.analysis.adapter, []
    if all(layer.form.dtypes == {"F32"} for layer in adapter.layers):
        found.append(_warning("fp32"))
    programs = float8_source(adapter.layers, adapter.family)
    if programs:
        found.append(_warning("fp8", programs=", ".join(programs)))
    if adapter.family is None:
        found.append(_warning("unknown_family"))
    elif reference.family is not None and reference.family != adapter.family.name:
        found.append(_warning("other_family", family=adapter.family.name, loaded=reference.family))
    ignored = sum(block.startswith(_TEXT_ENCODER) for block in kept.blocks)
    if ignored and IGNORES_TEXT_ENCODERS in host.features:
        values = {"count": str(ignored), "all": str(len(kept.blocks)), "host": host.name}
        found.append(_warning("ignored_text_encoders", **values))
    if has_resize_record(adapter.metadata):
        found.append(_warning("resized"))
    return found


def plan_warnings(plan: Plan, floor: float = FLOOR) -> list[Json]:
    """Return the warnings about a plan; `floor` is the weight retention below which it warns."""
    found = []
    if plan.bytes_after >= plan.bytes_before:
        found.append(_warning("not_smaller"))
    if plan.retention < floor:
        found.append(_warning("low_retention", retention=f"{100 * plan.retention:.1f} %", floor=f"{100 * floor:.0f} %"))
    return found


def flat_warning(saved: float) -> Json:
    """Return the warning about a spectrum so flat that High saves only this share."""
    return _warning("flat", saved=f"{max(0.0, 100 * saved):.0f} %")


def _warning(kind: str, **values: str) -> Json:
    """Return a `Warning` of the protocol: `text` in English, `template` and `values` for translation."""
    template = TEMPLATES[kind]
    return {"kind": kind, "text": template.format(**values), "template": template, "values": values}

"""The base models that LoRAs and recipes need: opened, checked, and compared with those of earlier analyses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from ..adapters.layer import Adapter
from ..base.checkpoint import Checkpoint
from ..engine.analysing import needs_conversion
from ..engine.analysis import Analysis
from ..engine.base_weights import needs_base
from ..errors import PairingError
from ..hosts.host import Host, plain_title
from ..hosts.live import open_reference
from ..recipe.grammar import BASE_SCORES, Recipe
from .cached import BaseKey, CachedAnalysis
from .faults import Fault
from .references import ReferenceInfo, opened_info, reference_info
from .snapshot import HostLists


def base_key(choice: str, reference: ReferenceInfo) -> BaseKey:
    return plain_title(choice), reference.title and plain_title(reference.title)


@contextlib.contextmanager
def open_required_base(adapter: Adapter, host: Host, choice: str) -> Iterator[Checkpoint | None]:
    """Open the base model that the deltas depend on; None for kinds that depend on none.

    Raises PairingError where there is no base model, or it is of another family.
    """
    if not needs_base(adapter):
        yield None
        return
    opened = open_reference(host, choice)
    try:
        if opened.checkpoint is None:
            raise PairingError(_base_is_missing(adapter, opened.note))
        check_families(adapter, opened_info(opened))
        yield opened.checkpoint
    finally:
        opened.close()


def _base_is_missing(adapter: Adapter, why: str) -> str:
    kind = next(layer.form.kind for layer in adapter.layers if layer.form.needs_base)
    return (
        f"{adapter.name} is {kind}, whose delta depends on the base model that it was trained on. "
        f"{why or 'None was chosen.'} Choose it as the reference."
    )


def is_of_another_base(kept: CachedAnalysis, choice: str, host: HostLists) -> bool:
    """Return whether the delta was computed with another base model than the one that is chosen now."""
    return kept.delta_base is not None and kept.delta_base != base_key(choice, reference_info(host, choice))


def needs_measuring(kept: CachedAnalysis, recipes: Sequence[Recipe], choice: str, host: HostLists) -> bool:
    """Return whether recipes need base norms that this analysis does not have yet."""
    wanted = frozenset(name for recipe in recipes for name in recipe.weights) & BASE_SCORES
    if not wanted:
        return False
    known = kept.asked if kept.base_key == base_key(choice, reference_info(host, choice)) else frozenset[str]()
    return not wanted <= known


def no_reference(recipe: Recipe, why: str) -> str:
    """Return the message for a recipe that needs a base model where there is none."""
    return f"recipe {recipe} compares with a base model. {why or 'None was chosen.'} Choose one, or use a preset."


def check_families(adapter: Adapter, reference: ReferenceInfo) -> None:
    """Raise PairingError where LoRA and reference are of different families."""
    family = adapter.family.name if adapter.family else None
    if family is not None and reference.family is not None and family != reference.family:
        raise PairingError(
            f"{adapter.name} is made for {family}, {reference.title} is {reference.family}. "
            f"Use a recipe that needs no base model, such as a preset, or choose another reference."
        )


def analysis_for(kept: CachedAnalysis, recipe: Recipe, choice: str, host: HostLists, convert: str = "auto") -> Analysis:
    """Return the analysis that a recipe is planned with.

    Raises Fault where something must be measured first, PairingError where that is impossible.
    """
    if needs_conversion(kept.analysis, convert):
        raise Fault("not_analysed", f"{kept.lora.name} is not analysed as LoRA yet. Analyse it first.")
    if kept.delta_base is not None:
        _check_delta_base(kept, choice, host)
    if not recipe.needs_base:
        return kept.analysis
    reference = reference_info(host, choice)
    if reference.kind == "none":
        raise PairingError(no_reference(recipe, reference.note))
    check_families(kept.analysis.adapter, reference)
    if needs_measuring(kept, [recipe], choice, host) or kept.based is None:
        raise Fault("not_analysed", f"{kept.lora.name} is not compared with {reference.title} yet. Analyse it first.")
    return kept.based


def _check_delta_base(kept: CachedAnalysis, choice: str, host: HostLists) -> None:
    reference = reference_info(host, choice)
    if reference.kind == "none":
        raise PairingError(_base_is_missing(kept.analysis.adapter, reference.note))
    if is_of_another_base(kept, choice, host):
        raise Fault("not_analysed", f"{kept.lora.name} is not analysed with {reference.title} yet. Analyse it first.")

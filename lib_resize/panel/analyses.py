"""Decomposed LoRAs, kept in memory, so that plans are made of them without new linear algebra.

A kept analysis holds spectra and names but no open file, so that the file can be moved. To write a result, the file is
opened again and attached to the analysis.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..adapters.layer import Adapter
from ..adapters.read.adapter import read_adapter
from ..base.checkpoint_keys import looks_like_checkpoint
from ..engine.analysing import analyse, needs_conversion, reattached, with_base_norms, with_conversion, without_tensors
from ..errors import FileError, PairingError, UnsupportedError
from ..files.alike import Layouts
from ..files.reader import SafeFile
from ..hosts.device_jobs import host_runtime
from ..hosts.host import Host, LoraFile
from ..hosts.live import open_reference
from ..names.families import block
from ..progress import Progress
from ..recipe.grammar import Recipe
from ..studies.catalogue import Stamp, stamp_of
from .bases import base_key, check_families, is_of_another_base, needs_measuring, no_reference, open_required_base
from .cached import CachedAnalysis
from .protocol.objects import LOADED
from .references import opened_info, reference_info

MOST_BYTES = 1 << 30


class Analyses:
    """The analysed LoRAs of a host, the least recently used first, which are dropped first."""

    def __init__(self, host: Host, most_bytes: int = MOST_BYTES) -> None:
        self._host = host
        self._most = most_bytes
        self._layouts = Layouts()
        self._kept: OrderedDict[str, CachedAnalysis] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, lora: LoraFile) -> CachedAnalysis | None:
        """Return the analysis of a file as it is now; None where there is none."""
        with self._lock:
            kept = self._kept.get(lora.name)
            if kept is None:
                return None
            try:
                current = kept.lora.path == lora.path and kept.stamp == stamp_of(lora.path)
            except OSError:
                current = False
            if not current:
                del self._kept[lora.name]
                return None
            self._kept.move_to_end(lora.name)
            return kept

    def made(self, lora: LoraFile, progress: Progress, convert: str = "auto", choice: str = LOADED) -> CachedAnalysis:
        """Return the analysis of a file, made if necessary, in all layer kinds that `convert` needs.

        `choice` is the reference, for kinds that depend on a base model. Raises what reading and decomposing raise,
        and PairingError where a required base model is missing.
        """
        kept = self.get(lora)
        if kept is None or is_of_another_base(kept, choice, self._host):
            kept = _decomposed(lora, progress, convert, self._host, choice, self._layouts)
        elif needs_conversion(kept.analysis, convert):
            with (
                host_runtime(self._host, progress) as tools,
                reopened(kept) as whole,
                open_required_base(whole, self._host, choice) as base,
            ):
                attached = reattached(kept.analysis, whole, base)
                kept.analysis = without_tensors(with_conversion(attached, convert, base, (), tools))
            kept.based, kept.asked = None, frozenset()
        else:
            return kept
        with self._lock:
            self._kept[lora.name] = kept
            self._make_room(kept)
        return kept

    def with_base(
        self, kept: CachedAnalysis, recipes: Sequence[Recipe], choice: str, progress: Progress
    ) -> CachedAnalysis:
        """Measure what recipes need of the reference, unless that was done. Raises PairingError where it cannot."""
        if not needs_measuring(kept, recipes, choice, self._host):
            if kept.based is not None and any(recipe.needs_base for recipe in recipes):
                kept.reference = kept.reference.remembered()
            return kept
        asked = frozenset(name for recipe in recipes for name in recipe.weights) | (
            kept.asked if kept.base_key == base_key(choice, reference_info(self._host, choice)) else frozenset()
        )
        opened = open_reference(self._host, choice)
        try:
            if opened.checkpoint is None:
                raise PairingError(no_reference(recipes[0], opened.note))
            check_families(kept.analysis.adapter, opened_info(opened))
            with host_runtime(self._host, progress) as tools, reopened(kept) as whole:
                wanted = [replace(recipes[0], weights=dict.fromkeys(asked, 1.0))]
                attached = reattached(kept.analysis, whole, opened.checkpoint)
                based = with_base_norms(attached, opened.checkpoint, wanted, tools)
            reference = opened_info(opened)
        finally:
            opened.close()
        with self._lock:
            kept.based = without_tensors(based)
            kept.base_key, kept.asked, kept.reference = base_key(choice, reference), asked, reference
        return kept

    def forget(self, name: str) -> None:
        """Drop the analysis of a LoRA."""
        with self._lock:
            self._kept.pop(name, None)

    def _make_room(self, newest: CachedAnalysis) -> None:
        total = sum(kept.bytes for kept in self._kept.values())
        for name in list(self._kept):
            if total <= self._most or self._kept[name] is newest:
                break
            total -= self._kept.pop(name).bytes


def _decomposed(
    lora: LoraFile, progress: Progress, convert: str, host: Host, choice: str, layouts: Layouts
) -> CachedAnalysis:
    stamp = _stamp(lora)
    with (
        _read(lora.path, layouts) as adapter,
        open_required_base(adapter, host, choice) as base,
        host_runtime(host, progress) as tools,
    ):
        analysis = without_tensors(analyse(adapter, base, (), tools, convert=convert))
        blocks = tuple(block(layer.canonical) if layer.canonical else "OTHER" for layer in adapter.layers)
    if base is None:
        return CachedAnalysis(lora, stamp, analysis, blocks, layouts)
    reference = reference_info(host, choice)
    key = base_key(choice, reference)
    return CachedAnalysis(lora, stamp, analysis, blocks, layouts, delta_base=key, reference=reference)


def _stamp(lora: LoraFile) -> Stamp:
    try:
        return stamp_of(lora.path)
    except OSError as error:
        raise FileError(f"{lora.path}: {error.strerror}. Refresh the list.") from error


@contextlib.contextmanager
def _read(path: Path, layouts: Layouts) -> Iterator[Adapter]:
    with SafeFile(path, layouts) as file:
        if looks_like_checkpoint(file.header.entries):
            raise UnsupportedError(f"{path}: this is a base model, not a LoRA.")
        yield read_adapter(file)


@contextlib.contextmanager
def reopened(kept: CachedAnalysis) -> Iterator[Adapter]:
    """Open the file of a kept analysis again. Raises FileError where it was changed or replaced."""
    with _read(kept.lora.path, kept.layouts) as adapter:
        stems = [layer.stem for layer in adapter.layers]
        if _stamp(kept.lora) != kept.stamp or stems != [layer.stem for layer in kept.analysis.adapter.layers]:
            raise FileError(f"{kept.lora.path}: changed since it was analysed. Try again.")
        yield adapter

"""A survey of a folder of LoRAs: what it contains, and how much space could be freed. It writes only to its store.

All headers are read first. Then a sample of each file's layers is decomposed, and the figures are marked as estimates;
or all layers, if asked. Figures are stored by the content of a file, so that a stopped survey continues where it was,
and a moved or renamed file is recognized.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.forms.lora import LowRank
from ..adapters.layer import Adapter, Layer
from ..adapters.read.adapter import read_adapter
from ..adapters.write.style import Style
from ..engine.analysing import analyse
from ..engine.analysis import Analysis
from ..engine.planning import prepare
from ..engine.runtime import Runtime, cpu_runtime
from ..errors import ResizeError, UsageError
from ..files.alike import Layouts
from ..files.header import Layout
from ..files.reader import SafeFile
from ..files.walk import Skip, ignore
from ..progress import Progress, Quiet
from ..prompts.sources import files_below
from ..recipe.grammar import PRESETS, parse_recipe
from ..recipe.select import SelectionInput, choose
from .catalogue import Facts, Stamp, cache_file, facts_of, read_facts, stamp_of, without_path
from .inspection import mean_effective_rank
from .spectra import type_of
from .survey_store import Figures, SurveyedFile, SurveyStore

SAMPLE = 64
"""Number of layers of a file that are decomposed for an estimate."""

_PIECE, _PIECES = 512, 64  # size in bytes and number of the samples that distinguish files of the same shapes
_METADATA = 2048  # approximate size in bytes of a resized file's metadata


@dataclass(frozen=True)
class Survey:
    """The findings of a survey."""

    folder: Path
    entries: tuple[SurveyedFile, ...]
    duplicates: tuple[tuple[Path, ...], ...] = ()
    """Files with the same tensors, byte for byte, each a separate copy on the disk."""
    linked: tuple[tuple[Path, ...], ...] = ()
    """Links: different names of one file."""
    label: str = ""
    """What the folder is called where it has no path, such as its URL."""

    @property
    def name(self) -> str:
        """Return the path or URL of the folder."""
        return self.label or str(self.folder)

    @property
    def bytes(self) -> int:
        """Return the size on the disk; a file with several names counts once."""
        again = {path for group in self.linked for path in group[1:]}
        return sum(entry.bytes for entry in self.entries if entry.path not in again)

    def freed(self, preset: str) -> int:
        """Return the bytes that a preset frees in all files; a file with several names counts once."""
        again = {path for group in self.linked for path in group[1:]}
        return sum(entry.freed(preset) for entry in self.entries if entry.path not in again)

    @property
    def duplicate_bytes(self) -> int:
        """Return the size of all but one file of each group of duplicates."""
        sizes = {entry.path: entry.bytes for entry in self.entries}
        return sum(sizes[path] for group in self.duplicates for path in group[1:])

    def rows(self) -> list[dict[str, Any]]:
        """Return one object for each file, as in the JSON and CSV output."""
        copies = {path: group[0] for group in self.duplicates for path in group[1:]}
        links = {path: group[0] for group in self.linked for path in group[1:]}
        return [self._row(entry, copies, links) for entry in self.entries]

    def _row(self, entry: SurveyedFile, copies: Mapping[Path, Path], links: Mapping[Path, Path]) -> dict[str, Any]:
        facts, figures = entry.facts, entry.figures

        def name(path: Path | None) -> str | None:
            return None if path is None else path.relative_to(self.folder).as_posix()

        return {
            "file": name(entry.path),
            "bytes": entry.bytes,
            "family": facts.family,
            "kind": facts.kind,
            "rank": facts.rank,
            "dtype": facts.dtype,
            "layers": facts.layers,
            "zero_layers": None if figures is None else figures.zero,
            "effective_rank": None if figures is None else round(figures.effective_rank, 2),
            "estimated": None if figures is None else not figures.exact,
            **{f"bytes_{preset}": None if figures is None else figures.presets.get(preset) for preset in PRESETS},
            "over_provisioned": entry.is_over_provisioned,
            "fp32": entry.is_fp32,
            "resized_from": facts.source,
            "duplicate_of": name(copies.get(entry.path)),
            "link_to": name(links.get(entry.path)),
            "problem": entry.problem,
        }

    def as_json(self) -> dict[str, Any]:
        """The sums, and all files."""
        return {
            "folder": self.name,
            "files": self.rows(),
            "bytes": self.bytes,
            "freed": {preset: self.freed(preset) for preset in PRESETS},
            "duplicate_bytes": self.duplicate_bytes,
            "estimated": any(entry.figures and not entry.figures.exact for entry in self.entries),
        }

    def as_csv(self) -> str:
        """Return one row for each file, after a row of titles."""
        rows, text = self.rows(), io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


@dataclass(frozen=True)
class SurveyOptions:
    """Options of a survey."""

    exact: bool = False
    """Decompose all layers, not only a sample."""
    threads: int | None = None
    cache: Path | None = None
    """File of the store; None: the one that the tab uses too."""
    on_headers: Callable[[Survey], None] = field(default=lambda _: None)
    """Called with the findings so far, once all headers are read."""
    on_skip: Skip = ignore
    """Called with the error of each folder that cannot be read."""


def survey(folder: Path, options: SurveyOptions | None = None, progress: Progress | None = None) -> Survey:
    """Survey every LoRA file in a folder, recursively. A file that cannot be read is one of the findings.

    Raises UsageError if there is no LoRA, and Cancelled if `progress` does; what was found by then is stored.
    """
    options, progress = options or SurveyOptions(), progress or Quiet()
    store = SurveyStore(options.cache or cache_file())
    try:
        found = _headers(folder, options, store, progress)
        options.on_headers(found)
        return _with_spectra(found, options, store, progress)
    finally:
        store.save()


# Headers -----------------------------------------------------------------------------------------------------


def _headers(folder: Path, options: SurveyOptions, store: SurveyStore, progress: Progress) -> Survey:
    paths = list(files_below(folder, options.on_skip))
    if not paths:
        raise UsageError(f"folder {folder} holds no .safetensors file; name a folder of LoRAs.")
    progress.start("headers", len(paths))
    entries = []
    for path in paths:
        entries.append(_entry(path, store))
        progress.step()
    store.prune(folder, paths)
    linked = _groups({path: _identity(path) for path in paths})
    again = {path for group in linked for path in group[1:]}
    duplicates = _duplicates([entry for entry in entries if entry.path not in again], store)
    return Survey(folder, tuple(entries), tuple(duplicates), tuple(linked))


def _entry(path: Path, store: SurveyStore) -> SurveyedFile:
    try:
        stamp = stamp_of(path)
        known = store.entry(path, stamp)
        if known is not None:
            return known
        entry = _read_entry(path, stamp, store.layouts)
    except ResizeError as error:
        return SurveyedFile(path, stamp, read_facts(path), problem=without_path(str(error), path))
    except OSError as error:
        return SurveyedFile(path, (0, 0), Facts(), problem=f"cannot be read: {error.strerror}")
    store.keep(entry)
    return store.entry(path, stamp) or entry  # the content may be known under another name


def _read_entry(path: Path, stamp: Stamp, layouts: Layouts) -> SurveyedFile:
    with SafeFile(path, layouts) as file:
        header = file.header
        samples = _samples(file)
        layout = _hash_of(header.layout)
        layout.update(samples)
        facts = facts_of(header)
        return SurveyedFile(
            path,
            stamp,
            facts,
            content=hashlib.sha256(file.sample(0, header.data_start) + samples + str(stamp).encode()).hexdigest(),
            layout=layout.hexdigest(),
            problem=facts.problem,
        )


def _hash_of(layout: Layout) -> hashlib._Hash:
    """Return the SHA-256 of the names, types, shapes and places of all tensors, to be continued."""
    found: hashlib._Hash | None = layout.found("hash")
    if found is not None:
        return found.copy()
    tensors = repr([(key, one.dtype, one.shape, one.start) for key, one in layout.entries.items()])
    return layout.keep("hash", hashlib.sha256(tensors.encode())).copy()


def _samples(file: SafeFile) -> bytes:
    """Return bytes from the middle of some matrices, evenly spread over the file: enough to distinguish files.

    They are read, not mapped: a map loads much more of the file from the disk than is needed.
    """
    matrices = [key for key, entry in file.header.entries.items() if len(entry.shape) >= 2]
    places = np.linspace(0, len(matrices) - 1, min(len(matrices), _PIECES)).round().astype(int)
    return b"".join(_middle(file, matrices[place]) for place in places)


def _middle(file: SafeFile, key: str) -> bytes:
    """Return up to 512 stored bytes from the middle of a tensor."""
    entry = file.header.entries[key]
    start = max(entry.start, (entry.start + entry.stop - _PIECE) // 2)
    return bytes(file.sample(file.header.data_start + start, min(entry.stop - start, _PIECE)))


def _identity(path: Path) -> object:
    """Return a key that all names of one file share; the name itself where the system has no such key."""
    with contextlib.suppress(OSError):
        found = path.stat()
        if found.st_ino:
            return found.st_dev, found.st_ino
    return path


def _groups(keys: Mapping[Path, object]) -> list[tuple[Path, ...]]:
    """Return the groups of several paths with the same key."""
    groups: dict[object, list[Path]] = defaultdict(list)
    for path, key in keys.items():
        groups[key].append(path)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _duplicates(entries: Sequence[SurveyedFile], store: SurveyStore) -> list[tuple[Path, ...]]:
    """Return the groups of files with the same tensors, byte for byte. Only candidates are read as a whole."""
    alike = _groups({entry.path: entry.layout for entry in entries if entry.layout is not None})
    content = {entry.path: entry.content for entry in entries}
    hashes = {path: store.data_hash(path, content[path]) for group in alike for path in group}
    return _groups({path: found for path, found in hashes.items() if found is not None})


# Spectra -----------------------------------------------------------------------------------------------------


def _with_spectra(found: Survey, options: SurveyOptions, store: SurveyStore, progress: Progress) -> Survey:
    todo = [entry for entry in found.entries if entry.problem is None and not _enough(entry.figures, options.exact)]
    progress.start("spectra", len(todo))
    fresh: dict[str | None, SurveyedFile] = {}
    with cpu_runtime(Quiet(), options.threads) as runtime:
        for entry in todo:
            if entry.content not in fresh:
                fresh[entry.content] = _measured(entry, options.exact, runtime, store.layouts)
                store.keep(fresh[entry.content])
            progress.step()
    return replace(found, entries=tuple(_with_figures_of(entry, fresh.get(entry.content)) for entry in found.entries))


def estimated_entry(path: Path, store: SurveyStore, runtime: Runtime) -> SurveyedFile:
    """Return a file with estimates from a sample of its layers, or with the figures that the store has.

    A file that cannot be read has a `problem`, and raises nothing but Cancelled.
    """
    entry = _entry(path, store)
    if entry.problem is None and entry.figures is None:
        entry = _measured(entry, False, runtime, store.layouts)
        store.keep(entry)
    return entry


def _enough(figures: Figures | None, exact: bool) -> bool:
    return figures is not None and (figures.exact or not exact)


def _with_figures_of(entry: SurveyedFile, fresh: SurveyedFile | None) -> SurveyedFile:
    if fresh is None or entry.content is None:
        return entry
    return replace(entry, figures=fresh.figures, problem=fresh.problem)


def _measured(entry: SurveyedFile, exact: bool, runtime: Runtime, layouts: Layouts) -> SurveyedFile:
    try:
        with SafeFile(entry.path, layouts) as file:
            adapter = read_adapter(file)
            figures = _exact(adapter, runtime) if exact else _estimated(adapter, runtime)
    except ResizeError as error:
        return replace(entry, problem=without_path(str(error), entry.path))
    except (OSError, MemoryError) as error:
        return replace(entry, problem=f"cannot be read: {error}")
    return replace(entry, figures=figures)


def _exact(adapter: Adapter, runtime: Runtime) -> Figures:
    analysis = analyse(adapter, None, (), runtime)
    return Figures(
        exact=True,
        effective_rank=mean_effective_rank(analysis),
        zero=len(analysis.zero),
        presets={preset: _planned(analysis, preset) for preset in PRESETS},
    )


def _planned(analysis: Analysis, preset: str) -> int | None:
    try:
        path = Path(f"{analysis.adapter.name}.safetensors")
        return prepare(analysis, parse_recipe(preset), Style(), lambda _: path).plan.bytes_after
    except ResizeError:
        return None


def _estimated(adapter: Adapter, runtime: Runtime) -> Figures:
    """Return figures from a sample of the layers, to which each preset is applied as to a whole LoRA."""
    layers = sampled(adapter.layers)
    alone = replace(adapter, layers=layers, copied=(), together=())
    analysis = analyse(alone, None, (), runtime, convert="none")
    whole = 2 * sum(_elements(layer, layer.rank) for layer in adapter.layers)
    head = adapter.files[0].header.data_start + 4 * len(adapter.layers) + _METADATA
    return Figures(
        exact=False,
        effective_rank=mean_effective_rank(analysis),
        zero=sum(_seems_zero(layer, adapter.files[0]) for layer in adapter.layers),
        presets={preset: _share(analysis, preset, whole, head) for preset in PRESETS},
    )


def sampled(layers: Sequence[Layer], count: int = SAMPLE) -> tuple[Layer, ...]:
    """Return layers evenly spread over types and sizes; all of them if there are at most `count`."""
    if len(layers) <= count:
        return tuple(layers)
    order = sorted(
        range(len(layers)),
        key=lambda i: (type_of(layers[i].stem, is_conv=layers[i].form.is_conv), layers[i].form.parameters_per_rank, i),
    )
    places = np.linspace(0, len(layers) - 1, count).round().astype(int)
    return tuple(layers[order[place]] for place in places)


def _share(analysis: Analysis, preset: str, whole: int, head: int) -> int | None:
    try:
        ranks = choose(parse_recipe(preset), SelectionInput(analysis.layers)).ranks
    except ResizeError:
        return None
    layers = analysis.adapter.layers
    kept = sum(_elements(layer, rank) for layer, rank in zip(layers, ranks, strict=True))
    return head + round(whole * kept / sum(_elements(layer, layer.rank) for layer in layers))


def _elements(layer: Layer, rank: int) -> int:
    return sum(math.prod(slot.shape) for slot in layer.form.slots(rank)) if rank else 0


_FACTORS = ("up", "down", "bare_up", "bare_down")


def _seems_zero(layer: Layer, file: SafeFile) -> bool:
    """Return whether a LoRA layer seems to be zero: its scale is zero, or the middle of one of its factors is."""
    form = layer.form
    if not isinstance(form, LowRank):
        return False
    keys = [part.key for role, part in layer.parts.items() if role in _FACTORS]
    return not form.scale or any(not any(_middle(file, key)) for key in keys)

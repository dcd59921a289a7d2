"""What a folder of LoRAs holds, and what could be freed in it. Nothing is written but a cache of what was found.

Headers come first, for all files; spectra after them, of a sample of each file's layers, whose figures are estimates
and marked as such, or of all layers where asked. What was found is kept by the content of a file, so a night's survey
goes on where it was stopped, and moved or renamed files are known again.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.forms.lora import LowRank
from ..adapters.layer import Adapter, Layer
from ..adapters.read.adapter import read_adapter
from ..adapters.write.style import Style
from ..base.norm_cache import cache_folder
from ..engine.analysing import analyse
from ..engine.analysis import Analysis
from ..engine.planning import prepare
from ..engine.runtime import Runtime, cpu_runtime
from ..errors import ResizeError, UsageError
from ..files.atomic import write_whole
from ..files.header import read_header
from ..files.reader import SafeFile
from ..files.walk import Skip, ignore
from ..progress import Progress, Quiet
from ..prompts.sources import files_below
from ..recipe.grammar import PRESETS, parse_recipe
from ..recipe.select import SelectionInput, choose
from .catalogue import Cached, Facts, Stamp, cache_file, facts_of, read_facts, save_cache, stamp_of
from .spectra import effective_rank, type_of

VERSION = 2
"""Raised whenever figures are found differently."""
SAMPLE = 64
"""Layers of a file that are decomposed for an estimate."""
OVER_PROVISIONED = 0.5
"""Share of a file that High must free for its rank to be called too large."""

_PIECE, _PIECES = 512, 64  # bytes, and how many places of a file tell it from others of its shapes
_SAVE_EVERY = 10.0  # seconds: what a stopped survey may lose
_SAVE_SHARE = 0.05  # of the time may be spent on saving, however large the cache
_MOST_LOST = 1000  # contents that no known path has: files that were moved, or are on another drive
_METADATA = 2048  # bytes that a resized file's metadata take beside its header, nearly


@dataclass(frozen=True)
class Figures:
    """What the spectra say of one file."""

    exact: bool
    """All layers were decomposed; else a sample of them."""
    effective_rank: float
    """Mean over layers that are not zero."""
    zero: int
    """Layers that are zero; where not exact, those that have nothing but zeros where they were looked at."""
    presets: dict[str, int | None]
    """Preset -> bytes of the file that it makes; None where it cannot."""


@dataclass(frozen=True)
class Entry:
    """One file of the folder."""

    path: Path
    stamp: Stamp
    facts: Facts
    content: str | None = None
    """Hash of header, samples and time of change; None for files that cannot be read."""
    layout: str | None = None
    """Hash of names, shapes and samples: files where it differs cannot be duplicates."""
    figures: Figures | None = None
    problem: str | None = None
    """Why there are no figures."""

    @property
    def bytes(self) -> int:
        return self.stamp[0]

    @property
    def is_fp32(self) -> bool:
        return self.facts.dtype == "F32" and self.problem is None

    def freed(self, preset: str) -> int:
        """Bytes that a preset frees; 0 where it makes nothing smaller, or the file is a result already."""
        size = self.figures.presets.get(preset) if self.figures else None
        return max(0, self.bytes - size) if size is not None and self.facts.source is None else 0

    @property
    def is_over_provisioned(self) -> bool:
        return self.freed("high") > OVER_PROVISIONED * self.bytes


@dataclass(frozen=True)
class Survey:
    """The folder as a whole."""

    folder: Path
    entries: tuple[Entry, ...]
    duplicates: tuple[tuple[Path, ...], ...] = ()
    """Files of the same tensors, byte for byte, each a copy of its own on the disk."""
    linked: tuple[tuple[Path, ...], ...] = ()
    """Names of one and the same file."""

    @property
    def bytes(self) -> int:
        """On the disk: a file of several names counts once."""
        again = {path for group in self.linked for path in group[1:]}
        return sum(entry.bytes for entry in self.entries if entry.path not in again)

    def freed(self, preset: str) -> int:
        """By a preset for every file, a file of several names counting once."""
        again = {path for group in self.linked for path in group[1:]}
        return sum(entry.freed(preset) for entry in self.entries if entry.path not in again)

    @property
    def duplicate_bytes(self) -> int:
        """What all but one of each group take."""
        sizes = {entry.path: entry.bytes for entry in self.entries}
        return sum(sizes[path] for group in self.duplicates for path in group[1:])

    def rows(self) -> list[dict[str, Any]]:
        """One object a file, for JSON and CSV; the names of fields are those of the documents."""
        copies = {path: group[0] for group in self.duplicates for path in group[1:]}
        links = {path: group[0] for group in self.linked for path in group[1:]}
        return [self._row(entry, copies, links) for entry in self.entries]

    def _row(self, entry: Entry, copies: Mapping[Path, Path], links: Mapping[Path, Path]) -> dict[str, Any]:
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
            "folder": str(self.folder),
            "files": self.rows(),
            "bytes": self.bytes,
            "freed": {preset: self.freed(preset) for preset in PRESETS},
            "duplicate_bytes": self.duplicate_bytes,
            "estimated": any(entry.figures and not entry.figures.exact for entry in self.entries),
        }

    def as_csv(self) -> str:
        """All files, a row of titles first."""
        rows, text = self.rows(), io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


@dataclass(frozen=True)
class SurveyOptions:
    """What is asked of a survey."""

    exact: bool = False
    threads: int | None = None
    cache: Path | None = None
    """File of the cache; None: beside the panel's own."""
    on_headers: Callable[[Survey], None] = field(default=lambda _: None)
    """Called with the folder as soon as all headers are read."""
    on_skip: Skip = ignore
    """Called with the error of each folder that cannot be read."""


def survey(folder: Path, wish: SurveyOptions | None = None, progress: Progress | None = None) -> Survey:
    """Looks at every LoRA file below a folder. A file that cannot be read is one of the findings.

    Raises UsageError where there are none, Cancelled where `progress` asks for it; what was found until then is kept.
    """
    wish, progress = wish or SurveyOptions(), progress or Quiet()
    store = _Store(wish.cache or cache_folder() / "survey.json")
    try:
        found = _headers(folder, wish, store, progress)
        wish.on_headers(found)
        return _with_spectra(found, wish, store, progress)
    finally:
        store.save()


# Headers -----------------------------------------------------------------------------------------------------


def _headers(folder: Path, wish: SurveyOptions, store: _Store, progress: Progress) -> Survey:
    paths = list(files_below(folder, wish.on_skip))
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


def _entry(path: Path, store: _Store) -> Entry:
    try:
        stamp = stamp_of(path)
        known = store.entry(path, stamp)
        if known is not None:
            return known
        entry = _looked_at(path, stamp)
    except ResizeError as error:
        return Entry(path, stamp, read_facts(path), problem=_plain(error, path))
    except OSError as error:
        return Entry(path, (0, 0), Facts(), problem=f"cannot be read: {error.strerror}")
    store.keep(entry)
    return store.entry(path, stamp) or entry  # perhaps the content is known from another name


def _looked_at(path: Path, stamp: Stamp) -> Entry:
    with SafeFile(path) as file:
        header = file.header
        tensors = repr([(key, one.dtype, one.shape, one.start) for key, one in header.entries.items()])
        samples = _samples(file)
        facts = facts_of(header)
        return Entry(
            path,
            stamp,
            facts,
            content=hashlib.sha256(file.sample(0, header.data_start) + samples + str(stamp).encode()).hexdigest(),
            layout=hashlib.sha256(tensors.encode() + samples).hexdigest(),
            problem=facts.problem,
        )


def _samples(file: SafeFile) -> bytes:
    """Pieces from the middle of some matrices, evenly spread over the file: enough to tell files apart. They are read,
    not mapped: a look at a map brings much more of the file from the disk than was asked for."""
    matrices = [key for key, entry in file.header.entries.items() if len(entry.shape) >= 2]
    places = np.linspace(0, len(matrices) - 1, min(len(matrices), _PIECES)).round().astype(int)
    return b"".join(_middle(file, matrices[place]) for place in places)


def _middle(file: SafeFile, key: str) -> bytes:
    """Up to 512 bytes from the middle of a tensor, as they are stored."""
    entry = file.header.entries[key]
    start = max(entry.start, (entry.start + entry.stop - _PIECE) // 2)
    return bytes(file.sample(file.header.data_start + start, min(entry.stop - start, _PIECE)))


def _plain(error: ResizeError, path: Path) -> str:
    return str(error).replace(f"{path}: ", "", 1).replace(str(path), path.name)


def _identity(path: Path) -> object:
    """What two names of one file share; each name's own where the system does not tell."""
    with contextlib.suppress(OSError):
        found = path.stat()
        if found.st_ino:
            return found.st_dev, found.st_ino
    return path


def _groups(keys: Mapping[Path, object]) -> list[tuple[Path, ...]]:
    """Paths that share a key, where there are several."""
    groups: dict[object, list[Path]] = defaultdict(list)
    for path, key in keys.items():
        groups[key].append(path)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _duplicates(entries: Sequence[Entry], store: _Store) -> list[tuple[Path, ...]]:
    """Files whose tensors are the same, byte for byte; only those that could be are read."""
    alike = _groups({entry.path: entry.layout for entry in entries if entry.layout is not None})
    content = {entry.path: entry.content for entry in entries}
    hashes = {path: store.data_hash(path, content[path]) for group in alike for path in group}
    return _groups({path: found for path, found in hashes.items() if found is not None})


# Spectra -----------------------------------------------------------------------------------------------------


def _with_spectra(found: Survey, wish: SurveyOptions, store: _Store, progress: Progress) -> Survey:
    todo = [entry for entry in found.entries if entry.problem is None and not _enough(entry.figures, wish.exact)]
    progress.start("spectra", len(todo))
    fresh: dict[str | None, Entry] = {}
    with cpu_runtime(Quiet(), wish.threads) as runtime:
        for entry in todo:
            if entry.content not in fresh:
                fresh[entry.content] = _measured(entry, wish.exact, runtime)
                store.keep(fresh[entry.content])
            progress.step()
    return replace(found, entries=tuple(_joined(entry, fresh.get(entry.content)) for entry in found.entries))


def _enough(figures: Figures | None, exact: bool) -> bool:
    return figures is not None and (figures.exact or not exact)


def _joined(entry: Entry, fresh: Entry | None) -> Entry:
    if fresh is None or entry.content is None:
        return entry
    return replace(entry, figures=fresh.figures, problem=fresh.problem)


def _measured(entry: Entry, exact: bool, runtime: Runtime) -> Entry:
    try:
        with SafeFile(entry.path) as file:
            adapter = read_adapter(file)
            figures = _exact(adapter, runtime) if exact else _estimated(adapter, runtime)
    except ResizeError as error:
        return replace(entry, problem=_plain(error, entry.path))
    except (OSError, MemoryError) as error:
        return replace(entry, problem=f"cannot be read: {error}")
    return replace(entry, figures=figures)


def _exact(adapter: Adapter, runtime: Runtime) -> Figures:
    analysis = analyse(adapter, None, (), runtime)
    return Figures(
        exact=True,
        effective_rank=_effective_rank(analysis),
        zero=len(analysis.zero),
        presets={preset: _planned(analysis, preset) for preset in PRESETS},
    )


def _planned(analysis: Analysis, preset: str) -> int | None:
    try:
        path = Path(f"{analysis.adapter.name}.safetensors")
        return prepare(analysis, parse_recipe(preset), Style(), lambda _: path).plan.bytes_after
    except ResizeError:
        return None


def _effective_rank(analysis: Analysis) -> float:
    ranks = [effective_rank(facts.strengths) for facts in analysis.layers if facts.alive]
    return float(np.mean(ranks)) if ranks else 0.0


def _estimated(adapter: Adapter, runtime: Runtime) -> Figures:
    """By a sample of the layers, on which each preset is tried as on a LoRA of its own."""
    layers = sampled(adapter.layers)
    alone = replace(adapter, layers=layers, copied=(), together=())
    analysis = analyse(alone, None, (), runtime, convert="none")
    whole = 2 * sum(_numbers(layer, layer.rank) for layer in adapter.layers)
    head = adapter.files[0].header.data_start + 4 * len(adapter.layers) + _METADATA
    return Figures(
        exact=False,
        effective_rank=_effective_rank(analysis),
        zero=sum(_seems_zero(layer, adapter.files[0]) for layer in adapter.layers),
        presets={preset: _share(analysis, preset, whole, head) for preset in PRESETS},
    )


def sampled(layers: Sequence[Layer], count: int = SAMPLE) -> tuple[Layer, ...]:
    """Evenly spread over what layers do and over their sizes; all of them where there are few."""
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
    kept = sum(_numbers(layer, rank) for layer, rank in zip(layers, ranks, strict=True))
    return head + round(whole * kept / sum(_numbers(layer, layer.rank) for layer in layers))


def _numbers(layer: Layer, rank: int) -> int:
    return sum(math.prod(slot.shape) for slot in layer.form.slots(rank)) if rank else 0


_FACTORS = ("up", "down", "bare_up", "bare_down")


def _seems_zero(layer: Layer, file: SafeFile) -> bool:
    """Whether its scale is zero, or the middle of a factor, some hundreds of numbers. Of LoRA layers alone."""
    form = layer.form
    if not isinstance(form, LowRank):
        return False
    keys = [part.key for role, part in layer.parts.items() if role in _FACTORS]
    return not form.scale or any(not any(_middle(file, key)) for key in keys)


# The cache ---------------------------------------------------------------------------------------------------

_Json = dict[str, Any]


class _Store:
    """What is known of contents, and which content a path has; on the disk as JSON. Damaged or old, it is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._paths, self._files = _loaded(path)
        self._next = time.monotonic() + _SAVE_EVERY
        self._changed = False
        self._exact: Cached = {}

    def entry(self, path: Path, stamp: Stamp) -> Entry | None:
        known = self._paths.get(str(path.absolute()))
        if known is None or tuple(known["stamp"]) != stamp:
            return None
        with contextlib.suppress(KeyError, TypeError):
            row = self._files[known["content"]]
            figures = None if row["figures"] is None else Figures(**row["figures"])
            facts = Facts(**row["facts"])
            return Entry(path, stamp, facts, known["content"], row["layout"], figures, row["problem"])
        return None

    def keep(self, entry: Entry) -> None:
        if entry.content is None:
            return
        self._paths[str(entry.path.absolute())] = {"stamp": list(entry.stamp), "content": entry.content}
        before = self._files.get(entry.content, {})
        figures = asdict(entry.figures) if entry.figures else before.get("figures")
        self._files[entry.content] = {
            "facts": asdict(entry.facts),
            "layout": entry.layout,
            "figures": figures,
            "problem": entry.problem,
            "data": before.get("data"),
        }
        if entry.figures is not None and entry.figures.exact:
            self._exact[str(entry.path)] = entry.stamp, entry.facts, entry.figures.presets
        self._touch()

    def prune(self, folder: Path, found: Sequence[Path]) -> None:
        """Forgets paths below a folder that are not there any more, and the oldest contents that have no path."""
        root, there = folder.absolute(), {str(path.absolute()) for path in found}
        gone = [name for name in self._paths if name not in there and root in Path(name).parents]
        for name in gone:
            del self._paths[name]
        used = {row.get("content") for row in self._paths.values()}
        lost = [content for content in self._files if content not in used]
        for content in lost[: max(0, len(lost) - _MOST_LOST)]:
            del self._files[content]
        self._changed = self._changed or bool(gone)

    def data_hash(self, path: Path, content: str | None) -> str | None:
        """SHA-256 of the tensors alone, computed once for a content."""
        row = self._files.get(content or "", {})
        if row.get("data") is None:
            try:
                row["data"] = _hash_of_data(path)
            except (OSError, ResizeError):
                return None
            self._touch()
        return str(row["data"])

    def _touch(self) -> None:
        self._changed = True
        if time.monotonic() > self._next:
            self.save()

    def save(self) -> None:
        """A cache that cannot be written is left: it costs time, never correctness."""
        if not self._changed:
            return
        begun = time.monotonic()
        document = {"version": VERSION, "paths": self._paths, "files": self._files}
        with contextlib.suppress(ResizeError, OSError, ValueError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(document).encode(), overwrite=True)
        if self._exact:
            save_cache(cache_file(), self._exact)  # the panel's
            self._exact = {}
        ended = time.monotonic()
        self._next, self._changed = ended + max(_SAVE_EVERY, (ended - begun) / _SAVE_SHARE), False


def _loaded(path: Path) -> tuple[dict[str, _Json], dict[str, _Json]]:
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["version"] == VERSION:
            return dict(document["paths"]), dict(document["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return {}, {}


def _hash_of_data(path: Path) -> str:
    digest = hashlib.sha256()
    start = read_header(path).data_start
    with open(path, "rb") as stream:
        stream.seek(start)
        for piece in _pieces(stream.read):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while piece := read(1 << 20):
        yield piece

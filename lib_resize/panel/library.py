"""Every LoRA of the host's list with what its header says, read in the background and only where a file changed."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from ..adapters.outline import Outline, outline
from ..adapters.read import kinds_of
from ..base.norm_cache import cache_folder
from ..base.pairing import looks_like_checkpoint
from ..errors import ResizeError
from ..files.atomic import write_whole
from ..files.header import Entry, Header, read_header
from ..files.stamp import RECORD
from ..hosts.host import Host, LoraFile
from ..names.spelling import identify

VERSION = 1
"""Raised whenever facts are found differently."""

_SAMPLE = 160  # layers by which a family is known in the list; the analysis looks at all
_PATIENCE = 0.12  # seconds that one answer may wait for the first files

Answer = dict[str, Any]
Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds: a file with the same two was not changed."""


@dataclass(frozen=True)
class Facts:
    """What the header of one file says; None and 0 where it cannot be read."""

    family: str | None = None
    kind: str | None = None
    rank: int | None = None
    dtype: str | None = None
    layers: int = 0
    problem: str | None = None
    source: str | None = None
    """Of a file of ours: stem of the original."""
    recipe: str | None = None


@dataclass(frozen=True)
class _Known:
    """One file of the list, as told to pages."""

    lora: LoraFile
    stamp: Stamp
    facts: Facts
    folder: str
    revision: int
    predicted: dict[str, int | None] | None = None


def stamp_of(path: Path) -> Stamp:
    """Raises OSError where there is no file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def read_facts(path: Path) -> Facts:
    """Looks at the header alone. Never raises for a bad file: that is one of the facts."""
    try:
        return _facts(read_header(path))
    except ResizeError as error:
        return Facts(problem=_without_path(str(error), path))
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        return Facts(problem=f"cannot be read: {error}")


def _without_path(message: str, path: Path) -> str:
    return message.replace(f"{path}: ", "", 1).replace(str(path), path.name)


def _facts(header: Header) -> Facts:
    stems = kinds_of(header.entries)
    refused = Counter(kind.name for kind, _ in stems.values() if kind.verdict == "refuse")
    found = {stem: outline(kind, parts, header.entries) for stem, (kind, parts) in stems.items()}
    layers = {stem: one for stem, one in found.items() if one is not None and not _is_vector(one)}
    whole = {stem: one for stem, one in layers.items() if one.missing is None}
    magnitudes = any("magnitude" in stems[stem][1] for stem in whole)
    source, recipe = _record(header.metadata)
    return Facts(
        family=_family(whole),
        kind=_kind(refused, list(whole.values()), magnitudes),
        rank=max((one.rank for one in whole.values()), default=None),
        dtype=_dtype(header.entries, whole),
        layers=len(layers) + sum(refused.values()),
        problem=_problem(header.entries, refused, layers),
        source=source,
        recipe=recipe,
    )


def _is_vector(layer: Outline) -> bool:
    """A norm's difference, which is copied."""
    return layer.kind == "weight difference" and layer.missing is not None


def _problem(entries: Mapping[str, Entry], refused: Counter[str], layers: Mapping[str, Outline]) -> str | None:
    if looks_like_checkpoint(entries):
        return "this is a base model, not a LoRA"
    if refused:
        names = ", ".join(f"{name} ({count} layers)" for name, count in refused.items())
        return f"holds {names}, which cannot be resized"
    if not layers:
        return "no low-rank pair (up and down) found, so there is nothing to resize"
    lacking = next((stem for stem, layer in layers.items() if layer.missing is not None), None)
    return (
        None
        if lacking is None
        else f"incomplete: layer {lacking} ({layers[lacking].kind}) lacks {layers[lacking].missing}"
    )


def _kind(refused: Counter[str], layers: Sequence[Outline], magnitudes: bool) -> str | None:
    if refused:
        return refused.most_common(1)[0][0]
    if not layers:
        return None
    if magnitudes:
        return "DoRA"
    kind = Counter(layer.kind for layer in layers).most_common(1)[0][0]
    return "LoCon" if kind == "LoRA" and any(prod(layer.kernel) > 1 for layer in layers) else kind


def _dtype(entries: Mapping[str, Entry], whole: Mapping[str, Outline]) -> str | None:
    counted = Counter(dtype for layer in whole.values() for dtype in layer.dtypes)
    counted = counted or Counter(entry.dtype for entry in entries.values())
    return counted.most_common(1)[0][0] if counted else None


def _family(whole: Mapping[str, Outline]) -> str | None:
    """By a sample of the layers, evenly spread; a file in order has all its blocks there."""
    stems = sorted(whole)
    chosen = stems[:: max(1, len(stems) // _SAMPLE)]
    family = identify({stem: whole[stem].size for stem in chosen}) if chosen else None
    return None if family is None else family.name


def _record(metadata: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Of our own record: stem of the source, and the recipe."""
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(metadata.get(RECORD, ""))
        if isinstance(record, dict) and record.get("version"):
            source, recipe = (record.get(field) for field in ("source", "recipe"))
            return PurePosixPath(str(source)).stem, str(recipe)
    return None, None


# The cache on disk ---------------------------------------------------------------------------------------------

Cached = dict[str, tuple[Stamp, Facts, dict[str, int | None] | None]]
"""Path -> stamp, facts and predicted sizes."""


def cache_file() -> Path:
    return cache_folder() / "library.json"


def load_cache(path: Path) -> Cached:
    """What is known of files; empty where there is no cache, and without entries that are damaged."""
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["version"] != VERSION:
            return {}
        rows = document["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    found: Cached = {}
    for name, row in rows:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            found[name] = _checked(row)
    return found


def save_cache(path: Path, known: Cached) -> None:
    """Adds to what is on disk. A cache that cannot be written is left: it costs seconds, never correctness."""
    merged = {**load_cache(path), **known}
    rows = {
        name: {"stamp": stamp, "facts": asdict(facts), "predicted": predicted}
        for name, (stamp, facts, predicted) in merged.items()
    }
    with contextlib.suppress(ResizeError, OSError, ValueError):
        write_whole(path, json.dumps({"version": VERSION, "files": rows}).encode(), overwrite=True)


_TYPES: dict[str, tuple[type, ...]] = {
    "str | None": (str, type(None)),
    "int | None": (int, type(None)),
    "int": (int,),
}


def _checked(row: Mapping[str, Any]) -> tuple[Stamp, Facts, dict[str, int | None] | None]:
    size, changed = row["stamp"]
    facts = Facts(**row["facts"])
    predicted = row["predicted"]
    values = [
        (size, "int"),
        (changed, "int"),
        *((getattr(facts, field.name), str(field.type)) for field in fields(Facts)),
    ]
    values += [(value, "int | None") for value in (predicted or {}).values()]
    if not all(isinstance(value, _TYPES[kind]) and not isinstance(value, bool) for value, kind in values):
        raise ValueError("not facts of a file")
    return (size, changed), facts, predicted


# The list ------------------------------------------------------------------------------------------------------


class Library:
    """The host's LoRAs. Every method may be called from any thread."""

    def __init__(self, host: Host, cache: Path | None = None) -> None:
        self._host = host
        self._path = cache or cache_file()
        self._lock = threading.RLock()
        self._files: dict[str, _Known] = {}
        self._gone: dict[str, int] = {}
        self._revision = 0
        self._cache: Cached | None = None
        self._thread: threading.Thread | None = None
        self._total = 0
        self._roots: list[Path] = []
        self._dirty = True
        self._refresh = False
        self._family: str | None = None

    @property
    def revision(self) -> int:
        return self._revision

    def touch(self) -> None:
        """The folders changed by our doing: the next question looks again."""
        with self._lock:
            self._dirty = True
            self._revision += 1

    def answer(self, since: int, refresh: bool, family: str | None) -> Answer:
        """Files that changed since a revision; `family` is that of the reference."""
        thread = self._scan_if_needed(whole=since <= 0, refresh=refresh)
        if thread is not None:
            thread.join(_PATIENCE)
        with self._lock:
            if family != self._family:
                self._family = family
                self._revise_all()
            complete = not (self._thread and self._thread.is_alive()) and not self._dirty
            files = [known for known in self._files.values() if known.revision > since]
            return {
                "files": [self._told(known) for known in files],
                "gone": [name for name, revision in self._gone.items() if revision > since > 0],
                "roots": root_names(self._host.lora_roots()),
                "complete": complete,
                "known": len(self._files),
                "total": max(self._total, len(self._files)),
                "revision": self._revision,
            }

    def facts(self, lora: LoraFile) -> Facts:
        """Of one file, true as of now."""
        stamp = stamp_of(lora.path)
        with self._lock:
            known = self._files.get(lora.name)
        if known is not None and known.stamp == stamp and known.lora.path == lora.path:
            return known.facts
        return read_facts(lora.path)

    def predict(self, lora: LoraFile, stamp: Stamp, sizes: dict[str, int | None]) -> None:
        """Remembers what the presets would make of a file, here and on the disk."""
        with self._lock:
            known = self._files.get(lora.name)
            if known is None or known.stamp != stamp or known.predicted == sizes:
                return
            self._revision += 1
            self._files[lora.name] = replace(known, predicted=sizes, revision=self._revision)
            entry: Cached = {str(known.lora.path): (stamp, known.facts, sizes)}
            self._loaded_cache().update(entry)
        save_cache(self._path, entry)

    def versions(self, source: str) -> list[str]:
        """Names of our files that were made of this one."""
        with self._lock:
            return [known.lora.name for known in self._files.values() if known.facts.source == source]

    def families(self) -> dict[str, list[str]]:
        """Stem of an original -> names of our files that go back to it, by any number of steps. Waits for the scan."""
        self._scan_if_needed(whole=False, refresh=False)
        self.join()
        with self._lock:
            ours = {known.lora.name: known for known in self._files.values() if known.facts.source is not None}
        sources = {known.lora.path.stem: str(known.facts.source) for known in ours.values()}
        found: dict[str, list[str]] = {}
        for name, known in ours.items():
            found.setdefault(_first_source(known.lora.path.stem, sources), []).append(name)
        return found

    def join(self, seconds: float = 60.0) -> None:
        """Waits for the scan that goes on."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    # Scanning --------------------------------------------------------------------------------------------------

    def _scan_if_needed(self, *, whole: bool, refresh: bool) -> threading.Thread | None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                self._refresh = self._refresh or refresh
                return self._thread
            if not (whole or refresh or self._dirty or self._refresh or self._list_changed()):
                return None
            self._dirty = False
            again, self._refresh = refresh or self._refresh, False
            self._thread = threading.Thread(target=self._scan, args=(again,), name="resize-lora-library", daemon=True)
            self._thread.start()
            return self._thread

    def _list_changed(self) -> bool:
        return {lora.name: lora.path for lora in self._host.loras()} != {
            name: known.lora.path for name, known in self._files.items()
        }

    def _scan(self, refresh: bool) -> None:
        if refresh:
            with contextlib.suppress(Exception):  # the list that the host has is better than none
                self._host.refresh()
        loras, self._roots = self._host.loras(), self._host.lora_roots()
        self._total = len(loras)
        self._drop_others({lora.name for lora in loras})
        found: Cached = {}
        for lora in loras:
            self._look(lora, found)
        if found:
            save_cache(self._path, found)

    def _drop_others(self, names: set[str]) -> None:
        with self._lock:
            for name in [name for name in self._files if name not in names]:
                self._revision += 1
                del self._files[name]
                self._gone[name] = self._revision

    def _look(self, lora: LoraFile, found: Cached) -> None:
        try:
            stamp = stamp_of(lora.path)
        except OSError as error:
            self._put(lora, (0, 0), Facts(problem=f"cannot be read: {error.strerror}"), None)
            return
        known = self._files.get(lora.name)
        if known is not None and known.stamp == stamp and known.lora == lora:
            return
        cached = self._loaded_cache().get(str(lora.path))
        if cached is not None and cached[0] == stamp:
            self._put(lora, stamp, cached[1], cached[2])
            return
        facts = read_facts(lora.path)
        found[str(lora.path)] = (stamp, facts, None)
        self._put(lora, stamp, facts, None)

    def _put(self, lora: LoraFile, stamp: Stamp, facts: Facts, predicted: dict[str, int | None] | None) -> None:
        folder = folder_of(lora.path, self._roots)
        with self._lock:
            before = self._files.get(lora.name)
            new = _Known(lora, stamp, facts, folder, before.revision if before else 0, predicted)
            if new == before:
                return
            self._revision += 1
            self._gone.pop(lora.name, None)
            self._files[lora.name] = replace(new, revision=self._revision)

    def _loaded_cache(self) -> Cached:
        with self._lock:
            if self._cache is None:
                self._cache = load_cache(self._path)
            return self._cache

    def _revise_all(self) -> None:
        if self._files:
            self._revision += 1
            self._files = {name: replace(known, revision=self._revision) for name, known in self._files.items()}

    def _told(self, known: _Known) -> Answer:
        facts = known.facts
        fits = None if facts.family is None or self._family is None else facts.family == self._family
        ours = None
        if facts.source is not None:
            ours = {"source": facts.source, "recipe": facts.recipe or "", "there": facts.source in self._files}
        return {
            "name": known.lora.name,
            "folder": known.folder,
            "family": facts.family,
            "kind": facts.kind,
            "rank": facts.rank,
            "dtype": facts.dtype,
            "layers": facts.layers,
            "bytes": known.stamp[0],
            "modified": known.stamp[1] / 1e9,
            "preview": known.lora.preview is not None,
            "fits": fits,
            "ours": ours,
            "problem": facts.problem,
            "predicted": known.predicted,
        }


def _first_source(stem: str, sources: Mapping[str, str]) -> str:
    """Where a file of ours goes back to; files that name each other in a circle end it."""
    seen = set()
    while stem in sources and stem not in seen:
        seen.add(stem)
        stem = sources[stem]
    return stem


def root_names(roots: Sequence[Path]) -> list[str]:
    """Names of folders, told apart by what is above them where they are alike."""
    names = [root.name or str(root.anchor) for root in roots]
    return [
        name if names.count(name) == 1 else f"{root.parent.name}/{name}"
        for name, root in zip(names, roots, strict=True)
    ]


def folder_of(path: Path, roots: Sequence[Path]) -> str:
    """The folder of a file below its root, with ``/``; where there are several roots, the root's name leads."""
    for find in (_as_it_is, _real):
        parent = find(path.parent)
        for root, name in zip(roots, root_names(roots), strict=True):
            if parent == root or root in parent.parents:
                below = parent.relative_to(root).parts
                return "/".join((name, *below) if len(roots) > 1 else below)
    return path.parent.name


def _as_it_is(folder: Path) -> Path:
    return folder


def _real(folder: Path) -> Path:
    try:
        return folder.resolve()
    except (OSError, RuntimeError):  # a link that leads to itself
        return folder

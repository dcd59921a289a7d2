"""What the headers of LoRA files say, and a cache of it that the panel and the command line share."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from ..adapters.read.adapter import layers_by_stem
from ..adapters.read.outline import Outline, outline
from ..base.checkpoint_keys import looks_like_checkpoint
from ..base.norm_cache import cache_folder
from ..errors import ResizeError
from ..files.atomic import write_whole
from ..files.header import Header, HeaderText, TensorEntry, open_file, parse_text, read_text, split_metadata
from ..files.metadata import RECORD
from ..names.evidence import base_model_hints
from ..names.identify import identify

VERSION = 2
"""Raised whenever facts are found differently."""

_SAMPLE = 160  # layers by which a family is known in the list; the analysis looks at all

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


def stamp_of(path: Path) -> Stamp:
    """Raises OSError where there is no file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


Alike = dict[bytes, Facts]
"""Facts by what a header says of its tensors: trainers write the same again and again."""
_MOST_ALIKE = 1000


def read_facts(path: Path, alike: Alike | None = None) -> Facts:
    """Looks at the header alone. Never raises for a bad file: that is one of the facts.

    Who reads many files gives the same `alike`, which is filled, and has the facts of each kind found once.
    """
    try:
        with open_file(path) as stream:
            text = read_text(stream, path)
        return _facts_of_text(text, path, {} if alike is None else alike)
    except ResizeError as error:
        return Facts(problem=_without_path(str(error), path))
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        return Facts(problem=f"cannot be read: {error}")


def _facts_of_text(text: HeaderText, path: Path, alike: Alike) -> Facts:
    split = split_metadata(text)
    if split is None:
        return facts_of(parse_text(text, path))
    told = base_model_hints(split[1])
    key = sha256(f"{text.file_bytes - text.data_start} {told} {split[0]}".encode()).digest()
    known = alike.get(key)
    if known is not None:
        source, recipe = _record(split[1])
        return replace(known, source=source, recipe=recipe)
    facts = facts_of(parse_text(text, path))
    if len(alike) >= _MOST_ALIKE:
        alike.clear()
    alike[key] = facts
    return facts


def _without_path(message: str, path: Path) -> str:
    return message.replace(f"{path}: ", "", 1).replace(str(path), path.name)


def facts_of(header: Header) -> Facts:
    """The same of a header that was read already."""
    stems = layers_by_stem(header.entries)
    refused = Counter(kind.name for kind, _ in stems.values() if kind.verdict == "refuse")
    found = {stem: outline(kind, parts, header.entries) for stem, (kind, parts) in stems.items()}
    layers = {stem: one for stem, one in found.items() if one is not None and not _is_vector(one)}
    whole = {stem: one for stem, one in layers.items() if one.missing is None}
    magnitudes = any("magnitude" in stems[stem][1] for stem in whole)
    source, recipe = _record(header.metadata)
    return Facts(
        family=_family(whole, header.metadata),
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


def _problem(entries: Mapping[str, TensorEntry], refused: Counter[str], layers: Mapping[str, Outline]) -> str | None:
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


def _dtype(entries: Mapping[str, TensorEntry], whole: Mapping[str, Outline]) -> str | None:
    counted = Counter(dtype for layer in whole.values() for dtype in layer.dtypes)
    counted = counted or Counter(entry.dtype for entry in entries.values())
    return counted.most_common(1)[0][0] if counted else None


def _family(whole: Mapping[str, Outline], metadata: Mapping[str, str]) -> str | None:
    """By a sample of the layers, evenly spread; a file in order has all its blocks there."""
    stems = sorted(whole)
    chosen = stems[:: max(1, len(stems) // _SAMPLE)]
    family = identify({stem: whole[stem].size for stem in chosen}, base_model_hints(metadata)) if chosen else None
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

Row = tuple[Stamp, Facts, dict[str, int | None] | None]
"""Stamp, facts and predicted sizes of a file."""
Cached = dict[str, Row]
"""Path -> what is known of the file."""


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
    """Adds to what is on disk, and drops files that are gone.

    A cache that cannot be written is left: it costs seconds, never correctness.
    """
    merged = {name: row for name, row in {**load_cache(path), **known}.items() if not _is_gone(Path(name))}
    rows = {
        name: {"stamp": stamp, "facts": asdict(facts), "predicted": predicted}
        for name, (stamp, facts, predicted) in merged.items()
    }
    with contextlib.suppress(ResizeError, OSError, ValueError):
        write_whole(path, json.dumps({"version": VERSION, "files": rows}).encode(), overwrite=True)


def _is_gone(path: Path) -> bool:
    """Whether a file was deleted or moved; on a drive that is not connected, nothing is."""
    try:
        return not path.exists() and path.parent.is_dir()
    except (OSError, ValueError):
        return False


class KnownFiles:
    """The cache while a program runs: read once, and written every few seconds at most.

    Call it from any thread. What was added is written by a timer, or by `save` at the end.
    """

    def __init__(self, path: Path, every: float = 5.0) -> None:
        self._path = path
        self._every = every
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._known: Cached | None = None
        self._new: Cached = {}
        self._timer: threading.Timer | None = None

    def get(self, path: Path) -> Row | None:
        with self._lock:
            return self._loaded().get(str(path))

    def add(self, path: Path, row: Row) -> None:
        with self._lock:
            self._loaded()[str(path)] = self._new[str(path)] = row
            if self._timer is None:
                self._timer = threading.Timer(self._every, self.save)
                self._timer.daemon = True
                self._timer.start()

    def save(self) -> None:
        """Writes what was added since the last time."""
        with self._saving:
            with self._lock:
                new, self._new = self._new, {}
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            if new:
                save_cache(self._path, new)

    def _loaded(self) -> Cached:
        if self._known is None:
            self._known = load_cache(self._path)
        return self._known


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

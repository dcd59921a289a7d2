"""Facts from the headers of LoRA files, and the store on disk that the tab and the command line share."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from ..adapters.read.adapter import stems_of
from ..adapters.read.outline import Outline, outline
from ..base.checkpoint_keys import looks_like_checkpoint
from ..errors import ResizeError
from ..files.alike import Alike
from ..files.atomic import write_whole
from ..files.header import Header, TensorEntry, open_file, read_text
from ..files.metadata import RECORD
from ..files.user_cache import cache_folder
from ..names.evidence import base_model_hints
from ..names.identify import identify

VERSION = 3
"""Raised whenever facts or figures are computed differently; a store of another version is ignored."""

_SAMPLE = 160  # layers from which the family is identified here; the analysis uses all

Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds: a file with the same two is unchanged."""


@dataclass(frozen=True)
class Facts:
    """Facts from the header of one file; None and 0 where it cannot be read."""

    family: str | None = None
    kind: str | None = None
    rank: int | None = None
    dtype: str | None = None
    layers: int = 0
    problem: str | None = None
    source: str | None = None
    """Of a resized file: stem of the original."""
    recipe: str | None = None
    """Of a resized file."""


def stamp_of(path: Path) -> Stamp:
    """Return size and modification time of a file. Raises OSError where there is none."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def facts_of_alike() -> Alike[Facts]:
    """Return room for the facts of many files, for `read_facts`."""
    return Alike(1000)


def read_facts(path: Path, alike: Alike[Facts] | None = None) -> Facts:
    """Return the facts of a file from its header. A file that cannot be read has a `problem`, and raises nothing.

    For many files, pass the same `alike`: files that say the same of their tensors are examined once.
    """
    try:
        with open_file(path) as stream:
            text = read_text(stream, path)
        known = facts_of_alike() if alike is None else alike
        facts, metadata = known.of(text, path, facts_of, base_model_hints)
        return _with_record(facts, metadata)
    except ResizeError as error:
        return Facts(problem=without_path(str(error), path))
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        return Facts(problem=f"cannot be read: {error}")


def without_path(message: str, path: Path) -> str:
    """Return a message about a file without the path in front, and with its name in place of the path elsewhere."""
    return message.replace(f"{path}: ", "", 1).replace(str(path), path.name)


def facts_of(header: Header) -> Facts:
    """Return the facts from a header."""
    hints = base_model_hints(header.metadata)
    facts: Facts | None = header.layout.found("facts", hints)
    if facts is None:
        facts = header.layout.keep("facts", _facts_of_tensors(header), hints)
    return _with_record(facts, header.metadata)


def _facts_of_tensors(header: Header) -> Facts:
    """Return the facts that follow from the tensors and from the base model in the metadata."""
    stems = stems_of(header.layout)
    refused = Counter(kind.name for kind, _ in stems.values() if kind.verdict == "refuse")
    found = {stem: outline(kind, parts, header.entries) for stem, (kind, parts) in stems.items()}
    layers = {stem: one for stem, one in found.items() if one is not None and not _is_vector(one)}
    whole = {stem: one for stem, one in layers.items() if one.missing is None}
    magnitudes = any("magnitude" in stems[stem][1] for stem in whole)
    return Facts(
        family=_family(whole, header.metadata),
        kind=_kind(refused, list(whole.values()), magnitudes),
        rank=max((one.rank for one in whole.values()), default=None),
        dtype=_dtype(header.entries, whole),
        layers=len(layers) + sum(refused.values()),
        problem=_problem(header.entries, refused, layers),
    )


def _is_vector(layer: Outline) -> bool:
    """Return whether it is the difference of a norm, which is copied."""
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
    """Identify the family by an evenly spread sample of the layers, which has all blocks of a complete file."""
    stems = sorted(whole)
    chosen = stems[:: max(1, len(stems) // _SAMPLE)]
    family = identify({stem: whole[stem].size for stem in chosen}, base_model_hints(metadata)) if chosen else None
    return None if family is None else family.name


def _with_record(facts: Facts, metadata: Mapping[str, str]) -> Facts:
    """Return the facts with the stem of the source and the recipe from the metadata of a resized file."""
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(metadata.get(RECORD, ""))
        if isinstance(record, dict) and record.get("version"):
            source, recipe = (record.get(field) for field in ("source", "recipe"))
            return replace(facts, source=PurePosixPath(str(source)).stem, recipe=str(recipe))
    return replace(facts, source=None, recipe=None)


# The store on disk ---------------------------------------------------------------------------------------------

Row = tuple[Stamp, Facts, dict[str, int | None] | None, bool]
"""Stamp, facts and predicted sizes of a file, and whether these are estimates."""
Cached = dict[str, Row]
"""Path -> what is known of the file."""
Json = dict[str, Any]
_MOST_UNUSED = 1000  # contents that no known path has: of files that were moved, or are on another drive


def cache_file() -> Path:
    """Return the path of the store that the tab and ``resize-lora library`` share."""
    return cache_folder() / "library.json"


@dataclass
class CatalogueStore:
    """The document on disk. Its rows are not checked before they are used."""

    files: dict[str, Json]
    """Path -> stamp, facts, predicted sizes, and the key of its content where a survey has read it."""
    contents: dict[str, Json]
    """Key of a content -> its figures, as `survey_store` writes them. They survive when a file is moved."""

    def put(self, name: str, fields: Json) -> None:
        """Set fields of a file. Others are kept, unless the file has changed since they were found."""
        before = self.files.get(name)
        same = isinstance(before, dict) and before.get("stamp") == fields["stamp"]
        self.files[name] = {**before, **fields} if same and before is not None else fields


def read_store(path: Path) -> CatalogueStore:
    """Read the document; empty where there is none, and where it is damaged or of another version."""
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["version"] == VERSION:
            return CatalogueStore(dict(document["files"]), dict(document["contents"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return CatalogueStore({}, {})


def update_store(path: Path, change: Callable[[CatalogueStore], None]) -> None:
    """Change the document, and remove files that no longer exist from it.

    A store that cannot be written is left as it is: it saves time, and nothing depends on it.
    """
    store = read_store(path)
    change(store)
    store.files = {name: row for name, row in store.files.items() if not _is_gone(Path(name))}
    used = {row.get("content") for row in store.files.values() if isinstance(row, dict)}
    unused = [content for content in store.contents if content not in used]
    for content in unused[: max(0, len(unused) - _MOST_UNUSED)]:
        del store.contents[content]
    text = json.dumps({"version": VERSION, "files": store.files, "contents": store.contents})
    with contextlib.suppress(ResizeError, OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode(), overwrite=True)
        path.with_name(_FORMER).unlink(missing_ok=True)


_FORMER = "survey.json"  # what versions before 0.2 wrote in addition


def load_cache(path: Path) -> Cached:
    """Return what is known of files, without damaged rows."""
    store = read_store(path)
    found: Cached = {}
    for name, row in store.files.items():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            found[name] = checked_row(row, store)
    return found


def save_cache(path: Path, known: Cached) -> None:
    """Add files to the store."""

    def change(store: CatalogueStore) -> None:
        for name, (stamp, facts, predicted, _) in known.items():
            store.put(name, {"stamp": list(stamp), "facts": asdict(facts), "predicted": predicted})

    update_store(path, change)


def _is_gone(path: Path) -> bool:
    """Return whether a file was deleted or moved. On a drive that is not connected, nothing is."""
    try:
        return not path.exists() and path.parent.is_dir()
    except (OSError, ValueError):
        return False


class KnownFiles:
    """The store while a program runs: read once, and written every few seconds at most.

    Its methods may be called from any thread. What was added is written by a timer, or by `save` at the end.
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
        """Return what is known of a file."""
        with self._lock:
            return self._loaded().get(str(path))

    def add(self, path: Path, row: Row) -> None:
        """Add a file, or replace what is known of it."""
        with self._lock:
            self._loaded()[str(path)] = self._new[str(path)] = row
            if self._timer is None:
                self._timer = threading.Timer(self._every, self.save)
                self._timer.daemon = True
                self._timer.start()

    def save(self) -> None:
        """Write what was added since the last time."""
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


def checked_row(row: Mapping[str, Any], store: CatalogueStore) -> Row:
    """Return a row of the store. Raises ValueError, KeyError, TypeError or AttributeError for a damaged one."""
    size, changed = row["stamp"]
    facts = Facts(**row["facts"])
    predicted, estimated = row.get("predicted"), False
    if not predicted:
        predicted, estimated = _surveyed_sizes(store.contents.get(str(row.get("content"))))
    values = [
        (size, "int"),
        (changed, "int"),
        *((getattr(facts, field.name), str(field.type)) for field in fields(Facts)),
    ]
    values += [(value, "int | None") for value in (predicted or {}).values()]
    if not all(isinstance(value, _TYPES[kind]) and not isinstance(value, bool) for value, kind in values):
        raise ValueError("not facts of a file")
    return (size, changed), facts, predicted, estimated


def _surveyed_sizes(content: Json | None) -> tuple[dict[str, int | None] | None, bool]:
    """Return the sizes by preset that a survey has computed, and whether they are estimates."""
    figures = (content or {}).get("figures") or {}
    return (dict(figures["presets"]), not figures["exact"]) if figures else (None, False)

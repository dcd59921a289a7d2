"""The figures of a survey's files, and their place in the store on disk.

Figures are kept by the content of a file, so that a moved or renamed file keeps them.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import ResizeError
from ..files.alike import Layouts
from ..files.header import read_header
from .catalogue import CatalogueStore, Facts, Json, Stamp, checked_row, read_store, update_store

OVER_PROVISIONED = 0.5
"""Share of a file that the preset high must free for its rank to be called larger than needed."""
_SAVE_EVERY = 10.0  # seconds: what a stopped survey may lose
_SAVE_SHARE = 0.05  # largest share of the time that is spent on saving, however large the store
_PIECE = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class Figures:
    """Figures from the spectra of one file."""

    exact: bool
    """Whether all layers were decomposed, not only a sample."""
    effective_rank: float
    """Mean over layers that are not zero."""
    zero: int
    """Number of layers that are zero; if not exact, those whose samples are all zero."""
    presets: dict[str, int | None]
    """Preset -> bytes of the resized file; None where the preset does not apply."""


@dataclass(frozen=True)
class SurveyedFile:
    """One file of the folder."""

    path: Path
    stamp: Stamp
    facts: Facts
    content: str | None = None
    """Hash of header, samples and modification time; None for files that cannot be read."""
    layout: str | None = None
    """Hash of names, shapes and samples: files that differ in it cannot be duplicates."""
    figures: Figures | None = None
    problem: str | None = None
    """Why there are no figures."""

    @property
    def bytes(self) -> int:
        """Return the size of the file."""
        return self.stamp[0]

    @property
    def is_fp32(self) -> bool:
        """Return whether the file is float32, so that float16 halves it."""
        return self.facts.dtype == "F32" and self.problem is None

    def freed(self, preset: str) -> int:
        """Return the bytes that a preset frees; 0 if the result is not smaller, or the file is a result itself."""
        size = self.figures.presets.get(preset) if self.figures else None
        return max(0, self.bytes - size) if size is not None and self.facts.source is None else 0

    @property
    def is_over_provisioned(self) -> bool:
        """Return whether the rank of the file is larger than needed."""
        return self.freed("high") > OVER_PROVISIONED * self.bytes


class SurveyStore:
    """The entries that are known, while a survey runs. It writes every few seconds, and at `save`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = read_store(path)
        self._new = CatalogueStore({}, {})
        self._gone: set[str] = set()
        self._next = time.monotonic() + _SAVE_EVERY
        self.layouts = Layouts()
        """What was found from the headers of the last files."""

    def entry(self, path: Path, stamp: Stamp) -> SurveyedFile | None:
        """Return what is known of a file; None if it was changed, or never surveyed."""
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            row = self._known.files[_name(path)]
            known, facts, *_ = checked_row(row, self._known)
            body = self._known.contents[row["content"]]
            figures = None if body["figures"] is None else Figures(**body["figures"])
            if known == stamp:
                return SurveyedFile(path, stamp, facts, row["content"], body["layout"], figures, body["problem"])
        return None

    def keep(self, entry: SurveyedFile) -> None:
        """Add an entry. Figures that are known of the same content are kept."""
        if entry.content is None:
            return
        before = self._known.contents.get(entry.content, {})
        figures = asdict(entry.figures) if entry.figures else before.get("figures")
        fields = {"stamp": list(entry.stamp), "facts": asdict(entry.facts), "content": entry.content}
        self._known.put(_name(entry.path), fields)
        self._new.files[_name(entry.path)] = fields
        self._put_content(
            entry.content,
            {"layout": entry.layout, "figures": figures, "problem": entry.problem, "data": before.get("data")},
        )

    def prune(self, folder: Path, found: Sequence[Path]) -> None:
        """Forget the files of a folder that are no longer in it."""
        root, there = folder.absolute(), {_name(path) for path in found}
        self._gone = {name for name in self._known.files if name not in there and root in Path(name).parents}
        for name in self._gone:
            del self._known.files[name]

    def data_hash(self, path: Path, content: str | None) -> str | None:
        """Return the SHA-256 of the tensors without the header, computed once for a content."""
        body = self._known.contents.get(content or "", {})
        if content is not None and body.get("data") is None:
            try:
                body = {**body, "data": _hash_of_data(path)}
            except (OSError, ResizeError):
                return None
            self._put_content(content, body)
        return None if body.get("data") is None else str(body["data"])

    def _put_content(self, content: str, body: Json) -> None:
        self._known.contents[content] = self._new.contents[content] = body
        if time.monotonic() > self._next:
            self.save()

    def save(self) -> None:
        """Write what is new."""
        if not (self._new.files or self._new.contents or self._gone):
            return
        begun = time.monotonic()
        update_store(self._path, self._apply)
        self._new, self._gone = CatalogueStore({}, {}), set()
        ended = time.monotonic()
        self._next = ended + max(_SAVE_EVERY, (ended - begun) / _SAVE_SHARE)

    def _apply(self, store: CatalogueStore) -> None:
        """Change the document on disk, to which other programs may have added."""
        for name in self._gone:
            store.files.pop(name, None)
        for name, fields in self._new.files.items():
            store.put(name, fields)
        store.contents.update(self._new.contents)


def _name(path: Path) -> str:
    return str(path.absolute())


def _hash_of_data(path: Path) -> str:
    digest = hashlib.sha256()
    start = read_header(path).data_start
    with open(path, "rb") as stream:
        stream.seek(start)
        for piece in _pieces(stream.read):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while piece := read(_PIECE):
        yield piece

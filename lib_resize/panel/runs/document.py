"""The record of a run: the order, and the result of each file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..protocol.types import Json

VERSION = 1
RUNNING, PAUSED, INTERRUPTED, DONE, STOPPED = "running", "paused", "interrupted", "done", "stopped"
WAITING, WORKING, RESIZED, LEFT, FAILED = "waiting", "working", "resized", "left", "failed"
RESTORED, PURGED = "restored", "purged"
ARCHIVED, UNKEPT = "archive", "none"


@dataclass(frozen=True)
class RunItem:
    """One file of a run."""

    name: str
    folder: str
    family: str | None
    path: Path
    """The file of the list, which keeps its name."""
    bytes: int
    """Size of the file that is resized: the file of the list, or its archived original."""
    state: str = WAITING
    reason: str | None = None
    message: str = ""
    bytes_after: int | None = None
    retention: float | None = None
    notes: tuple[str, ...] = ()
    entry: str | None = None
    seconds: float = 0.0
    effect: Json | None = None
    """The `Effect record` of the protocol, of the last comparison of images."""

    @property
    def is_finished(self) -> bool:
        return self.state not in (WAITING, WORKING)

    def document(self) -> Json:
        return {**asdict(self), "path": str(self.path), "notes": list(self.notes)}

    def to_json(self) -> Json:
        """Return the `Item` of the protocol."""
        document = self.document()
        del document["path"]
        bytes_before = document.pop("bytes")
        return {**document, "bytes_before": bytes_before}


def read_item(document: Mapping[str, Any]) -> RunItem:
    """Return an item from its JSON form. Raises ValueError, KeyError and TypeError."""
    values = {one.name: document[one.name] for one in fields(RunItem) if one.name != "effect"}
    path = Path(values["path"])
    if not path.is_absolute():
        raise ValueError("not an absolute path")
    values["effect"] = document.get("effect")  # runs of earlier versions have none
    return RunItem(**{**values, "path": path, "bytes": int(values["bytes"]), "notes": tuple(values["notes"])})


@dataclass(frozen=True)
class RunOrder:
    """What was asked."""

    recipe: str
    options: Json
    """The options as the page gave them."""
    again: bool = False
    least_gain: float = 10.0
    """Percent."""
    floor: float | None = None
    originals: str = ARCHIVED
    effect: Json | None = None
    """`target`, `seeds` and `settings` of a search by images for each file; None: the recipe decides."""
    fit: Json | None = None
    """A checked `Fit` of the protocol, of which the prompt is a template; None: factors are truncated."""

    @property
    def has_images(self) -> bool:
        """Return whether images are made with the LoRAs."""
        return self.effect is not None or self.fit is not None


@dataclass
class RunDocument:
    """A run. Changed only by the service that works on it."""

    id: str
    began: float
    order: RunOrder
    items: list[RunItem]
    state: str = RUNNING
    ended: float | None = None
    message: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def waiting(self) -> list[int]:
        """Indexes of the files that are not finished."""
        return [index for index, item in enumerate(self.items) if not item.is_finished]

    @property
    def share(self) -> float:
        """Share of the bytes that are worked through, 0 to 1; files that were left alone at the start do not count."""
        counted = [item for item in self.items if item.seconds or not item.is_finished]
        total = sum(item.bytes for item in counted)
        return sum(item.bytes for item in counted if item.is_finished) / total if total else 1.0

    @property
    def seconds_left(self) -> float | None:
        """Return the time for the rest, from that of the finished files; None where none was measured."""
        measured = [item for item in self.items if item.is_finished and item.seconds]
        bytes = sum(item.bytes for item in measured)
        rest = sum(self.items[index].bytes for index in self.waiting)
        return rest * sum(item.seconds for item in measured) / bytes if bytes else None

    def document(self) -> Json:
        return {
            "version": VERSION,
            "id": self.id,
            "began": self.began,
            "ended": self.ended,
            "state": self.state,
            "message": self.message,
            "order": asdict(self.order),
            "items": [item.document() for item in self.items],
        }


def read_document(document: Mapping[str, Any], id: str) -> RunDocument:
    """Return a run from its JSON form. Raises ValueError, KeyError, TypeError and AttributeError."""
    if document["version"] != VERSION or document["id"] != id or not isinstance(document["order"]["recipe"], str):
        raise ValueError("not a run of this program")
    ended = document["ended"]
    return RunDocument(
        id=id,
        began=float(document["began"]),
        order=RunOrder(**document["order"]),
        items=[read_item(item) for item in document["items"]],
        state=str(document["state"]),
        ended=None if ended is None else float(ended),
        message=str(document["message"]),
    )

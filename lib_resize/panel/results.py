"""What was made in this session, and the way back: undo, restore, and the trash of all sessions."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..hosts.host import Host
from . import trash
from .faults import Fault
from .library import folder_of
from .names import inside

THERE, TRASHED, GONE = "there", "trashed", "gone"

Answer = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """One file that was made."""

    id: str
    name: str
    """The source's name in the host's list."""
    output: str
    """The new file's."""
    path: Path
    sidecars: tuple[Path, ...]
    facts: Answer
    """What the page is told beside; see docs/panel-protocol.md."""
    source: Path = field(default_factory=Path)
    item: str | None = None
    """Where it lies in the trash."""
    emptied: bool = False


class Results:
    """The session's results. Every method may be called from any thread."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._results: dict[str, Result] = {}
        self._lock = threading.RLock()

    def add(self, result: Result) -> Answer:
        """Keeps a result under an id of its own and tells of it."""
        with self._lock:
            result = replace(result, id=f"r{len(self._results) + 1}")
            self._results[result.id] = result
        return self.told(result)

    def get(self, id: str) -> Result:
        """Raises Fault."""
        with self._lock:
            found = self._results.get(id)
        if found is None:
            raise Fault("gone", f"There is no result {id!r} in this session.")
        return found

    def told(self, result: Result) -> Answer:
        state = THERE if result.path.exists() else GONE
        if result.item is not None:
            state = GONE if result.emptied else TRASHED
        return {
            "result": result.id,
            "name": result.name,
            "output": result.output,
            "folder": folder_of(result.path, self._host.lora_roots()),
            "sidecars": len(result.sidecars),
            "state": state,
            **result.facts,
        }

    def answer(self) -> Answer:
        """All of them, and how full the trash is."""
        with self._lock:
            told = [self.told(result) for result in self._results.values()]
        items = trash.items(self._host.trash_root())
        return {"results": told, "trash": {"items": len(items), "bytes": sum(item.bytes for item in items)}}

    def __len__(self) -> int:
        return len(self._results)

    def undo(self, id: str) -> Answer:
        """Moves a result to the trash. Raises Fault and OutputError."""
        with self._lock:
            result = self.get(id)
            if result.item is not None or not result.path.exists():
                raise Fault("gone", f"{result.output} is not there any more; it was undone, moved or deleted.")
            self._check_inside(result.path)
            files = [result.path, *(path for path in result.sidecars if path.exists())]
            item = trash.trash(self._host.trash_root(), result.output, files)
            self._results[id] = result = replace(result, item=item.id)
            return self.told(result)

    def restore(self, id: str) -> Answer:
        """Moves a result back. Raises Fault and OutputError."""
        with self._lock:
            result = self.get(id)
            if result.item is None:
                raise Fault("gone", f"{result.output} is not in the trash.")
            self.restore_item(result.item)
            return self.told(self._results[id])

    def restore_item(self, id: str) -> str:
        """Moves anything in the trash back, also of earlier sessions; its name. Raises Fault and OutputError."""
        with self._lock:
            item = next((item for item in trash.items(self._host.trash_root()) if item.id == id), None)
            if item is None:
                raise Fault("gone", "That is not in the trash any more.")
            for file in item.files:
                self._check_inside(file.home)
            trash.restore(item)
            for result in self._results.values():
                if result.item == id:
                    self._results[result.id] = replace(result, item=None)
                    break
            return item.name

    def of_item(self, id: str) -> Answer | None:
        """The result of this session that an item is, if any."""
        with self._lock:
            found = next((result for result in self._results.values() if result.item == id), None)
            return None if found is None else self.told(found)

    def trashed(self) -> list[Answer]:
        """What lies in the trash."""
        return [
            {
                "item": item.id,
                "name": item.name,
                "bytes": item.bytes,
                "files": len(item.files),
                "trashed": item.trashed,
            }
            for item in trash.items(self._host.trash_root())
        ]

    def empty_trash(self) -> Answer:
        """Deletes for good. Raises OutputError."""
        with self._lock:
            files, size = trash.empty(self._host.trash_root())
            for id, result in self._results.items():
                if result.item is not None:
                    self._results[id] = replace(result, emptied=True)
            return {"files": files, "bytes": size}

    def trashed_names(self) -> set[str]:
        """Stems that a restore will need again."""
        return {file.home.stem for item in trash.items(self._host.trash_root()) for file in item.files}

    def _check_inside(self, path: Path) -> None:
        if not inside(path.parent, self._host.lora_roots()):
            raise OutputError(f"{path}: lies outside of the LoRA folders by now. Move it by hand.")


def now() -> float:
    return round(time.time(), 3)

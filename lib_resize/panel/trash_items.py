"""The items in the trash folders of a host: listed, restored, emptied, and recovered after a crash."""

from __future__ import annotations

from pathlib import Path

from ..errors import OutputError
from ..hosts.host import Host
from . import gathering, trash
from .faults import Fault
from .names import inside
from .protocol.types import Json


class TrashItems:
    """All trash folders of a host. The caller keeps two threads from moving files at once."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._items: dict[Path, trash.Item] = {}

    def all(self) -> list[trash.Item]:
        """Return the items, oldest first. Each manifest is read once, as it never changes."""
        known = self._items
        places = [root / id for root in self._host.trash_roots() for id in trash.ids(root)]
        found = ((place, known.get(place) or trash.read(place.parent, place.name)) for place in places)
        self._items = {place: item for place, item in found if item is not None}
        return sorted(self._items.values(), key=lambda item: (item.trashed, item.id))

    def get(self, id: str) -> trash.Item | None:
        return next((item for item in self.all() if item.id == id), None)

    def by_result(self) -> dict[str, trash.Item]:
        """Return result -> its item."""
        return {item.result: item for item in self.all() if item.result is not None}

    def names(self) -> set[str]:
        """Return the stems that a restore will need again."""
        return {file.home.stem for item in self.all() for file in item.files}

    def to_json(self) -> list[Json]:
        """Return the `Trash item`s of the protocol."""
        return [
            {
                "item": item.id,
                "name": item.name,
                "bytes": item.bytes,
                "files": len(item.files),
                "trashed": item.trashed,
                "result": item.result,
            }
            for item in self.all()
        ]

    def restore(self, id: str) -> str:
        """Move an item back; return its name. Raises Fault and OutputError."""
        item = self.get(id)
        if item is None:
            raise Fault("gone", "This item is not in the trash any more.")
        self._check_homes(item)
        trash.restore(item)
        self._clear_inner()
        return item.name

    def empty(self) -> Json:
        """Delete all items for good; return the number of files and bytes. Raises OutputError."""
        emptied = [trash.empty(root) for root in self._host.trash_roots()]
        self._clear_inner()
        return {"files": sum(files for files, _ in emptied), "bytes": sum(size for _, size in emptied)}

    def recover_moves(self) -> None:
        """Finish what a killed server left half done."""
        for root in self._host.trash_roots():
            trash.recover(root, self._check_homes)

    def check_inside(self, path: Path) -> None:
        """Raise OutputError where a path leads out of the LoRA folders."""
        if not inside(path.parent, self._host.lora_roots()):
            raise OutputError(f"{path}: is outside of the LoRA folders now. Move it by hand.")

    def _check_homes(self, item: trash.Item) -> None:
        for file in item.files:
            self.check_inside(file.home)

    def _clear_inner(self) -> None:
        """Remove empty trash folders inside of LoRA folders: hosts show a button for each."""
        for root in self._host.trash_roots():
            gathering.remove_if_empty(root, self._host.lora_roots())

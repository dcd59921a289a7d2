"""Pictures of the last comparisons, kept for pages that ask for them one by one. In memory only."""

from __future__ import annotations

import base64
import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from .faults import Fault

MOST = 4
"""Comparisons whose pictures are kept."""

Answer = dict[str, Any]


class Pictures:
    """Every method may be called from any thread."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[str, dict[str, bytes]] = OrderedDict()
        """Comparison -> its pictures by id."""
        self._lock = threading.Lock()

    def keep(self, pictures: Mapping[str, Any]) -> list[Answer]:
        """Keeps the PIL images of one comparison, in place of the oldest; what pages are told of them."""
        told, files = [], {}
        for what, picture in pictures.items():
            id = secrets.token_hex(8)
            files[id] = png(picture)
            told.append({"id": id, "what": what, "width": picture.width, "height": picture.height})
        with self._lock:
            self._kept[secrets.token_hex(8)] = files
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return told

    def answer(self, id: str) -> Answer:
        """What `picture` answers. Raises Fault."""
        with self._lock:
            found = next((files[id] for files in self._kept.values() if id in files), None)
        if found is None:
            raise Fault("gone", f"The pictures of the last {self._most} comparisons are kept; this one is gone.")
        return {"png": base64.b64encode(found).decode("ascii")}


def png(picture: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()

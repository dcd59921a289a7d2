"""The images of the last comparisons, kept in memory for pages that ask for them one by one."""

from __future__ import annotations

import base64
import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from .faults import Fault
from .protocol.types import Json

MOST = 4
"""Comparisons whose images are kept."""


class Images:
    """Every method may be called from any thread."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[str, dict[str, bytes]] = OrderedDict()
        """Comparison -> its images by id."""
        self._lock = threading.Lock()

    def keep(self, images: Mapping[str, Any]) -> list[Json]:
        """Keep the PIL images of one comparison, in place of the oldest; return the `Image`s of the protocol."""
        listed, files = [], {}
        for what, image in images.items():
            id = secrets.token_hex(8)
            files[id] = png(image)
            listed.append({"id": id, "what": what, "width": image.width, "height": image.height})
        with self._lock:
            self._kept[secrets.token_hex(8)] = files
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return listed

    def answer(self, id: str) -> Json:
        """Return the answer of `picture`. Raises Fault."""
        with self._lock:
            found = next((files[id] for files in self._kept.values() if id in files), None)
        if found is None:
            raise Fault("gone", f"Only the images of the last {self._most} comparisons are kept. Compare again.")
        return {"png": base64.b64encode(found).decode("ascii")}


def png(image: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()

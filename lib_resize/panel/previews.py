"""Small preview images of LoRAs for the list, as data URIs; kept while the program runs."""

from __future__ import annotations

import base64
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from ..hosts.host import LoraList
from ..studies.catalogue import Stamp, stamp_of
from .protocol.types import Json

HEIGHT = 160
_MOST = 4000  # images of about 5 KB each
_SECONDS = 0.1
_LARGEST_FILE = 64 << 20
_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}


class Previews:
    """Every method may be called from any thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, tuple[Stamp, str | None]] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, names: Sequence[str], loras: LoraList) -> Json:
        """Return the answer of `previews`: as many as can be made at once; the others are `pending`."""
        until = time.monotonic() + _SECONDS
        found: dict[str, str | None] = {}
        pending: list[str] = []
        for number, name in enumerate(names):
            if number and time.monotonic() > until:
                pending.append(name)
            else:
                lora = loras.get(name)
                found[name] = self._image(None if lora is None else lora.preview)
        return {"previews": found, "pending": pending}

    def _image(self, path: Path | None) -> str | None:
        if path is None:
            return None
        try:
            stamp = stamp_of(path)
        except OSError:
            return None
        with self._lock:
            kept = self._kept.get(path)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        image = _small(path, stamp[0])
        with self._lock:
            self._kept[path] = stamp, image
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return image


def _small(path: Path, size: int) -> str | None:
    """Return a data URI; None for files that are no images, and for videos."""
    kind = _TYPES.get(path.suffix.lower())
    if kind is None or size > _LARGEST_FILE:
        return None
    try:
        return _shrunk(path)
    except Exception:  # a damaged image may raise anything
        return None


def _shrunk(path: Path) -> str:
    import io

    from PIL import Image

    with Image.open(path) as image:
        image.draft("RGB", (4 * HEIGHT, HEIGHT))
        small = image.convert("RGB")
    small.thumbnail((4 * HEIGHT, HEIGHT))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

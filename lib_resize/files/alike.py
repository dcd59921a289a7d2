"""What headers say of their tensors, examined once for all files that say the same. Standard library only.

The LoRAs of one trainer configuration have the same tensors, in the same places, and differ in metadata and numbers.
Their headers are compared as text, so that only the first of them is parsed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar

from .header import Header, HeaderText, Layout, parse_text, split_metadata

T = TypeVar("T")
Metadata = Mapping[str, str]


def _nothing(_: Metadata) -> Hashable:
    return None


class Alike(Generic[T]):
    """Results of examining headers, one for all that say the same of their tensors.

    The last used `most` results are kept. They are shared, so they must never change. Threads can share an instance.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, T] = OrderedDict()
        self._lock = threading.Lock()

    def of(
        self,
        text: HeaderText,
        path: Path,
        examine: Callable[[Header], T],
        hints: Callable[[Metadata], Hashable] = _nothing,
    ) -> tuple[T, dict[str, str]]:
        """Return the result for a header, and the metadata of this header itself.

        `examine` may use the tensors, and of the metadata only what `hints` returns. Raises ``DamagedFileError`` as
        ``parse_text`` does, and what `examine` raises; then nothing is kept.
        """
        split = split_metadata(text)
        if split is None:
            header = parse_text(text, path)
            return examine(header), header.metadata
        tensors, metadata = split
        said = f"{text.file_bytes - text.data_start} {hints(metadata)!r} {tensors}"
        key = sha256(said.encode()).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key], metadata
        found = examine(parse_text(text, path))
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found, metadata

    def __len__(self) -> int:
        return len(self._kept)


class Layouts:
    """The layouts of the last files of a run.

    Each of 3000 tensors takes a few MB with everything that is found from it, so only some are kept.
    """

    def __init__(self, most: int = 4) -> None:
        self._alike: Alike[Layout] = Alike(most)

    def header(self, text: HeaderText, path: Path) -> Header:
        """Return what ``parse_text`` returns, with the layout of an earlier file that says the same."""
        layout, metadata = self._alike.of(text, path, lambda header: header.layout)
        return Header(layout, metadata, text.data_start, text.file_bytes)

"""Remove folders from messages: the page shows files by their names alone."""

from __future__ import annotations

import re
import threading
import time

from ..hosts.host import Host

_ABSOLUTE = re.compile(r"""(?:^|[\s"'(])(?:/|\\\\|[A-Za-z]:[/\\])\S""")


class KnownFolders:
    """The folders of a host, listed once for many messages. Every method may be called from any thread."""

    _AGAIN = 5.0  # seconds before a path that is still in a message has the folders listed again

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._folders: list[str] = []
        self._listed: float | None = None

    def without(self, text: str) -> str:
        """Return a text with every file of the host's folders by its name alone."""
        if "/" not in text and "\\" not in text:
            return text
        with self._lock:
            short = self._shortened(text)
            if _ABSOLUTE.search(short) and (self._listed is None or time.monotonic() - self._listed > self._AGAIN):
                self._list()
                short = self._shortened(text)
            return short

    def _shortened(self, text: str) -> str:
        for folder in self._folders:
            if folder in text:
                text = text.replace(f"{folder}/", "").replace(f"{folder}\\", "")
        return text

    def _list(self) -> None:
        host = self._host
        folders = {*host.lora_roots(), *host.trash_roots(), host.trash_root(), *host.loras().folders}
        folders |= {checkpoint.path.parent for checkpoint in host.checkpoints()}
        self._folders = sorted(map(str, folders), key=len, reverse=True)
        self._listed = time.monotonic()

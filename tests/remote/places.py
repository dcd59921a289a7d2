"""Places that fail or die at a chosen call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lib_resize.remote.local_store import LocalPlace
from lib_resize.remote.stores import StoredFile, StoreError, StorePlace


class Killed(BaseException):
    """The process ends here. No handler of the product may catch it."""


class Faults:
    """Raises an error at the n-th call of any place, from 0: before its effect, or after it."""

    def __init__(self, at: int | None = None, error: BaseException | None = None, *, after: bool = False) -> None:
        self.at = at
        self.error = error or StoreError("the store is away")
        self.after = after
        self.log: list[str] = []

    def places(self) -> Callable[[str], StorePlace]:
        return lambda url: FaultyPlace(Path(url), self)


class FaultyPlace:
    """A local folder that must be fetched from, as a store, with faults."""

    folder = None

    def __init__(self, folder: Path, faults: Faults) -> None:
        self._place = LocalPlace(folder)
        self._faults = faults
        self.url = self._place.url

    def _call(self, name: str, do: Callable[[], object]) -> object:
        number = len(self._faults.log)
        self._faults.log.append(name)
        if number == self._faults.at and not self._faults.after:
            raise self._faults.error
        try:
            return do()
        finally:
            if number == self._faults.at:
                raise self._faults.error

    def files(self) -> Iterator[StoredFile]:
        return self._call("files", lambda: list(self._place.files()))  # type: ignore[return-value]

    def names(self, beginning: str) -> list[str]:
        return self._call("names", lambda: self._place.names(beginning))  # type: ignore[return-value]

    def find(self, name: str) -> StoredFile | None:
        return self._call("find", lambda: self._place.find(name))  # type: ignore[return-value]

    def read(self, name: str) -> bytes:
        return self._call("read", lambda: self._place.read(name))  # type: ignore[return-value]

    def fetch(self, name: str, target: Path) -> None:
        self._call("fetch", lambda: self._place.fetch(name, target))

    def publish(self, source: Path, name: str) -> None:
        self._call(f"publish {Path(name).suffix}", lambda: self._place.publish(source, name))

    def write(self, name: str, data: bytes) -> None:
        self._call("write", lambda: self._place.write(name, data))

"""Stores that fsspec knows (S3, GCS, Azure, Hugging Face, HTTP, SFTP …) as places: the only module that imports it.

One PUT or one completed multipart upload makes a file, so object stores never show a part of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import UsageError
from .stores import STATE, StoredFile, StoreError

_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "sha256")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


class FsspecPlace:
    """A folder of a store. See `stores.StorePlace`. It can be pickled by its URL."""

    folder = None

    def __init__(self, url: str) -> None:
        """Raise UsageError where fsspec or the package for this store is not installed."""
        self._files, path = _opened(url)
        self._root = path.rstrip("/")
        self.url = url.rstrip("/")

    def files(self) -> Iterator[StoredFile]:
        with _faults(self.url):
            try:
                self._files.invalidate_cache()
                found: Mapping[str, Mapping[str, Any]] = self._files.find(self._root, detail=True)
            except FileNotFoundError:
                return
            self._files.invalidate_cache()  # the cache has a second copy of everything
        for path, info in found.items():
            name = self._relative(path)
            if name and STATE not in name.split("/"):
                yield StoredFile(name, int(info.get("size") or 0), tag_of(info))

    def names(self, beginning: str) -> list[str]:
        below, _, start = beginning.rpartition("/")
        folder = f"{self._root}/{below}" if below else self._root
        with _faults(self.url):
            try:
                self._files.invalidate_cache(folder)
                found = self._files.find(folder, maxdepth=1, prefix=start)
            except FileNotFoundError:
                return []
            except (TypeError, ValueError):  # a store without the option `prefix`, or not together with `maxdepth`
                found = self._files.ls(folder, detail=False)
        names = {self._relative(path) for path in found}
        return sorted(name for name in names if name.startswith(beginning) and "/" not in name[len(below) + 1 :])

    def find(self, name: str) -> StoredFile | None:
        with _faults(self.url):
            try:
                info = self._files.info(self._path(name), **_FRESH.get(_protocol(self._files), {}))
            except FileNotFoundError:
                return None
        return StoredFile(name, int(info.get("size") or 0), tag_of(info))

    def read(self, name: str) -> bytes:
        with _faults(self.url):
            return bytes(self._files.cat_file(self._path(name)))

    def fetch(self, name: str, target: Path) -> None:
        with _faults(self.url):
            self._files.get_file(self._path(name), str(target))

    def publish(self, source: Path, name: str) -> None:
        with _faults(self.url):
            self._make_folder(name)
            self._files.put_file(str(source), self._path(name))

    def write(self, name: str, data: bytes) -> None:
        with _faults(self.url):
            self._make_folder(name)
            self._files.pipe_file(self._path(name), data)

    def _make_folder(self, name: str) -> None:
        """Make the folder of a file where the store has real folders; a bucket is never made."""
        if _protocol(self._files) in _WITH_FOLDERS:
            self._files.makedirs(str(PurePosixPath(self._path(name)).parent), exist_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _relative(self, path: str) -> str:
        return path.lstrip("/").removeprefix(self._root.lstrip("/")).lstrip("/")


_FRESH: dict[str, dict[str, Any]] = {"s3": {"refresh": True}, "s3a": {"refresh": True}}
"""Store -> what makes `info` ask the store and not a cache."""
_WITH_FOLDERS = frozenset({"memory", "sftp", "ssh", "ftp", "smb", "hdfs", "arrow_hdfs", "webhdfs", "dir"})


def _protocol(files: Any) -> str:
    return str(files.protocol if isinstance(files.protocol, str) else files.protocol[0])


def tag_of(info: Mapping[str, Any]) -> str:
    """Return what changes when the content of a file does: the store's checksum, or size and time."""
    for word in _CHECKSUMS:
        if info.get(word):
            return str(info[word]).strip('"')
    time = next((info[word] for word in _TIMES if info.get(word)), "")
    return f"{info.get('size')}-{time}"


def _opened(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise UsageError(
            f'{url}: URLs need the library fsspec, which is not installed: pip install "resize-lora[remote]".'
        ) from error
    try:
        files, path = fsspec.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url}: the package for this store is not installed: {error}") from error
    except ValueError as error:
        raise UsageError(f"{url}: fsspec does not know this store: {error}") from error
    return files, str(path)


@contextlib.contextmanager
def _faults(url: str) -> Iterator[None]:
    """Turn the errors of the store's package, which may be of any class, into ``OSError``."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise StoreError(f"{url}: {type(error).__name__}: {error}") from error

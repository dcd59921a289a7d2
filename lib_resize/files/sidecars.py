"""Copy the files next to a LoRA that share its name, and update what they contain. Standard library only.

Previews, descriptions and examples are copied unchanged. In JSON sidecars (WebUI user metadata, Civitai Helper, LoRA
Manager, StabilityMatrix) the fields that describe the file itself are updated (name, path, size, SHA-256, preview,
time) or removed (other hashes, dtype). The fields that describe the work stay unchanged.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from .atomic import write_whole
from .target import FileKind, Inputs, check_target

PREVIEW_TYPES = ("png", "jpg", "jpeg", "webp", "gif", "mp4", "webm")
_PREVIEWS = tuple(f"{lead}.{kind}" for kind in PREVIEW_TYPES for lead in ("", ".preview"))
_TEXTS = (".txt", ".description.txt")
_JSONS = (".json", ".civitai.info", ".metadata.json", ".cm-info.json")
_KNOWN = frozenset((*_PREVIEWS, *_TEXTS, *_JSONS))
_EXAMPLE = re.compile(r"\.example\.[0-9]+\.(?!safetensors$|pt$|ckpt$|bin$)[a-z0-9]+")
_INDENT = re.compile(r"\{\r?\n([ \t]+)\"")


@dataclass(frozen=True)
class SidecarFacts:
    """The facts of the new LoRA file that its sidecars contain."""

    bytes: int
    """Its size, in bytes."""
    sha256: str
    """SHA-256 of the whole file, hex."""
    source_sha256: str | None = None
    """SHA-256 of the source file, hex; finds its entry in a list of several files."""
    modified: float | None = None
    """Its modification time, in seconds since the epoch; None reads it from the disk."""
    folder: str | None = None
    """The folder that JSON sidecars name, where the file will be moved; None: the folder of the file."""


def copy_sidecars(
    source: Path, target: Path, *, facts: SidecarFacts, replaced: SidecarFacts | None = None
) -> list[Path]:
    """Copy every sidecar of the LoRA `source` to the name of `target`; return the paths written.

    Existing files are kept. The exception are copies that this function made for an earlier `target`, whose facts are
    `replaced`, and that nobody changed since. Each file is written atomically. Raises ``OutputError`` that names all
    failed copies, after all sidecars were tried.
    """
    about = _SidecarUpdate(source, target, facts)
    before = None if replaced is None else _SidecarUpdate(source, target, replaced)
    written, failed = [], []
    for suffix in _sidecar_suffixes(source):
        old, new = _next_to(source, suffix), _next_to(target, suffix)
        try:
            data = about.copy_of(old)
            if os.path.lexists(new) and not _is_outdated(new, old, data, before):
                continue
            write_whole(new, data, overwrite=before is not None)
            written.append(new)
        except (OSError, OutputError) as error:
            failed.append(f"{old.name} ({error})")
    if failed:
        raise OutputError(f"{target}: the file is complete, but not all of its sidecars: {'; '.join(failed)}")
    return written


def foreign_sidecars(source: Path, target: Path, *, facts: SidecarFacts) -> list[Path]:
    """Return existing files under the names of copies whose contents are not those that `copy_sidecars` writes.

    These belong to somebody else, and are kept.
    """
    about = _SidecarUpdate(source, target, facts)
    pairs = [(_next_to(source, suffix), _next_to(target, suffix)) for suffix in _sidecar_suffixes(source)]
    return [new for old, new in pairs if os.path.lexists(new) and not _holds(new, about.copy_of(old))]


def _is_outdated(new: Path, old: Path, data: bytes, before: _SidecarUpdate | None) -> bool:
    """Return whether the file at `new` is an unchanged copy of an earlier run, and differs from `data`."""
    if before is None or _holds(new, data):
        return False
    kind = FileKind("a copy of Resize LoRA", lambda path: _holds(path, before.copy_of(old)))
    try:
        check_target(new, kind, overwrite=True, inputs=Inputs([old]))
    except OutputError:
        return False
    return True


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def updates_in_place(lora: Path, facts: SidecarFacts) -> list[tuple[Path, bytes, bytes]]:
    """Return the JSON sidecars of a LoRA that other contents change: path, old bytes, new bytes.

    Names and paths in them stay. Links are left alone. Raises ``OSError``.
    """
    about = _SidecarUpdate(lora, lora, facts)
    found = [_next_to(lora, suffix) for suffix in _sidecar_suffixes(lora) if suffix.lower() in _JSONS]
    pairs = [(path, path.read_bytes()) for path in found if not path.is_symlink()]
    return [(path, old, new) for path, old in pairs if (new := about.updated(old)) != old]


def has_sidecars(source: Path) -> bool:
    """Return whether a LoRA has sidecars that `copy_sidecars` copies."""
    return bool(_sidecar_suffixes(source))


def _next_to(lora: Path, suffix: str) -> Path:
    return lora.with_name(lora.stem + suffix)


def _sidecar_suffixes(source: Path) -> list[str]:
    """Return what follows the stem in the sidecars' names. Previews come first, because the others refer to them."""
    try:
        neighbours = [item for item in source.parent.iterdir() if item.name.startswith(f"{source.stem}.")]
    except OSError:
        return []
    suffixes = [item.name[len(source.stem) :] for item in neighbours if item.is_file()]
    found = [suffix for suffix in suffixes if is_sidecar_suffix(suffix)]
    return sorted(found, key=lambda suffix: (suffix.lower() not in _PREVIEWS, suffix))


def is_sidecar_suffix(suffix: str) -> bool:
    """Return whether a file whose name is that of a LoRA with this suffix is a sidecar of it."""
    folded = suffix.lower()
    return folded in _KNOWN or _EXAMPLE.fullmatch(folded) is not None


class _Removed:
    """The type of `_REMOVED`, the value of a field that is removed."""


_REMOVED = _Removed()


@dataclass(frozen=True)
class _SidecarUpdate:
    """Makes the copies of a LoRA's sidecars. The short methods are the rules for single JSON fields."""

    source: Path
    target: Path
    facts: SidecarFacts

    def copy_of(self, sidecar: Path) -> bytes:
        """Return the contents of the copy of a sidecar. Raises ``OSError``."""
        data = sidecar.read_bytes()
        return self.updated(data) if sidecar.name.lower().endswith(_JSONS) else data

    def updated(self, data: bytes) -> bytes:
        """Return a JSON sidecar with updated fields; unchanged if it has no such fields or is damaged."""
        try:
            text = data.decode("utf-8-sig")
            old = json.loads(text)
        except (ValueError, RecursionError):
            return data
        if not isinstance(old, dict):
            return data
        new = self._updated_fields(old)
        return data if new == old else _like(text, new)

    def _updated_fields(self, fields: Mapping[str, object]) -> dict[str, object]:
        """Update one level of a sidecar, and the nested levels that describe the same file."""
        updated = {key: self._value(key.lower(), old) for key, old in fields.items()}
        return {key: new for key, new in updated.items() if new is not _REMOVED}

    def _value(self, key: str, old: object) -> object:
        if key == "files" and isinstance(old, list):
            return [self._file(entry) if self._is_source(entry, old) else entry for entry in old]
        if key == "civitai" and isinstance(old, dict):
            return self._updated_fields(old)
        if key == "filemetadata" and isinstance(old, dict):
            return _without_dtype(old)
        rule = _RULES.get(key)
        return old if rule is None else rule(self, old)

    def _is_source(self, entry: object, entries: list[object]) -> bool:
        """Return whether an entry of Civitai's list of files is the source LoRA."""
        if not isinstance(entry, dict):
            return False
        hashes = entry.get("hashes")
        digest = hashes.get("SHA256") if isinstance(hashes, dict) else None
        if isinstance(digest, str) and digest.lower() == (self.facts.source_sha256 or "").lower():
            return True
        return len(entries) == 1 or entry.get("primary") is True or entry.get("name") == self.source.name

    def _file(self, entry: Mapping[str, object]) -> dict[str, object]:
        updated = self._updated_fields(entry)
        if "name" in updated and not self._is_in_place:
            updated["name"] = self.target.name
        metadata = updated.get("metadata")
        if isinstance(metadata, dict):
            updated["metadata"] = _without_dtype(metadata)
        return updated

    @property
    def _is_in_place(self) -> bool:
        """Return whether only the contents of the file change, so that names and paths stay."""
        return self.source == self.target

    def name(self, old: object) -> object:
        if self._is_in_place:
            return old
        return self.target.name if str(old).lower().endswith(self.source.suffix.lower()) else self.target.stem

    def path(self, old: object) -> object:
        return old if self._is_in_place else self._place_of(self.target)

    def size(self, old: object) -> object:
        return self.facts.bytes if isinstance(old, (int, float)) else _REMOVED

    def size_kb(self, _old: object) -> object:
        return self.facts.bytes / 1024

    def digest(self, old: object) -> object:
        return self.facts.sha256.upper() if str(old).isupper() else self.facts.sha256

    def hashes(self, old: object) -> object:
        return {"SHA256": self.facts.sha256.upper()} if isinstance(old, dict) else _REMOVED

    def preview(self, old: object) -> object:
        """Return the path of the copied preview, or "" (as managers write it) if there is none. A URL is kept."""
        if self._is_in_place:
            return old
        name = re.split(r"[/\\]", str(old))[-1]
        if "://" in str(old) or not name.startswith(f"{self.source.stem}."):
            return old if "://" in str(old) else ""
        preview = _next_to(self.target, name[len(self.source.stem) :])
        return self._place_of(preview) if preview.is_file() else ""

    def _place_of(self, path: Path) -> str:
        folder = self.facts.folder
        return path.absolute().as_posix() if folder is None else f"{folder}/{path.name}"

    def time(self, old: object) -> object:
        if not isinstance(old, (int, float)):
            return _REMOVED
        try:
            return self.target.stat().st_mtime if self.facts.modified is None else self.facts.modified
        except OSError:
            return _REMOVED

    def removed(self, _old: object) -> object:
        return _REMOVED


_RULES: dict[str, Callable[[_SidecarUpdate, object], object]] = {
    "file_name": _SidecarUpdate.name,
    "filename": _SidecarUpdate.name,
    "file_path": _SidecarUpdate.path,
    "filepath": _SidecarUpdate.path,
    "size": _SidecarUpdate.size,
    "file_size": _SidecarUpdate.size,
    "filesize": _SidecarUpdate.size,
    "sizekb": _SidecarUpdate.size_kb,
    "sha256": _SidecarUpdate.digest,
    "hashes": _SidecarUpdate.hashes,
    "preview_url": _SidecarUpdate.preview,
    "preview_path": _SidecarUpdate.preview,
    "modified": _SidecarUpdate.time,
    **dict.fromkeys(("hash", "autov1", "autov2", "autov3", "blake3", "crc32", "md5"), _SidecarUpdate.removed),
}
"""Rules for the fields that describe the file itself, by lower-case name."""


def _without_dtype(fields: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in fields.items() if key.lower() != "fp"}


def _like(text: str, document: Mapping[str, object]) -> bytes:
    """Return JSON with the indentation of the text that it replaces."""
    indent = _INDENT.match(text)
    layout = indent.group(1) if indent else None
    end = "\n" if text.endswith("\n") else ""
    try:
        return (json.dumps(document, ensure_ascii=text.isascii(), indent=layout) + end).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can represent
        return (json.dumps(document, indent=layout) + end).encode("utf-8")

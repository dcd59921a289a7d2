"""The files that lie beside a LoRA and share its name: copied along, and made true. Standard library only.

Previews, descriptions and examples are copied as they are. JSON ones (WebUI user metadata, Civitai Helper,
LoRA Manager, StabilityMatrix) are copied with what they say of the file itself made true (name, path, size,
SHA-256, preview, time) or taken out (other hashes, precision); all they say of the work stays as it is.
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
_EXAMPLE = re.compile(r"\.example\.[0-9]+\.(?!safetensors$|pt$|ckpt$|bin$)[a-z0-9]+")
_INDENT = re.compile(r"\{\r?\n([ \t]+)\"")


@dataclass(frozen=True)
class SidecarFacts:
    """What is true of the new LoRA file."""

    bytes: int
    """Its size."""
    sha256: str
    """SHA-256 of the whole file, hex."""
    source_sha256: str | None = None
    """The same of the source; helps to find it in lists of several files."""
    modified: float | None = None
    """Its time of change; None: that of the file that is there."""


def copy_sidecars(
    source: Path, target: Path, *, facts: SidecarFacts, replaced: SidecarFacts | None = None
) -> list[Path]:
    """Copy every sidecar of the LoRA ``source`` to the name of ``target``; returns what was written.

    Files that exist already stay. The exception are copies that we made for an earlier ``target`` and nobody changed
    since, where ``replaced`` has the facts of it. Each file is written whole or not at all. Raises ``OutputError``
    naming all that failed, after all were tried; the rest has then been copied.
    """
    about = _About(source, target, facts)
    before = None if replaced is None else _About(source, target, replaced)
    written, failed = [], []
    for suffix in _sidecar_suffixes(source):
        old, new = _beside(source, suffix), _beside(target, suffix)
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
    """Files that have the names of copies, and are not what `copy_sidecars` writes: somebody else's, which stay."""
    about = _About(source, target, facts)
    pairs = [(_beside(source, suffix), _beside(target, suffix)) for suffix in _sidecar_suffixes(source)]
    return [new for old, new in pairs if os.path.lexists(new) and not _holds(new, about.copy_of(old))]


def _is_outdated(new: Path, old: Path, data: bytes, before: _About | None) -> bool:
    """Whether the file at ``new`` is a copy of ours that says something else than ``data``."""
    if before is None or _holds(new, data):
        return False
    kind = FileKind("a copy that we made", lambda path: _holds(path, before.copy_of(old)))
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


def has_sidecars(source: Path) -> bool:
    """Whether `copy_sidecars` would find anything."""
    return bool(_sidecar_suffixes(source))


def _beside(lora: Path, suffix: str) -> Path:
    return lora.with_name(lora.stem + suffix)


def _sidecar_suffixes(source: Path) -> list[str]:
    """What follows the stem in the sidecars' names; previews first, since the others name them."""
    try:
        beside = [item for item in source.parent.iterdir() if item.name.startswith(f"{source.stem}.")]
    except OSError:
        return []
    endings = [item.name[len(source.stem) :] for item in beside if item.is_file()]
    known = (*_PREVIEWS, *_TEXTS, *_JSONS)
    found = [ending for ending in endings if ending.lower() in known or _EXAMPLE.fullmatch(ending.lower())]
    return sorted(found, key=lambda ending: (ending.lower() not in _PREVIEWS, ending))


class _Gone:
    """Stands for a field that is taken out."""


_GONE = _Gone()


@dataclass(frozen=True)
class _About:
    source: Path
    target: Path
    facts: SidecarFacts

    def copy_of(self, sidecar: Path) -> bytes:
        """What a sidecar of the source becomes."""
        data = sidecar.read_bytes()
        return self.retell(data) if sidecar.name.lower().endswith(_JSONS) else data

    def retell(self, data: bytes) -> bytes:
        """A JSON sidecar with the fields of the file made true; as it is if it has none or is damaged."""
        try:
            text = data.decode("utf-8-sig")
            old = json.loads(text)
        except (ValueError, RecursionError):
            return data
        if not isinstance(old, dict):
            return data
        new = self._told(old)
        return data if new == old else _like(text, new)

    def _told(self, fields: Mapping[str, object]) -> dict[str, object]:
        """One level of a sidecar, and below it only where other levels tell of the same file."""
        told = {key: self._value(key.lower(), old) for key, old in fields.items()}
        return {key: new for key, new in told.items() if new is not _GONE}

    def _value(self, key: str, old: object) -> object:
        if key == "files" and isinstance(old, list):
            return [self._file(entry) if self._is_ours(entry, old) else entry for entry in old]
        if key == "civitai" and isinstance(old, dict):
            return self._told(old)
        if key == "filemetadata" and isinstance(old, dict):
            return _without_precision(old)
        rule = _RULES.get(key)
        return old if rule is None else rule(self, old)

    def _is_ours(self, entry: object, entries: list[object]) -> bool:
        """Whether an entry of Civitai's list of files is the one that this LoRA was downloaded as."""
        if not isinstance(entry, dict):
            return False
        hashes = entry.get("hashes")
        digest = hashes.get("SHA256") if isinstance(hashes, dict) else None
        if isinstance(digest, str) and digest.lower() == (self.facts.source_sha256 or "").lower():
            return True
        return len(entries) == 1 or entry.get("primary") is True or entry.get("name") == self.source.name

    def _file(self, entry: Mapping[str, object]) -> dict[str, object]:
        told = self._told(entry)
        if "name" in told:
            told["name"] = self.target.name
        metadata = told.get("metadata")
        if isinstance(metadata, dict):
            told["metadata"] = _without_precision(metadata)
        return told

    def name(self, old: object) -> object:
        return self.target.name if str(old).lower().endswith(self.source.suffix.lower()) else self.target.stem

    def path(self, _old: object) -> object:
        return self.target.absolute().as_posix()

    def size(self, old: object) -> object:
        return self.facts.bytes if isinstance(old, (int, float)) else _GONE

    def size_kb(self, _old: object) -> object:
        return self.facts.bytes / 1024

    def digest(self, old: object) -> object:
        return self.facts.sha256.upper() if str(old).isupper() else self.facts.sha256

    def hashes(self, old: object) -> object:
        return {"SHA256": self.facts.sha256.upper()} if isinstance(old, dict) else _GONE

    def preview(self, old: object) -> object:
        """The copied preview; empty, as managers write it, if there is none; a web address stays."""
        name = re.split(r"[/\\]", str(old))[-1]
        if "://" in str(old) or not name.startswith(f"{self.source.stem}."):
            return old if "://" in str(old) else ""
        preview = _beside(self.target, name[len(self.source.stem) :])
        return preview.absolute().as_posix() if preview.is_file() else ""

    def time(self, old: object) -> object:
        if not isinstance(old, (int, float)):
            return _GONE
        try:
            return self.target.stat().st_mtime if self.facts.modified is None else self.facts.modified
        except OSError:
            return _GONE

    def gone(self, _old: object) -> object:
        return _GONE


_RULES: dict[str, Callable[[_About, object], object]] = {
    "file_name": _About.name,
    "filename": _About.name,
    "file_path": _About.path,
    "filepath": _About.path,
    "size": _About.size,
    "file_size": _About.size,
    "filesize": _About.size,
    "sizekb": _About.size_kb,
    "sha256": _About.digest,
    "hashes": _About.hashes,
    "preview_url": _About.preview,
    "preview_path": _About.preview,
    "modified": _About.time,
    **dict.fromkeys(("hash", "autov1", "autov2", "autov3", "blake3", "crc32", "md5"), _About.gone),
}
"""Fields that tell of the file itself, by lower-case name."""


def _without_precision(fields: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in fields.items() if key.lower() != "fp"}


def _like(text: str, document: Mapping[str, object]) -> bytes:
    """JSON in the layout of the text that it replaces."""
    indent = _INDENT.match(text)
    layout = indent.group(1) if indent else None
    end = "\n" if text.endswith("\n") else ""
    try:
        return (json.dumps(document, ensure_ascii=text.isascii(), indent=layout) + end).encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return (json.dumps(document, indent=layout) + end).encode("utf-8")

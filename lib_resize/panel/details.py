"""What a LoRA's own record and the files next to it say about it: images it was fitted to and compared on, trigger
words, its page on Civitai, a description.

Read are the JSON files of Civitai Helper (`.civitai.info`), LoRA Manager (`.metadata.json`), StabilityMatrix
(`.cm-info.json`) and of the WebUI itself (`.json`). A file that is missing or damaged says nothing.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..files.header import read_header
from ..files.metadata import FitRecord
from ..files.own_record import ImageRecords, image_records
from .names import notes_of
from .protocol.types import Json

_SUFFIXES = (".civitai.info", ".metadata.json", ".cm-info.json", ".json")
_MOST_BYTES = 4 << 20
_MOST_WORDS = 50
_LONGEST_WORD = 500
_LONGEST_TEXT = 600
_TAG = re.compile(r"<[^>]*>")
_BREAK = re.compile(r"</(?:p|li|h[1-6]|div)>|<br ?/?>", re.IGNORECASE)

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Details:
    """The facts of the files next to a LoRA."""

    activation: str = ""
    trained_words: tuple[str, ...] = ()
    civitai: str | None = None
    """Address of the model's page."""
    description: str = ""
    """Plain text, shortened."""


def details_of(lora: Path) -> Details:
    """Return what the sidecars of a LoRA say; each fact from the first file that has it."""
    documents = [document for suffix in _SUFFIXES for document in _documents(lora.with_name(lora.stem + suffix))]
    words = next(filter(None, map(_words, documents)), ())
    page = next(filter(None, map(_page, documents)), None)
    description = next(filter(None, map(_description, documents)), "")
    return Details(notes_of(lora).activation, words, page, description)


def records_of(lora: Path) -> ImageRecords:
    """Return the records of a fit and of a comparison in a LoRA; none where it cannot be read."""
    try:
        return image_records(read_header(lora).metadata)
    except FileError:
        return ImageRecords()


def fit_json(fit: FitRecord) -> Json:
    """Return the `Fit record` of the protocol."""
    errors = [{"model": name, "plain": plain, "fitted": fitted} for name, (plain, fitted) in fit.errors.items()]
    return {**fit.as_json(), "errors": errors}


def _documents(path: Path) -> Iterator[Document]:
    """Yield the object of a JSON file, and before it the one about the version on Civitai, where it has one."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return
        document = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(document, dict):
        return
    version = document.get("civitai")
    if isinstance(version, dict):
        yield version
    yield document


def _words(document: Document) -> tuple[str, ...]:
    words = _first(document, ("trainedWords", "TrainedWords"))
    if not isinstance(words, list):
        return ()
    texts = [word.strip(" ,") for word in words if isinstance(word, str) and len(word) <= _LONGEST_WORD]
    return tuple(dict.fromkeys(filter(None, texts)))[:_MOST_WORDS]


def _page(document: Document) -> str | None:
    """Return the address of a model on Civitai. It is built from numbers: a file cannot name another address."""
    model = _number(_first(document, ("modelId", "ModelId")))
    if model is None:
        return None
    version = _number(_first(document, ("id", "VersionId")))
    more = "" if version is None else f"?modelVersionId={version}"
    return f"https://civitai.com/models/{model}{more}"


def _number(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value < 1 << 53 else None


def _description(document: Document) -> str:
    text = _first(document, ("description", "modelDescription", "ModelDescription"))
    return _plain(text) if isinstance(text, str) else ""


def _plain(text: str) -> str:
    """Return HTML as plain text, shortened."""
    lines = html.unescape(_TAG.sub("", _BREAK.sub("\n", text[: 20 * _LONGEST_TEXT]))).splitlines()
    plain = "\n".join(filter(None, (" ".join(line.split()) for line in lines)))
    return plain if len(plain) <= _LONGEST_TEXT else f"{plain[:_LONGEST_TEXT].rstrip()}…"


def _first(document: Document, names: Sequence[str]) -> Any:
    return next((document[name] for name in names if document.get(name)), None)

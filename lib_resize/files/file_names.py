"""Names for new LoRA files: valid on every system, and unique, because hosts know a LoRA by its name alone.

A stem is a file name without its suffix.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from .walk import walk

SUFFIX = ".safetensors"
MODEL_SUFFIXES = (SUFFIX, ".pt", ".ckpt", ".bin")
"""Suffixes of the files that hosts list as LoRAs."""

MAX_STEM_BYTES = 255 - len(".description.txt")
"""Most disks allow 255 bytes in a name; the longest suffix is that of a sidecar."""

# Illegal on Windows, or special in a prompt's <lora:name:1>, where `,` and `=` separate arguments.
_UNSAFE = re.compile(r'[<>:"/\\|?*,=\x00-\x1f\x7f\ud800-\udfff]')
_SURROGATES = re.compile("[\ud800-\udfff]")
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def clean_stem(stem: str) -> str:
    """Return a stem that every system can store and a prompt can name: at most ``MAX_STEM_BYTES`` bytes of UTF-8."""
    # A leading dot would hide the file.
    safe = _UNSAFE.sub("_", stem).strip(" ").lstrip(".")
    if _RESERVED.fullmatch(safe.rstrip(" .")):
        safe = f"_{safe}"
    return _truncated(safe, MAX_STEM_BYTES) or "lora"


def storable(text: str) -> str:
    """Return a text that UTF-8 can encode: bytes of a file name that are not UTF-8 become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)
    return text


def fold(stem: str) -> str:
    """Return the form in which stems are compared: equal ones are one file on Windows and macOS."""
    return unicodedata.normalize("NFC", stem).casefold()


def unique_path(folder: Path, stem: str, taken: Callable[[str], bool] | Collection[str], *, start: int = 1) -> Path:
    """Return ``folder/stem.safetensors`` with the stem cleaned, and ``_2``, ``_3``… appended while it is taken.

    `taken` is a collection of folded stems, or a function that returns whether one is taken; see ``fold`` and
    ``names_in_tree``. Numbers below `start` are not tried. The disk is not read.
    """
    is_taken = taken if callable(taken) else taken.__contains__
    clean = clean_stem(stem)
    candidates = (numbered(clean, number) for number in itertools.count(start))
    free = next(candidate for candidate in candidates if not is_taken(fold(candidate)))
    return folder / f"{free}{SUFFIX}"


def names_in_tree(root: Path) -> set[str]:
    """Return the folded stems of all LoRA files under `root`, links followed as hosts do; none if it is missing."""
    return {stem for found in walk(root) for stem in folded_stems(found.names)}


def folded_stems(names: Iterable[str], suffixes: tuple[str, ...] = MODEL_SUFFIXES) -> Iterator[str]:
    """Yield the folded stems of the names that have one of the suffixes."""
    return (fold(Path(name).stem) for name in names if name.lower().endswith(suffixes))


def numbered(clean: str, number: int) -> str:
    """Return a clean stem with ``_number`` appended, shortened to fit; number 1 is not written."""
    tail = "" if number == 1 else f"_{number}"
    return _truncated(clean, MAX_STEM_BYTES - len(tail)) + tail


def _truncated(stem: str, limit: int) -> str:
    """Return the longest prefix of at most `limit` bytes of UTF-8 that does not end in a dot or space."""
    return stem.encode("utf-8")[:limit].decode("utf-8", "ignore").rstrip(" .")

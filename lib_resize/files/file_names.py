"""Names for new LoRA files: safe on every system, and unique, since hosts know a LoRA by its name alone."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from .walk import walk

SUFFIX = ".safetensors"
MODEL_SUFFIXES = (SUFFIX, ".pt", ".ckpt", ".bin")
"""Endings that hosts list as LoRA files."""

MAX_STEM_BYTES = 255 - len(".description.txt")
"""Most disks allow 255 bytes in a name; the longest ending is that of a sidecar."""

# Illegal on Windows, or with a meaning inside a prompt's <lora:name:1> (`,` and `=` part arguments there).
_UNSAFE = re.compile(r'[<>:"/\\|?*,=\x00-\x1f\x7f\ud800-\udfff]')
_NO_LETTER = re.compile("[\ud800-\udfff]")
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def clean_stem(stem: str) -> str:
    """A stem that every system can store and a prompt can name; at most ``MAX_STEM_BYTES`` bytes of UTF-8."""
    # A dot in front would hide the file.
    safe = _UNSAFE.sub("_", stem).strip(" ").lstrip(".")
    if _RESERVED.fullmatch(safe.rstrip(" .")):
        safe = f"_{safe}"
    return _cut(safe, MAX_STEM_BYTES) or "lora"


def storable(text: str) -> str:
    """A text that a file can hold: bytes of a file name that are not UTF-8 become the mark for unknown letters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _NO_LETTER.sub("\ufffd", text)
    return text


def fold(stem: str) -> str:
    """The form in which stems are compared: Windows and macOS take equal ones for one file."""
    return unicodedata.normalize("NFC", stem).casefold()


def unique_path(folder: Path, stem: str, taken: Callable[[str], bool] | Collection[str], *, start: int = 1) -> Path:
    """``folder/stem.safetensors`` with the stem made clean, and ``_2``, ``_3``… appended while it is taken.

    ``taken`` holds or judges folded stems, see ``fold`` and ``names_in_tree``. Numbers below ``start`` are not tried.
    The disk is not looked at.
    """
    is_taken = taken if callable(taken) else taken.__contains__
    clean = clean_stem(stem)
    candidates = (numbered(clean, number) for number in itertools.count(start))
    free = next(candidate for candidate in candidates if not is_taken(fold(candidate)))
    return folder / f"{free}{SUFFIX}"


def names_in_tree(root: Path) -> set[str]:
    """Folded stems of all LoRA files under ``root``, links followed as hosts do; none if it is missing."""
    return {stem for found in walk(root) for stem in folded_stems(found.names)}


def folded_stems(names: Iterable[str], suffixes: tuple[str, ...] = MODEL_SUFFIXES) -> Iterator[str]:
    """Those of the files that hosts list as LoRAs."""
    return (fold(Path(name).stem) for name in names if name.lower().endswith(suffixes))


def numbered(clean: str, number: int) -> str:
    """A clean stem with a number from 2 on."""
    ending = "" if number == 1 else f"_{number}"
    return _cut(clean, MAX_STEM_BYTES - len(ending)) + ending


def _cut(stem: str, limit: int) -> str:
    """The longest beginning of at most ``limit`` bytes of UTF-8 that ends in no dot or space."""
    return stem.encode("utf-8")[:limit].decode("utf-8", "ignore").rstrip(" .")

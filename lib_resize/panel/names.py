"""Names and folders of new files, and names in prompts. No path leads out of the host's LoRA folders."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files.file_names import clean_stem, fold, unique_path
from ..shown import MIB
from .faults import Fault

_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("size", "retention", "rank")


def size_word(bytes: int) -> str:
    """Return a size such as ``46mb``; below one MB ``412kb``."""
    return f"{round(bytes / MIB)}mb" if bytes >= MIB else f"{max(1, round(bytes / 1024))}kb"


def check_suffix(suffix: str) -> str:
    """Return a file name suffix. Raises Fault where it has unknown fields."""
    unknown = [field for field in _FIELD.findall(suffix) if field not in _FIELDS]
    bare = _FIELD.sub("", suffix)
    if unknown or "{" in bare or "}" in bare or len(suffix) > 100:
        raise Fault("request", f"suffix {suffix!r}: the fields in braces are {', '.join(_FIELDS)}, as in _{{size}}.")
    return suffix


@dataclass(frozen=True)
class NameFacts:
    """The facts that a file name suffix may contain."""

    bytes: int
    retention: float
    rank: int


def filled(suffix: str, facts: NameFacts) -> str:
    """Return a suffix with its fields replaced."""
    words = {
        "size": size_word(facts.bytes),
        "retention": f"{100 * facts.retention:.0f}",
        "rank": str(facts.rank),
    }
    return _FIELD.sub(lambda match: words[match[1]], suffix)


def new_path(folder: Path, stem: str, taken: Collection[str]) -> Path:
    """Return the path of a new name that is free; `taken` are the folded names that the host knows."""
    return unique_path(folder, stem, taken)


def folded(names: Collection[str]) -> set[str]:
    """Return names in the form in which they are compared."""
    return {fold(name) for name in names}


# Folders -------------------------------------------------------------------------------------------------------


def inside(path: Path, roots: Sequence[Path]) -> bool:
    """Return whether a path is in one of the folders, with links resolved."""
    try:
        real = path.resolve()
        reals = [root.resolve() for root in roots]
    except (OSError, RuntimeError, ValueError):  # a link that leads to itself, a NUL
        return False
    return any(real == root or root in real.parents for root in reals)


def output_folder(lora: Path, roots: Sequence[Path], below: str | None) -> Path:
    """Return the folder for results of a LoRA: its own, or the sub-folder `below` of its root.

    The results of a LoRA that a link outside of the roots leads to go to its root. Raises Fault where `below` is no
    sub-folder.
    """
    home = next((root for root in roots if _holds(root, lora)), roots[0] if roots else lora.parent)
    if below is None:
        return lora.parent if inside(lora.parent, roots) else home
    folder = home.joinpath(*_parts(below))
    if not inside(folder, roots):
        raise Fault(
            "request", f"folder {below!r}: is outside of the LoRA folders. Use a sub-folder, such as small/style."
        )
    return folder


def _holds(root: Path, lora: Path) -> bool:
    return root in lora.parents or inside(lora, [root])


def _parts(below: str) -> list[str]:
    parts = [part.strip() for part in below.split("/") if part.strip()]
    for part in parts:
        if part in (".", "..") or clean_stem(part) != part:
            raise Fault(
                "request",
                f"folder {below!r}: {part!r} is no folder name. Use letters, digits, spaces, - and _.",
            )
    if below.startswith(("/", "\\")) or len(parts) > 16:
        raise Fault(
            "request", f"folder {below!r}: is no sub-folder. Use a sub-folder of the LoRA folder, such as small/style."
        )
    return parts


# Prompts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Notes:
    """The notes about a LoRA that a user entered in the WebUI."""

    activation: str = ""
    negative: str = ""
    weight: float = 1.0


def notes_of(lora: Path) -> Notes:
    """Return the notes from the JSON file next to a LoRA; empty where there is none or it is damaged."""
    try:
        document = json.loads(lora.with_suffix(".json").read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return Notes()
    if not isinstance(document, dict):
        return Notes()
    return Notes(_text(document, "activation text"), _text(document, "negative text"), _weight(document))


def _text(document: dict[str, object], key: str) -> str:
    value = document.get(key)
    return value.strip() if isinstance(value, str) else ""


def _weight(document: dict[str, object]) -> float:
    value = document.get("preferred weight")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < abs(value) < 100:
        return float(value)
    return 1.0


def tag(name: str, weight: float) -> str:
    """Return a tag such as ``<lora:name:0.8>``."""
    return f"<lora:{name}:{weight:g}>"


def _tags_of(names: Collection[str]) -> re.Pattern[str]:
    choices = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    return re.compile(rf"<(lora|lyco):({choices})((?::[^<>]*)?)>")


def names_in(prompt: str) -> list[str]:
    """Return the names of the LoRAs in a prompt, each once. WebUIs still accept ``<lyco:…>`` for the same."""
    return list(dict.fromkeys(re.findall(r"<(?:lora|lyco):([^:>]+)[^>]*>", prompt)))


def has_tag(prompt: str, names: Collection[str]) -> bool:
    """Return whether a prompt uses one of these LoRAs."""
    return bool(names) and _tags_of(names).search(prompt) is not None


def replace_tags(prompt: str, names: Collection[str], new: str) -> str:
    """Return a prompt with one LoRA in place of others, with the same multipliers."""
    return _tags_of(names).sub(lambda match: f"<{match[1]}:{new}{match[3]}>", prompt) if names else prompt


def with_full_strength(prompt: str, names: Collection[str], new: str) -> str:
    """Return a prompt with one LoRA in place of others, once, where the first was, at strength 1."""
    tags = itertools.chain([tag(new, 1.0)], itertools.repeat(""))
    return _tags_of(names).sub(lambda _: next(tags), prompt).strip() if names else prompt


def without_tags(prompt: str, names: Collection[str]) -> str:
    """Return a prompt without these LoRAs."""
    return _tags_of(names).sub("", prompt).strip() if names else prompt

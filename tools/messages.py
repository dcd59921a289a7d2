"""Report the messages of the server that have no translation, and translations that no text uses:

python -m tools.messages
python -m tools.messages --add     # add the missing ones to localizations/*.json, with empty translations

A message needs no registration: `message_texts` finds it in the source. A text that no user sees, or that is a name,
goes into `message_exceptions`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from .message_texts import ROOT, messages, templates

LOCALIZATIONS = ROOT / "localizations"
PLACE = re.compile(r"\{(?:\d+|text\d+)\}")


def dictionary(path: Path) -> dict[str, str]:
    """Return English text -> translation of a file."""
    found: dict[str, str] = json.loads(path.read_text("utf-8"))
    return found


def missing(needed: Mapping[str, str], words: Mapping[str, str]) -> dict[str, str]:
    """Return the templates without a translation, or with one that has other places; each with its line."""
    return {text: place for text, place in needed.items() if not _is_translation(text, words.get(text, ""))}


def unused(needed: Mapping[str, str], words: Mapping[str, str]) -> list[str]:
    """Return the templates of a dictionary that no message has any more."""
    return [text for text in words if PLACE.search(text) and text not in needed]


def joints(needed: Mapping[str, str]) -> list[str]:
    """Return the templates that are parts of a sentence. Write the whole sentence in one text instead."""
    return [text for text in needed if text != text.strip() or text.startswith((",", ";", "."))]


def _is_translation(text: str, translated: str) -> bool:
    return bool(translated) and sorted(PLACE.findall(text)) == sorted(PLACE.findall(translated))


def _add(path: Path, texts: Mapping[str, str]) -> None:
    words = dictionary(path)
    words.update({text: words.get(text, "") for text in texts})
    path.write_text(json.dumps(words, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _report(title: str, lines: list[str]) -> None:
    if lines:
        sys.stdout.write("\n".join([f"{title}:", *(f"  {line}" for line in lines)]) + "\n")


def main(arguments: list[str]) -> int:
    """Print what is missing and unused. Return 1 where something is."""
    needed = templates(messages())
    faults = joints(needed)
    _report("Parts of sentences; write each sentence in one text", [f"{needed[text]}: {text!r}" for text in faults])
    for path in sorted(LOCALIZATIONS.glob("*.json")):
        words = dictionary(path)
        lacking, spare = missing(needed, words), unused(needed, words)
        _report(f"{path.name}, missing or with other places", [f"{lacking[text]}: {text}" for text in lacking])
        _report(f"{path.name}, unused", spare)
        faults += [*lacking, *spare]
        if "--add" in arguments:
            _add(path, lacking)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A prompt for each of several LoRAs: that of its example image, else a template with its trigger words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...hosts.host import LoraFile, LoraList
from ..details import details_of
from ..names import notes_of, tag
from ..protocol.types import Json

TRIGGER = "{trigger}"
"""The place of the trigger words in a template."""
_USER_COMMENT = 0x9286  # of EXIF
_EXIF = 0x8769
_LARGEST_FILE = 64 << 20
_PARAMETERS = re.compile(r"^(?:Steps|Sampler|Seed|Size): ", re.MULTILINE)
_NEGATIVE = re.compile(r"^Negative prompt: ?", re.MULTILINE)
_TAG = re.compile(r"<(?:lora|lyco):([^:>]+)[^>]*>")


@dataclass(frozen=True)
class Example:
    """The prompts that an image was made with."""

    prompt: str
    negative: str


def own_settings(lora: LoraFile, settings: Json, listed: LoraList) -> Json:
    """Return settings of images with a prompt for one LoRA, of which `settings` has the template.

    Tags that mean no LoRA of `listed` are left out of an example's prompt. Reads the example image and the notes.
    """
    example = None if lora.preview is None else example_of(lora.preview)
    if example is None:
        return {**settings, "prompt": _filled(lora, settings["prompt"])}
    prompt = _TAG.sub(lambda match: "" if listed.get(match[1]) is None else match[0], example.prompt).strip()
    negative = settings.get("negative_prompt") or example.negative
    return {**settings, "prompt": prompt, **({"negative_prompt": negative} if negative else {})}


def _filled(lora: LoraFile, template: str) -> str:
    """Return a template with the trigger words and the tag; without the place of the words, both are added later."""
    if TRIGGER not in template:
        return template
    notes, details = notes_of(lora.path), details_of(lora.path)
    words = notes.activation or next(iter(details.trained_words), "")
    return f"{template.replace(TRIGGER, words)} {tag(lora.name, notes.weight)}"


# Example images --------------------------------------------------------------------------------------------------


def example_of(image: Path) -> Example | None:
    """Return the prompts in an image file, as WebUIs write them; None where there are none."""
    text = _infotext(image)
    end = _PARAMETERS.search(text)
    if end is None:
        return None
    prompt, _, negative = _split(text[: end.start()])
    return Example(prompt, negative) if prompt else None


def _split(text: str) -> tuple[str, str, str]:
    found = _NEGATIVE.search(text)
    if found is None:
        return text.strip(), "", ""
    return text[: found.start()].strip(), found[0], text[found.end() :].strip()


def _infotext(image: Path) -> str:
    from PIL import Image

    try:
        if image.stat().st_size > _LARGEST_FILE:
            return ""
        with Image.open(image) as opened:
            text = opened.info.get("parameters")
            comment = opened.getexif().get_ifd(_EXIF).get(_USER_COMMENT)
    except Exception:  # libraries of image formats raise anything
        return ""
    return text if isinstance(text, str) else _comment(comment)


def _comment(value: object) -> str:
    """Return the text of an EXIF comment, whose first 8 bytes name its encoding."""
    if not isinstance(value, bytes):
        return value if isinstance(value, str) else ""
    if value.startswith(b"UNICODE\0"):
        return value[8:].decode("utf-16-be" if value[8:9] == b"\0" else "utf-16-le", "replace")
    return value[8:].decode("utf-8", "replace")

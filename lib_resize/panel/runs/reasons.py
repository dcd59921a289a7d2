"""Why a run leaves a file alone, as far as that is known without its weights."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...archive.links import Reason, left_alone
from ...files.header import open_file
from ...hosts.host import LoraFile, same_file
from ...recipe.grammar import Recipe
from ...studies.catalogue import Facts
from ..references import ReferenceInfo

_SAMPLE = 1 << 14  # bytes of each place at which files of one size are compared
_BROKEN = "incomplete"


@dataclass(frozen=True)
class Asked:
    """What a run or a plan would do to each file."""

    recipe: Recipe | None
    reference: ReferenceInfo
    again: bool
    model: ReferenceInfo | None = None
    """The checkpoint that makes images with the LoRAs; None where no images are made."""


def reason(lora: LoraFile, facts: Facts, asked: Asked, *, is_replaced: bool) -> Reason | None:
    """Return why a file is left alone; `is_replaced`: its original is in the archive."""
    on_disk = left_alone(lora.path)
    if on_disk is not None:
        return Reason(on_disk.kind, f"The file is left alone: it {on_disk.message}.")
    if facts.problem is not None:
        is_broken = facts.dtype is None or facts.problem.startswith(_BROKEN)
        return Reason("broken" if is_broken else "kind", facts.problem)
    if not asked.again and (is_replaced or facts.source is not None):
        return Reason("resized", f"It was resized before, with {facts.recipe or 'another recipe'}.")
    return _of_model(facts, asked) or _of_reference(facts, asked)


def _of_model(facts: Facts, asked: Asked) -> Reason | None:
    model = asked.model
    if model is None or None in (facts.family, model.family) or facts.family == model.family:
        return None
    return Reason(
        "reference", f"It is made for {facts.family}, the checkpoint of the images {model.title} is {model.family}."
    )


def _of_reference(facts: Facts, asked: Asked) -> Reason | None:
    if asked.recipe is None or not asked.recipe.needs_base:
        return None
    base = asked.reference
    if base.kind == "none":
        return Reason("reference", f"The recipe compares with a base model. {base.note or 'None was chosen.'}")
    if facts.family is not None and base.family is not None and facts.family != base.family:
        return Reason("reference", f"It is made for {facts.family}, the base model {base.title} is {base.family}.")
    return None


def copies(files: Sequence[tuple[LoraFile, int]]) -> dict[str, str]:
    """Return name -> name of another file with the same content, for all but the one of each group with the shortest
    name. Names of one file (links) are no copies.

    `files` come with their sizes in bytes. Of files with the same size, the start and three samples are compared.
    """
    by_size: dict[int, list[LoraFile]] = defaultdict(list)
    for lora, size in files:
        by_size[size].append(lora)
    found: dict[str, str] = {}
    for alike in by_size.values():
        if len(alike) > 1:
            found.update(_copies_of(alike))
    return found


def _copies_of(loras: Iterable[LoraFile]) -> Iterable[tuple[str, str]]:
    first: dict[bytes, LoraFile] = {}
    for lora in sorted(loras, key=lambda one: (len(one.name), one.name)):
        content = _fingerprint(lora.path)
        if content is None or lora.path.is_symlink():
            continue
        known = first.setdefault(content, lora)
        if not same_file(known.path, lora.path):
            yield lora.name, known.name


def _fingerprint(path: Path) -> bytes | None:
    """Return a hash of the start, and of samples from the middle and the end; None for a file that cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_file(path) as file:
            size = path.stat().st_size
            for start in (0, size // 3, size // 2, max(0, size - _SAMPLE)):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    except Exception:  # it is then listed with its own problem
        return None
    return digest.digest()

"""Bake my prompt: the LoRAs that a prompt names become one file, and their tags one tag."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.layer import Adapter
from ..adapters.merge.onto_base import depends_on_base
from ..base.checkpoint import Checkpoint
from ..engine.analysing import analyse, with_base_norms
from ..engine.analysis import Analysis
from ..engine.measuring import with_float8_errors
from ..engine.planning import prepare
from ..engine.reading import read_part, read_source
from ..engine.runtime import Runtime, cpu_runtime
from ..engine.writing import execute
from ..errors import FileError, PairingError, PromptError, ResizeError
from ..files.file_names import clean_stem
from ..files.reader import SafeFile
from ..hosts.host import Host, LoraFile, LoraList
from ..hosts.listing import find
from ..hosts.live import OpenReference, open_reference
from ..prompts.block_weights import BLOCK_PRESETS, Presets
from ..prompts.lookup import preset_file
from ..prompts.sources import of_prompt
from ..prompts.tags import Tag, parse_prompt, replaced
from ..recipe.grammar import Recipe
from .analyses import no_reference
from .faults import Fault
from .library import Library
from .names import folded, new_path, output_folder, tag
from .options import Options
from .queue import Handle
from .references import NO_REFERENCE, told
from .resizing import Announce, Written, all_names

_LONGEST_NAME = 60

Answer = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A tag of a prompt, and what becomes of it."""

    tag: Tag
    lora: LoraFile | None
    family: str | None
    troubles: tuple[str, ...]
    """Why it must stay as it is; empty where it can be baked."""


def presets(host: Host) -> Presets:
    """Block weights by name, with the person's own where the extension LoRA Block Weight is installed."""
    own = host.block_presets()
    with contextlib.suppress(FileError):
        return BLOCK_PRESETS if own is None else preset_file(own)
    return BLOCK_PRESETS


def found_in(prompt: str, host: Host, library: Library) -> list[Found]:
    """All tags of a prompt. Raises PromptError for one that no host could read."""
    loras = host.loras()
    return [_found(one, loras, library) for one in parse_prompt(prompt, presets(host)).tags]


def _found(one: Tag, loras: LoraList, library: Library) -> Found:
    try:
        lora = find(loras, one.name)
        facts = library.facts(lora)
    except (ResizeError, OSError) as error:
        return Found(one, None, None, (str(error), *one.errors))
    problem = (facts.problem,) if facts.problem and not _is_part(lora) else ()
    return Found(one, lora, facts.family, (*problem, *one.errors))


def _is_part(lora: LoraFile) -> bool:
    """Whether a merge takes what cannot be resized alone."""
    with contextlib.suppress(ResizeError, OSError), SafeFile(lora.path) as file:
        read_part(file)
        return True
    return False


def bakeable(found: Sequence[Found]) -> list[Found]:
    """Those that can become a part of a file."""
    return [one for one in found if not one.troubles]


def answer(prompt: str, host: Host, library: Library) -> Answer:
    """What `read_prompt` answers."""
    try:
        found = found_in(prompt, host, library)
    except PromptError as error:
        return {"ok": False, "message": str(error), "column": error.column, "tags": [], "warnings": [], "name": ""}
    good = bakeable(found)
    return {
        "ok": bool(good),
        "message": "" if good else "The prompt names no LoRA that can be baked.",
        "column": 0,
        "tags": [_told(one) for one in found],
        "warnings": list(_warnings(good)),
        "name": suggested_name(good),
    }


def _told(one: Found) -> Answer:
    return {
        "text": str(one.tag),
        "name": one.tag.name,
        "lora": None if one.lora is None else one.lora.name,
        "column": one.tag.column,
        "troubles": list(one.troubles),
        "remarks": list(one.tag.warnings),
    }


def _warnings(good: Sequence[Found]) -> Iterator[Answer]:
    families = sorted({one.family for one in good if one.family is not None})
    if len(families) > 1:
        text = f"These LoRAs are made for different models ({', '.join(families)}), so they cannot become one."
        yield {"kind": "other_family", "text": text}


def suggested_name(good: Sequence[Found]) -> str:
    """``style+char``: clean, and short."""
    names = dict.fromkeys(one.lora.path.stem for one in good if one.lora is not None)
    return clean_stem("+".join(names)[:_LONGEST_NAME]) if names else ""


@dataclass(frozen=True)
class BakeOrder:
    """One file that is to be made of several."""

    found: tuple[Found, ...]
    recipe: Recipe
    options: Options
    name: str
    taken: frozenset[str] = frozenset()

    @property
    def tags(self) -> tuple[Tag, ...]:
        return tuple(one.tag for one in self.found)

    def path_of(self, name: str) -> Path:
        """Where the host keeps a LoRA that the order names."""
        return next(one.lora.path for one in self.found if one.lora is not None and one.tag.name == name)


def check_name(name: str) -> str:
    """The name of a new file, if it is one. Raises Fault."""
    plain = name.strip()
    if not plain or clean_stem(plain) != plain:
        raise Fault("request", f"name {name!r}: letters, digits, spaces, - and _ make a name, as in my_mix.")
    return plain


def folder_for(order: BakeOrder, host: Host) -> Path:
    """Where the new file goes. Raises Fault."""
    roots = host.lora_roots()
    if not roots:
        raise Fault("unavailable", f"{host.name} has no folder of LoRAs.")
    return output_folder(roots[0] / "x", roots, order.options.folder)


def bake(host: Host, order: BakeOrder, handle: Handle, announce: Announce) -> Written:
    """Makes the file; `announce` is called right before it appears.

    Raises Cancelled and whatever goes wrong; then nothing was left behind.
    """
    path = new_path(folder_for(order, host), order.name, all_names(host) | folded(order.taken))
    with _merged(order, host) as (adapter, ground), cpu_runtime(handle) as tools:
        handle.portion(0.0, 0.6)
        digests = [tools.pool.submit(file.sha256) for file in adapter.files]
        analysis, compared = _analysed(adapter, ground.checkpoint if ground else None, order, host, tools)
        job = prepare(analysis, order.recipe, order.options.style, lambda _: path)
        handle.portion(0.6, 0.4)
        job = with_float8_errors(job, tools)
        handle.check()
        announce(job.plan, job.path)
        plan = execute(job, tools, [digest.result() for digest in digests])
    used = compared or ground
    return Written(plan, path, (), (), told(used) if used else NO_REFERENCE)


@contextlib.contextmanager
def _merged(order: BakeOrder, host: Host) -> Iterator[tuple[Adapter, OpenReference | None]]:
    """The sum, and the base model that parts of it rest on, where there are such parts and a reference."""
    source = of_prompt(order.tags, order.path_of)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(SafeFile(member.path)) for member in source.members]
        opened = None
        if any(depends_on_base(read_part(file)) for file in files):
            opened = open_reference(host, order.options.reference)
            stack.callback(opened.close)
        yield read_source(source, files, opened.checkpoint if opened else None), opened


def _analysed(
    adapter: Adapter, base: Checkpoint | None, order: BakeOrder, host: Host, tools: Runtime
) -> tuple[Analysis, OpenReference | None]:
    """With the reference that the recipe compares with, if it compares with one."""
    analysis = analyse(adapter, base, (), tools, convert=order.options.style.convert)
    if not order.recipe.needs_base:
        return analysis, None
    opened = open_reference(host, order.options.reference)
    try:
        if opened.checkpoint is None:
            raise PairingError(no_reference(order.recipe, opened.note))
        return with_base_norms(analysis, opened.checkpoint, [order.recipe], tools), opened
    finally:
        opened.close()


def rewritten(prompt: str, baked: Sequence[str], name: str, host: Host) -> Answer:
    """What `bake_into` answers: the prompt with the one tag in place of those that were baked, as they were then."""
    known = presets(host)
    gone = {one for text in baked for one in parse_prompt(text, known).tags}
    there = [one for one in parse_prompt(prompt, known).tags if one in gone]
    new = tag(name, 1.0)
    return {"prompt": replaced(prompt, there, new, known), "replaced": len(there), "tag": new}

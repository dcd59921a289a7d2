"""Bake a prompt: merge the LoRAs that it names into one file, and replace their tags by one tag."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapters.layer import Adapter
from ..adapters.merge.onto_base import depends_on_base
from ..base.checkpoint import Checkpoint
from ..engine.analysing import analyse, with_base_norms
from ..engine.analysis import Analysis
from ..engine.job import ResizeJob
from ..engine.planning import prepare
from ..engine.reading import read_part, read_source
from ..engine.runtime import Runtime
from ..errors import FileError, PairingError, PromptError, ResizeError
from ..files.file_names import clean_stem
from ..files.reader import SafeFile
from ..hosts.device_jobs import host_runtime
from ..hosts.host import PARTS_IN_TAGS, Host, LoraFile
from ..hosts.listing import find
from ..hosts.live import OpenReference, open_reference
from ..plans import Plan
from ..prompts.block_weights import BLOCK_PRESETS, Presets
from ..prompts.lookup import preset_file
from ..prompts.sdnext_tags import warnings_in_sdnext
from ..prompts.sources import of_prompt
from ..prompts.tags import Tag, parse_prompt, replaced
from ..recipe.grammar import Recipe, parse_recipes
from ..shown import MIB
from .bases import no_reference
from .faults import Fault
from .library import Library
from .names import folded, new_path, output_folder, tag
from .options import Options
from .protocol.objects import DEFAULT_SCORES
from .protocol.types import Json
from .queue import Handle
from .references import NO_REFERENCE, opened_info
from .resizing import BeforeWriting, NewFile, all_names, finish
from .snapshot import HostLists, Snapshot

_LONGEST_NAME = 60


@dataclass(frozen=True)
class FoundTag:
    """A tag of a prompt, and the LoRA that it names."""

    tag: Tag
    lora: LoraFile | None
    family: str | None
    errors: tuple[str, ...]
    """Why it cannot be baked; empty where it can."""
    remarks: tuple[str, ...] = ()
    """What the user should know where it can."""

    def to_json(self) -> Json:
        """Return the `Tag` of the protocol."""
        return {
            "text": str(self.tag),
            "name": self.tag.name,
            "lora": None if self.lora is None else self.lora.name,
            "column": self.tag.column,
            "troubles": list(self.errors),
            "remarks": list(self.remarks),
        }


def presets(host: Host) -> Presets:
    """Return block weights by name, with the user's own where the extension LoRA Block Weight is installed."""
    own = host.block_presets()
    with contextlib.suppress(FileError):
        return BLOCK_PRESETS if own is None else preset_file(own)
    return BLOCK_PRESETS


def find_tags(prompt: str, known: Presets, host: HostLists, library: Library) -> list[FoundTag]:
    """Return all tags of a prompt. Raises PromptError for one that no host can parse."""
    return [_found(one, host, library) for one in parse_prompt(prompt, known).tags]


def _found(one: Tag, host: HostLists, library: Library) -> FoundTag:
    remarks = warnings_in_sdnext(one) if PARTS_IN_TAGS in host.features else one.warnings
    try:
        lora = find(host.loras(), one.name)
        facts = library.facts(lora)
    except (ResizeError, OSError) as error:
        return FoundTag(one, None, None, (str(error), *one.errors), remarks)
    problem = (facts.problem,) if facts.problem and not _is_part(lora) else ()
    return FoundTag(one, lora, facts.family, (*problem, *one.errors), remarks)


def _is_part(lora: LoraFile) -> bool:
    """Return whether a file that cannot be resized alone can be merged."""
    with contextlib.suppress(ResizeError, OSError), SafeFile(lora.path) as file:
        read_part(file)
        return True
    return False


def bakeable(found: Sequence[FoundTag]) -> list[FoundTag]:
    """Return the tags that can be baked."""
    return [one for one in found if not one.errors]


def prompt_json(prompt: str, known: Presets, host: HostLists, library: Library) -> Json:
    """Return the answer of `read_prompt`."""
    try:
        found = find_tags(prompt, known, host, library)
    except PromptError as error:
        return {"ok": False, "message": str(error), "column": error.column, "tags": [], "warnings": [], "name": ""}
    good = bakeable(found)
    return {
        "ok": bool(good),
        "message": "" if good else "The prompt names no LoRA that can be baked.",
        "column": 0,
        "tags": [one.to_json() for one in found],
        "warnings": list(_warnings(good)),
        "name": suggested_name(good),
    }


def _warnings(good: Sequence[FoundTag]) -> Iterator[Json]:
    families = sorted({one.family for one in good if one.family is not None})
    if len(families) > 1:
        text = f"These LoRAs are made for different models ({', '.join(families)}) and cannot be merged."
        yield {"kind": "other_family", "text": text}


def suggested_name(good: Sequence[FoundTag]) -> str:
    """Return a name such as ``style+char``."""
    names = dict.fromkeys(one.lora.path.stem for one in good if one.lora is not None)
    return clean_stem("+".join(names)[:_LONGEST_NAME]) if names else ""


@dataclass(frozen=True)
class BakeOrder:
    """One file that is to be baked."""

    found: tuple[FoundTag, ...]
    recipe: Recipe
    options: Options
    name: str
    taken: frozenset[str] = frozenset()
    is_limited: bool = False
    """The file must not be larger than its parts together; ranks are reduced where it would be."""

    @property
    def tags(self) -> tuple[Tag, ...]:
        return tuple(one.tag for one in self.found)

    def path_of(self, name: str) -> Path:
        """Return the path of a LoRA that the order names."""
        return next(one.lora.path for one in self.found if one.lora is not None and one.tag.name == name)


def check_name(name: str) -> str:
    """Return the name of a new file, stripped. Raises Fault where it is no file name."""
    plain = name.strip()
    if not plain or clean_stem(plain) != plain:
        raise Fault("request", f"name {name!r}: use letters, digits, spaces, - and _, as in my_mix.")
    return plain


def folder_for(order: BakeOrder, host: HostLists) -> Path:
    """Return the folder of the new file. Raises Fault."""
    roots = host.lora_roots()
    if not roots:
        raise Fault("unavailable", f"{host.name} has no LoRA folder.")
    return output_folder(roots[0] / "x", roots, order.options.folder)


def bake(host: Host, order: BakeOrder, handle: Handle, before_writing: BeforeWriting) -> NewFile:
    """Write the file.

    Raises Cancelled, and what reading, merging and writing raise; no file is left behind then.
    """
    path = _path_for(order, host)
    with _merged(order, host) as (adapter, required), host_runtime(host, handle) as tools:
        handle.portion(0.0, 0.6)
        digests = [tools.pool.submit(file.sha256) for file in adapter.files]
        analysis, compared = _analysed(adapter, required.checkpoint if required else None, order, host, tools)
        job = _prepared(analysis, order, path)
        handle.portion(0.6, 0.4)
        plan = finish(job, tools, digests, handle, before_writing)
    used = compared or required
    return NewFile(plan, path, (), tuple(tools.placement.notes), opened_info(used) if used else NO_REFERENCE)


def plan_bake(host: Host, order: BakeOrder, handle: Handle) -> Plan:
    """Return the plan of the file that `bake` would write. Raises what reading, merging and planning raise."""
    path = _path_for(order, host)
    with _merged(order, host) as (adapter, required), host_runtime(host, handle) as tools:
        analysis, _ = _analysed(adapter, required.checkpoint if required else None, order, host, tools)
        return _prepared(analysis, order, path).plan


def _path_for(order: BakeOrder, host: Host) -> Path:
    lists = Snapshot(host)
    return new_path(folder_for(order, lists), order.name, all_names(lists) | folded(order.taken))


def _prepared(analysis: Analysis, order: BakeOrder, path: Path) -> ResizeJob:
    """Plan the file, at most as large as its parts together where the order asks for that. Raises ResizeError."""
    job = prepare(analysis, order.recipe, order.options.style, lambda _: path)
    parts = job.plan.bytes_before
    if not order.is_limited or job.plan.bytes_after <= parts:
        return job
    most = math.floor(parts / MIB * 1e4) / 1e4
    limited = parse_recipes(f"{DEFAULT_SCORES},size={most:.4f}")[0]
    smaller = prepare(analysis, limited, order.options.style, lambda _: path)
    note = (
        f"With all ranks the file would have {job.plan.bytes_after / MIB:.1f} MB, more than its parts together. "
        "Its ranks are reduced; choose a target for another size."
    )
    return replace(smaller, plan=replace(smaller.plan, notes=(*smaller.plan.notes, note)))


@contextlib.contextmanager
def _merged(order: BakeOrder, host: Host) -> Iterator[tuple[Adapter, OpenReference | None]]:
    """Merge the files; with the base model that parts depend on, where there are such parts and a reference."""
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
    """Analyse the sum; with the reference that the recipe compares with, if it compares with one."""
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


def rewritten(prompt: str, baked: Sequence[str], name: str, known: Presets) -> Json:
    """Return the answer of `bake_into`: the prompt with one tag in place of the tags that were baked."""
    gone = {one for text in baked for one in parse_prompt(text, known).tags}
    there = [one for one in parse_prompt(prompt, known).tags if one in gone]
    new = tag(name, 1.0)
    return {"prompt": replaced(prompt, there, new, known), "replaced": len(there), "tag": new}

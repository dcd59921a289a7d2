"""Extract the difference of two checkpoints of the host's list, or of the model in memory and its file, as a LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapters.layer import Adapter
from ..base.checkpoint import Checkpoint
from ..engine.analysing import analyse
from ..engine.planning import prepare
from ..engine.runtime import Runtime
from ..errors import FileError
from ..extraction.difference import difference
from ..extraction.extract import of_checkpoints
from ..extraction.models import DEFAULT_RANK, ExtractOptions, Weights
from ..files.file_names import clean_stem
from ..files.spool import Spool
from ..hosts.device_jobs import host_runtime
from ..hosts.host import Host, find_checkpoint
from ..hosts.live_difference import LiveWeights, RoundedCheckpoint
from ..recipe.grammar import Recipe
from .faults import Fault
from .names import folded, new_path, output_folder
from .options import Options
from .protocol.objects import FILE, LOADED
from .queue import Handle
from .references import NO_REFERENCE, ReferenceInfo, family_of
from .resizing import BeforeWriting, NewFile, all_names, finish
from .snapshot import HostLists, Snapshot


@dataclass(frozen=True)
class ExtractOrder:
    """Which checkpoint is subtracted from which, and how the result is written."""

    tuned: str
    """``loaded``, or a checkpoint's title."""
    base: str
    """``file``, or a checkpoint's title."""
    recipe: Recipe
    options: Options
    name: str
    text_encoders: bool = True
    taken: frozenset[str] = frozenset()

    @property
    def extract_options(self) -> ExtractOptions:
        """Options with as many dimensions as the recipe can keep."""
        most = int(self.recipe.value) if self.recipe.selection == "rank" else self.recipe.max_rank
        return ExtractOptions(DEFAULT_RANK if most is None else most, text_encoders=self.text_encoders)


def check_order(order: ExtractOrder, host: HostLists) -> None:
    """Check what can be checked before any weight is read. Raises Fault and FileError."""
    if order.tuned == LOADED and host.loaded() is None:
        raise Fault("reference", "No checkpoint is loaded, so there are no weights in memory to compare with its file.")
    if order.tuned != LOADED:
        path_of(host, order.tuned)
    base_path(order, host)
    _folder(order, host)


def suggested_name(order: ExtractOrder, host: HostLists) -> str:
    """Return a name such as ``tuned-base``."""
    loaded = host.loaded()
    own = loaded.title if order.tuned == LOADED and loaded is not None else order.tuned
    return clean_stem(f"{Path(own).stem}-{base_path(order, host).stem}")


def path_of(host: HostLists, title: str) -> Path:
    """Return the file of a checkpoint in the host's list. Raises FileError."""
    found = find_checkpoint(host.checkpoints(), title)
    if found is None:
        raise FileError(f"{title}: no checkpoint of this title is in the list. Refresh the list in {host.name}.")
    return found.path


def base_path(order: ExtractOrder, host: HostLists) -> Path:
    """Return the file of the base. Raises Fault and FileError."""
    if order.base != FILE:
        return path_of(host, order.base)
    loaded = host.loaded()
    if order.tuned != LOADED or loaded is None or loaded.path is None:
        raise Fault(
            "reference", "Only the loaded model has a file of its own to compare with. Choose a checkpoint as the base."
        )
    return loaded.path


def _folder(order: ExtractOrder, host: HostLists) -> Path:
    roots = host.lora_roots()
    if not roots:
        raise Fault("unavailable", f"{host.name} has no LoRA folder.")
    return output_folder(roots[0] / "x", roots, order.options.folder)


def extract(host: Host, order: ExtractOrder, handle: Handle, before_writing: BeforeWriting) -> NewFile:
    """Write the file.

    Raises Cancelled, and what reading, subtracting and writing raise; no file is left behind then.
    """
    lists = Snapshot(host)
    folder = _folder(order, lists)
    path = new_path(folder, order.name, all_names(lists) | folded(order.taken))
    with ExitStack() as stack:
        tools = stack.enter_context(host_runtime(host, handle))
        spool = stack.enter_context(Spool(folder))
        handle.portion(0.0, 0.7)
        adapter, base = stack.enter_context(_subtracted(host, order, spool, tools))
        digests = [tools.pool.submit(file.sha256) for file in adapter.files]
        analysis = analyse(adapter, base if order.recipe.needs_base else None, [order.recipe], tools)
        handle.portion(0.7, 0.3)
        job = prepare(analysis, order.recipe, order.options.style, lambda _: path)
        plan = finish(job, tools, digests, handle, before_writing)
    return NewFile(plan, path, (), tuple(tools.placement.notes), _reference(order, host))


def _reference(order: ExtractOrder, host: HostLists) -> ReferenceInfo:
    """Return the base model that the recipe compared with: the file that was subtracted."""
    if not order.recipe.needs_base:
        return NO_REFERENCE
    path = base_path(order, host)
    return ReferenceInfo("file", path.name if order.base == FILE else order.base, family_of(path))


@contextmanager
def _subtracted(host: Host, order: ExtractOrder, spool: Spool, tools: Runtime) -> Iterator[tuple[Adapter, Checkpoint]]:
    with ExitStack() as stack:
        base = Checkpoint(base_path(order, host))
        stack.callback(base.close)
        if order.tuned == LOADED:
            found = difference(*_live(host, base), order.extract_options, spool, tools)
            yield replace(found, files=(base.file, base.file), weights=("in memory", -1.0)), base
            return
        tuned = Checkpoint(path_of(host, order.tuned))
        stack.callback(tuned.close)
        yield of_checkpoints(difference(tuned, base, order.extract_options, spool, tools), tuned, base), base


def _live(host: Host, base: Checkpoint) -> tuple[Weights, Weights]:
    loaded = host.loaded()
    if loaded is None:
        raise Fault("reference", "The model is not in memory any more. Load it again.")
    live = LiveWeights(host, loaded, base)
    return live, RoundedCheckpoint(base, live)

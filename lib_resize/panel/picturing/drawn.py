"""The file of a search with a fit that images were made with, written under its own name. Nothing is computed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ...files.effect_record import EffectRecord
from ...files.restamping import WrittenTensors
from ...plans import Plan
from ..desk import Desk
from ..faults import Fault
from ..names import NameFacts, filled, folded
from ..queue import Handle
from ..resizing import BeforeWriting, NewFile, all_names, namer, sidecars_of
from ..snapshot import Snapshot
from .candidates import Candidate
from .finds import Find, Measured

_TRIES = 4  # until the size in a name is the size of the file that has this name


@dataclass(frozen=True)
class DrawnFile:
    """The best file of a search with a fit, where the search keeps it, and its figure."""

    candidate: Candidate
    tensors: WrittenTensors
    effect: EffectRecord | None

    @classmethod
    def of(cls, find: Find, best: Measured) -> DrawnFile:
        """Raises Fault where the file is gone, and FileError where it cannot be read."""
        candidate = None if find.files is None else find.files.get(best.key)
        if candidate is None:
            name = find.order.lora.name
            raise Fault("gone", f"{name}: the file that was drawn was removed. Find the smallest file again.")
        return cls(candidate, WrittenTensors.of(candidate.path), find.takes.record(best.figure))

    def planned(self, path: Path, name: str | None) -> Plan:
        """Return the plan of a copy; `name` is that of the LoRA in its metadata."""
        bytes = self.tensors.bytes(self.tensors.stamped(name, self.effect))
        return replace(self.candidate.plan, output=str(path), bytes_after=bytes)

    def write(self, path: Path, name: str | None, handle: Handle) -> None:
        """Write a copy with the figure in its record. Raises Cancelled, FileError and OutputError; no file then."""
        handle.start("write", len(self.tensors.specs))
        self.tensors.write(path, self.tensors.stamped(name, self.effect), handle.step)


def write_drawn(desk: Desk, find: Find, best: Measured, handle: Handle, before_writing: BeforeWriting) -> NewFile:
    """Write the tensors that were drawn, with their figure in the record, next to the source.

    Raises Fault where the file is gone, Cancelled, FileError and OutputError; no file is left behind then.
    """
    order, drawn = find.order, DrawnFile.of(find, best)
    plan, path = _named(desk, find, drawn)
    handle.portion(0.0, 1.0)
    before_writing(plan, path)
    drawn.write(path, path.stem, handle)
    digest = drawn.candidate.source_sha256
    copies, notes = sidecars_of(order.lora.path, path, digest) if order.options.sidecars else ((), ())
    return NewFile(plan, path, copies, notes, drawn.candidate.reference)


def _named(desk: Desk, find: Find, drawn: DrawnFile) -> tuple[Plan, Path]:
    """Return the plan and the path of a name that contains the file's own size."""
    lora, options, lists = find.order.lora, find.order.options, Snapshot(desk.host)
    name = namer(lists, lora, options, all_names(lists) | folded(desk.results.trash.names()))

    def planned(path: Path) -> Plan:
        return drawn.planned(path, path.stem)

    return _fitting_name(lambda ending: name(find.source.path.stem + ending), options.suffix, planned)


def _fitting_name(name: Callable[[str], Path], suffix: str, planned: Callable[[Path], Plan]) -> tuple[Plan, Path]:
    path = name(filled(suffix, _facts(planned(Path()))))
    for _ in range(_TRIES):
        wished = name(filled(suffix, _facts(planned(path))))
        if wished == path:
            break
        path = wished
    return planned(path), path


def _facts(plan: Plan) -> NameFacts:
    return NameFacts(plan.bytes_after, plan.retention, max((layer.new_rank for layer in plan.layers), default=0))

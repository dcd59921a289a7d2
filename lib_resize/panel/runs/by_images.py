"""A file of a run by its effect on images: the smallest one that keeps the target is found first, then written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...engine.job import ResizeJob
from ...engine.stamping import with_effect
from ...files.effect_record import EffectRecord
from ...hosts.host import LoraFile
from ...recipe.grammar import Recipe
from ..desk import Desk
from ..faults import Fault
from ..options import Options
from ..picturing.drawn import DrawnFile
from ..picturing.finder import check_unchanged, search
from ..picturing.finding import found_text, has_ranks, is_reached, recipes_of
from ..picturing.finds import Find, FindOrder, Measured
from ..protocol.types import Json
from ..queue import Handle


class NoSize(Exception):  # noqa: N818 - a decision
    """No file keeps the target, or the prompt hardly shows the LoRA."""

    def __init__(self, kind: str, message: str, record: EffectRecord | None = None) -> None:
        """`record` is the figure of the largest file."""
        super().__init__(message)
        self.kind = kind
        self.record = record


@dataclass(frozen=True)
class FoundFile:
    """The smallest file that keeps the target."""

    best: Measured
    record: EffectRecord
    find: Find

    def planned(self, plan: Callable[[Recipe], ResizeJob]) -> ResizeJob:
        """Return the plan with the dimensions that were drawn. Raises Fault where the LoRA was changed since."""
        check_unchanged(self.find)
        for recipe in recipes_of(self.best):
            job = with_effect(plan(recipe), self.record)
            if has_ranks(job.plan, self.best):
                return job
        raise Fault("refused", f"{self.find.order.lora.name}: the file that was drawn cannot be written again.")

    def drawn(self) -> DrawnFile | None:
        """Return the file that was drawn, which a search with a fit keeps. Raises Fault."""
        if self.find.refine is None:
            return None
        check_unchanged(self.find)
        return DrawnFile.of(self.find, self.best)

    def close(self) -> None:
        """Remove the file that was drawn."""
        self.find.close()


def found_file(
    desk: Desk, lora: LoraFile, options: Options, asked: Json, fit: Json | None, handle: Handle
) -> FoundFile:
    """Search for the file of one LoRA; `asked` and `fit` are those of a `RunOrder`.

    Close the result. Raises NoSize, and what `finder.search` raises.
    """
    order = FindOrder(lora, asked["target"], asked["seeds"], asked["settings"], options, is_template=True, fit=fit)
    find = Find(order)
    try:
        search(desk, find, handle)
        return _found(find)
    except BaseException:
        find.close()
        raise


def _found(find: Find) -> FoundFile:
    best = find.best
    record = None if best is None else find.takes.record(best.figure)
    if best is None or record is None:
        raise NoSize("weak", found_text(find))
    if not is_reached(find):
        raise NoSize("effect", found_text(find), record)
    return FoundFile(best, record, find)

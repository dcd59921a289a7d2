"""What a method of the protocol is, and parameters that several methods have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..faults import Fault
from . import objects as of
from .objects import TEXT
from .types import Field, Json, ListOf, Object, read_object

MOST_NAMES = 20_000


@dataclass(frozen=True)
class Method:
    """One question, and the fields of its answer."""

    name: str
    subject: str
    """The module of `panel.methods` that answers it."""
    summary: str
    result: Object
    parameters: tuple[Field, ...] = ()
    either: tuple[str, ...] = ()
    """Parameters of which exactly one is given."""
    either_is_required: bool = True
    """False where none of them may be given, too."""
    job: Object | None = None
    """The result of the job that it starts."""
    kind: str | None = None
    """The kind of the job, where it is not the method's name."""
    changes: bool = False
    """Whether it changes something, so that a page of an earlier server may not ask it."""

    def read(self, values: Any) -> Json:
        """Return the parameters, checked, with defaults. Raises Fault."""
        found = read_object({} if values is None else values, self.parameters, "params")
        given = sum(found[name] is not None for name in self.either)
        if given > 1 or (self.either and self.either_is_required and not given):
            raise Fault("request", f"params: give either {' or '.join(self.either)}.")
        return found


# Parameters of several methods ---------------------------------------------------------------------------------

NAMES = Field("names", ListOf(TEXT, MOST_NAMES), "LoRAs of the list")
CHOICE = ("recipe", "target")
HOW = (
    Field("recipe", TEXT, "the recipe, as text", None),
    Field("target", of.TARGET, "a preset, size, retention or rank in place of a recipe", None),
    Field("options", of.OPTIONS, "how the file is written", {}),
)
RESULT_OR_NAME = (
    Field("result", TEXT, "id of a result", None),
    Field("name", TEXT, "a LoRA of the list", None),
)

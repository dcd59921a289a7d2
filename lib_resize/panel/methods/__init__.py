"""The methods of the protocol, a module for each subject: a table of name -> function of the desk and the parameters.

Parameters are checked by `protocol.methods` before a function gets them.
"""

from __future__ import annotations

from collections.abc import Callable

from ..desk import Desk
from ..protocol.types import Json
from . import analysing, archiving, comparing, extracting, finding, looking, prompts, resizing, results, runs, shrinking

Answer = Callable[[Desk, Json], Json]
"""Returns the fields of the method's result. Raises ResizeError."""

ANSWERS: dict[str, Answer] = {
    **looking.METHODS,
    **analysing.METHODS,
    **resizing.METHODS,
    **results.METHODS,
    **prompts.METHODS,
    **extracting.METHODS,
    **comparing.METHODS,
    **finding.METHODS,
    **shrinking.METHODS,
    **runs.METHODS,
    **archiving.METHODS,
}

"""The form of questions and answers: a JSON object each; see docs/panel-protocol.md."""

from __future__ import annotations

import json
import math
from typing import Any

from .faults import Fault
from .protocol.methods import METHODS

_MOST_TEXT = 4 << 20  # characters of a question


def check_session(question: dict[str, Any], session: str) -> None:
    """Raise Fault for a question that changes something, by a page that was loaded from an earlier server."""
    given = question.get("session")
    if given is None or given == session:
        return
    if not isinstance(given, str):
        raise Fault("request", "session must be the text that hello and status answer.")
    method = question.get("method")
    if isinstance(method, str) and method in METHODS and METHODS[method].changes:
        raise Fault("stale", "The server was restarted. Try again once the page has reloaded its lists.")


def read_question(text: Any) -> dict[str, Any]:
    """Return the object of a question. Raises Fault."""
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        raise Fault("request", "a question must be a JSON object of at most 4 million characters.")
    try:
        question = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Fault("request", f"not JSON: {error}") from error
    if not isinstance(question, dict):
        raise Fault("request", "a question must be a JSON object with id, method and params.")
    return question


def id_of(question: dict[str, Any]) -> Any:
    """Return the id of a question, if it is a text or a finite number."""
    id = question.get("id")
    if isinstance(id, str) or (isinstance(id, int) and not isinstance(id, bool)):
        return id
    return id if isinstance(id, float) and math.isfinite(id) else None


def plain(value: Any) -> Any:
    """Return a value with null in place of infinity and NaN, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value

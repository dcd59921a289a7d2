"""The form of a question and of an answer: one JSON object each; see docs/panel-protocol.md."""

from __future__ import annotations

import json
import math
from typing import Any

from .faults import Fault

_MOST_TEXT = 4 << 20  # characters of a question
_CHANGES = ("resize", "bake", "extract", "compare", "cancel", "undo", "restore", "empty_trash")
"""Methods that a page of an earlier server may not use: what it shows is not what is there."""


def check_session(question: dict[str, Any], session: str) -> None:
    """Raises Fault for a question that changes something, by a page that was loaded from an earlier server."""
    given = question.get("session")
    if given is None or given == session:
        return
    if not isinstance(given, str):
        raise Fault("request", "session is the text that hello and status answered.")
    if question.get("method") in _CHANGES:
        raise Fault("stale", "The server was restarted; the page reloads what it shows. Then try again.")


def read_question(text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        raise Fault("request", "a question is a JSON object of at most 4 million characters.")
    try:
        question = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Fault("request", f"not JSON: {error}") from error
    if not isinstance(question, dict):
        raise Fault("request", "a question is a JSON object with id, method and params.")
    return question


def id_of(question: dict[str, Any]) -> Any:
    id = question.get("id")
    if isinstance(id, str) or (isinstance(id, int) and not isinstance(id, bool)):
        return id
    return id if isinstance(id, float) and math.isfinite(id) else None


def plain(value: Any) -> Any:
    """JSON has no word for infinity and NaN: None stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value

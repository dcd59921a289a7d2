"""The tables of docs/panel-protocol.md, made from the declaration. ``python tests/panel/protocol_page.py`` writes them.

The page has a comment before and after each part that is made: ``<!-- made: plan -->`` … ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from declared import objects_of  # noqa: E402

from lib_resize.panel.protocol.errors import ERRORS  # noqa: E402
from lib_resize.panel.protocol.method import Method  # noqa: E402
from lib_resize.panel.protocol.methods import METHODS  # noqa: E402
from lib_resize.panel.protocol.objects import ERROR, WARNINGS  # noqa: E402
from lib_resize.panel.protocol.run_objects import REASONS  # noqa: E402
from lib_resize.panel.protocol.types import REQUIRED, Field, Object  # noqa: E402

PAGE = ROOT / "docs" / "panel-protocol.md"
_PART = re.compile(r"(<!-- made: ([a-z_ ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(page: str) -> str:
    """Return the page with all its parts made anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{_made(part[2])}\n{part[3]}", page)


def parts(page: str) -> list[str]:
    """Return the names of the parts of the page."""
    return [part[2] for part in _PART.finditer(page)]


def _made(name: str) -> str:
    if name in METHODS:
        return "\n".join(_method(METHODS[name]))
    return {"errors": _errors, "warnings": _warnings, "reasons": _reasons, "shared objects": _shared}[name]()


def _table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in (heads, ("---",) * len(heads), *rows))


def _errors() -> str:
    return _table(("`kind`", "when"), ((f"`{kind}`", error.when) for kind, error in ERRORS.items()))


def _warnings() -> str:
    return _table(("`kind`", "meaning"), ((f"`{kind}`", meaning) for kind, meaning in WARNINGS.items()))


def _reasons() -> str:
    return _table(("`reason`", "meaning"), ((f"`{kind}`", meaning) for kind, meaning in REASONS.items()))


# Objects -------------------------------------------------------------------------------------------------------


def _used(method: Method) -> list[Object]:
    """Return the objects in the tables of a method, each once, without its own answer."""
    types = [
        *(field.type for field in (*method.parameters, *method.result.fields)),
        *([method.job] if method.job else []),
    ]
    return list(dict.fromkeys(one for type in types for one in objects_of(type)))


_USES = Counter(one for method in METHODS.values() for one in _used(method)) + Counter({ERROR: 2})


def _shared() -> str:
    shared = (one for one, uses in _USES.items() if uses > 1)
    return "\n".join(_object(one, 3) for one in sorted(shared, key=lambda one: one.name))


def _object(one: Object, level: int) -> str:
    return f"{'#' * level} {one.name}\n\n{_fields(one.fields)}"


def _fields(fields: tuple[Field, ...]) -> str:
    if any(field.default is not REQUIRED for field in fields):
        return _parameters(fields)
    rows = ((_name(field), field.type.words, field.meaning) for field in fields)
    return _table(("field", "type", "meaning"), rows)


def _name(field: Field) -> str:
    return f"`{field.name}`" + (" (optional)" if field.optional else "")


def _parameters(fields: tuple[Field, ...]) -> str:
    rows = ((f"`{field.name}`", field.type.words, _default(field), field.meaning) for field in fields)
    return _table(("parameter", "type", "default", "meaning"), rows)


def _default(field: Field) -> str:
    if field.default is REQUIRED:
        return "required"
    return "" if field.default is None else f"`{json.dumps(field.default)}`"


# Methods -------------------------------------------------------------------------------------------------------


def _method(method: Method) -> Iterator[str]:
    yield f"{method.summary}.\n"
    yield _parameters(method.parameters) if method.parameters else "No parameters.\n"
    if method.either:
        names = " and ".join(f"`{name}`" for name in method.either)
        yield f"{'Exactly' if method.either_is_required else 'At most'} one of {names} is given.\n"
    yield f"The answer:\n\n{_fields(method.result.fields)}"
    if method.job is not None:
        yield f"The `result` of the job: {method.job.words}.\n"
    yield from (_object(one, 4) for one in _used(method) if _USES[one] == 1)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text("utf-8")), "utf-8")

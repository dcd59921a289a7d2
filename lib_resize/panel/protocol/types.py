"""JSON types, the fields of objects, and the check of the values that a page sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..faults import Fault

Json = dict[str, Any]
Schema = dict[str, Any]

REQUIRED: Any = object()
"""The default of a parameter that must be given."""
LONGEST_TEXT = 10_000
_LARGEST_INTEGER = 2**53
_LARGEST_NUMBER = 1e300


class Type(Protocol):
    """A JSON type."""

    @property
    def words(self) -> str:
        """The type as the documentation names it."""
        ...

    @property
    def wanted(self) -> str:
        """The type as an error message names it, with its limits."""
        ...

    @property
    def schema(self) -> Schema:
        """The type as OpenAPI describes it."""
        ...

    def accepts(self, value: Any) -> bool:
        """Return whether a value is of this type and within its limits."""
        ...

    def read(self, value: Any) -> Any:
        """Return an accepted value in the form in which methods use it."""
        ...


class _Plain:
    """A type whose values are used as they come."""

    def read(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Text(_Plain):
    """A text; with `choices` one of these."""

    choices: tuple[str, ...] = ()
    longest: int = LONGEST_TEXT

    @property
    def words(self) -> str:
        return ", ".join(f'`"{choice}"`' for choice in self.choices) or "text"

    @property
    def wanted(self) -> str:
        return f"one of {', '.join(self.choices)}" if self.choices else f"a text of at most {self.longest} characters"

    @property
    def schema(self) -> Schema:
        return {"type": "string", **({"enum": list(self.choices)} if self.choices else {})}

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, str) or len(value) > self.longest:
            return False
        return not self.choices or value in self.choices


@dataclass(frozen=True)
class Integer(_Plain):
    """A whole number from `least` to `most`; with `choices` one of these."""

    least: int = -_LARGEST_INTEGER
    most: int = _LARGEST_INTEGER
    choices: tuple[int, ...] = ()

    words = "integer"

    @property
    def _has_limits(self) -> bool:
        return (self.least, self.most) != (-_LARGEST_INTEGER, _LARGEST_INTEGER)

    @property
    def wanted(self) -> str:
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        return "a whole number" + (f" from {self.least} to {self.most}" if self._has_limits else "")

    @property
    def schema(self) -> Schema:
        if self.choices:
            return {"type": "integer", "enum": list(self.choices)}
        return {"type": "integer", **({"minimum": self.least, "maximum": self.most} if self._has_limits else {})}

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            return False
        return not self.choices or value in self.choices


@dataclass(frozen=True)
class Number(_Plain):
    """A finite number."""

    words = "number"
    wanted = "a number"

    @property
    def schema(self) -> Schema:
        return {"type": "number"}

    def accepts(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER


@dataclass(frozen=True)
class Boolean(_Plain):
    """``true`` or ``false``."""

    words = "boolean"
    wanted = "true or false"

    @property
    def schema(self) -> Schema:
        return {"type": "boolean"}

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Nullable:
    """A value or null."""

    inner: Type

    @property
    def words(self) -> str:
        return f"{self.inner.words} or null"

    @property
    def wanted(self) -> str:
        return f"{self.inner.wanted} or null"

    @property
    def schema(self) -> Schema:
        return {**self.inner.schema, "nullable": True}

    def accepts(self, value: Any) -> bool:
        return value is None or self.inner.accepts(value)

    def read(self, value: Any) -> Any:
        return None if value is None else self.inner.read(value)


@dataclass(frozen=True)
class ListOf:
    """A list. With `most` it is a parameter: 1 to `most` items, duplicates dropped."""

    item: Type
    most: int | None = None

    @property
    def words(self) -> str:
        return f"list of {self.item.words}{'s' if self.item.words.isalpha() else ''}"

    @property
    def wanted(self) -> str:
        return f"a list of {'' if self.most is None else f'1 to {self.most} '}{self.item.words}s"

    @property
    def schema(self) -> Schema:
        limits = {} if self.most is None else {"minItems": 1, "maxItems": self.most}
        return {"type": "array", "items": self.item.schema, **limits}

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, list) or not all(map(self.item.accepts, value)):
            return False
        return self.most is None or 1 <= len(value) <= self.most

    def read(self, value: Any) -> list[Any]:
        return value if self.most is None else list(dict.fromkeys(value))


@dataclass(frozen=True)
class MapOf(_Plain):
    """An object whose keys are data: names, ids, words."""

    key: str
    """The keys as the documentation names them."""
    value: Type

    wanted = "an object"

    @property
    def words(self) -> str:
        return f"map from {self.key} to {self.value.words}"

    @property
    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.value.schema}

    def accepts(self, value: Any) -> bool:
        return isinstance(value, dict) and all(map(self.value.accepts, value.values()))


@dataclass(frozen=True)
class Field:
    """A parameter of a method, or a field of an object."""

    name: str
    type: Type
    meaning: str = ""
    default: Any = REQUIRED
    """Of a parameter that may be left out. None: there is no value then."""
    optional: bool = False
    """Of a field that some answers lack."""

    @property
    def schema(self) -> Schema:
        default = {} if self.default in (REQUIRED, None) else {"default": self.default}
        return {**self.type.schema, **({"description": self.meaning} if self.meaning else {}), **default}


@dataclass(frozen=True)
class Object(_Plain):
    """An object with declared fields. As a parameter its fields are checked by `read_object`, where it is used."""

    name: str
    """A heading of docs/panel-protocol.md."""
    fields: tuple[Field, ...]
    exactly_one: bool = False
    """Of all fields exactly one is given."""

    wanted = "an object"

    @property
    def words(self) -> str:
        return f"[{self.name}](#{self.name.lower().replace(' ', '-')})"

    @property
    def schema(self) -> Schema:
        limits = {"minProperties": 1, "maxProperties": 1} if self.exactly_one else {}
        return {"type": "object", "properties": {field.name: field.schema for field in self.fields}, **limits}

    def accepts(self, value: Any) -> bool:
        return isinstance(value, dict)


@dataclass(frozen=True)
class JobResult(_Plain):
    """The result of a job, which depends on its `kind`."""

    words = "see the method of this name"
    wanted = "an object"

    @property
    def schema(self) -> Schema:
        return {"type": "object"}

    def accepts(self, value: Any) -> bool:
        return isinstance(value, dict)


def read_object(values: Any, fields: Sequence[Field], where: str) -> Json:
    """Return the value of every declared field, with the defaults of those that are missing or null.

    Raises Fault for unknown names, missing values and values of another type.
    """
    if not isinstance(values, dict):
        raise Fault("request", f"{where}: expected an object, found {type(values).__name__}.")
    known = {field.name for field in fields}
    unknown = [short(name) for name in values if name not in known]
    if unknown:
        raise Fault("request", f"{where}: unknown {', '.join(unknown)}.")
    return {field.name: _read(field, values.get(field.name), where) for field in fields}


def _read(field: Field, value: Any, where: str) -> Any:
    if value is None:
        if field.default is REQUIRED:
            raise Fault("request", f"{where}: {field.name} is missing.")
        return field.default
    if not field.type.accepts(value):
        raise Fault("request", f"{where}: {field.name} must be {field.type.wanted}, found {short(value)}.")
    return field.type.read(value)


def short(value: Any) -> str:
    """Return a value of a question as a message shows it."""
    text = repr(value) if isinstance(value, (str, int, float, bool)) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."

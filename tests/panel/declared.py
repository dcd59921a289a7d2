"""Compare answers with the declaration of the protocol, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lib_resize.panel.protocol.methods import JOB_RESULTS, METHODS
from lib_resize.panel.protocol.objects import ERROR, JOB
from lib_resize.panel.protocol.types import JobResult, ListOf, MapOf, Nullable, Object, Type


def objects_of(type: Type) -> Iterator[Object]:
    """Yield the objects that a type consists of, itself first."""
    if isinstance(type, Object):
        yield type
        for field in type.fields:
            yield from objects_of(field.type)
    elif isinstance(type, Nullable):
        yield from objects_of(type.inner)
    elif isinstance(type, ListOf):
        yield from objects_of(type.item)
    elif isinstance(type, MapOf):
        yield from objects_of(type.value)


def answer_faults(method: str, answer: dict[str, Any]) -> list[str]:
    """Return what an answer of a method has and lacks that is not declared; `answer` has `result` or `error`."""
    if "error" in answer:
        return list(_faults(ERROR, answer["error"], f"error of {method}"))
    return list(_faults(METHODS[method].result, answer["result"], method))


def job_faults(job: dict[str, Any]) -> list[str]:
    """Return the same for a job, with its result."""
    return list(_faults(JOB, job, f"job {job['kind']}"))


def _faults(type: Type, value: Any, place: str) -> Iterator[str]:
    if isinstance(type, Nullable):
        if value is not None:
            yield from _faults(type.inner, value, place)
    elif not type.accepts(value):
        yield f"{place}: {value!r:.60} is not {type.words}"
    elif isinstance(type, Object):
        yield from _object_faults(type, value, place)
    elif isinstance(type, ListOf):
        for item in value:
            yield from _faults(type.item, item, f"{place}[]")
    elif isinstance(type, MapOf):
        for item in value.values():
            yield from _faults(type.value, item, f"{place}.*")


def _object_faults(type: Object, value: dict[str, Any], place: str) -> Iterator[str]:
    for name in value.keys() - {field.name for field in type.fields}:
        yield f"{place}.{name}: is not declared"
    for field in type.fields:
        if field.name not in value:
            if not field.optional:
                yield f"{place}.{field.name}: is missing"
        elif field.type == Nullable(JobResult()) and value[field.name] is not None:
            yield from _faults(JOB_RESULTS[value["kind"]], value[field.name], f"{place}.{field.name}")
        else:
            yield from _faults(field.type, value[field.name], f"{place}.{field.name}")

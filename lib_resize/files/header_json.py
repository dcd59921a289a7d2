"""The JSON of a safetensors header, read as strictly as the safetensors library reads it. Standard library only.

Python's parser is more lenient in four ways, each of which would accept a file that other programs refuse: repeated
keys, ``NaN`` and ``Infinity``, lone surrogates, and (before 3.10.7) numbers of any length, whose conversion takes
quadratic time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from .damage import SAVE_AGAIN, damaged_file, shortened

_MAX_DIGITS = 4300


def parse_object(path: Path, raw: bytes) -> dict[str, Any]:
    """Parse the JSON object of a header. Raises ``DamagedFileError``; `path` is used in messages only."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged_file(
            path, f"the header is not UTF-8 (byte {8 + error.start} of the file)", "JSON in UTF-8"
        ) from error
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_int=_PARSE_INT)
        if "\\u" in text:
            _check_surrogates(document)
    except UnicodeEncodeError as error:
        raise damaged_file(path, "the header holds half of a surrogate pair", "JSON in UTF-8") from error
    except RecursionError as error:
        raise damaged_file(path, "the header is nested too deeply", "an object with one field per tensor") from error
    except ValueError as error:
        raise damaged_file(path, f"the header is not JSON ({error})", "a JSON object") from error
    if not isinstance(document, dict):
        raise damaged_file(path, "the header is not a JSON object", "an object with one field per tensor")
    check_unique_keys(path, "the header", document)
    return document


def parse_value(text: str, start: int) -> tuple[Any, int]:
    """Parse the JSON value at position `start`; return it and the position of its end.

    Raises ``ValueError`` or ``RecursionError`` where there is no valid value.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant, parse_int=_PARSE_INT)
    value, end = decoder.raw_decode(text, start)
    _check_surrogates(value)
    return value, end


def check_unique_keys(path: Path, where: str, fields: object) -> None:
    """Raise ``DamagedFileError`` where an object has a key twice.

    The library refuses a tensor, or a field of one, that is there twice. Call this for these only: in the metadata the
    last value counts, as in the library.
    """
    if isinstance(fields, _RepeatedKeys):
        raise damaged_file(
            path, f"{where} holds the key {shortened(fields.repeated)} twice", "each name once", SAVE_AGAIN
        )


class _RepeatedKeys(dict[str, Any]):
    """A JSON object that has a key twice; the last value counts."""

    repeated: str
    """The first key that is repeated."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    repeated = _RepeatedKeys(fields)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            repeated.repeated = key
            break
        seen.add(key)
    return repeated


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _whole_number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


# Python 3.10.7 and later refuse such long numbers themselves.
_PARSE_INT = None if hasattr(sys, "get_int_max_str_digits") else _whole_number


def _check_surrogates(document: object) -> None:
    """Raise ``UnicodeEncodeError`` for a lone surrogate: no file can be written with one."""
    json.dumps(document, ensure_ascii=False).encode("utf-8")

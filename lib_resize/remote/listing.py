"""The LoRA files that URLs and paths name, with their sidecars, and clashes between the names of their results."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..engine.output_names import output_stem
from ..errors import UsageError
from ..files.file_names import clean_stem, fold
from ..files.sidecars import is_sidecar_suffix
from .order import SUFFIX, Order, WorkItem
from .stores import StoredFile, StorePlace, is_url, joined, open_place


def list_items(arguments: Sequence[str]) -> list[WorkItem]:
    """Return the LoRA files that the arguments name, each once, sorted by URL.

    Raises UsageError where an argument names none, and ``OSError`` where a store fails.
    """
    found: dict[str, WorkItem] = {}
    for argument in arguments:
        for item in _items(argument):
            found.setdefault(item.url, item)
    return [found[url] for url in sorted(found)]


def _items(argument: str) -> Iterator[WorkItem]:
    if "," in argument:
        raise UsageError(f"{argument}: merges are made by `resize-lora merge`, on this machine. Name files or folders.")
    argument = argument if is_url(argument) else Path(argument).as_posix()
    parts = argument.rstrip("/").split("/")
    magic = next((i for i, part in enumerate(parts) if glob.has_magic(part)), None)
    if magic is not None:
        yield from _required(_matching("/".join(parts[:magic]) or ".", parts[magic:]), argument)
    elif argument.lower().endswith(SUFFIX):
        yield _named("/".join(parts[:-1]) or ".", parts[-1], argument)
    else:
        yield from _required(_in_folder(open_place(argument)), argument)


def _required(found: Iterable[WorkItem], argument: str) -> Iterator[WorkItem]:
    empty = True
    for item in found:
        empty = False
        yield item
    if empty:
        raise UsageError(f"{argument} has no {SUFFIX} file; name a LoRA file, a folder or a pattern.")


def _named(folder: str, name: str, argument: str) -> WorkItem:
    place = open_place(folder)
    found = place.find(name)
    if found is None:
        raise UsageError(f"{argument}: there is no such file.")
    around = [StoredFile(one, 0, "") for one in place.names(f"{name[: -len(SUFFIX)]}.") if one != name]
    return next(_with_sidecars(place, [found, *around]))


def _matching(folder: str, pattern: Sequence[str]) -> Iterator[WorkItem]:
    if "**" in pattern:
        raise UsageError(f"{folder}/{'/'.join(pattern)}: ** is not supported here. Name the folder: it is searched.")
    for item in _with_sidecars(place := open_place(folder), place.files()):
        parts = item.name.split("/")
        if len(parts) == len(pattern) and all(map(fnmatch.fnmatchcase, parts, pattern)):
            yield item


def _in_folder(place: StorePlace) -> Iterator[WorkItem]:
    for item in _with_sidecars(place, place.files()):
        yield replace(item, below=item.name.rpartition("/")[0], found=True)


def _with_sidecars(place: StorePlace, files: Iterable[StoredFile]) -> Iterator[WorkItem]:
    """Yield the LoRA files among some files, each with those that share its name."""
    loras: dict[str, StoredFile] = {}
    others: list[str] = []
    for one in files:
        if one.name.lower().endswith(SUFFIX):
            loras[one.name[: -len(SUFFIX)]] = one
        elif "." in one.name:
            others.append(one.name)
    sidecars: dict[str, tuple[str, ...]] = {}
    for name in sorted(others):
        for whole in _beginnings(name):
            if whole in loras:
                sidecars[whole] = (*sidecars.get(whole, ()), name)
    for whole, one in loras.items():
        yield WorkItem(place.url, one.name, one.size, one.tag, sidecars.get(whole, ()))


def _beginnings(name: str) -> Iterator[str]:
    """Yield the names without suffix that a LoRA with this sidecar may have."""
    start = name.rfind("/") + 1
    for place in (i for i in range(start, len(name)) if name[i] == "."):
        if is_sidecar_suffix(name[place:]):
            yield name[:place]


# Clashes -----------------------------------------------------------------------------------------------------


def check_names(items: Sequence[WorkItem], order: Order) -> None:
    """Raise UsageError where two results would have one name, or a result could replace a source.

    It is found before anything runs, because workers do not know of each other.
    """
    if order.suffix is not None and len(order.recipes) > 1:
        raise UsageError("--suffix gives the results of several recipes one name. Name one recipe, or omit --suffix.")
    for place in sorted({item.place for item in items}):
        if _overlap(place, order.output):
            raise UsageError(
                f"-o {order.output}: the results need a folder outside of the sources in {place}, and not above them."
            )
    seen: dict[bytes, int] = {}
    for number, item in enumerate(items):
        for name in _result_names(item, order):
            other = items[seen.setdefault(_digest(name), number)]
            if other is not item:
                raise UsageError(
                    f"{other.url} and {item.url} would have one name, {name}, in {order.output}. Rename one of them."
                )


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _result_names(item: WorkItem, order: Order) -> set[str]:
    """Return the names of all results without thresholds, folded.

    Results with different names here have different names in the end: a threshold is a number behind ``_th``, and no
    recipe ends so.
    """
    stems = (output_stem(item.stem, recipe, None, order.suffix) for recipe in order.recipes)
    return {fold(joined(item.below, clean_stem(stem))) for stem in stems}


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:16]

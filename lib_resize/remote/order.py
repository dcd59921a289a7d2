"""What is asked of every file of a run, the files, and the key that names one piece of work for good."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property

from .. import __version__
from ..recipe.grammar import Recipe
from .stores import STATE, joined

PROTOCOL = 1
"""Increased when a marker of an older version no longer means that the work is done."""
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class OrderBase:
    """The base model of a run."""

    source: str
    """URL or path of a checkpoint; for norms, the name of their file in the output."""
    identity: str
    """Changes when its content does."""
    norms_only: bool = False


@dataclass(frozen=True)
class Order:
    """What is asked of every file. Workers get it pickled."""

    output: str
    """URL or absolute path of the folder for the results."""
    recipes: tuple[Recipe, ...]
    dtype: str | None = "F16"
    """As in `Style`; so are the next two."""
    kohya: bool = False
    convert: str = "auto"
    suffix: str | None = None
    sidecars: bool = True
    overwrite: bool = False
    base: OrderBase | None = None
    threads: int | None = 1
    """Worker threads for each file; None: one a core."""
    retries: int = 3
    """How often a file is tried again after a fault of a store, the network or the memory."""
    version: str = field(default=__version__)

    @cached_property
    def identity(self) -> str:
        """Return all that decides the bytes of the results, as text."""
        recipes = [{**asdict(recipe), "text": ""} for recipe in self.recipes]
        base = None if self.base is None else [self.base.identity, self.base.norms_only]
        style = [self.dtype, self.kohya, self.convert, self.suffix]
        return json.dumps([PROTOCOL, self.version, recipes, style, base], sort_keys=True)


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One LoRA file that is resized."""

    place: str
    """URL or absolute path of the folder that was named."""
    name: str
    """Its name below `place`."""
    size: int
    """In bytes."""
    tag: str
    """See `stores.StoredFile`."""
    sidecars: tuple[str, ...] = ()
    """Names below `place` of its previews and descriptions."""
    below: str = ""
    """Folder of its results, below the output."""
    found: bool = False
    """Found in a folder, not named by the user: results of earlier runs are then skipped."""

    @property
    def url(self) -> str:
        """Return its URL or absolute path."""
        return joined(self.place, self.name)

    @property
    def stem(self) -> str:
        """Return its file name without the suffix."""
        return self.name.rpartition("/")[2].rpartition(".")[0]


def key_of(item: WorkItem, order: Order) -> str:
    """Return the key of one piece of work: 32 hex digits.

    It depends on the source, its content, the folder of its results and all that decides their bytes, and on nothing
    else: the machine, the number of threads, retries and the place of the output do not matter.
    """
    text = json.dumps([item.url, item.tag, item.below, order.identity])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def marker_name(key: str) -> str:
    """Return the name of a marker in the output."""
    return f"{STATE}/done/{key[:2]}/{key}.json"


def failed_name(key: str) -> str:
    """Return the name of a file in the output that is next to the marker of a source that cannot be resized.

    A run finds those with one listing, and names them again.
    """
    return f"{STATE}/failed/{key[:2]}/{key}.json"


def shard_of(item: WorkItem, shards: int) -> int:
    """Return the shard of a file, 0 to `shards` - 1. It does not depend on which other files there are."""
    return int.from_bytes(hashlib.sha256(item.url.encode("utf-8", "surrogatepass")).digest()[:8], "big") % shards

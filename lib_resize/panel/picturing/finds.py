"""The searches for the smallest file: their state, and the last ones, which can go on and be saved."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ...effect.figures import EffectFigure
from ...effect.search import SizeSearch
from ...engine.settings import Refine
from ...hosts.host import LoraFile
from ...plans import Plan
from ...studies.catalogue import Stamp
from ..faults import Fault
from ..options import Options
from ..protocol.types import Json
from .candidates import CandidateFiles
from .prompting import seeds_from
from .takes import Take, Takes

MOST = 4
"""Searches that are kept."""


class ImageFit(Refine, Protocol):
    """A fit to images of the host."""

    @property
    def images_left(self) -> int:
        """The images that are still to be made before the first file is fitted; each file needs one more."""
        ...


@dataclass(frozen=True)
class FindOrder:
    """What is searched for."""

    lora: LoraFile
    """It gives the new file its name and its sidecars."""
    target: float
    count: int
    """Of the images that decide."""
    settings: Json
    """Of the images, with the first seed, as `prompting.read_settings` returns them."""
    options: Options
    is_template: bool = False
    """The prompt of the settings is a template: the LoRA gets a prompt of its own, see `own_prompts.own_settings`."""
    fit: Json | None = None
    """A checked `Fit` of the protocol, of which the prompt is that of the images; None: factors are truncated."""
    save: bool = False

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(seeds_from(self.settings["seed"], self.count))


@dataclass(frozen=True)
class Begun:
    """What a search works with. Reading it opens files, so its job does that."""

    source: LoraFile
    """What is read: the LoRA, or its original in the archive."""
    takes: Takes
    fit: Json | None
    """The checked `Fit` with the LoRA's own prompt."""


@dataclass(frozen=True)
class Measured:
    """A file that was tried, and what images showed of it."""

    key: str
    """See `candidates.Candidate`."""
    plan: Plan
    bytes: int
    """By which the search knows it; see `candidates.Candidate`."""
    figure: EffectFigure
    json: Json
    """The `Trial` of the protocol."""


@dataclass
class Find:
    """One search. Its job alone changes it; other threads read and stop it."""

    order: FindOrder
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    stop: threading.Event = field(default_factory=threading.Event)
    begun: Begun | None = None
    """None before the job begins."""
    stamp: Stamp | None = None
    """Of the source when it was analysed."""
    refine: ImageFit | None = None
    """The fit of `Begun.fit`, which has its images once they are made."""
    files: CandidateFiles | None = None
    """With a fit, the best file until the search is forgotten: the file that was drawn is the one that is saved."""
    fit_images: int = 0
    """Images that were made for the fit."""
    model: str = ""
    """The checkpoint of its images."""
    search: SizeSearch | None = None
    measured: dict[int, Measured] = field(default_factory=dict)
    """Bytes -> the last measurement, in the order of the first ones."""
    base: EffectFigure | None = None
    """Effect and noise of the images without any candidate."""
    weak: bool = False
    pictures: dict[str, Take] = field(default_factory=dict)
    """Image id -> image."""
    _ids: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def source(self) -> LoraFile:
        """What is read, once the job has begun."""
        return self._begun.source

    @property
    def takes(self) -> Takes:
        """All images, once the job has begun."""
        return self._begun.takes

    @property
    def _begun(self) -> Begun:
        assert self.begun is not None
        return self.begun

    @property
    def images(self) -> int:
        """The number of images made so far."""
        return self.takes.made + self.fit_images

    @property
    def best(self) -> Measured | None:
        """The file that the search has found so far."""
        best = None if self.search is None else self.search.best
        return None if best is None or self.weak else self.measured.get(best.bytes)

    def can_be(self, direction: str) -> bool:
        """Return whether a file that is "smaller" or "larger" than the best can be tried."""
        return self.search is not None and self.best is not None and self.search.can_be(direction)

    def show(self, what: str, key: str, take: Take) -> Json:
        """Return the `Image` of the protocol; each image has one id."""
        id = self._ids.setdefault((what, key), secrets.token_hex(8))
        self.pictures[id] = take
        return {"id": id, "what": what, "width": take.size[0], "height": take.size[1]}

    def close(self) -> None:
        """Remove the files of a search that is forgotten."""
        files, self.files = self.files, None
        if files is not None:
            files.close()


class Finds:
    """The last searches of a service. Every method may be called from any thread."""

    def __init__(self, is_active: Callable[[str], bool], most: int = MOST) -> None:
        """`is_active` returns whether a job waits or runs."""
        self._is_active = is_active
        self._most = most
        self._kept: OrderedDict[str, Find] = OrderedDict()
        self._jobs: dict[str, Find] = {}
        """Job -> its search."""
        self._saves: dict[str, Find] = {}
        """Job -> the search of which it writes the best file."""
        self._forgotten: list[Find] = []
        """Searches that are not kept any more, but may have files."""
        self._lock = threading.Lock()

    def begin(self, finds: Mapping[str, Find]) -> None:
        """Note which search each new job works on."""
        with self._lock:
            self._jobs = self._active(self._jobs) | dict(finds)

    def save(self, job: str, find: Find) -> None:
        """Note of which search a job writes the best file: its files are kept until then."""
        with self._lock:
            self._saves = self._active(self._saves)
            self._saves[job] = find

    def end(self, find: Find, *, keep: bool) -> None:
        """Keep a search that has ended in place of the oldest one, or forget it."""
        with self._lock:
            self._kept.pop(find.id, None)
            if keep:
                self._kept[find.id] = find
            while len(self._kept) > self._most:
                self._forgotten.append(self._kept.popitem(last=False)[1])
            used = self._active({**self._saves, **self._jobs}).values()
            closed = [one for one in self._forgotten if all(one is not other for other in used)]
            self._forgotten = [one for one in self._forgotten if all(one is not other for other in closed)]
        for one in closed if keep else [*closed, find]:
            one.close()

    def close(self) -> None:
        """Remove the files of all searches, for a host that is unloaded."""
        with self._lock:
            everything = [*self._kept.values(), *self._forgotten, *self._jobs.values()]
        for one in everything:
            one.close()

    def _active(self, jobs: Mapping[str, Find]) -> dict[str, Find]:
        return {id: one for id, one in jobs.items() if self._is_active(id)}

    def get(self, id: str) -> Find:
        """Return a search that has ended. Raises Fault."""
        with self._lock:
            found = self._kept.get(id)
        if found is None:
            raise Fault("gone", f"Only the last {self._most} searches are kept. Find the smallest file again.")
        return found

    def stop(self, job: str) -> bool:
        """Let a job end after its current image; return whether it had not ended."""
        with self._lock:
            found = self._jobs.get(job)
        if found is None or not self._is_active(job):
            return False
        found.stop.set()
        return True

    def picture(self, id: str) -> bytes | None:
        """Return an image of a search that is kept, or that runs, as a PNG file."""
        with self._lock:
            known: Sequence[Find] = [*self._kept.values(), *self._jobs.values()]
        found = next((find.pictures[id] for find in known if id in find.pictures), None)
        return None if found is None else found.image

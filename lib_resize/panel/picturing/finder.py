"""The work of a search for the smallest file: sizes are written, drawn and measured, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from ...effect.figures import Distances, EffectFigure, effect_figure
from ...effect.search import FEW, SizeSearch, Step, Tried, is_lost
from ...hosts.host import Host, plain_title
from ...recipe.grammar import parse_recipe
from ...studies.catalogue import stamp_of
from ..cached import CachedAnalysis
from ..desk import Desk
from ..faults import Fault
from ..protocol.types import Json
from ..queue import Handle
from .candidates import Candidate, CandidateFiles, Candidates
from .finds import Begun, Find, ImageFit, Measured
from .originals import original_pair
from .own_prompts import own_settings
from .refining import refine_for, with_prompt
from .takes import Take, Takes, squared_distance

_ANALYSIS = 0.05  # share of a search before its first image


class _Stopped(Exception):  # noqa: N818 - the person wants the best so far
    pass


def search(desk: Desk, find: Find, handle: Handle) -> None:
    """Search until the smallest file is found, or the search is stopped.

    Raises Cancelled, Fault, FileError where the LoRA was changed meanwhile, and what the host raises.
    """
    with contextlib.suppress(_Stopped), _finder(desk, find, handle) as finder:
        finder.search()


def search_more(desk: Desk, find: Find, direction: str, handle: Handle) -> None:
    """Measure one file that is "smaller" or "larger" than the best, which it then is. Raises what `search` raises."""
    with contextlib.suppress(_Stopped), _finder(desk, find, handle) as finder:
        finder.one_more(direction)


def check_unchanged(find: Find) -> None:
    """Raise Fault where the LoRA is another file than the one that was analysed."""
    name, path = find.order.lora.name, find.source.path
    try:
        is_same = find.stamp is None or stamp_of(path) == find.stamp
    except OSError as error:
        raise Fault("file", f"{name}: cannot be read any more: {error.strerror}. Refresh the list.") from error
    if not is_same:
        raise Fault("file", f"{name}: changed on the disk since the search began. Find the smallest file again.")


def _begin(desk: Desk, find: Find) -> None:
    """Read what the search works with: the source, the names of its versions, and the LoRA's own prompt."""
    if find.begun is not None:
        return
    order, lists = find.order, desk.snapshot()
    source = desk.archives.checked_source(order.lora)
    settings = own_settings(order.lora, order.settings, lists.loras()) if order.is_template else order.settings
    fit = None if order.fit is None else with_prompt(order.fit, settings)
    find.begun = Begun(source, Takes(desk.host, original_pair(desk, order.lora, source, lists), settings), fit)


@contextlib.contextmanager
def _finder(desk: Desk, find: Find, handle: Handle) -> Iterator[Finder]:
    def check() -> None:
        if find.stop.is_set():
            raise _Stopped

    _begin(desk, find)
    check_unchanged(find)
    kept = _analysed(desk, find, handle.part(0.0, _ANALYSIS, check))
    find.stamp = kept.stamp
    find.refine = refine_of(desk, find)
    with _files(desk, find) as files:
        yield Finder(desk.host, find, kept, files, handle.part(_ANALYSIS, 1 - _ANALYSIS, check))


@contextlib.contextmanager
def _files(desk: Desk, find: Find) -> Iterator[CandidateFiles]:
    """Return the place of candidates; at the end it is removed, or with a fit keeps the best one."""
    if find.files is not None and not find.files.is_there:
        find.close()
    files = find.files or CandidateFiles(desk.library.cache.parent, desk.host)
    if find.refine is not None:
        find.files = files
    try:
        yield files
    finally:
        if find.refine is None:
            files.close()
        else:
            files.keep_only([] if find.best is None else [find.best.key])


def refine_of(desk: Desk, find: Find) -> ImageFit | None:
    """Return the fit of a search, with the images that it has made; None where factors are truncated."""
    fit = None if find.begun is None else find.begun.fit
    if fit is None or find.refine is not None:
        return find.refine
    return refine_for(desk, find.order.lora, find.source, fit, desk.snapshot())


def _analysed(desk: Desk, find: Find, handle: Handle) -> CachedAnalysis:
    order, options = find.order, find.order.options
    if desk.archives.checked_source(order.lora).path != find.source.path:
        raise Fault("file", f"{order.lora.name}: was replaced since the search began. Find the smallest file again.")
    handle.portion(0.0, 1.0)
    kept = desk.analyses.made(find.source, handle, options.convert, options.reference)
    recipe = parse_recipe(f"{options.scores},retain=1")
    return desk.analyses.with_base(kept, [recipe], options.reference, handle)


class Finder:
    """One job of a search. Its methods raise `_Stopped` between images where the person wants the best so far."""

    def __init__(self, host: Host, find: Find, kept: CachedAnalysis, files: CandidateFiles, handle: Handle) -> None:
        order = find.order
        self._host = host
        self._find = find
        self._takes = find.takes
        self._handle = handle
        self._files = files
        self._candidates = Candidates(host, kept, order.options, files, find.refine)
        self._search = find.search or SizeSearch(self._candidates.sizes, order.target, len(order.seeds))
        self._before = find.images
        find.search = self._search

    def search(self) -> None:
        """Measure sizes until the search is over, or the prompt turns out to show nothing of the LoRA."""
        self._begin(self._search.images_left(), self._search.sizes_left())
        self._find.model = _model(self._host)
        self._find.base = self._base_figure(self._find.order.seeds[:FEW])
        self._find.weak = self._find.base.kept is None
        while not self._find.weak and (step := self._search.next()) is not None:
            candidate = self._candidate(step)
            measured = self._known(candidate, step) or self._measured(candidate, step, may_give_up=True)
            if measured is None:
                return
            self._search.learn(step, _tried(measured))
            self._keep(measured)
            self._handle.set_total(self._expected(self._search.images_left(), self._search.sizes_left()))

    def one_more(self, direction: str) -> None:
        """Measure one file beyond the best with all images."""
        self._begin(len(self._find.order.seeds), 1)
        step = self._search.more(direction)
        candidate = self._candidate(step)
        while self._is_best(candidate) and direction == "larger" and step.bytes < self._candidates.sizes.largest:
            step = self._search.beyond(step)
            candidate = self._candidate(step)
        measured = self._measured(candidate, step, may_give_up=False)
        if measured is not None:
            self._search.learn_more(_tried(measured))
            self._keep(measured)

    def _candidate(self, step: Step) -> Candidate:
        return self._candidates.of_size(step.bytes, self._handle, self._fit_image)

    def _known(self, candidate: Candidate, step: Step) -> Measured | None:
        """Return what more images than those of a step showed of its file."""
        return self._find.measured[candidate.bytes] if self._search.knows(candidate.bytes, step.seeds) else None

    def _is_best(self, candidate: Candidate) -> bool:
        best = self._find.best
        return best is not None and best.key == candidate.key

    # Figures -----------------------------------------------------------------------------------------------------

    def _base_figure(self, seeds: Sequence[int]) -> EffectFigure:
        """Return effect and noise; `kept` is None where the images hardly show the LoRA, else 1."""
        noise = self._takes.noise(self._handle)
        _, bare = self._originals(seeds)
        self._check_model()
        distances = [Distances(seed, 0.0, distance) for seed, (distance, _) in zip(seeds, bare, strict=True)]
        return effect_figure(distances, noise, bare[0][1])

    def _originals(self, seeds: Sequence[int]) -> tuple[list[Take], list[tuple[float, str]]]:
        """Return the images of the original, and the squared difference of each from that without the LoRA."""
        takes, handle = self._takes, self._handle
        originals = [takes.original(seed, handle) for seed in seeds]
        return originals, [
            squared_distance([takes.without(seed, handle), one]) for seed, one in _pairs(seeds, originals)
        ]

    def _measured(self, candidate: Candidate, step: Step, *, may_give_up: bool) -> Measured | None:
        """Return what images show of a file; None where the prompt hardly shows the LoRA after all."""
        seeds = self._find.order.seeds[: step.seeds]
        figure = self._lost(candidate, seeds) if may_give_up else None
        if figure is None:
            figure = self._takes.figure(candidate.key, candidate.name, candidate.path, seeds, self._handle)
        self._check_model()
        if figure.kept is None or figure.worst is None:
            self._find.weak, self._find.base = True, figure
            return None
        accepted = self._search.accepts(Tried(candidate.bytes, figure.kept, figure.worst, len(figure.seeds)))
        shown = self._trial(candidate, figure, accepted)
        return Measured(candidate.key, candidate.plan, candidate.bytes, figure, shown)

    def _lost(self, candidate: Candidate, seeds: Sequence[int]) -> EffectFigure | None:
        """Return the figure of the first images where they are too far off for the others to matter; else None."""
        takes, handle, made = self._takes, self._handle, list[float]()
        originals, without = self._originals(seeds)
        bare = [distance for distance, _ in without]
        for seed, original in _pairs(seeds[:-1], originals):
            image = takes.candidate(candidate.key, candidate.name, candidate.path, seed, handle)
            distance, basis = squared_distance([image, original])
            made.append(distance)
            if is_lost(made, bare, self._find.order.target):
                effect = sum(bare) / len(bare)
                kept, worst = 1 - sum(made) / len(made) / effect, 1 - max(made) / effect
                noise = self._find.base.noise if self._find.base is not None else 0.0
                return EffectFigure(kept, worst, effect, noise, basis, tuple(seeds[: len(made)]))
        return None

    def _trial(self, candidate: Candidate, figure: EffectFigure, accepted: bool) -> Json:
        takes, find, seed, handle = self._takes, self._find, self._find.order.seeds[0], self._handle
        resized = takes.candidate(candidate.key, candidate.name, candidate.path, seed, handle)
        return {
            "bytes": candidate.plan.bytes_after,
            "recipe": candidate.plan.recipe,
            "retention": candidate.plan.retention,
            "kept": figure.kept,
            "worst": figure.worst,
            "seeds": len(figure.seeds),
            "accepted": accepted,
            "fitted": candidate.fitted,
            "pictures": [
                find.show("original", "", takes.original(seed, handle)),
                find.show("resized", candidate.key, resized),
                find.show("without", "", takes.without(seed, handle)),
            ],
        }

    def _keep(self, measured: Measured) -> None:
        find = self._find
        find.measured[measured.bytes] = measured
        self._files.keep_only(self._needed())
        self._handle.show(measured.json)

    def _needed(self) -> set[str]:
        """Return the files that may be the result. One that was fitted is not written a second time, so all accepted
        ones are: the smallest of them may turn out worse with more images."""
        find = self._find
        best = set() if find.best is None else {find.best.key}
        if find.refine is None:
            return best
        return best | {one.key for one in find.measured.values() if one.json["accepted"]}

    def _check_model(self) -> None:
        if _model(self._host) != self._find.model:
            raise Fault("reference", "The checkpoint was changed during the search. Find the smallest file again.")

    # Progress ----------------------------------------------------------------------------------------------------

    def _begin(self, images: int, files: int) -> None:
        self._handle.portion(0.0, 1.0)
        self._handle.start("image", self._expected(images, files))

    def _expected(self, images: int, files: int) -> int:
        """Return the images of this job: those made, and those that are needed besides `images` more of candidates.

        `files` are the candidates that are still to be written; a fit needs an image for each.
        """
        find, seeds = self._find, self._find.order.seeds
        others = self._takes.missing("", seeds) - len(seeds)
        fit = 0 if find.refine is None else find.refine.images_left + files
        return find.images - self._before + others + images + fit

    def _fit_image(self) -> None:
        self._find.fit_images += 1
        self._handle.step()


def _pairs(seeds: Sequence[int], takes: Sequence[Take]) -> Iterator[tuple[int, Take]]:
    return zip(seeds, takes, strict=False)


def _tried(measured: Measured) -> Tried:
    figure = measured.figure
    assert figure.kept is not None
    assert figure.worst is not None
    return Tried(measured.bytes, figure.kept, figure.worst, len(figure.seeds))


def _model(host: Host) -> str:
    """Return the checkpoint of the next image; hosts append a hash to its title at some time."""
    loaded = host.loaded()
    return plain_title(host.pending() or ("" if loaded is None else loaded.title))

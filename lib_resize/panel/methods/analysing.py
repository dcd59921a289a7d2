"""Analyses, plans and studies of LoRAs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...engine.analysing import needs_conversion
from ...errors import FileError, ResizeError
from ...hosts.host import LoraFile
from ...recipe.grammar import Recipe, parse_recipes
from ...studies.spectra import study
from ..bases import is_of_another_base, needs_measuring
from ..cached import CachedAnalysis
from ..desk import Desk, size_of
from ..faults import Fault
from ..figures import analysis_json
from ..jobs import JobSpec
from ..lora_warnings import warnings_of
from ..options import read_options, read_recipe
from ..protocol.types import Json
from ..queue import Handle
from ..references import reference_info
from ..resizing import ResizeOrder, plan_json
from ..snapshot import HostLists

_MOST_TABLES = 8  # files of one job whose tables are sent; each is 20 KB
_MOST_STUDIES = 4  # jobs whose studies are kept


@dataclass(frozen=True)
class AnalysisRequest:
    """The LoRAs to analyse, and for which recipes."""

    loras: Sequence[LoraFile]
    recipes: Sequence[Recipe]
    reference: str
    convert: str

    @property
    def with_tables(self) -> bool:
        return len(self.loras) <= _MOST_TABLES


@dataclass
class _Analysed:
    """The files that a job has analysed so far; it may give way to other jobs and go on later."""

    files: list[Json] = field(default_factory=list)
    failed: list[Json] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.files) + len(self.failed)


def analyse(desk: Desk, params: Json) -> Json:
    lists = desk.snapshot()
    loras = desk.archives.sources([lists.find(name) for name in params["names"]])
    recipes = parse_recipes(params["recipe"]) if params["recipe"] else ()
    request = AnalysisRequest(loras, recipes, params["reference"], params["convert"])
    reference_info(lists, request.reference)  # a wrong title is refused at once
    so_far = _Analysed()
    spec = JobSpec(
        kind="analyse",
        title=loras[0].name if len(loras) == 1 else f"{len(loras)} LoRAs",
        run=lambda handle: _analyse_all(desk, request, handle, so_far),
        background=len(loras) > 1,
        name=loras[0].name,
        files=len(loras),
        bytes=sum(map(size_of, loras)),
    )
    ready = _ready(desk, request, lists)
    if ready is None:
        return {"job": desk.queue.add(spec, first=len(loras) == 1)}
    files = [_file_json(kept, kept.shown or {}, lists, request) for kept in ready]
    return {"job": desk.queue.add_done(spec, {"files": files, "failed": []})}


def _ready(desk: Desk, request: AnalysisRequest, lists: HostLists) -> list[CachedAnalysis] | None:
    """Return the analyses, if all exist and have what is asked."""
    found = []
    for lora in request.loras:
        kept = desk.analyses.get(lora)
        if kept is None or kept.shown is None or needs_conversion(kept.analysis, request.convert):
            return None
        if is_of_another_base(kept, request.reference, lists):
            return None
        if needs_measuring(kept, request.recipes, request.reference, lists):
            return None
        found.append(kept)
    return found


def _analyse_all(desk: Desk, request: AnalysisRequest, handle: Handle, so_far: _Analysed) -> Json:
    loras, files, failed = request.loras, so_far.files, so_far.failed
    sizes = [max(1, size_of(lora)) for lora in loras]
    total, before = sum(sizes), sum(sizes[: so_far.count])
    for number, lora in enumerate(loras[so_far.count :], so_far.count + 1):
        if number > 1:
            handle.give_way()
        handle.file(number, lora.name)
        handle.wait_for_host()
        handle.portion(before / total, sizes[number - 1] / total)
        before += sizes[number - 1]
        try:
            files.append(_analyse_one(desk, lora, request, handle))
        except (ResizeError, OSError, MemoryError) as error:
            if len(loras) == 1:
                raise
            failed.append({"name": lora.name, **desk.error(error)})
    if not files:
        raise FileError(f"None of the {len(loras)} files could be analysed. {failed[0]['message']}")
    return {"files": files, "failed": failed}


def _analyse_one(desk: Desk, lora: LoraFile, request: AnalysisRequest, handle: Handle) -> Json:
    kept = desk.analyses.made(lora, handle, request.convert, request.reference)
    answer = analysis_json(kept, handle)
    sizes = {name: preset and preset["bytes"] for name, preset in answer["presets"].items()}
    desk.library.predict(kept.lora, kept.stamp, sizes)
    desk.analyses.with_base(kept, request.recipes, request.reference, handle)
    return _file_json(kept, answer, desk.host, request)


def _file_json(kept: CachedAnalysis, answer: Json, host: HostLists, request: AnalysisRequest) -> Json:
    reference = reference_info(host, request.reference)
    return {
        **answer,
        "device": kept.reference.device,
        "table": answer["table"] if request.with_tables else None,
        "warnings": [*answer["warnings"], *warnings_of(kept, reference, host)],
        "reference": kept.reference.to_json(),
    }


def plan(desk: Desk, params: Json) -> Json:
    lists = desk.snapshot()
    lora = lists.find(params["name"])
    options = read_options(params["options"], remote=desk.host.is_remote())
    recipe = read_recipe(params, options, "Planning")
    source = desk.archives.source(lora)
    kept = desk.analyses.get(source)
    if kept is None:
        raise Fault("not_analysed", f"{lora.name} is not analysed. Analyse it first.")
    order = ResizeOrder(lora, source, recipe, options, frozenset(desk.results.trash.names()))
    return plan_json(kept, order, lists)


def spectra(desk: Desk, params: Json) -> Json:
    lora = desk.archives.source(desk.snapshot().find(params["name"]))
    desk.queue.forget_results("spectra", _MOST_STUDIES - 1)
    spec = JobSpec(
        kind="spectra",
        title=lora.name,
        run=lambda handle: _study(desk, lora, handle),
        name=lora.name,
        bytes=size_of(lora),
    )
    return {"job": desk.queue.add(spec, first=True)}


def _study(desk: Desk, lora: LoraFile, handle: Handle) -> Json:
    handle.wait_for_host()
    kept = desk.analyses.made(lora, handle)
    return {**study(kept.based or kept.analysis).as_json(), "name": lora.name}


METHODS = {"analyse": analyse, "plan": plan, "spectra": spectra}

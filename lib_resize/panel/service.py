"""All that the page may ask, answered in JSON; docs/panel-protocol.md says what. No call fails, and none takes long.

`Service` knows the host, the library, the kept analyses, the queue and the results, and brings them together. What a
browser sends is taken apart here: names are looked up in the host's list, and paths are neither taken nor told.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..adapters.write.style import CONVERSIONS, DTYPES
from ..engine.analysing import needs_conversion
from ..errors import FileError, RecipeError, ResizeError
from ..hosts.host import GENERATE, Host, LoraFile
from ..hosts.listing import find
from ..plans import Plan
from ..prompts.tags import common_names
from ..recipe.grammar import ALL_RANKS, LIMITS, PRESETS, SCORES, SELECTIONS, Recipe, parse_recipes
from ..studies.spectra import study
from . import baking, extracting, names, orders, recovery
from .analyses import Analyses, CachedAnalysis, needs_measuring, ranks_of, rests_on_another, shown, warnings_of
from .compare import Pair, compare, read_settings
from .faults import Fault, told
from .hiding import KnownFolders
from .library import Library
from .options import LOADED, Options, Params, exact_recipes, one_of, read_options, read_recipe, read_recipes
from .pictures import Pictures
from .preferences import read_preferences
from .previews import Previews
from .questions import check_session, id_of, plain, read_question
from .queue import Handle, Queue, Work, check_amount
from .records import new_id
from .references import NO_REFERENCE, ReferenceInfo, described
from .refreshing import Refresher
from .resizing import Announce, Order, Written, plan_answer, write
from .results import MOST_TOLD, Making, Results, now
from .versions import Versions, names_of, original

Answer = dict[str, Any]
Make = Callable[[Announce], Written]
"""Writes a file."""

_MOST_TABLES = 8  # files of one job whose tables are told; each is 20 KB
_MOST_STUDIES = 4
_LONGEST_PROMPT = 100_000


@dataclass(frozen=True)
class AnalysisRequest:
    """What is to be known of LoRAs."""

    recipes: Sequence[Recipe]
    reference: str
    convert: str


@dataclass
class _SoFar:
    """What a job that analyses many files has done."""

    files: list[Answer] = field(default_factory=list)
    failed: list[Answer] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.files) + len(self.failed)


class Service:
    """The panel's service for one host. Every method may be called from any thread."""

    def __init__(self, host: Host, cache: Path | None = None) -> None:
        self.host = host
        self.session = new_id()
        """Of this service and no other; a page that has another one is older than the server."""
        self.library = Library(host, cache)
        self.versions = Versions(host, self.library)
        self.analyses = Analyses(host)
        self.queue = Queue(host, self._told)
        self.results = Results(host, self.session)
        self.recovering = recovery.start(host, self.results)
        self._pictures = Pictures()
        self._previews = Previews(host)
        self._adding = threading.Lock()
        self._folders = KnownFolders(host)
        self._refresher = Refresher(host)
        self._methods: dict[str, Callable[[Params], Any]] = {
            "hello": self._hello,
            "library": self._library,
            "previews": self._previews_of,
            "analyse": self._analyse,
            "plan": self._plan,
            "check_recipe": self._check_recipe,
            "resize": self._resize,
            "status": self._status,
            "cancel": self._cancel,
            "results": self._results,
            "undo": self._undo,
            "restore": self._restore,
            "trash": self._trash,
            "empty_trash": self._empty_trash,
            "prompt_tag": self._prompt_tag,
            "read_prompt": self._read_prompt,
            "bake": self._bake,
            "bake_into": self._bake_into,
            "extract": self._extract,
            "compare": self._compare,
            "picture": self._picture,
            "spectra": self._spectra,
        }

    def call(self, text: str) -> str:
        """Answers one question; both are JSON. Never raises."""
        id: Any = None
        try:
            question = read_question(text)
            id = id_of(question)
            check_session(question, self.session)
            answer = {"id": id, "result": plain(self.ask(question.get("method"), question.get("params")))}
            return json.dumps(answer, allow_nan=False)
        except Exception as error:  # the page needs an answer, whatever happened
            return json.dumps({"id": id, "error": self._told(error)}, allow_nan=False)

    def ask(self, method: Any, params: Any = None) -> Any:
        """The same as Python values. Raises ResizeError, whose kind `faults.told` knows."""
        answer = self._methods.get(method) if isinstance(method, str) else None
        if answer is None:
            raise Fault("request", f"no method {str(method)[:60]!r}; there are {', '.join(self._methods)}.")
        values = Params({} if params is None else params)
        return answer(values)

    def close(self) -> None:
        """Cancels all jobs, for a host that is unloaded."""
        self.queue.close()
        self._refresher.close()
        self.library.save()

    # Looking ---------------------------------------------------------------------------------------------------

    def _hello(self, params: Params) -> Answer:
        params.finish()
        checkpoints = self.host.checkpoints()
        made = self.results.counts()
        preferences = read_preferences(self.host.settings())
        return {
            "session": self.session,
            "host": self.host.name,
            "features": sorted(self.host.features),
            "version": __version__,
            "device": self.host.device(),
            "remote": self.host.is_remote(),
            "reference": self._reference().as_json(),
            "checkpoints": [checkpoint.title for checkpoint in checkpoints],
            "presets": dict(PRESETS),
            "counts": {
                "loras": len(self.host.loras()),
                "checkpoints": len(checkpoints),
                "jobs": self.queue.status()["active"],
                **made,
            },
            "floor": preferences.floor,
            "defaults": preferences.as_json(),
            "words": {"scores": SCORES, "selections": SELECTIONS, "limits": LIMITS, "dtypes": list(DTYPES)},
        }

    def _library(self, params: Params) -> Answer:
        since, refresh = params.whole("since", 0), params.flag("refresh", False)
        params.finish()
        return self.library.answer(since, refresh, self._reference().family)

    def _previews_of(self, params: Params) -> Answer:
        wanted = params.texts("names", 48)
        params.finish()
        return self._previews.answer(wanted)

    def _status(self, params: Params) -> Answer:
        since = params.whole("since", 0)
        params.finish()
        return {
            "session": self.session,
            **self.queue.status(since),
            "busy": self._busy(),
            "library": self.library.revision,
            "reference": self._reference().as_json(),
        }

    def _busy(self) -> str | None:
        try:
            return self.host.busy()
        except Exception:  # a host that cannot tell counts as free, as it does for the queue
            return None

    def _reference(self) -> ReferenceInfo:
        """Of the loaded model; a host that stumbles over the question has none."""
        try:
            return described(self.host, LOADED)
        except Exception as error:
            return ReferenceInfo(
                "none", note=f"The host cannot tell which checkpoint is loaded ({type(error).__name__})."
            )

    def _check_recipe(self, params: Params) -> Answer:
        text = params.text("text")
        params.finish()
        try:
            recipes = exact_recipes(text)
        except RecipeError as error:
            return {"ok": False, "message": str(error), "column": error.column, "full": None, "needs_base": False}
        return {
            "ok": True,
            "message": "",
            "column": 0,
            "full": ":".join(map(str, recipes)),
            "needs_base": any(recipe.needs_base for recipe in recipes),
        }

    # Analysing -------------------------------------------------------------------------------------------------

    def _analyse(self, params: Params) -> Answer:
        listed = self.host.loras()
        loras = [find(listed, name) for name in params.texts("names")]
        choice, recipe = params.text("reference", LOADED), params.text("recipe", "")
        convert = one_of("convert", params.text("convert", "auto"), tuple(CONVERSIONS))
        params.finish()
        wish = AnalysisRequest(parse_recipes(recipe) if recipe else (), choice, convert)
        reference = described(self.host, choice)
        so_far = _SoFar()
        work = Work(
            kind="analyse",
            title=loras[0].name if len(loras) == 1 else f"{len(loras)} LoRAs",
            run=lambda handle: self._analysed(loras, wish, handle, so_far),
            background=len(loras) > 1,
            name=loras[0].name,
            files=len(loras),
            bytes=sum(map(_size, loras)),
        )
        ready = self._ready(loras, wish)
        if ready is not None:
            return {"job": self.queue.add_done(work, {"files": self._shown(ready, reference), "failed": []})}
        return {"job": self.queue.add(work, first=len(loras) == 1)}

    def _ready(self, loras: Sequence[LoraFile], wish: AnalysisRequest) -> list[CachedAnalysis] | None:
        """The analyses, if all are there and know what is asked."""
        found = []
        for lora in loras:
            kept = self.analyses.get(lora)
            if kept is None or kept.shown is None or needs_conversion(kept.analysis, wish.convert):
                return None
            if rests_on_another(kept, wish.reference, self.host):
                return None
            if needs_measuring(kept, wish.recipes, wish.reference, self.host):
                return None
            found.append(kept)
        return found

    def _analysed(self, loras: Sequence[LoraFile], wish: AnalysisRequest, handle: Handle, so_far: _SoFar) -> Answer:
        files, failed = so_far.files, so_far.failed
        sizes = [max(1, _size(lora)) for lora in loras]
        total, before = sum(sizes), sum(sizes[: so_far.count])
        for number, lora in enumerate(loras[so_far.count :], so_far.count + 1):
            if number > 1:
                handle.give_way()
            handle.file(number, lora.name)
            handle.wait_for_host()
            handle.portion(before / total, sizes[number - 1] / total)
            before += sizes[number - 1]
            try:
                files.append(self._analysed_one(lora, wish, handle, len(loras) <= _MOST_TABLES))
            except (ResizeError, OSError, MemoryError) as error:
                if len(loras) == 1:
                    raise
                failed.append({"name": lora.name, **self._told(error)})
        if not files:
            raise FileError(f"None of the {len(loras)} files could be analysed. {failed[0]['message']}")
        return {"files": files, "failed": failed}

    def _analysed_one(self, lora: LoraFile, wish: AnalysisRequest, handle: Handle, table: bool) -> Answer:
        kept = self.analyses.made(lora, handle, wish.convert, wish.reference)
        answer = shown(kept, handle)
        self._predict(kept)
        self.analyses.with_base(kept, wish.recipes, wish.reference, handle)
        return self._shown_one(kept, answer, described(self.host, wish.reference), table)

    def _predict(self, kept: CachedAnalysis) -> None:
        presets = (kept.shown or {}).get("presets") or {}
        sizes = {name: preset and preset["bytes"] for name, preset in presets.items()}
        self.library.predict(kept.lora, kept.stamp, sizes)

    def _shown(self, ready: Sequence[CachedAnalysis], reference: ReferenceInfo) -> list[Answer]:
        table = len(ready) <= _MOST_TABLES
        return [self._shown_one(kept, kept.shown or {}, reference, table) for kept in ready]

    def _shown_one(self, kept: CachedAnalysis, answer: Answer, reference: ReferenceInfo, table: bool) -> Answer:
        return {
            **answer,
            "device": kept.reference.device,
            "table": answer["table"] if table else None,
            "warnings": [*answer["warnings"], *warnings_of(kept, reference)],
            "reference": kept.reference.as_json(),
        }

    def _plan(self, params: Params) -> Answer:
        lora = self.host.resolve(params.text("name"))
        options = self._options(params)
        recipe = read_recipe(params, options)
        params.finish_after("recipe", "target")
        kept = self.analyses.get(lora)
        if kept is None:
            raise Fault("not_analysed", f"{lora.name} is not analysed. Analyse it first.")
        return plan_answer(kept, recipe, options, self.host, self.results.trashed_names())

    def _options(self, params: Params) -> Options:
        return read_options(params.object("options"), remote=self.host.is_remote())

    # Resizing --------------------------------------------------------------------------------------------------

    def _resize(self, params: Params) -> Answer:
        names_, options, again = params.texts("names"), self._options(params), params.flag("again", False)
        recipes = read_recipes(params, options)
        params.finish_after("recipe", "target")
        check_amount(len(names_) * len(recipes))
        self._check_reference(recipes, options)
        loras, refused = self._resolved(names_)
        roots = self.host.lora_roots()
        for lora in {lora.path.parent: lora for lora in loras}.values():  # said now, not in the middle of the night
            names.output_folder(lora.path, roots, options.folder)
        wanted = orders.wanted(loras, recipes, options, described(self.host, options.reference).title)
        with self._adding:  # what another call adds meanwhile would not be recognised
            new, same = (wanted, []) if again else orders.parted(wanted, self.queue.orders(), self.results)
            works = [self._resize_work(one, options, place, len(new)) for place, one in enumerate(new, 1)]
            return {"jobs": self.queue.add_all(works), "same": same, "refused": refused}

    def _check_reference(self, recipes: Sequence[Recipe], options: Options) -> None:
        reference = described(self.host, options.reference)
        needy = next((recipe for recipe in recipes if recipe.needs_base), None)
        if needy is not None and reference.kind == "none":
            raise Fault(
                "reference", f"recipe {needy} compares with a base model. {reference.note or 'None was chosen.'}"
            )

    def _resolved(self, wanted: Sequence[str]) -> tuple[list[LoraFile], list[Answer]]:
        loras, refused, listed = [], [], self.host.loras()
        for name in wanted:
            try:
                loras.append(find(listed, name))
            except ResizeError as error:
                refused.append({"name": name, **self._told(error)})
        return loras, refused

    def _resize_work(self, one: orders.Wanted, options: Options, file: int, files: int) -> Work:
        return Work(
            kind="resize",
            title=f"{one.lora.name}: {one.recipe.text or one.recipe}",
            run=lambda handle: self._resized(one, options, handle),
            name=one.lora.name,
            file=file,
            files=files,
            bytes=_size(one.lora),
            recipe=str(one.recipe),
            key=one.order.key,
        )

    def _resized(self, one: orders.Wanted, options: Options, handle: Handle) -> Answer:
        order = Order(one.lora, one.recipe, options, frozenset(self.results.trashed_names()))
        making = self.results.making(one.lora.name, one.lora.path, one.order)

        def make(announce: Announce) -> Written:
            written = write(self.analyses, self.host, order, handle, announce)
            making.depends_on(written.reference.title)
            return written

        return self._made(making, options, make)

    def _made(self, making: Making, options: Options, make: Make, more: Answer | None = None) -> Answer:
        """Lets a file be made, and records it; `more` is what pages are told beside."""
        began = time.monotonic()

        def announce(plan: Plan, path: Path) -> None:
            compared = described(self.host, options.reference) if _needs_base(plan) else NO_REFERENCE
            making.announce(path, plan.bytes_after, self._facts(Written(plan, path, (), (), compared), 0.0, more))

        with making:
            written = make(announce)
        self._files_moved()
        facts = self._facts(written, time.monotonic() - began, more)
        return self.results.told(making.made(self._name_of(written.path), written.sidecars, facts))

    def _facts(self, written: Written, seconds: float, more: Answer | None) -> Answer:
        facts = {**_result_facts(written, seconds), **(more or {})}
        return {**facts, "notes": [self._without_paths(note) for note in facts["notes"]]}

    def _name_of(self, path: Path) -> str:
        """What the host calls a file."""
        lora = self.host.loras().at(path)
        return path.stem if lora is None else lora.name

    def _cancel(self, params: Params) -> Answer:
        ids = params.texts("jobs") if params.has("jobs") else [params.text("job")]
        params.finish()
        if len(ids) == 1 and not self.queue.knows(ids[0]):
            raise Fault("gone", f"There is no job {ids[0]!r}.")
        met = [(job.id, job.work) for job in self.queue.cancel(ids)]
        told = [{"job": id, "kind": work.kind, "name": work.name, "recipe": work.recipe} for id, work in met]
        return {"cancelled": told}

    # Results ---------------------------------------------------------------------------------------------------

    def _results(self, params: Params) -> Answer:
        before = params.text("before") if params.has("before") else None
        limit = params.whole("limit", MOST_TOLD)
        params.finish_after("before")
        if not 1 <= limit <= MOST_TOLD:
            raise Fault("request", f"params: limit must be 1 to {MOST_TOLD}, found {limit}.")
        return self.results.answer(before, limit)

    def _undo(self, params: Params) -> Answer:
        id = params.text("result")
        params.finish()
        answer = self.results.undo(id)
        self._files_moved()
        return answer

    def _restore(self, params: Params) -> Answer:
        if params.has("result") == params.has("item"):
            raise Fault("request", "params: give either result or item.")
        by_result = params.has("result")
        id = params.text("result" if by_result else "item")
        params.finish()
        if by_result:
            result: Answer | None = self.results.restore(id)
            name = str(result and result["output"])
        else:
            record = self.results.of_item(id)
            name = self.results.restore_item(id)
            result = None if record is None else self.results.told(record)
        self._files_moved()
        return {"result": result, "name": name}

    def _files_moved(self) -> None:
        self._refresher.changed(more=self.queue.has_foreground())
        self.library.touch()

    def _trash(self, params: Params) -> Answer:
        params.finish()
        return {"items": self.results.trashed()}

    def _empty_trash(self, params: Params) -> Answer:
        confirmed = params.flag("confirm", False)
        params.finish()
        if not confirmed:
            raise Fault("confirm", "This deletes what lies in the trash for good. Confirm it.")
        return self.results.empty_trash()

    # Prompts and pictures --------------------------------------------------------------------------------------

    def _prompt_tag(self, params: Params) -> Answer:
        pair = self._pair(params)
        params.finish_after("result", "name")
        return {
            "tag": names.tag(pair.new, pair.notes.weight),
            "name": pair.new,
            "weight": pair.notes.weight,
            "activation": pair.notes.activation,
            "negative": pair.notes.negative,
            "old_names": [pair.old, *sorted(pair.others - {pair.old})] if pair.old != pair.new else sorted(pair.others),
        }

    def _pair(self, params: Params) -> Pair:
        """The file that a call is about, its original, and what else they go by in prompts."""
        if params.has("result") == params.has("name"):
            raise Fault("request", "params: give either result or name.")
        if params.has("result"):
            result = self.results.get(params.text("result"))
            lora = self._listed_at(result.path)
            if lora is None:
                raise FileError(f"{result.output}: is not in the list of {self.host.name} any more. Refresh the list.")
            return self._pair_of(lora, result.source.stem if result.source else None)
        lora = self.host.resolve(params.text("name"))
        return self._pair_of(lora, self.library.facts(lora).source)

    def _listed_at(self, path: Path) -> LoraFile | None:
        """The host's entry of a file, which it may have to look for first."""
        found = self.host.loras().at(path)
        if found is None and path.exists():
            self._refresher.now()
            found = self.host.loras().at(path)
        return found

    def _pair_of(self, new: LoraFile, source: str | None) -> Pair:
        loras = self.host.loras()
        old = original(loras, source)
        members = {new.name, *self.library.versions(source or new.path.stem)} | ({old.name} if old else set())
        others = names_of(loras, members, source)
        own = names.notes_of(new.path)
        notes = own if own != names.Notes() or old is None else names.notes_of(old.path)
        return Pair(old.name if old else source or new.name, new.name, others - {new.name}, notes)

    def _compare(self, params: Params) -> Answer:
        if GENERATE not in self.host.features:
            raise Fault("unavailable", f"{self.host.name} cannot make pictures from here.")
        pair = self._pair(params)
        settings, without = read_settings(params.object("settings")), params.flag("without", False)
        params.finish_after("result", "name")
        if pair.old == pair.new or all(lora.name != pair.old for lora in self.host.loras()):
            raise Fault("file", f"The original of {pair.new} is not in the list, so there is nothing to compare with.")
        work = Work(
            kind="compare",
            title=f"{pair.old} and {pair.new}",
            run=lambda handle: compare(self.host, pair, settings, without, handle, self._pictures),
            name=pair.new,
            stop=self.host.stop_generating,
        )
        return {"job": self.queue.add(work)}

    def _picture(self, params: Params) -> Answer:
        id = params.text("id")
        params.finish()
        return self._pictures.answer(id)

    # Baking a prompt -------------------------------------------------------------------------------------------

    def _read_prompt(self, params: Params) -> Answer:
        prompt = params.text("prompt", longest=_LONGEST_PROMPT)
        params.finish()
        answer = baking.answer(prompt, self.host, self.library)
        for one in answer["tags"]:
            one["troubles"] = [self._without_paths(trouble) for trouble in one["troubles"]]
        return answer

    def _bake(self, params: Params) -> Answer:
        prompt, name = params.text("prompt", longest=_LONGEST_PROMPT), params.text("name", "")
        options = self._options(params)
        recipes = read_recipes(params, options) if params.has("recipe") or params.has("target") else ()
        params.finish_after("recipe", "target")
        if len(recipes) > 1:
            raise RecipeError("One recipe at a time can be baked; a colon parts two.")
        recipe = recipes[0] if recipes else parse_recipes(ALL_RANKS)[0]
        self._check_reference([recipe], options)
        found = baking.found_in(prompt, self.host, self.library)
        good = baking.bakeable(found)
        if not good:
            raise Fault("file", "The prompt names no LoRA that can be baked.")
        name = baking.check_name(name or baking.suggested_name(good))
        order = baking.BakeOrder(tuple(good), recipe, options, name, frozenset(self.results.trashed_names()))
        baking.folder_for(order, self.host)
        work = Work(
            kind="bake",
            title=f"{common_names(order.tags)} → {name}",
            run=lambda handle: self._baked(order, handle),
            name=name,
            bytes=sum({one.lora.path: _size(one.lora) for one in good if one.lora is not None}.values()),
        )
        return {"job": self.queue.add(work), "left": [str(one.tag) for one in found if one.troubles]}

    def _baked(self, order: baking.BakeOrder, handle: Handle) -> Answer:
        handle.wait_for_host()

        def make(announce: Announce) -> Written:
            return baking.bake(self.host, order, handle, announce)

        making = self.results.making(common_names(order.tags))
        return self._made(making, order.options, make, {"baked": [str(one) for one in order.tags]})

    def _bake_into(self, params: Params) -> Answer:
        result, prompt = self.results.get(params.text("result")), params.text("prompt", longest=_LONGEST_PROMPT)
        params.finish()
        baked = result.facts.get("baked")
        if not baked:
            raise Fault("request", f"{result.output} was not baked from a prompt.")
        return baking.rewritten(prompt, baked, result.output, self.host)

    # Extracting ------------------------------------------------------------------------------------------------

    def _extract(self, params: Params) -> Answer:
        tuned, base = params.text("tuned", LOADED), params.text("base", extracting.FILE)
        name, text_encoders = params.text("name", ""), params.flag("text_encoders", True)
        options = self._options(params)
        recipe = read_recipe(params, options)
        params.finish_after("recipe", "target")
        order = extracting.ExtractOrder(tuned, base, recipe, options, "", text_encoders)
        extracting.check_order(order, self.host)
        name = baking.check_name(name or extracting.suggested_name(order, self.host))
        order = replace(order, name=name, taken=frozenset(self.results.trashed_names()))
        work = Work(kind="extract", title=f"difference → {name}", run=lambda h: self._extracted(order, h), name=name)
        return {"job": self.queue.add(work)}

    def _extracted(self, order: extracting.ExtractOrder, handle: Handle) -> Answer:
        handle.wait_for_host()

        def make(announce: Announce) -> Written:
            return extracting.extract(self.host, order, handle, announce)

        return self._made(self.results.making(order.name), order.options, make, {"extracted": True})

    # Seeing ----------------------------------------------------------------------------------------------------

    def _spectra(self, params: Params) -> Answer:
        lora = self.host.resolve(params.text("name"))
        params.finish()
        self.queue.forget_results("spectra", _MOST_STUDIES - 1)
        work = Work(
            kind="spectra",
            title=lora.name,
            run=lambda handle: self._studied(lora, handle),
            name=lora.name,
            bytes=_size(lora),
        )
        return {"job": self.queue.add(work, first=True)}

    def _studied(self, lora: LoraFile, handle: Handle) -> Answer:
        handle.wait_for_host()
        kept = self.analyses.made(lora, handle)
        return {**study(kept.based or kept.analysis).as_json(), "name": lora.name}

    # Errors ----------------------------------------------------------------------------------------------------

    def _told(self, error: BaseException) -> Answer:
        answer = told(error)
        with contextlib.suppress(Exception):
            answer["message"] = self._without_paths(answer["message"])
        return answer

    def _without_paths(self, text: str) -> str:
        """Files by their names alone: the page is told no folders of the disk."""
        return self._folders.without(text)


def _needs_base(plan: Plan) -> bool:
    return any(recipe.needs_base for recipe in parse_recipes(plan.recipe))


def _result_facts(written: Written, seconds: float) -> Answer:
    plan, reference = written.plan, written.reference
    return {
        "bytes_before": plan.bytes_before,
        "bytes_after": plan.bytes_after,
        "saved": plan.saved,
        "retention": plan.retention,
        "recipe": plan.recipe,
        "notes": [*plan.notes, *written.notes],
        "ranks": ranks_of([layer.new_rank for layer in plan.layers]),
        "layers_gone": len(plan.dropped),
        "made": now(),
        "seconds": round(seconds, 2),
        "device": reference.device,
        "reference": reference.as_json(),
    }


def _size(lora: LoraFile) -> int:
    try:
        return lora.path.stat().st_size
    except OSError:
        return 0

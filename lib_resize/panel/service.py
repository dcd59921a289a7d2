"""All that the page may ask, answered in JSON; docs/panel-protocol.md says what. No call fails, and none takes long.

`Service` knows the host, the library, the kept analyses, the queue and the results, and brings them together. What a
browser sends is taken apart here: names are looked up in the host's list, and paths are neither taken nor told.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..adapters.write import CONVERSIONS, DTYPES
from ..analysis import lacks
from ..errors import Cancelled, FileError, RecipeError, ResizeError
from ..hosts.host import GENERATE, Host, LoraFile
from ..prompt import common_names
from ..recipe.grammar import LIMITS, PRESETS, SCORES, SELECTIONS, Recipe, parse_recipes
from ..spectra import study
from . import baking, extracting, names
from .analyses import Analyses, Kept, needs_measuring, ranks_of, rests_on_another, shown, warnings_of
from .compare import Pair, compare, read_settings
from .faults import Fault, told
from .library import Library
from .options import LOADED, Options, Params, exact_recipes, one_of, read_options, read_recipe, read_recipes
from .preferences import read_preferences
from .previews import Previews
from .queue import Handle, Queue, Work
from .references import Reference, described
from .resizing import Order, Written, plan_answer, write
from .results import Result, Results, now
from .versions import Versions

Answer = dict[str, Any]

_MOST_TABLES = 8  # files of one job whose tables are told; each is 20 KB
_MOST_PICTURES = 4
_MOST_STUDIES = 4
_LONGEST_PROMPT = 100_000
_MOST_TEXT = 4 << 20  # characters of a question


@dataclass(frozen=True)
class _Wish:
    """What is to be known of LoRAs."""

    recipes: Sequence[Recipe]
    reference: str
    convert: str


class Service:
    """The panel's service for one host. Every method may be called from any thread."""

    def __init__(self, host: Host, cache: Path | None = None) -> None:
        self.host = host
        self.library = Library(host, cache)
        self.versions = Versions(host, self.library)
        self.analyses = Analyses(host)
        self.queue = Queue(host, self._told)
        self.results = Results(host)
        self._previews = Previews(host)
        self._adding = threading.Lock()
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
            "spectra": self._spectra,
        }

    @property
    def methods(self) -> list[str]:
        """Names of all that can be asked."""
        return list(self._methods)

    def call(self, text: str) -> str:
        """Answers one question; both are JSON. Never raises."""
        id: Any = None
        try:
            question = _question(text)
            id = _id(question)
            answer = {"id": id, "result": _plain(self.ask(question.get("method"), question.get("params")))}
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

    # Looking ---------------------------------------------------------------------------------------------------

    def _hello(self, params: Params) -> Answer:
        params.finish()
        checkpoints = self.host.checkpoints()
        made = self.results.answer()
        preferences = read_preferences(self.host.settings())
        return {
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
                "results": len(made["results"]),
                "trashed": made["trash"]["items"],
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

    def _reference(self) -> Reference:
        """Of the loaded model; a host that stumbles over the question has none."""
        try:
            return described(self.host, LOADED)
        except Exception as error:
            return Reference("none", note=f"The host cannot tell which checkpoint is loaded ({type(error).__name__}).")

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
        loras = [self.host.resolve(name) for name in params.texts("names")]
        choice, recipe = params.text("reference", LOADED), params.text("recipe", "")
        convert = one_of("convert", params.text("convert", "auto"), tuple(CONVERSIONS))
        params.finish()
        wish = _Wish(parse_recipes(recipe) if recipe else (), choice, convert)
        reference = described(self.host, choice)
        work = Work(
            kind="analyse",
            title=loras[0].name if len(loras) == 1 else f"{len(loras)} LoRAs",
            run=lambda handle: self._analysed(loras, wish, handle),
            name=loras[0].name,
            files=len(loras),
            bytes=sum(map(_size, loras)),
        )
        ready = self._ready(loras, wish)
        if ready is not None:
            return {"job": self.queue.add_done(work, {"files": self._shown(ready, reference), "failed": []})}
        return {"job": self.queue.add(work, first=len(loras) == 1)}

    def _ready(self, loras: Sequence[LoraFile], wish: _Wish) -> list[Kept] | None:
        """The analyses, if all are there and know what is asked."""
        found = []
        for lora in loras:
            kept = self.analyses.get(lora)
            if kept is None or kept.shown is None or lacks(kept.analysis, wish.convert):
                return None
            if rests_on_another(kept, wish.reference, self.host):
                return None
            if needs_measuring(kept, wish.recipes, wish.reference, self.host):
                return None
            found.append(kept)
        return found

    def _analysed(self, loras: Sequence[LoraFile], wish: _Wish, handle: Handle) -> Answer:
        files: list[Answer] = []
        failed: list[Answer] = []
        sizes = [max(1, _size(lora)) for lora in loras]
        for number, lora in enumerate(loras, 1):
            handle.file(number, lora.name)
            handle.wait_for_host()
            handle.portion(sum(sizes[: number - 1]) / sum(sizes), sizes[number - 1] / sum(sizes))
            try:
                files.append(self._analysed_one(lora, wish, handle, len(loras) <= _MOST_TABLES))
            except Cancelled:
                raise
            except (ResizeError, OSError, MemoryError) as error:
                if len(loras) == 1:
                    raise
                failed.append({"name": lora.name, **self._told(error)})
        if not files:
            raise FileError(f"None of the {len(loras)} files could be analysed. {failed[0]['message']}")
        return {"files": files, "failed": failed}

    def _analysed_one(self, lora: LoraFile, wish: _Wish, handle: Handle, table: bool) -> Answer:
        kept = self.analyses.made(lora, handle, wish.convert, wish.reference)
        answer = shown(kept, handle)
        self._predict(kept)
        self.analyses.with_base(kept, wish.recipes, wish.reference, handle)
        return self._shown_one(kept, answer, described(self.host, wish.reference), table)

    def _predict(self, kept: Kept) -> None:
        presets = (kept.shown or {}).get("presets") or {}
        sizes = {name: preset and preset["bytes"] for name, preset in presets.items()}
        self.library.predict(kept.lora, kept.stamp, sizes)

    def _shown(self, ready: Sequence[Kept], reference: Reference) -> list[Answer]:
        table = len(ready) <= _MOST_TABLES
        return [self._shown_one(kept, kept.shown or {}, reference, table) for kept in ready]

    def _shown_one(self, kept: Kept, answer: Answer, reference: Reference, table: bool) -> Answer:
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
        wanted, options = params.texts("names"), self._options(params)
        recipes = read_recipes(params, options)
        params.finish_after("recipe", "target")
        self._check_reference(recipes, options)
        loras, refused = self._resolved(wanted)
        for lora in loras:  # said now, not in the middle of the night
            names.output_folder(lora.path, self.host.lora_roots(), options.folder)
        pairs = [(lora, recipe) for lora in loras for recipe in recipes]
        with self._adding:  # jobs of one call stand together
            jobs = [
                self.queue.add(self._resize_work(lora, recipe, options, place, len(pairs)))
                for place, (lora, recipe) in enumerate(pairs, 1)
            ]
        return {"jobs": jobs, "refused": refused}

    def _check_reference(self, recipes: Sequence[Recipe], options: Options) -> None:
        reference = described(self.host, options.reference)
        needy = next((recipe for recipe in recipes if recipe.needs_base), None)
        if needy is not None and reference.kind == "none":
            raise Fault(
                "reference", f"recipe {needy} compares with a base model. {reference.note or 'None was chosen.'}"
            )

    def _resolved(self, wanted: Sequence[str]) -> tuple[list[LoraFile], list[Answer]]:
        loras, refused = [], []
        for name in wanted:
            try:
                loras.append(self.host.resolve(name))
            except ResizeError as error:
                refused.append({"name": name, **self._told(error)})
        return loras, refused

    def _resize_work(self, lora: LoraFile, recipe: Recipe, options: Options, file: int, files: int) -> Work:
        return Work(
            kind="resize",
            title=f"{lora.name}: {recipe.text or recipe}",
            run=lambda handle: self._resized(lora, recipe, options, handle),
            name=lora.name,
            file=file,
            files=files,
            bytes=_size(lora),
        )

    def _resized(self, lora: LoraFile, recipe: Recipe, options: Options, handle: Handle) -> Answer:
        began = time.monotonic()
        order = Order(lora, recipe, options, frozenset(self.results.trashed_names()))
        written = write(self.analyses, self.host, order, handle)
        with contextlib.suppress(Exception):  # the file is there; the host's list has it sooner or later
            self.host.refresh()
        self.library.touch()
        return self.results.add(
            Result(
                id="",
                name=lora.name,
                output=self._name_of(written.path),
                path=written.path,
                sidecars=written.sidecars,
                source=lora.path,
                facts=_result_facts(written, time.monotonic() - began),
            )
        )

    def _name_of(self, path: Path) -> str:
        """What the host calls a file."""
        return next((lora.name for lora in self.host.loras() if lora.path == path), path.stem)

    def _cancel(self, params: Params) -> Answer:
        ids = params.texts("jobs") if params.has("jobs") else [params.text("job")]
        params.finish()
        if len(ids) == 1 and not self.queue.knows(ids[0]):
            raise Fault("gone", f"There is no job {ids[0]!r}.")
        return {"cancelled": self.queue.cancel(ids)}

    # Results ---------------------------------------------------------------------------------------------------

    def _results(self, params: Params) -> Answer:
        params.finish()
        return self.results.answer()

    def _undo(self, params: Params) -> Answer:
        id = params.text("result")
        params.finish()
        answer = {"result": self.results.undo(id)}
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
            before = self.results.of_item(id)
            name = self.results.restore_item(id)
            result = self.results.told(self.results.get(before["result"])) if before else None
        self._files_moved()
        return {"result": result, "name": name}

    def _files_moved(self) -> None:
        with contextlib.suppress(Exception):
            self.host.refresh()
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
            return self._pair_of(self.host.resolve(result.output), result.source.stem)
        lora = self.host.resolve(params.text("name"))
        return self._pair_of(lora, self.library.facts(lora).source)

    def _pair_of(self, new: LoraFile, source: str | None) -> Pair:
        old = self._original(source)
        others = set(self.library.versions(source or new.path.stem))
        others |= {source} if source else set()
        others |= {old.name, old.alias or old.name} if old is not None else set()
        own = names.notes_of(new.path)
        notes = own if own != names.Notes() or old is None else names.notes_of(old.path)
        return Pair(old.name if old else source or new.name, new.name, frozenset(others - {new.name}), notes)

    def _original(self, source: str | None) -> LoraFile | None:
        """The original of a file of ours, where the host still lists it."""
        if source is None:
            return None
        return next((lora for lora in self.host.loras() if lora.path.stem == source), None)

    def _compare(self, params: Params) -> Answer:
        if GENERATE not in self.host.features:
            raise Fault("unavailable", f"{self.host.name} cannot make pictures from here.")
        pair = self._pair(params)
        settings, without = read_settings(params.object("settings")), params.flag("without", False)
        params.finish_after("result", "name")
        if pair.old == pair.new or all(lora.name != pair.old for lora in self.host.loras()):
            raise Fault("file", f"The original of {pair.new} is not in the list, so there is nothing to compare with.")
        self.queue.forget_results("compare", _MOST_PICTURES - 1)
        work = Work(
            kind="compare",
            title=f"{pair.old} and {pair.new}",
            run=lambda handle: compare(self.host, pair, settings, without, handle),
            name=pair.new,
            stop=self.host.stop_generating,
        )
        return {"job": self.queue.add(work)}

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
        recipe = recipes[0] if recipes else parse_recipes(baking.ALL_RANKS)[0]
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
        began = time.monotonic()
        handle.wait_for_host()
        written = baking.bake(self.host, order, handle)
        self._files_moved()
        facts = _result_facts(written, time.monotonic() - began)
        return self.results.add(
            Result(
                id="",
                name=common_names(order.tags),
                output=self._name_of(written.path),
                path=written.path,
                sidecars=written.sidecars,
                facts={**facts, "baked": [str(one) for one in order.tags]},
            )
        )

    def _bake_into(self, params: Params) -> Answer:
        result, prompt = self.results.get(params.text("result")), params.text("prompt", longest=_LONGEST_PROMPT)
        params.finish()
        baked = result.facts.get("baked")
        if not baked:
            raise Fault("request", f"{result.output} was not baked from a prompt.")
        return baking.rewritten(prompt, baked, result.output)

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
        began = time.monotonic()
        handle.wait_for_host()
        written = extracting.extract(self.host, order, handle)
        self._files_moved()
        facts = _result_facts(written, time.monotonic() - began)
        return self.results.add(
            Result(
                id="",
                name=order.name,
                output=self._name_of(written.path),
                path=written.path,
                sidecars=(),
                facts={**facts, "extracted": True},
            )
        )

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
        folders = {str(root) for root in (*self.host.lora_roots(), self.host.trash_root())}
        folders |= {str(checkpoint.path.parent) for checkpoint in self.host.checkpoints()}
        folders |= {str(lora.path.parent) for lora in self.host.loras()}
        for folder in sorted(folders, key=len, reverse=True):
            for separator in ("/", "\\"):
                text = text.replace(folder + separator, "")
        return text


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


def _question(text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        raise Fault("request", "a question is a JSON object of at most 4 million characters.")
    try:
        question = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Fault("request", f"not JSON: {error}") from error
    if not isinstance(question, dict):
        raise Fault("request", "a question is a JSON object with id, method and params.")
    return question


def _id(question: dict[str, Any]) -> Any:
    id = question.get("id")
    if isinstance(id, str) or (isinstance(id, int) and not isinstance(id, bool)):
        return id
    return id if isinstance(id, float) and math.isfinite(id) else None


def _plain(value: Any) -> Any:
    """JSON has no word for infinity and NaN: None stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value

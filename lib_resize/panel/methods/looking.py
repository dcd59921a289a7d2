"""The host, its LoRAs, and the state of the queue."""

from __future__ import annotations

from ... import __version__
from ...adapters.write.style import DTYPES
from ...errors import RecipeError
from ...recipe.grammar import LIMITS, PRESETS, SCORES, SELECTIONS
from .. import file_manager
from ..desk import Desk
from ..details import details_of, fit_json, records_of
from ..faults import Fault
from ..options import exact_recipes
from ..preferences import read_preferences
from ..protocol.types import Json
from ..references import loaded_info


def hello(desk: Desk, _params: Json) -> Json:
    host, lists = desk.host, desk.snapshot()
    preferences = read_preferences(lists.settings())
    return {
        "session": desk.session,
        "host": host.name,
        "features": sorted(host.features),
        "version": __version__,
        "device": host.device(),
        "remote": host.is_remote(),
        "reference": loaded_info(lists).to_json(),
        "checkpoints": [checkpoint.title for checkpoint in lists.checkpoints()],
        "presets": dict(PRESETS),
        "counts": {
            "loras": len(lists.loras()),
            "checkpoints": len(lists.checkpoints()),
            "jobs": desk.queue.status()["active"],
            **desk.results.counts(),
        },
        "floor": preferences.floor,
        "defaults": preferences.to_json(),
        "words": {"scores": SCORES, "selections": SELECTIONS, "limits": LIMITS, "dtypes": list(DTYPES)},
        "archive": _archive(desk),
    }


def _archive(desk: Desk) -> Json:
    entries, bytes = desk.archives.size()
    return {"folder": desk.archives.folder(), "bytes": bytes, "entries": entries}


def library(desk: Desk, params: Json) -> Json:
    lists = desk.snapshot()
    answer = desk.library.answer(params["since"], params["refresh"], loaded_info(lists).family, lists)
    if answer["complete"]:
        desk.estimates.start_if_due(lists)
    return answer


def previews(desk: Desk, params: Json) -> Json:
    return desk.previews.answer(params["names"], desk.host.loras())


def details(desk: Desk, params: Json) -> Json:
    lora = desk.snapshot().find(params["name"])
    found, records = details_of(lora.path), records_of(lora.path)
    return {
        "name": lora.name,
        "activation": found.activation,
        "trained_words": list(found.trained_words),
        "civitai": found.civitai,
        "description": found.description,
        "fit": None if records.fit is None else fit_json(records.fit),
        "effect": None if records.effect is None else records.effect.as_json(),
        "unreadable": list(records.unreadable),
        "path": None if desk.host.is_remote() else str(lora.path),
    }


def open_folder(desk: Desk, params: Json) -> Json:
    if desk.host.is_remote():
        raise Fault("remote", "A folder is opened only where the page is not served to other machines.")
    folder = desk.snapshot().find(params["name"]).path.parent
    file_manager.open_folder(folder)
    return {"folder": folder.name}


def status(desk: Desk, params: Json) -> Json:
    return {
        "session": desk.session,
        **desk.queue.status(params["since"]),
        "busy": _busy(desk),
        "library": desk.library.revision,
        "reference": loaded_info(desk.snapshot()).to_json(),
    }


def _busy(desk: Desk) -> str | None:
    try:
        return desk.host.busy()
    except Exception:  # a host that fails here counts as free, as it does for the queue
        return None


def check_recipe(_desk: Desk, params: Json) -> Json:
    try:
        recipes = exact_recipes(params["text"])
    except RecipeError as error:
        return {"ok": False, "message": str(error), "column": error.column, "full": None, "needs_base": False}
    return {
        "ok": True,
        "message": "",
        "column": 0,
        "full": ":".join(map(str, recipes)),
        "needs_base": any(recipe.needs_base for recipe in recipes),
    }


METHODS = {
    "hello": hello,
    "library": library,
    "previews": previews,
    "details": details,
    "open_folder": open_folder,
    "status": status,
    "check_recipe": check_recipe,
}

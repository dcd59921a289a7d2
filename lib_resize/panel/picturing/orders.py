"""What a search is asked for, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...hosts.host import GENERATE
from ..desk import Desk
from ..faults import Fault
from ..fitting import check_can_fit, read_fit, with_other_seeds
from ..options import Options
from ..protocol.find_objects import LEAST_TARGET, MOST_TARGET
from ..protocol.objects import TARGET
from ..protocol.types import Json, read_object
from ..snapshot import HostLists
from .prompting import read_settings


def check_host(desk: Desk) -> None:
    """Raise Fault where the host makes no images."""
    if GENERATE not in desk.host.features:
        raise Fault("unavailable", f"{desk.host.name} cannot generate images from here.")


def check_search(desk: Desk, target: float, options: Options) -> None:
    """Raise Fault where a search is impossible with these values."""
    check_host(desk)
    if not LEAST_TARGET <= target <= MOST_TARGET:
        raise Fault("request", f"target: must be a number from {LEAST_TARGET} to {MOST_TARGET}, found {target:g}.")
    if options.rescale != 1.0:
        raise Fault(
            "request",
            f"rescale {options.rescale:g}: another strength makes another image, so nothing could be compared. "
            "Set it to 1.",
        )


def has_effect(target: Mapping[str, Any] | None) -> bool:
    """Return whether a `Target` of the protocol is about images."""
    return target is not None and target.get("effect") is not None


def fit_order(params: Json, effect: Json | None, lists: HostLists) -> Json | None:
    """Return `RunOrder.fit` of the parameters of `shrink`, with the `effect` of the same order; None for no fit.

    Raises Fault where nothing can be fitted. Recipes of runs are exact, so each of them can be.
    """
    if not params["fit"]:
        return None
    check_can_fit(lists)
    settings = read_settings(params["settings"]) if effect is None else with_other_seeds(effect["settings"])
    return read_fit({"settings": settings})


def effect_order(desk: Desk, params: Json, options: Options) -> Json:
    """Return `RunOrder.effect` of the parameters of `shrink`. Raises Fault."""
    target = read_object(params["target"], TARGET.fields, "target")
    if sum(value is not None for value in target.values()) > 1:
        raise Fault("request", "target: effect is given alone.")
    check_search(desk, target["effect"], options)
    return {"target": float(target["effect"]), "seeds": params["seeds"], "settings": read_settings(params["settings"])}

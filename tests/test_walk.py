"""A LoRA walks through the engine from left to right: read, analysed, planned, measured, written, checked, sidecars.

Every call during a resize is followed at run time. A stage is entered when a call reaches its module from another
stage; a step back is an entry of a stage that is left of the one before it.

A call climbs if its code belongs to a room on a higher floor than the code that called it. Floors come from the table
of `test_imports`. No import climbs, so these calls are callbacks, and few pairs of modules have one.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

import pytest

from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.hosts.standalone import StandaloneHost
from lib_resize.panel.service import Service
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes
from tests.panel.panelhost import Browser, end_services
from tests.test_imports import OUTER, PACKAGE, ROOMS, floors, room

STAGES = ("reading", "analysing", "planning", "measuring", "writing", "checking", "sidecar_copies")
"""Modules of `lib_resize.engine`, in the order in which a LoRA passes them."""
TOOLS = frozenset(
    {
        "analysis",
        "base_weights",
        "device_work",
        "fitted_layer",
        "fitting_job",
        "job",
        "layer_values",
        "merging",
        "notes",
        "output_names",
        "output_paths",
        "placement",
        "reduction",
        "rounding",
    }
    | {"runtime", "selection", "settings", "sidecar_facts", "solver_cache", "stamping"}
)
"""Modules of the engine that stages use."""


FLOORS = floors()
"""Room -> its floor: 1 for those that import no other, else one above the highest that it may import."""
MOST_CLIMBING_PAIRS = 5


class Follower(Protocol):
    """Receives the events of `sys.setprofile`."""

    def follow(self, frame: FrameType, event: str, _: Any) -> None: ...


AnyFollower = TypeVar("AnyFollower", bound=Follower)


class Walk:
    """The stages that were entered, in order."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def follow(self, frame: FrameType, event: str, _: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        stage = module.removeprefix("lib_resize.engine.")
        if event == "call" and stage in STAGES and (not self.stages or self.stages[-1] != stage):
            self.stages.append(stage)

    @property
    def steps_back(self) -> int:
        places = [STAGES.index(stage) for stage in self.stages]
        return sum(after < before for before, after in itertools.pairwise(places))


class Climbs:
    """The pairs of modules (caller, called) of which the called one is on a higher floor.

    Each item that is pulled from a generator is a call of its module. The caller is the nearest code of the package,
    so a callback by way of a library counts as well.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.pairs: set[tuple[str, str]] = set()

    def follow(self, frame: FrameType, event: str, _: Any) -> None:
        called = _module(frame)
        if event != "call" or called is None:
            return
        above = frame.f_back
        while above is not None and _module(above) is None:
            above = above.f_back
        caller = above and _module(above)
        if caller:
            self.calls += 1
            if FLOORS[room(called)] > FLOORS[room(caller)]:
                self.pairs.add((caller, called))


def _module(frame: FrameType) -> str | None:
    """Return the module of a frame without the name of the package; None outside of the package."""
    top, _, rest = frame.f_globals.get("__name__", "").partition(".")
    return (rest or "package") if top == PACKAGE else None


@contextmanager
def following(follower: AnyFollower) -> Iterator[AnyFollower]:
    """Follow the calls of this thread and of threads that start meanwhile."""
    before = sys.getprofile()
    threading.setprofile(follower.follow)
    sys.setprofile(follower.follow)
    try:
        yield follower
    finally:
        sys.setprofile(before)
        threading.setprofile(before)


def click(folder: Path, target: dict[str, float]) -> None:
    """Resize the only LoRA of a folder as a click in the tab does, and wait for the result."""
    (lora,) = folder.glob("*.safetensors")
    params = {"names": [lora.stem], "target": target}
    service = Service(StandaloneHost([folder]), folder.parent / "library.json")
    browser = Browser(service)
    try:
        browser.done(browser.ask("resize", **params)["jobs"][0])
    finally:
        end_services([service])
    assert len(list(folder.glob("*.safetensors"))) == 2


@pytest.fixture
def folder(lora: Path, tmp_path: Path) -> Path:
    """A LoRA folder with one file."""
    folder = tmp_path / "loras"
    folder.mkdir()
    shutil.copy(lora, folder)
    return folder


def test_every_module_of_the_engine_is_a_stage_or_a_tool() -> None:
    engine = Path(__file__).parents[1] / "lib_resize" / "engine"
    assert {path.stem for path in engine.glob("*.py")} == {*STAGES, *TOOLS, "batch", "__init__"}


@pytest.mark.parametrize("recipe", ["rank=2", "size=0.1", "fro_ckpt=1,thr=-2", "rank=2,rsvd"])
def test_a_resize_enters_every_stage_once_and_never_goes_back(
    lora: Path, checkpoint: Path, tmp_path: Path, recipe: str
) -> None:
    settings = Settings(recipes=parse_recipes(recipe), base=checkpoint, output=tmp_path)
    with following(Walk()) as walk:
        outcomes = list(resize(expand([str(lora)]), settings))
    assert [outcome.error for outcome in outcomes] == [None]
    assert walk.stages == list(STAGES)
    assert walk.steps_back == 0


def test_each_further_recipe_goes_back_once(lora: Path, tmp_path: Path) -> None:
    settings = Settings(recipes=parse_recipes("rank=1:rank=2:rank=3"), output=tmp_path)
    with following(Walk()) as walk:
        outcomes = list(resize(expand([str(lora)]), settings))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert walk.stages == [*STAGES[:2], *(stage for _ in range(3) for stage in STAGES[2:])]
    assert walk.steps_back == 2


def test_a_click_in_the_tab_goes_the_same_way(folder: Path) -> None:
    """The tab reads the file and copies sidecars by itself; between them are the stages of the engine."""
    with following(Walk()) as walk:
        click(folder, {"rank": 2})
    assert walk.stages == list(STAGES[1:-1])


# Floors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["rank=2", "size=0.1", "fro_ckpt=1,thr=-2", "rank=2,rsvd"])
def test_at_most_five_pairs_of_modules_climb_in_a_resize(
    lora: Path, checkpoint: Path, tmp_path: Path, recipe: str
) -> None:
    settings = Settings(recipes=parse_recipes(recipe), base=checkpoint, output=tmp_path)
    with following(Climbs()) as climbs:
        outcomes = list(resize(expand([str(lora)]), settings))
    assert [outcome.error for outcome in outcomes] == [None]
    assert climbs.calls > 10_000
    assert len(climbs.pairs) <= MOST_CLIMBING_PAIRS, sorted(climbs.pairs)
    assert ("files.writer", "engine.writing") in climbs.pairs  # it pulls the tensors: they never are all in memory


@pytest.mark.parametrize("target", [{"rank": 2}, {"size": 0.3}])
def test_at_most_five_pairs_of_modules_climb_in_a_click(folder: Path, target: dict[str, float]) -> None:
    with following(Climbs()) as climbs:
        click(folder, target)
    assert climbs.calls > 10_000
    assert len(climbs.pairs) <= MOST_CLIMBING_PAIRS, sorted(climbs.pairs)
    assert ("engine.analysing", "panel.queue") in climbs.pairs  # progress


def code_of(module: str, text: str) -> dict[str, Any]:
    """Run a text as the code of a module of the package, and return its names."""
    names = {"__name__": f"{PACKAGE}.{module}"}
    exec(text, names)
    return names


def test_a_call_from_a_lower_floor_is_a_climb_also_through_a_library_and_a_return_is_none() -> None:
    low = code_of("files.low", "def call(f): return sorted([1], key=lambda _: f())")
    high = code_of("engine.high", "def f(): return 1\ndef use(call): return call(int)")
    with following(Climbs()) as down:
        high["use"](low["call"])
    assert down.calls > 0
    assert down.pairs == set()
    with following(Climbs()) as up:
        low["call"](high["f"])
    assert up.pairs == {("files.low", "engine.high")}


def test_rooms_around_the_engine_are_above_all_that_they_use() -> None:
    assert FLOORS.keys() == ROOMS.keys() | OUTER.keys()
    assert FLOORS["errors"] == FLOORS["names"] == 1
    assert all(FLOORS[used] < FLOORS[name] for name, allowed in ROOMS.items() for used in allowed)
    assert FLOORS["engine"] < FLOORS["hosts"] < FLOORS["panel"]

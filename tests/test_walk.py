"""A LoRA walks through the engine from left to right: read, analysed, planned, measured, written, checked, sidecars.

Every call during a resize is followed at run time. A stage is entered when a call reaches its module from another
stage; a step back is an entry of a stage that is left of the one before it.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.hosts.standalone import StandaloneHost
from lib_resize.panel.service import Service
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes

STAGES = ("reading", "analysing", "planning", "measuring", "writing", "checking", "sidecar_copies")
"""Modules of `lib_resize.engine`, in the order in which a LoRA passes them."""
TOOLS = frozenset(
    {
        "analysis",
        "base_weights",
        "job",
        "layer_values",
        "notes",
        "output_names",
        "output_paths",
        "reduction",
        "rounding",
    }
    | {"runtime", "selection", "settings", "sidecar_facts", "stamping"}
)
"""Modules of the engine that stages use."""


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


@contextmanager
def walking() -> Iterator[Walk]:
    """Follow the calls of this thread and of threads that start meanwhile."""
    walk = Walk()
    before = sys.getprofile()
    threading.setprofile(walk.follow)
    sys.setprofile(walk.follow)
    try:
        yield walk
    finally:
        sys.setprofile(before)
        threading.setprofile(before)


def test_every_module_of_the_engine_is_a_stage_or_a_tool() -> None:
    engine = Path(__file__).parents[1] / "lib_resize" / "engine"
    assert {path.stem for path in engine.glob("*.py")} == {*STAGES, *TOOLS, "batch", "__init__"}


@pytest.mark.parametrize("recipe", ["rank=2", "size=0.1", "fro_ckpt=1,thr=-2", "rank=2,rsvd"])
def test_a_resize_enters_every_stage_once_and_never_goes_back(
    lora: Path, checkpoint: Path, tmp_path: Path, recipe: str
) -> None:
    settings = Settings(recipes=parse_recipes(recipe), base=checkpoint, output=tmp_path)
    with walking() as walk:
        outcomes = list(resize(expand([str(lora)]), settings))
    assert [outcome.error for outcome in outcomes] == [None]
    assert walk.stages == list(STAGES)
    assert walk.steps_back == 0


def test_each_further_recipe_goes_back_once(lora: Path, tmp_path: Path) -> None:
    settings = Settings(recipes=parse_recipes("rank=1:rank=2:rank=3"), output=tmp_path)
    with walking() as walk:
        outcomes = list(resize(expand([str(lora)]), settings))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert walk.stages == [*STAGES[:2], *(stage for _ in range(3) for stage in STAGES[2:])]
    assert walk.steps_back == 2


def test_a_click_in_the_tab_goes_the_same_way(lora: Path, tmp_path: Path) -> None:
    """The tab reads the file and copies sidecars by itself; between them are the stages of the engine."""
    folder = tmp_path / "loras"
    folder.mkdir()
    shutil.copy(lora, folder)
    params = {"names": [lora.stem], "target": {"rank": 2}}
    with walking() as walk:
        service = Service(StandaloneHost([folder]), tmp_path / "library.json")
        answer = json.loads(service.call(json.dumps({"id": 1, "method": "resize", "params": params})))
        service.desk.queue.join()
        service.close()
        service.desk.library.join()
    assert answer["result"]["jobs"]
    assert len(list(folder.glob("*.safetensors"))) == 2
    assert walk.stages == list(STAGES[1:-1])

"""Runs over many files that say the same of their tensors parse one header, and write what single runs would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.files import header
from lib_resize.hosts.standalone import StandaloneHost
from lib_resize.panel.service import Service
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes
from lib_resize.studies.survey import SurveyOptions, survey
from tests.panel.panelhost import Browser, end_services

Parsed = Callable[[], list[str]]


@pytest.fixture
def loras(tmp_path: Path) -> list[Path]:
    """Three LoRAs of one configuration, with other numbers each."""
    folder = tmp_path / "loras"
    folder.mkdir()
    return [write_lora(folder / f"{seed}.safetensors", LoraOptions(rank=4, seed=seed)) for seed in (1, 2, 3)]


@pytest.fixture
def parsed(loras: list[Path], monkeypatch: pytest.MonkeyPatch) -> Parsed:
    """Return the names of the LoRAs whose headers were parsed since the last call."""
    found: list[str] = []
    check = header._check_tiling

    def noted(path: Path, *more: object) -> None:
        if path in loras:
            found.append(path.stem)
        check(path, *more)  # type: ignore[arg-type]

    def since() -> list[str]:
        names = list(found)
        found.clear()
        return names

    monkeypatch.setattr(header, "_check_tiling", noted)
    return since


def test_a_batch_parses_one_header(loras: list[Path], parsed: Parsed, tmp_path: Path) -> None:
    def written(sources: list[Path], name: str) -> dict[str, bytes]:
        settings = Settings(recipes=parse_recipes("fro_lora=1,retain=0.9"), output=tmp_path / name)
        assert [outcome.error for outcome in resize(expand([str(path) for path in sources]), settings)] == [
            None for _ in sources
        ]
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    together = written(loras, "together")
    assert parsed() == ["1"]
    alone: dict[str, bytes] = {}
    for lora in loras:
        alone |= written([lora], f"alone {lora.stem}")
    assert parsed() == ["1", "2", "3"]
    assert together == alone


def test_a_survey_parses_one_header(loras: list[Path], parsed: Parsed, tmp_path: Path) -> None:
    together = survey(loras[0].parent, SurveyOptions(cache=tmp_path / "together.json"))
    assert parsed() == ["1"]
    assert len({entry.layout for entry in together.entries}) == 3
    for entry in together.entries:
        folder = tmp_path / f"alone {entry.path.stem}"
        folder.mkdir()
        (folder / entry.path.name).write_bytes(entry.path.read_bytes())
        (alone,) = survey(folder, SurveyOptions(cache=tmp_path / "alone.json")).entries
        assert (alone.facts, alone.figures, alone.layout) == (entry.facts, entry.figures, entry.layout)


def test_the_tab_parses_one_header_for_analyses_and_their_results(loras: list[Path], parsed: Parsed) -> None:
    folder = loras[0].parent
    browser = Browser(Service(StandaloneHost([folder]), folder.parent / "library.json"))
    try:
        for lora in loras:
            browser.analysed(lora.stem, reference="none")
            browser.resized(lora.stem, recipe="rank=2", options={"reference": "none"})
    finally:
        end_services([browser.service])
    assert len(list(folder.glob("*.safetensors"))) == 6
    assert parsed() == ["1"]

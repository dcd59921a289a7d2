"""A folder looked through: what is told of each file is true, estimates are near, nothing but the cache is written."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lib_resize.cli import main as cli
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.errors import Cancelled, UsageError
from lib_resize.progress import Quiet
from lib_resize.recipe.grammar import PRESETS
from lib_resize.studies import catalogue, survey
from lib_resize.studies.catalogue import Facts, load_cache
from lib_resize.studies.survey import Survey, SurveyOptions, sampled
from lib_resize.studies.survey import survey as look
from lib_resize.studies.survey_store import Figures, SurveyedFile


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each kind of finding."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "sub").mkdir()
    write_lora(folder / "big.safetensors", LoraOptions(rank=32, seed=1))
    write_lora(folder / "half.safetensors", LoraOptions(rank=4, dtype="F32", conv=True, seed=2))
    tensors = load_file(folder / "big.safetensors")
    save_file(tensors, folder / "sub" / "copy.safetensors", {"ss_output_name": "renamed"})
    changed = {**tensors, next(iter(tensors)): np.zeros_like(next(iter(tensors.values())))}
    save_file(changed, folder / "sub" / "nearly.safetensors", {})
    os.link(folder / "big.safetensors", folder / "linked.safetensors")
    (folder / "broken.safetensors").write_bytes((folder / "big.safetensors").read_bytes()[:5000])
    bad = {"lora_unet_a.lora_up.weight": np.full((8, 2), np.nan), "lora_unet_a.lora_down.weight": np.ones((2, 8))}
    save_file(bad, folder / "nan.safetensors")
    assert cli.main(["resize", str(folder / "half.safetensors"), "-r", "rank=1", "--suffix", "_1"]) == 0
    return folder


@pytest.fixture(scope="module")
def exact(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Survey:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIZE_LORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        return look(made, SurveyOptions(exact=True))


def rows(found: Survey) -> dict[str, dict[str, Any]]:
    return {row["file"]: row for row in found.rows()}


def test_every_file_is_told_of_once(made, exact) -> None:
    assert set(rows(exact)) == {p.relative_to(made).as_posix() for p in made.rglob("*.safetensors")}


def test_exact_sizes_are_those_of_a_resize(made, exact, tmp_path) -> None:
    words = ["resize", str(made / "big.safetensors"), "-r", "high:medium:low", "-o", str(tmp_path)]
    assert cli.main([*words, "--suffix", "", "--dry-run", "--report", str(tmp_path / "r.json")]) == 0
    *plans, _ = json.loads((tmp_path / "r.json").read_text("utf-8"))
    row = rows(exact)["big.safetensors"]
    assert [row[f"bytes_{preset}"] for preset in PRESETS] == pytest.approx(
        [plan["bytes_after"] for plan in plans], abs=64
    )
    assert row["estimated"] is False
    assert row["zero_layers"] == 6
    assert row["over_provisioned"] is True
    assert (row["family"], row["kind"], row["rank"], row["dtype"]) == ("SDXL", "LoRA", 32, "F16")


def test_float32_results_and_broken_files_are_marked(exact) -> None:
    found = rows(exact)
    assert found["half.safetensors"]["fp32"] is True
    assert found["big.safetensors"]["fp32"] is False
    assert found["half_1.safetensors"]["resized_from"] == "half"
    assert "cut off" in found["broken.safetensors"]["problem"]
    assert "NaN" in found["nan.safetensors"]["problem"]
    assert found["nan.safetensors"]["bytes_high"] is None


def test_the_same_tensors_are_duplicates_whatever_the_metadata_and_one_other_byte_is_not(made, exact) -> None:
    assert exact.duplicates == ((made / "big.safetensors", made / "sub" / "copy.safetensors"),)
    assert exact.duplicate_bytes == (made / "sub" / "copy.safetensors").stat().st_size
    assert rows(exact)["sub/copy.safetensors"]["duplicate_of"] == "big.safetensors"
    assert rows(exact)["sub/nearly.safetensors"]["duplicate_of"] is None


def test_a_file_of_two_names_is_one_file_and_frees_once(made, exact) -> None:
    assert exact.linked == ((made / "big.safetensors", made / "linked.safetensors"),)
    assert rows(exact)["linked.safetensors"]["link_to"] == "big.safetensors"
    sizes = {path: path.stat().st_size for path in made.rglob("*.safetensors")}
    assert exact.bytes == sum(sizes.values()) - sizes[made / "linked.safetensors"]
    once = {row["file"]: max(0, row["bytes"] - row["bytes_low"]) for row in exact.rows() if row["bytes_low"]}
    once.pop("linked.safetensors")
    once.pop("half_1.safetensors")  # a result is not resized again
    assert exact.freed("low") == sum(once.values())


def test_a_lower_preset_frees_more(exact) -> None:
    assert 0 < exact.freed("high") < exact.freed("medium") < exact.freed("low") < exact.bytes


def test_estimates_are_marked_and_near(made, exact, tmp_path) -> None:
    found = rows(look(made, SurveyOptions(cache=tmp_path / "c.json")))
    for name, row in rows(exact).items():
        if row["estimated"] is None:
            continue
        assert found[name]["estimated"] is True
        assert found[name]["effective_rank"] == pytest.approx(row["effective_rank"], rel=0.15)
        assert found[name]["zero_layers"] == row["zero_layers"]
        for preset in PRESETS:
            assert found[name][f"bytes_{preset}"] == pytest.approx(row[f"bytes_{preset}"], rel=0.25)


def test_a_sample_is_spread_evenly_and_small_files_are_taken_whole(made) -> None:
    from lib_resize.adapters.read.adapter import read_adapter
    from lib_resize.files.reader import SafeFile
    from lib_resize.studies.spectra import type_of

    with SafeFile(made / "big.safetensors") as file:
        layers = read_adapter(file).layers
        chosen = sampled(layers, 50)
        assert len({layer.stem for layer in chosen}) == 50
        assert {type_of(layer.stem) for layer in chosen} == {type_of(layer.stem) for layer in layers}
        share = sum(layer.form.parameters_per_rank for layer in chosen) / sum(
            layer.form.parameters_per_rank for layer in layers
        )
        assert share == pytest.approx(50 / len(layers), rel=0.1)
        assert sampled(layers, 500) == tuple(layers)
        assert sampled(layers, 50) == chosen
        del layers, chosen


# The cache ---------------------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of the files whose layers are decomposed from now on."""
    asked: list[Path] = []
    real = survey._measured

    def measured(entry: SurveyedFile, *more: Any) -> SurveyedFile:
        asked.append(entry.path)
        return real(entry, *more)

    monkeypatch.setattr(survey, "_measured", measured)
    return asked


def test_what_is_known_is_not_measured_again_even_under_another_name(made, tmp_path, monkeypatch) -> None:
    folder, cache = tmp_path / "loras", tmp_path / "c.json"
    shutil.copytree(made, folder)
    first = look(folder, SurveyOptions(cache=cache))
    asked = counted(monkeypatch)
    (folder / "big.safetensors").rename(folder / "moved.safetensors")
    again = look(folder, SurveyOptions(cache=cache))
    assert [path.name for path in asked if path.name != "nan.safetensors"] == []
    assert rows(again)["moved.safetensors"]["bytes_low"] == rows(first)["big.safetensors"]["bytes_low"]
    look(folder, SurveyOptions(cache=cache, exact=True))
    assert [path.name for path in asked].count("half.safetensors") == 1
    assert len([path for path in asked if path.name in ("moved.safetensors", "linked.safetensors")]) == 1  # one content


def test_a_changed_file_is_measured_anew(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    write_lora(folder / "x.safetensors", LoraOptions(rank=4, seed=1))
    before = rows(look(folder, SurveyOptions(cache=tmp_path / "c.json")))["x.safetensors"]
    write_lora(folder / "x.safetensors", LoraOptions(rank=4, seed=2))
    os.utime(folder / "x.safetensors", ns=(1, 1))
    asked = counted(monkeypatch)
    after = rows(look(folder, SurveyOptions(cache=tmp_path / "c.json")))["x.safetensors"]
    assert len(asked) == 1
    assert after["bytes_low"] != before["bytes_low"]


def test_a_stopped_survey_goes_on_where_it_was(made, tmp_path, monkeypatch) -> None:
    class Stopping(Quiet):
        left = 2

        def start(self, stage: str, total: int) -> None:
            self.counting = stage == "spectra"

        def step(self, count: int = 1) -> None:
            self.left -= self.counting
            if not self.left:
                raise Cancelled("stopped")

    asked = counted(monkeypatch)
    with pytest.raises(Cancelled):
        look(made, SurveyOptions(cache=tmp_path / "c.json"), Stopping())
    done = set(asked)
    asked.clear()
    found = look(made, SurveyOptions(cache=tmp_path / "c.json"))
    assert len(done) == 2
    assert not {path for path in asked if path.name != "nan.safetensors"} & done
    assert all(entry.figures or entry.problem for entry in found.entries)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 1}',
        '{"version": 99, "files": {}, "contents": {}}',
        "{}",
        '{"version": 3, "files": {"a": 1}, "contents": {"b": 2}}',
    ],
)
def test_a_damaged_cache_is_none(made, tmp_path, text) -> None:
    (tmp_path / "c.json").write_text(text)
    assert look(made, SurveyOptions(cache=tmp_path / "c.json")).freed("low") > 0
    assert json.loads((tmp_path / "c.json").read_text())["version"] == catalogue.VERSION


def test_exact_figures_reach_the_panels_list(made, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path))
    found = look(made, SurveyOptions(exact=True))
    known = load_cache(tmp_path / "library.json")
    entry = next(one for one in found.entries if one.path.name == "big.safetensors")
    assert entry.figures is not None
    assert known[str(entry.path)][2] == entry.figures.presets


def test_nothing_in_the_folder_is_touched(made, tmp_path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in made.rglob("*")}
    look(made, SurveyOptions(cache=tmp_path / "c.json", exact=True))
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in made.rglob("*")} == before


# The command -------------------------------------------------------------------------------------------------


def test_headers_are_told_before_any_spectrum(made, tmp_path) -> None:
    seen: list[Survey] = []
    look(made, SurveyOptions(cache=tmp_path / "c.json", on_headers=seen.append))
    assert [entry.figures for entry in seen[0].entries] == [None] * len(seen[0].entries)


def test_the_report_says_it_in_words(made, capsys) -> None:
    assert cli.main(["library", str(made)]) == 0
    text = capsys.readouterr().out
    for part in (
        "8 files",
        "1 files are exact copies of others",
        "1 files in float32, which float16 halves",
        "1 files already resized",
        "broken.safetensors: ",
        "2 files that cannot be resized",
        "of which high frees more than half",
    ):
        assert part in text
    assert "~" in text
    assert cli.main(["library", str(made), "--exact"]) == 0
    assert "~" not in capsys.readouterr().out


def test_json_and_csv_hold_the_same_rows(made, capsys) -> None:
    assert cli.main(["library", str(made), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["freed"].keys() == PRESETS.keys()
    assert cli.main(["library", str(made), "--csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["file"] for row in table] == [row["file"] for row in document["files"]]
    assert [row["bytes_low"] for row in table] == [str(row["bytes_low"] or "") for row in document["files"]]


def test_no_folder_and_an_empty_one_are_told(tmp_path, capsys) -> None:
    assert cli.main(["library", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    with pytest.raises(UsageError, match="holds no"):
        look(tmp_path)


def test_a_preset_that_makes_a_file_larger_frees_nothing() -> None:
    entry = SurveyedFile(Path("/x/a"), (100, 0), Facts(), figures=Figures(True, 1.0, 0, {"high": 150, "low": 40}))
    assert (entry.freed("high"), entry.freed("medium"), entry.freed("low")) == (0, 0, 60)


# Cost --------------------------------------------------------------------------------------------------------


def test_the_store_is_written_a_few_times_and_not_per_file(made, tmp_path, monkeypatch) -> None:
    written = []
    monkeypatch.setattr(catalogue, "write_whole", lambda path, data, **more: written.append(path))
    found = look(made, SurveyOptions(exact=True, threads=1, cache=tmp_path / "cache.json"))
    assert written == [tmp_path / "cache.json"]
    assert len({entry.content for entry in found.entries if entry.figures}) > 1


def test_the_tab_and_a_survey_share_one_store(made, tmp_path, monkeypatch) -> None:
    """Neither loses what the other has added since it read the store, and the former second file is removed."""
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path))
    store, former = catalogue.cache_file(), tmp_path / "survey.json"
    former.write_text('{"version": 2, "paths": {}, "files": {}}')
    path = made / "big.safetensors"
    stamp = catalogue.stamp_of(path)
    tab = catalogue.KnownFiles(store, every=60.0)

    def add(found: Survey) -> None:
        tab.add(path, (stamp, Facts(rank=32), {"high": 7}, False))
        tab.save()

    look(made, SurveyOptions(on_headers=add))
    assert load_cache(store)[str(path)][2] == {"high": 7}
    tab.add(made / "half.safetensors", (stamp, Facts(rank=4), None, False))
    tab.save()
    asked = counted(monkeypatch)
    look(made)
    assert "big.safetensors" not in {one.name for one in asked}
    assert not former.exists()


def test_files_that_are_gone_are_forgotten_and_others_are_not(tmp_path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for seed in (1, 2):
            write_lora(tmp_path / folder / f"{seed}.safetensors", LoraOptions(rank=2, seed=seed))
        look(tmp_path / folder, SurveyOptions(threads=1, cache=tmp_path / "cache.json"))
    (tmp_path / "a" / "1.safetensors").unlink()
    look(tmp_path / "a", SurveyOptions(threads=1, cache=tmp_path / "cache.json"))
    document = json.loads((tmp_path / "cache.json").read_text("utf-8"))
    known = {Path(name).relative_to(tmp_path).as_posix() for name in document["files"]}
    assert known == {"a/2.safetensors", "b/1.safetensors", "b/2.safetensors"}

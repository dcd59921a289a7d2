"""The service as the page meets it: docs/panel-protocol.md, method by method."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from lib_resize.adapters.forms.form import Absent
from lib_resize.adapters.forms.lora import LowRank
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.demo.models import FULL
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.files.header import read_header
from lib_resize.files.reader import SafeFile
from lib_resize.panel import analyses
from lib_resize.panel.service import Service
from tests.panel.panelhost import Browser, fake_host

ODD = 'it\'s "odd" & [brackets] 日本語'


def stems(root: Path) -> set[str]:
    return {path.stem for path in root.rglob("*.safetensors")}


# The form of questions and answers -------------------------------------------------------------------------------


SENSELESS = ["", "{", "[]", "null", "5", '"hello"', "{}", '{"id": 1}', '{"method": 5}', '{"method": "__init__"}']
SENSELESS += ["[" * 100_000, '{"id": 1, "method": "hello", "params": []}', '{"method": "plan", "id": 1e999}', "\ud800"]
SENSELESS += ['{"id": 1, "method": "hello", "params": {"more": 1}}', '{"id": {"a": 1}, "method": ""}']


@pytest.mark.parametrize("text", [*SENSELESS, '{"id": NaN, "method": "hello2"}'])
def test_a_question_that_makes_no_sense_is_answered_as_such(browser: Browser, text: str) -> None:
    answer = json.loads(browser.service.call(text), parse_constant=lambda word: pytest.fail(word))
    assert answer["error"]["kind"] == "request"
    assert answer["error"]["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
WORDS = ["name", "names", "recipe", "target", "options", "since", "job", "jobs", "result", "item", "text", "settings"]
WORDS += ["reference", "refresh", "confirm", "without", "prompt"]
VALUES = (
    JSON
    | st.sampled_from(["pastry", "ink", "r1", "j1", "medium", "loaded", "none", "../x", "fro_ckpt=1,thr=-3"])
    | st.lists(st.sampled_from(["pastry", "ink", "nobody", "../../x"]), max_size=3)
    | st.dictionaries(st.sampled_from(["preset", "size", "retention", "rank"]), JSON | st.just("high"), max_size=2)
    | st.dictionaries(st.sampled_from(["dtype", "suffix", "folder", "scores", "rescale"]), JSON, max_size=2)
)
METHODS = ["hello", "library", "previews", "analyse", "plan", "check_recipe", "resize", "status", "cancel", "results"]
METHODS += ["undo", "restore", "trash", "empty_trash", "prompt_tag", "compare", "unknown"]
METHODS += ["read_prompt", "bake", "bake_into", "extract", "picture"]


@pytest.fixture(scope="module")
def battered(tmp_path_factory: pytest.TempPathFactory, pantry: Path):
    """A service that many wild questions are put to."""
    root = tmp_path_factory.mktemp("battered")
    write_lora(root / "pastry.safetensors", LoraOptions(rank=2, text_encoders=False))
    service = Service(fake_host(root), root / "cache.json")
    yield service, root
    service.close()
    service.desk.queue.join()


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(METHODS), params=st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=5) | JSON, id=JSON
)
def test_the_answer_to_any_question_is_json_and_nothing_is_raised(
    battered, method: str, params: object, id: object
) -> None:
    service, root = battered
    text = json.dumps({"id": id, "method": method, "params": params})
    answer = json.loads(service.call(text), parse_constant=lambda word: pytest.fail(word))
    assert ("result" in answer) != ("error" in answer)
    if "error" in answer:
        assert answer["error"]["kind"] != "internal", answer
    service.desk.queue.cancel([job["id"] for job in service.desk.queue.status()["queue"]])
    assert {path.parent for path in root.rglob("*.safetensors")} <= {root, *root.rglob("*")}


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=60))
def test_any_text_gets_an_answer(battered, text: str) -> None:
    assert "error" in json.loads(battered[0].call(text))


# Looking ---------------------------------------------------------------------------------------------------------


def test_hello_describes_the_host(browser: Browser, host) -> None:
    hello = browser.ask("hello")
    assert hello["host"] == host.name
    assert list(hello["presets"]) == ["high", "medium", "low"]
    assert hello["reference"]["kind"] == "none"
    assert hello["counts"]["loras"] == 2


@pytest.mark.parametrize(
    ("text", "column", "needs_base"),
    [
        ("medium", 0, False),
        ("fro_ckpt=1,thr=-3:rank=4", 0, True),
        ("fro_lora=1,tnr=-3", 12, False),
        ("rank=8,seed=1", 8, False),
        ("", 1, False),
    ],
)
def test_a_recipe_is_checked_as_one_types(browser: Browser, text: str, column: int, needs_base: bool) -> None:
    answer = browser.ask("check_recipe", text=text)
    assert (answer["ok"], answer["column"], answer["needs_base"]) == (column == 0, column, needs_base)
    assert (answer["full"] is not None) == answer["ok"]


# Planning --------------------------------------------------------------------------------------------------------


def test_a_plan_needs_an_analysis_and_then_no_linear_algebra(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    assert browser.error("plan", name="pastry", target={"preset": "high"})["kind"] == "not_analysed"
    browser.analysed("pastry")
    monkeypatch.setattr(np.linalg, "eigh", lambda *a: pytest.fail("decomposed again"))
    monkeypatch.setattr(analyses, "SafeFile", lambda *a: pytest.fail("read again"))
    for target in ({"preset": "low"}, {"size": 0.2}, {"retention": 0.9}, {"rank": 2}):
        assert browser.ask("plan", name="pastry", target=target)["bytes_after"] > 0


@pytest.mark.parametrize(
    "asked",
    [
        {"target": {"preset": "high"}},
        {"target": {"size": 0.2}},
        {"target": {"rank": 3}, "options": {"dtype": "32", "suffix": "_r{rank}_{retention}"}},
        {"target": {"retention": 0.93}, "options": {"dtype": "bf16", "rescale": 0.5, "suffix": ""}},
        {"recipe": "fro_lora=1,params=0.5,thr=-1.5", "options": {"naming": "kohya"}},
    ],
)
def test_a_plan_is_exactly_what_is_then_written(browser: Browser, root: Path, asked: dict[str, Any]) -> None:
    browser.analysed("pastry")
    plan = browser.ask("plan", name="pastry", **asked)
    made = browser.resized("pastry", **asked)
    path = root / f"{plan['output']}.safetensors"
    assert path.stat().st_size == plan["bytes_after"] == made["bytes_after"]
    same = ("output", "retention", "ranks", "layers_gone", "recipe", "saved")
    assert {key: made[key] for key in same} == {key: plan[key] for key in same}
    assert read_header(path).metadata["ss_output_name"] == plan["output"]


def test_the_table_agrees_with_plans(browser: Browser) -> None:
    table = browser.analysed("pastry")["files"][0]["table"]
    assert len(table) > 60
    assert [point["bytes"] for point in table] == sorted(point["bytes"] for point in table)
    for point in table[:: len(table) // 12]:
        plan = browser.ask("plan", name="pastry", target={"retention": point["retention"]})
        assert plan["bytes_after"] == pytest.approx(point["bytes"], rel=0.01, abs=64)
        assert plan["ranks"] == point["ranks"]
        assert plan["retention"] >= point["retention"] > plan["retention"] - 1e-5


def test_an_analysis_shows_presets_and_blocks(browser: Browser) -> None:
    shown = browser.analysed("pastry")["files"][0]
    plan = browser.ask("plan", name="pastry", target={"preset": "medium"})
    assert shown["presets"]["medium"]["retention"] == plan["retention"]
    assert shown["presets"]["medium"]["bytes"] == pytest.approx(plan["bytes_after"], abs=64)
    assert {name: block["kept"]["medium"] for name, block in shown["blocks"].items()} == {
        name: block["kept"] for name, block in plan["blocks"].items()
    }
    assert sum(block["layers"] for block in plan["blocks"].values()) == shown["layers"]
    assert "OTHER" not in plan["blocks"]


def test_a_second_analysis_costs_nothing(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    first = browser.analysed("pastry")
    monkeypatch.setattr(analyses, "analyse", lambda *a: pytest.fail("decomposed again"))
    id = browser.ask("analyse", names=["pastry"])["job"]
    assert browser.job(id)["state"] == "done"
    assert browser.job(id)["result"] == first


def test_a_file_that_changed_is_not_planned_from_its_old_self(browser: Browser, root: Path) -> None:
    browser.analysed("pastry")
    write_lora(root / "pastry.safetensors", LoraOptions(rank=4, text_encoders=False))
    assert browser.error("plan", name="pastry", target={"preset": "high"})["kind"] == "not_analysed"


def test_kept_analyses_hold_no_file_and_go_when_memory_is_short(browser: Browser, root: Path) -> None:
    browser.service.desk.analyses._most = 1
    browser.analysed("pastry")
    browser.analysed("ink")
    assert browser.error("plan", name="pastry", target={"preset": "high"})["kind"] == "not_analysed"
    kept = browser.service.desk.analyses.get(browser.service.desk.host.resolve("ink"))
    assert kept is not None
    forms = [layer.form for layer in kept.analysis.adapter.layers]
    assert all(isinstance(form, LowRank) and isinstance(form.pair.up, Absent) for form in forms)


def test_of_many_files_the_damaged_ones_are_reported_and_the_rest_analysed(browser: Browser, root: Path) -> None:
    (root / "bad.safetensors").write_bytes(b"nothing")
    result = browser.analysed("pastry", "bad", "ink")
    assert [file["name"] for file in result["files"]] == ["pastry", "ink"]
    assert [(one["name"], one["kind"]) for one in result["failed"]] == [("bad", "file")]
    assert str(root) not in json.dumps(result)


def test_a_plan_of_986_layers_costs_no_more_than_a_few_looks_at_its_header(browser: Browser, root: Path) -> None:
    """Both are plain Python, so the ratio holds on busy machines too; a quiet one plans in less than 150 ms."""
    path = write_lora(root / "full.safetensors", LoraOptions(model=FULL, rank=2))
    browser.analysed("full")
    for target in ({"preset": "medium"}, {"size": 12}, {"rank": 1}):
        rounds = [(_seconds(lambda: _look(path)), _seconds(lambda t=target: _plan(browser, t))) for _ in range(5)]
        assert min(plan for _, plan in rounds) < 8 * min(look for look, _ in rounds)


def _look(path: Path) -> None:
    with SafeFile(path) as file:
        read_adapter(file)


def _plan(browser: Browser, target: dict[str, Any]) -> None:
    assert browser.ask("plan", name="full", target=target)["layers"] == 986


def _seconds(act) -> float:
    began = time.thread_time()
    act()
    return time.thread_time() - began


# Warnings --------------------------------------------------------------------------------------------------------


def kinds(answer: dict[str, Any]) -> set[str]:
    return {warning["kind"] for warning in answer["warnings"]}


def flat_file(path: Path, stem: str = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q") -> None:
    rng = np.random.default_rng(0)
    up, down = np.linalg.qr(rng.standard_normal((64, 8)))[0], np.linalg.qr(rng.standard_normal((64, 8)))[0].T
    pair = {"lora_up": up, "lora_down": down}
    save_file({f"{stem}.{part}.weight": np.ascontiguousarray(array, np.float16) for part, array in pair.items()}, path)


def test_a_flat_spectrum_is_reported_at_once(browser: Browser, root: Path) -> None:
    flat_file(root / "flat.safetensors")
    shown = browser.analysed("flat", "pastry")["files"]
    assert shown[0]["flat"]
    assert "flat" in kinds(shown[0])
    assert not shown[1]["flat"]


def test_growth_and_low_retention_are_reported_before_anything_is_written(browser: Browser) -> None:
    browser.analysed("pastry")
    grown = browser.ask("plan", name="pastry", target={"rank": 8}, options={"dtype": "32"})
    assert kinds(grown) == {"not_smaller"}
    assert grown["saved"] < 0
    low = browser.ask("plan", name="pastry", target={"rank": 1})
    assert ("low_retention" in kinds(low)) == (low["retention"] < 0.88)
    assert low["retention"] < 0.88


def test_32_bit_files_unknown_families_and_our_own_results_are_reported(browser: Browser, root: Path) -> None:
    flat_file(root / "strange.safetensors", stem="lora_unet_nobody_knows_this")
    made = browser.resized("pastry")["output"]
    shown = {file["name"]: kinds(file) for file in browser.analysed("ink", "strange", made)["files"]}
    assert "fp32" in shown["ink"]
    assert "unknown_family" in shown["strange"]
    assert "resized" in shown[made]


def with_checkpoint(root: Path, checkpoint: Path, tmp_path: Path) -> Browser:
    return Browser(Service(fake_host(root, checkpoint_files=[checkpoint]), tmp_path / "cache.json"))


def test_a_recipe_that_needs_a_base_is_refused_without_one(browser: Browser) -> None:
    browser.analysed("pastry")
    recipe = "fro_ckpt=1,thr=-3"
    assert browser.error("plan", name="pastry", recipe=recipe)["kind"] == "reference"
    assert browser.error("resize", names=["pastry"], recipe=recipe)["kind"] == "reference"


def test_a_reference_is_measured_once_asked_for_and_then_planned_with(
    root: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "norms"))  # nobody has measured this checkpoint before
    browser = with_checkpoint(root, checkpoint, tmp_path)
    options, recipe = {"reference": checkpoint.name}, "fro_ckpt=1,thr=-3"
    browser.analysed("pastry", reference=checkpoint.name)
    assert browser.error("plan", name="pastry", recipe=recipe, options=options)["kind"] == "not_analysed"
    browser.analysed("pastry", reference=checkpoint.name, recipe=recipe)
    plan = browser.ask("plan", name="pastry", recipe=recipe, options=options)
    assert plan["reference"] == {"kind": "file", "title": checkpoint.name, "family": "SDXL", "note": ""}
    made = browser.resized("pastry", recipe=recipe, options=options)
    assert made["bytes_after"] == plan["bytes_after"]
    assert browser.error("plan", name="pastry", recipe="spn_ckpt=1,thr=-3", options=options)["kind"] == "not_analysed"
    browser.analysed("pastry", reference=checkpoint.name, recipe="spn_ckpt=1,subspace=1,thr=-3")
    assert browser.ask("plan", name="pastry", recipe="spn_ckpt=1,thr=-3", options=options)["layers"] > 0
    assert browser.ask("plan", name="pastry", recipe=recipe, options=options)["bytes_after"] == plan["bytes_after"]
    browser.service.close()


def test_a_recipe_that_needs_no_base_records_no_reference(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    """With any reference chosen or loaded: it was not used."""
    browser = with_checkpoint(root, checkpoint, tmp_path)
    options, none = {"reference": checkpoint.name}, {"kind": "none", "title": None, "family": None, "note": ""}
    assert browser.analysed("pastry", reference=checkpoint.name)["files"][0]["reference"] == none
    assert browser.ask("plan", name="pastry", target={"preset": "high"}, options=options)["reference"] == none
    assert browser.resized("pastry", target={"preset": "high"}, options=options)["reference"] == none
    browser.service.close()


def test_norms_that_were_measured_before_are_reported_as_cached(
    root: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "norms"))
    browser = with_checkpoint(root, checkpoint, tmp_path)
    options, recipe = {"reference": checkpoint.name}, "fro_ckpt=1,thr=-3"
    made = [browser.resized("pastry", recipe=recipe, options=options)["reference"]["kind"] for _ in range(3)]
    assert made == ["file", "cache", "cache"]
    browser.service.close()


def test_a_reference_is_found_after_its_title_has_changed(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    browser = with_checkpoint(root, checkpoint, tmp_path)
    options, recipe = {"reference": f"{checkpoint.name} [0123456789]"}, "fro_ckpt=1,thr=-3"
    browser.analysed("pastry", reference=checkpoint.name, recipe=recipe)
    plan = browser.ask("plan", name="pastry", recipe=recipe, options=options)
    assert plan["reference"]["title"] == checkpoint.name
    browser.service.close()


def test_a_lora_of_another_family_uses_its_own_norms_and_reports_it(
    root: Path, checkpoint: Path, tmp_path: Path
) -> None:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    flat_file(root / "old.safetensors", stem=stem)
    browser = with_checkpoint(root, checkpoint, tmp_path)
    shown = browser.analysed("old", reference=checkpoint.name)["files"][0]
    assert "other_family" in kinds(shown)
    options = {"reference": checkpoint.name}
    error = browser.error("plan", name="old", recipe="fro_ckpt=1,thr=-3", options=options)
    assert error["kind"] == "reference"
    assert browser.ask("plan", name="old", target={"preset": "medium"}, options=options)["layers"] == 1
    browser.service.close()


# Resizing --------------------------------------------------------------------------------------------------------


def test_results_are_next_to_their_source_and_never_take_a_name_that_is_used(browser: Browser, root: Path) -> None:
    first = browser.resized("pastry")
    (root / "deep").mkdir()
    (root / f"{first['output']}.safetensors").rename(root / "deep" / f"{first['output']}.safetensors")
    second = browser.resized("pastry")
    assert re.fullmatch(r"pastry_\d+kb", first["output"])
    assert second["output"] == first["output"] + "_2"
    assert (root / f"{second['output']}.safetensors").exists()


def test_the_source_is_unchanged(browser: Browser, root: Path) -> None:
    before = (root / "pastry.safetensors").read_bytes()
    browser.resized("pastry", target={"preset": "low"}, options={"suffix": ""})
    assert (root / "pastry.safetensors").read_bytes() == before
    assert stems(root) == {"pastry", "ink", "pastry_2"}


def test_names_with_quotes_brackets_and_other_scripts_work_all_the_way(browser: Browser, root: Path) -> None:
    (root / "sub dir [1]").mkdir()
    (root / "pastry.safetensors").rename(root / "sub dir [1]" / f"{ODD}.safetensors")
    made = browser.resized(ODD)
    assert made["name"] == ODD
    assert made["folder"] == "sub dir [1]"
    assert (root / "sub dir [1]" / f"{made['output']}.safetensors").exists()
    assert browser.ask("undo", result=made["result"])["result"]["state"] == "trashed"


def test_several_recipes_and_names_make_a_job_each_in_order(browser: Browser) -> None:
    answer = browser.ask("resize", names=["pastry", "nobody", "ink"], recipe="high:rank=2")
    assert [one["name"] for one in answer["refused"]] == ["nobody"]
    jobs = [browser.wait(id) for id in answer["jobs"]]
    assert [(job["name"], job["file"], job["files"]) for job in jobs] == [
        ("pastry", 1, 4),
        ("pastry", 2, 4),
        ("ink", 3, 4),
        ("ink", 4, 4),
    ]
    assert [job["state"] for job in jobs] == ["done"] * 4


def test_a_file_that_fails_does_not_stop_the_rest(browser: Browser, root: Path) -> None:
    (root / "bad.safetensors").write_bytes(b"x" * 100)
    ids = browser.ask("resize", names=["bad", "pastry"], target={"preset": "high"})["jobs"]
    assert [browser.wait(id)["state"] for id in ids] == ["failed", "done"]
    assert browser.job(ids[0])["error"]["kind"] == "file"
    assert str(root) not in browser.job(ids[0])["error"]["message"]


def test_a_cancelled_resize_leaves_nothing(browser: Browser, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_resize.panel.queue import Handle

    before = sorted(path.name for path in root.rglob("*") if path.is_file())
    real = Handle.step

    def cancels_itself_while_writing(self, count=1):
        if self._job.stage == "write":
            browser.ask("cancel", job=self._job.id)
        real(self, count)

    monkeypatch.setattr(Handle, "step", cancels_itself_while_writing)
    id = browser.ask("resize", names=["pastry"], target={"preset": "high"})["jobs"][0]
    assert browser.wait(id)["state"] == "cancelled"
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == before
    assert browser.ask("results")["results"] == []


def test_sidecars_go_along_or_stay(browser: Browser, root: Path) -> None:
    (root / "pastry.png").write_bytes(b"picture")
    (root / "pastry.json").write_text('{"activation text": "prb", "preferred weight": 0.7}')
    made = browser.resized("pastry")
    assert made["sidecars"] == 2
    assert (root / f"{made['output']}.png").read_bytes() == b"picture"
    assert browser.resized("pastry", target={"preset": "low"}, options={"sidecars": False})["sidecars"] == 0


def test_the_numbers_of_a_result_are_those_of_the_command_line(browser: Browser, root: Path, tmp_path: Path) -> None:
    from lib_resize.engine.batch import resize
    from lib_resize.engine.settings import Settings
    from lib_resize.prompts.sources import expand
    from lib_resize.recipe.grammar import parse_recipes

    made = browser.resized("pastry")
    chosen = Settings(recipes=parse_recipes("medium"), output=tmp_path / "cli")
    outcome = next(iter(resize(expand([str(root / "pastry.safetensors")]), chosen)))
    assert outcome.plan is not None
    ours, theirs = load_file(root / f"{made['output']}.safetensors"), load_file(outcome.plan.output)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_one_lora_is_analysed_before_a_long_queue(browser: Browser, host) -> None:
    host.working_on = "txt2img"
    ids = browser.ask("resize", names=["pastry", "ink"], target={"preset": "high"})["jobs"]
    browser.wait(ids[0], ("waits",))
    analysis = browser.ask("analyse", names=["ink"])["job"]
    assert [browser.job(id)["place"] for id in (ids[0], analysis, ids[1])] == [0, 1, 2]
    host.working_on = None
    assert browser.done(ids[1])


# Safety ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "pastry.safetensors", "", "sub/../pastry", "\x00"])
def test_only_names_of_the_list_are_taken(browser: Browser, name: str) -> None:
    assert browser.error("analyse", names=[name])["kind"] == "file"
    assert browser.error("plan", name=name, target={"preset": "high"})["kind"] == "file"
    assert browser.ask("resize", names=[name], target={"preset": "high"})["jobs"] == []


@pytest.mark.parametrize("folder", ["..", "/tmp", "a/../../b", "C:\\x", "~/x", "a:b"])
def test_a_folder_outside_is_refused_and_nothing_is_queued(browser: Browser, folder: str) -> None:
    if folder == "~/x":
        assert browser.resized("pastry", target={"preset": "high"}, options={"folder": folder})["folder"] == folder
        return
    error = browser.error("resize", names=["pastry"], target={"preset": "high"}, options={"folder": folder})
    assert error["kind"] == "request"
    assert browser.ask("status")["queue"] == []


def test_a_page_on_another_machine_names_no_folder_and_sees_no_path(browser: Browser, host, root: Path) -> None:
    host.remote = True
    for method, more in (("plan", {"name": "pastry"}), ("resize", {"names": ["pastry"]})):
        error = browser.error(method, **more, target={"preset": "high"}, options={"folder": "x"})
        assert error["kind"] == "remote"
    made = browser.resized("pastry", target={"preset": "high"}, options={"folder": None})
    seen = [browser.reply(method) for method in ("hello", "library", "results", "trash", "status")]
    assert str(root) not in json.dumps([made, *seen])


def test_emptying_asks_first(browser: Browser) -> None:
    made = browser.resized("pastry")
    browser.ask("undo", result=made["result"])
    for answer in ({}, {"confirm": False}):
        assert browser.error("empty_trash", **answer)["kind"] == "confirm"
    assert browser.error("empty_trash", confirm="yes")["kind"] == "request"
    assert browser.ask("empty_trash", confirm=True)["files"] == 1
    assert browser.ask("results")["results"][0]["state"] == "gone"
    assert browser.error("restore", result=made["result"])["kind"] == "gone"


# Undo and restore --------------------------------------------------------------------------------------------------


def test_undo_and_restore_take_the_file_with_its_sidecars_out_and_in(browser: Browser, host, root: Path) -> None:
    (root / "pastry.png").write_bytes(b"picture")
    made = browser.resized("pastry")
    names = {f"{made['output']}.safetensors", f"{made['output']}.png"}
    assert browser.ask("undo", result=made["result"])["result"]["state"] == "trashed"
    assert not names & {path.name for path in root.rglob("*")}
    assert made["output"] not in browser.listed()
    assert browser.ask("hello")["counts"]["trashed"] == 1
    item = browser.ask("trash")["items"][0]
    assert (item["name"], item["files"]) == (made["output"], 2)
    restored = browser.ask("restore", item=item["item"])
    assert restored["result"]["state"] == "there"
    assert names <= {path.name for path in root.rglob("*")}
    assert made["output"] in browser.listed()
    assert host.events.count(("refresh",)) >= 3


def test_the_trash_outlives_the_session(browser: Browser, host, root: Path, tmp_path: Path) -> None:
    made = browser.resized("pastry")
    browser.ask("undo", result=made["result"])
    later = Browser(Service(host, tmp_path / "cache.json"))
    item = later.ask("trash")["items"][0]["item"]
    restored = later.ask("restore", item=item)
    assert restored["name"] == made["output"]
    assert (restored["result"]["result"], restored["result"]["earlier"]) == (made["result"], True)
    assert made["output"] in stems(root)


def test_a_trashed_name_is_not_given_to_another_file(browser: Browser) -> None:
    made = browser.resized("pastry")
    browser.ask("undo", result=made["result"])
    assert browser.resized("pastry")["output"] == made["output"] + "_2"
    assert browser.ask("restore", result=made["result"])["result"]["state"] == "there"


def test_a_plan_has_the_name_that_is_given_while_another_is_in_the_trash(browser: Browser) -> None:
    """The name is part of the file's metadata, so a longer name can make a longer file."""
    browser.ask("undo", result=browser.resized("pastry")["result"])
    plan = browser.ask("plan", name="pastry", target={"preset": "medium"})
    made = browser.resized("pastry", target={"preset": "medium"})
    assert (plan["output"], plan["bytes_after"]) == (made["output"], made["bytes_after"])


def test_what_was_undone_or_deleted_cannot_be_undone_again(browser: Browser, root: Path) -> None:
    made = browser.resized("pastry")
    browser.ask("undo", result=made["result"])
    assert browser.error("undo", result=made["result"])["kind"] == "gone"
    assert browser.error("undo", result="r99")["kind"] == "gone"
    other = browser.resized("ink")
    (root / f"{other['output']}.safetensors").unlink()
    assert browser.error("undo", result=other["result"])["kind"] == "gone"


# Prompts and pictures ------------------------------------------------------------------------------------------------


def test_the_tag_of_a_result_brings_weight_words_and_the_names_it_replaces(browser: Browser, root: Path) -> None:
    (root / "pastry.json").write_text('{"activation text": "prb", "preferred weight": 0.7}')
    first, second = browser.resized("pastry"), browser.resized("pastry", target={"preset": "low"})
    browser.listed()
    answer = browser.ask("prompt_tag", result=second["result"])
    assert answer["tag"] == f"<lora:{second['output']}:0.7>"
    assert answer["activation"] == "prb"
    assert answer["old_names"] == ["pastry", first["output"]]
    assert browser.ask("prompt_tag", name=second["output"]) == answer


def test_two_pictures_are_compared_with_one_seed_and_a_number(browser: Browser, host, root: Path) -> None:
    made = browser.resized("pastry")
    settings_ = {"prompt": "a cake <lora:pastry:0.6:te=1>", "steps": 2}
    result = browser.done(browser.ask("compare", result=made["result"], settings=settings_, without=True)["job"])
    asked = [event[1] for event in host.events if event[0] == "generate"]
    assert [one["prompt"] for one in asked] == [
        *["a cake <lora:pastry:0.6:te=1>"] * 2,  # the second time for the noise
        f"a cake <lora:{made['output']}:0.6:te=1>",
        "a cake",
    ]
    assert len({one["seed"] for one in asked}) == 1
    assert [one.get("loras") for one in asked] == [["pastry"], ["pastry"], [made["output"]], None]
    assert result["seed"] == asked[0]["seed"]
    assert 0 < result["number"] <= result["largest"] <= 255
    assert result["effect"] > 0
    assert [one["what"] for one in result["pictures"]] == ["original", "resized", "without", "difference"]


def test_a_prompt_without_the_lora_gets_it(browser: Browser, host) -> None:
    made = browser.resized("pastry")
    browser.done(browser.ask("compare", result=made["result"], settings={"prompt": "a cake"})["job"])
    assert [event[1]["prompt"] for event in host.events if event[0] == "generate"] == [
        "a cake <lora:pastry:1>",
        f"a cake <lora:{made['output']}:1>",
    ]


def test_a_cancelled_comparison_stops_our_own_picture(browser: Browser, host) -> None:
    made = browser.resized("pastry")
    started, go_on = threading.Event(), threading.Event()

    def slow(request):
        started.set()
        assert go_on.wait(5)
        from PIL import Image

        return Image.new("RGB", (8, 8))

    host.picture = slow
    id = browser.ask("compare", result=made["result"], settings={})["job"]
    assert started.wait(5)
    assert [one["job"] for one in browser.ask("cancel", job=id)["cancelled"]] == [id]
    go_on.set()
    assert browser.wait(id)["state"] == "cancelled"
    assert ("stop_generating",) in host.events


def test_what_cannot_be_compared_is_reported_at_once(browser: Browser, host, root: Path) -> None:
    assert browser.error("compare", name="pastry", settings={})["kind"] == "file"
    made = browser.resized("pastry")
    assert browser.error("compare", result=made["result"], settings={"outdir": "/tmp"})["kind"] == "request"
    assert browser.error("compare", result=made["result"], settings={"steps": "9"})["kind"] == "request"
    host.features = frozenset()
    assert browser.error("compare", result=made["result"], settings={})["kind"] == "unavailable"


def test_previews_are_small_pictures_and_a_broken_one_is_none(browser: Browser, root: Path) -> None:
    from PIL import Image

    Image.new("RGB", (600, 900)).save(root / "pastry.png")
    (root / "ink.png").write_bytes(b"no picture")
    names = ["pastry", "ink", "nobody"]
    previews = browser.until(lambda: not (one := browser.ask("previews", names=names))["pending"] and one["previews"])
    assert previews["pastry"].startswith("data:image/jpeg;base64,")
    assert len(previews["pastry"]) < 20_000
    assert previews["ink"] is None
    assert previews["nobody"] is None


# Two browsers ------------------------------------------------------------------------------------------------------


def test_two_browsers_at_once_get_their_own_answers_and_no_name_twice(browser: Browser, root: Path) -> None:
    results: list[dict[str, Any]] = []
    faults: list[BaseException] = []
    all_made = threading.Barrier(3)  # a name that is free for a moment may go to another person

    def person() -> None:
        try:
            own = Browser(browser.service)
            own.listed()
            own.analysed("pastry")
            made = own.resized("pastry")
            results.append(made)
            all_made.wait(30)
            own.analysed("ink")
            own.ask("plan", name="ink", target={"preset": "low"})
            own.ask("undo", result=made["result"])
            own.ask("restore", result=made["result"])
        except BaseException as error:
            faults.append(error)

    people = [threading.Thread(target=person) for _ in range(3)]
    for one in people:
        one.start()
    for one in people:
        one.join(30)
    assert faults == []
    assert len({made["output"] for made in results}) == 3
    assert {made["output"] for made in results} <= stems(root)


def test_every_call_returns_while_a_job_runs(browser: Browser, host) -> None:
    host.working_on = "txt2img"
    browser.ask("resize", names=["pastry"], target={"preset": "high"})
    for method in ("library", "results", "hello", "trash"):
        browser.ask(method)
    assert browser.ask("status")["active"] == 1  # none of them waited for its end

"""The command as a person uses it: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors import safe_open

from lib_resize.cli import main as cli
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.files.reader import SafeFile
from lib_resize.files.user_cache import cache_folder


def run(*arguments: object) -> int:
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse's own way
        return int(end.code or 0)


def outputs(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "出力 folder"


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "numpy") as file:
        found: dict[str, str] = file.metadata()
        return found


def test_the_default_with_a_checkpoint_is_the_one_of_the_original_tool(checkpoint, lora, out) -> None:
    assert run("resize", checkpoint, lora, "-o", out) == 0
    assert outputs(out) == ["pastry_frockpt1_th-3.5.safetensors"]


def test_the_default_without_a_checkpoint_is_high(lora, out, capsys) -> None:
    assert run("resize", lora, "-o", out) == 0
    assert re.fullmatch(r"pastry_frolora1_retain0\.95_min1_th-[\d.]+\.safetensors", outputs(out)[0])
    assert "weight retention" in capsys.readouterr().out


def test_base_names_the_checkpoint_outright(checkpoint, lora, out) -> None:
    assert run("resize", lora, "--base", checkpoint, "-o", out, "-r", "spn_ckpt=1,thr=-2") == 0
    assert outputs(out) == ["pastry_spnckpt1_th-2.safetensors"]


def test_many_recipes_share_one_decomposition(checkpoint, lora, out, monkeypatch) -> None:
    from lib_resize.adapters.forms.lora import LowRank, decompose_together
    from lib_resize.engine import analysing
    from lib_resize.linalg.arrays import Arrays
    from lib_resize.linalg.factor import Spectrum

    seen: list[LowRank] = []

    def decompose(forms: Sequence[LowRank], arrays: Arrays) -> list[Spectrum]:
        seen.extend(forms)
        return decompose_together(forms, arrays)

    monkeypatch.setattr(analysing, "decompose_together", decompose)
    recipes = "fro_ckpt=1,thr=-3.5:spn_lora=1,thr=-0.7:spn_ckpt=1,size=0.3:rank=2,max_conv_rank=1:sv_fro=0.9"
    assert run("resize", checkpoint, lora, "-o", out, "-r", recipes) == 0
    with SafeFile(lora) as file:
        assert len(seen) == sum(key.endswith(".alpha") for key in file.header.entries)
    assert [re.sub(r"_th.*", "", name) for name in outputs(out)] == [
        "pastry_frockpt1", "pastry_rank2_conv1.safetensors", "pastry_spnckpt1_size0.3", "pastry_spnlora1",
        "pastry_svfro0.9.safetensors"]  # fmt: skip


def test_size_is_kept_on_disk(lora, out) -> None:
    for size in (0.2, 0.35, 0.5):
        assert run("resize", lora, "-o", out, "-r", f"fro_lora=1,size={size}", "--overwrite") == 0
    sizes = {name: (out / name).stat().st_size for name in outputs(out)}
    for name, size in sizes.items():
        found = re.search(r"size([\d.]+)_th", name)
        assert found is not None
        asked = float(found[1]) * 2**20
        assert asked - 4096 < size <= asked


def test_every_dtype_word_is_obeyed(lora, out) -> None:
    for word, dtype in (("16", "F16"), ("32", "F32"), ("bf16", "BF16"), ("8", "F8_E4M3"), ("same", "F16")):
        assert run("resize", lora, "-o", out / word, "-t", word, "-r", "rank=2") == 0
        with SafeFile(next((out / word).iterdir())) as file:
            found = {entry.dtype for key, entry in file.header.entries.items() if key.endswith(".weight")}
        assert found == {dtype}


def test_verbose_lines_are_the_documented_ones(checkpoint, lora, out, capsys) -> None:
    assert run("resize", checkpoint, lora, "-o", out, "-vv") == 0
    text = capsys.readouterr().out
    assert re.search(r"recipe fro_ckpt=1,thr=-3\.5, threshold -3\.500, total rank \d+ -> \d+", text)
    assert re.search(r"^Score quantiles: 0\.01:-\d\.\d{3} .* 0\.99:-?\d\.\d{3}$", text, re.M)
    lines = re.findall(r"^dim: 8->(\d) rle_lora: (\d+\.\d\d)% rle_ckpt: (\d+\.\d\d)% (lora_\w+)(?: \||$)", text, re.M)
    assert len(lines) > 200
    assert all(0 <= float(lora_error) <= 100 for _, lora_error, _, _ in lines)


def test_without_v_layers_are_not_listed(lora, out, capsys) -> None:
    assert run("resize", lora, "-o", out) == 0
    assert "rle_lora" not in capsys.readouterr().out


def test_dry_run_writes_nothing_and_reports_the_exact_size(lora, out, tmp_path) -> None:
    report = tmp_path / "report.json"
    assert run("resize", lora, "-o", out, "-r", "medium:size=0.3", "--dry-run", "--report", report) == 0
    assert not out.exists()
    assert run("resize", lora, "-o", out, "-r", "medium:size=0.3") == 0
    for plan in json.loads(report.read_text("utf-8"))[:-1]:
        assert plan["bytes_after"] == Path(plan["output"]).stat().st_size


def test_the_report_has_an_object_for_every_output_and_failure(checkpoint, lora, out, tmp_path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no")
    report = tmp_path / "report.json"
    arguments = ("resize", checkpoint, bad, lora, "-o", out, "--report", report, "--continue-on-error")
    assert run(*arguments, "-r", "fro_ckpt=1,thr=-3:rank=2", "--report-layers") == 1
    failed, first, second, last = json.loads(report.read_text("utf-8"))
    assert failed.keys() == {"resize_lora", "source", "error"}
    assert last["totals"] == {
        "results": 2,
        "failed": 1,
        "skipped": 0,
        "bytes_before": 2 * lora.stat().st_size,
        "bytes_after": sum(path.stat().st_size for path in out.iterdir()),
    }
    assert "bad.safetensors" in failed["error"]
    assert first.keys() >= {"source", "output", "recipe", "threshold", "bytes_before", "bytes_after", "retention",
                            "layers", "copied", "dropped"}  # fmt: skip
    assert first["threshold"] == -3.0
    assert second["threshold"] is None
    layer = first["layers"][0]
    assert layer.keys() == {"name", "old_rank", "new_rank", "error_lora", "error_ckpt",
                            "fro_retained", "sum_retained", "max_ratio"}  # fmt: skip
    assert first["bytes_before"] == lora.stat().st_size


def test_a_failure_stops_without_continue_on_error(lora, out, tmp_path, capsys) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no")
    assert run("resize", bad, lora, "-o", out) == 1
    assert not out.exists()
    assert run("resize", bad, lora, "-o", out, "--continue-on-error") == 1
    assert len(outputs(out)) == 1
    assert "bad.safetensors: the file has 2 bytes" in capsys.readouterr().err


def test_an_existing_result_is_kept_without_overwrite(lora, out, capsys) -> None:
    assert run("resize", lora, "-o", out, "-r", "rank=2") == 0
    (result,) = out.iterdir()
    before = result.stat().st_mtime_ns
    assert run("resize", lora, "-o", out, "-r", "rank=2") == 1
    assert result.stat().st_mtime_ns == before
    assert "exists already" in capsys.readouterr().err
    assert run("resize", lora, "-o", out, "-r", "rank=2", "--overwrite") == 0
    assert result.stat().st_mtime_ns != before
    assert outputs(out) == [result.name]


@pytest.mark.parametrize("recipe", ["rank=2", "medium"])
def test_overwrite_replaces_results_of_ours_alone(lora, out, recipe, capsys) -> None:
    assert run("resize", lora, "-o", out, "-r", recipe) == 0
    (result,) = out.iterdir()
    result.write_bytes(lora.read_bytes())
    assert run("resize", lora, "-o", out, "-r", recipe, "--overwrite") == 1
    assert result.read_bytes() == lora.read_bytes()
    assert "is not a result of Resize LoRA" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["rank=2", "fro_lora=1,thr=-0.5", "medium", "size=0.3"])
def test_skip_existing_leaves_results_without_opening_the_source(lora, out, recipe, monkeypatch, capsys) -> None:
    assert run("resize", lora, "-o", out, "-r", recipe) == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    from lib_resize.engine import batch

    monkeypatch.setattr(batch, "analyse", lambda *arguments: pytest.fail("was decomposed again"))
    assert run("resize", lora, "-o", out, "-r", recipe, "--skip-existing") == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert "skipped" in capsys.readouterr().out


def test_folders_are_walked_and_their_shape_is_kept(lora, out, tmp_path) -> None:
    library = tmp_path / "my loras"
    for place in ("a.safetensors", "角色/b.safetensors", "角色/deep er/c.safetensors"):
        (library / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lora, library / place)
    (library / "notes.txt").write_text("no LoRA")
    assert run("resize", library, "-o", out, "-r", "rank=1") == 0
    assert outputs(out) == sorted(
        str(Path(name)) for name in
        ("a_rank1.safetensors", "角色/b_rank1.safetensors", "角色/deep er/c_rank1.safetensors"))  # fmt: skip


def test_results_next_to_their_sources_are_not_resized_again(lora, tmp_path) -> None:
    library = tmp_path / "loras"
    library.mkdir()
    shutil.copy(lora, library / "a.safetensors")
    for _ in range(2):
        assert run("resize", library, "-r", "rank=1", "--skip-existing") == 0
    assert outputs(library) == ["a.safetensors", "a_rank1.safetensors"]


def test_equal_names_of_different_folders_stay_apart(lora, out, tmp_path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        shutil.copy(lora, tmp_path / place / "same.safetensors")
    both = (tmp_path / "one/same.safetensors", tmp_path / "two/same.safetensors")
    assert run("resize", *both, "-o", out, "-r", "rank=1") == 0
    assert outputs(out) == ["same_rank1.safetensors", "same_rank1_2.safetensors"]
    assert metadata(out / "same_rank1_2.safetensors")["ss_output_name"] == "same_rank1_2"


def test_a_name_taken_elsewhere_in_the_tree_is_not_used(lora, out) -> None:
    (out / "sub").mkdir(parents=True)
    (out / "sub/pastry_rank1.safetensors").write_bytes(b"")
    assert run("resize", lora, "-o", out, "-r", "rank=1") == 0
    assert "pastry_rank1_2.safetensors" in outputs(out)


def test_patterns_are_expanded_where_the_shell_does_not(lora, out, tmp_path) -> None:
    for name in ("a1", "a2", "b1"):
        shutil.copy(lora, tmp_path / f"{name}.safetensors")
    assert run("resize", tmp_path / "a*.safetensors", "-o", out, "-r", "rank=1") == 0
    assert outputs(out) == ["a1_rank1.safetensors", "a2_rank1.safetensors"]


def test_suffix_names_the_result(lora, out) -> None:
    assert run("resize", lora, "-o", out, "-r", "rank=1", "--suffix", "_small") == 0
    assert outputs(out) == ["pastry_small.safetensors"]


def test_the_source_is_never_overwritten(lora, tmp_path) -> None:
    source = tmp_path / "a.safetensors"
    shutil.copy(lora, source)
    before = source.read_bytes()
    assert run("resize", source, "--suffix", "", "--overwrite", "-r", "rank=1") == 1
    assert source.read_bytes() == before


def test_sidecars_come_along_unless_not_wanted(lora, out, tmp_path) -> None:
    source = tmp_path / "a.safetensors"
    shutil.copy(lora, source)
    (tmp_path / "a.preview.png").write_bytes(b"picture")
    (tmp_path / "a.json").write_text('{"activation text": "pastry"}')
    (tmp_path / "a.metadata.json").write_text(json.dumps({"file_name": "a", "sha256": "old", "notes": "mine"}))
    assert run("resize", source, "-o", out, "-r", "rank=1") == 0
    assert outputs(out) == [f"a_rank1{end}" for end in (".json", ".metadata.json", ".preview.png", ".safetensors")]
    sidecar = json.loads((out / "a_rank1.metadata.json").read_text())
    assert sidecar["file_name"] == "a_rank1"
    assert sidecar["notes"] == "mine"
    assert sidecar["sha256"] != "old"
    assert run("resize", source, "-o", tmp_path / "bare", "-r", "rank=1", "--no-sidecars") == 0
    assert outputs(tmp_path / "bare") == ["a_rank1.safetensors"]


def test_metadata_is_copied_and_made_true(checkpoint, lora, out) -> None:
    assert run("resize", checkpoint, lora, "-o", out, "-r", "fro_ckpt=1,thr=-3") == 0
    before, after = metadata(lora), metadata(out / "pastry_frockpt1_th-3.safetensors")
    assert after["ss_tag_frequency"] == before["ss_tag_frequency"]
    assert after["ss_base_model_version"] == "sdxl_base_v1-0"
    assert after["ss_network_dim"] == "Dynamic"
    assert after["ss_output_name"] == "pastry_frockpt1_th-3"
    record = json.loads(after["resize_lora"])
    with SafeFile(lora) as file:
        assert record["source_sha256"] == file.sha256()
    assert (record["source"], record["recipe"], record["threshold"]) == (lora.name, "fro_ckpt=1,thr=-3", -3.0)
    assert 0.5 < record["retention"] <= 1


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["resize", "nope.safetensors"], 1, "no such file"),
        (["resize", "nothing*.safetensors"], 2, "nothing matches"),
        (["resize", "LORA", "-r", "frob=1"], 2, "unknown word 'frob'"),
        (["resize", "LORA", "-r", "fro_ckpt=1,thr=-2"], 2, "Name a checkpoint first"),
        (["resize", "CHECKPOINT"], 2, "is a checkpoint; name the LoRA files after it"),
        (["resize", "LORA", "-d", "warp", "-r", "rank=1"], 1, "device 'warp' cannot be used"),
        (["resize", "LORA", "--base", "LORA", "-r", "rank=1"], 1, "no base model found"),
        (["resize", "LORA", "--report", "no/such/folder/r.json"], 2, "--report"),
        (["resize", "LORA:0"], 2, "weight 0"),
        (["resize", "LORA,"], 2, "a name is missing"),
        (["resize", "LORA", "-r", "size=0.001"], 1, "the smallest file"),
        (["resize", "LORA", "--threads", "0"], 2, "not a number of threads"),
        (["resize"], 2, "required"),
        ([], 2, "required"),
    ],
)
def test_bad_commands_end_with_a_sentence_and_their_status(
    arguments, status, text, checkpoint, lora, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [word.replace("LORA", str(lora)).replace("CHECKPOINT", str(checkpoint)) for word in arguments]
    assert run(*named, *(["-o", tmp_path / "out"] if named else [])) == status
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists() or not outputs(tmp_path / "out")


def test_a_lora_of_another_family_is_reported(checkpoint, out, tmp_path, capsys) -> None:
    from lib_resize.demo.models import SMALL  # names of SD1.5 that SDXL has not

    foreign = write_lora(tmp_path / "foreign.safetensors", LoraOptions(model=SMALL, rank=2))
    data = foreign.read_bytes().replace(b"put_blocks_", b"put_bricks_")
    foreign.write_bytes(data)
    assert run("resize", checkpoint, foreign, "-o", out, "-r", "fro_ckpt=1,thr=-3") == 1
    error = capsys.readouterr().err
    assert "have no partner in small_sdxl.safetensors" in error
    assert "made for another model family" in error


def test_layers_that_the_checkpoint_lacks_are_scored_by_themselves(checkpoint, out, tmp_path, capsys) -> None:
    from lib_resize.demo.models import SMALL

    lora = write_lora(tmp_path / "lora.safetensors", LoraOptions(model=SMALL, rank=2))
    lora.write_bytes(lora.read_bytes().replace(b"lora_unet_input_blocks_4_1", b"lora_unet_other_blocks_4_1"))
    assert run("resize", checkpoint, lora, "-o", out, "-r", "fro_ckpt=1,thr=-3") == 0
    printed = "".join(capsys.readouterr())
    assert "scored without the base model: small_sdxl.safetensors has no such layers" in printed
    assert "22 layers (lora_unet_other_blocks_4_1" in printed


def test_a_checkpoint_among_the_loras_is_recognised(checkpoint, lora, out, capsys) -> None:
    assert run("resize", lora, checkpoint, "-o", out, "-r", "rank=1") == 1
    assert "this is a base model, not a LoRA" in capsys.readouterr().err
    assert outputs(out) == ["pastry_rank1.safetensors"]


# Norm cache -------------------------------------------------------------------------------------------------


def cached() -> Path:
    (path,) = cache_folder().glob("norms-*.json")
    return path


def retention(checkpoint: Path, lora: Path, out: Path) -> float:
    report = out.with_suffix(".json")
    assert run("resize", checkpoint, lora, "-o", out, "-r", "spn_ckpt=1,thr=-1.5", "--dry-run", "--report", report) == 0
    share: float = json.loads(report.read_text("utf-8"))[0]["retention"]
    return share


def test_a_second_run_touches_no_base_weight(checkpoint, lora, out, monkeypatch) -> None:
    from lib_resize.base.checkpoint import Checkpoint

    first = retention(checkpoint, lora, out)
    monkeypatch.setattr(Checkpoint, "matrix", lambda *arguments: pytest.fail("the base was read again"))
    assert retention(checkpoint, lora, out) == first


def test_a_moved_checkpoint_keeps_its_norms_and_a_changed_one_loses_them(checkpoint, lora, out, tmp_path) -> None:
    retention(checkpoint, lora, out)
    before = set(cache_folder().iterdir())
    moved = tmp_path / "renamed model.safetensors"
    shutil.copy(checkpoint, moved)
    retention(moved, lora, out)
    assert set(cache_folder().iterdir()) == before
    data = bytearray(moved.read_bytes())
    for at in range(len(data) // 2, len(data), 64):
        data[at] ^= 1
    moved.write_bytes(data)
    retention(moved, lora, out)
    assert len(set(cache_folder().iterdir())) == len(before) + 1


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"version": 1}', b"\xff\xfe", b'{"version":1,"norms":{"a":["x",1]}}', b"[]", b"null"]
)
def test_a_damaged_cache_is_ignored_and_rebuilt(checkpoint, lora, out, damage, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "cache"))
    first = retention(checkpoint, lora, out)
    whole = cached().read_bytes()
    cached().write_bytes(damage)
    assert retention(checkpoint, lora, out) == first
    assert cached().read_bytes() == whole


def test_an_unwritable_cache_only_costs_time(checkpoint, lora, out, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RESIZE_LORA_CACHE", str(tmp_path / "file" / "cache"))
    assert 0 < retention(checkpoint, lora, out) <= 1


# Inspect and demo -------------------------------------------------------------------------------------------


def test_inspect_predicts_the_sizes_that_resize_writes(lora, out, capsys) -> None:
    assert run("inspect", "--json", lora) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["family"], found["kind"], found["spelling"]) == ("SDXL", "LoCon", "kohya (SGM)")
    assert found["ranks"] == {"8": found["layers"]}
    assert 1 < found["effective_rank"] < 8
    for share, predicted in found["predicted"].items():
        assert run("resize", lora, "-o", out / share, "-r", f"fro_lora=1,min_rank=1,retain={share}") == 0
        assert next((out / share).iterdir()).stat().st_size == predicted


def test_inspect_reports_what_hosts_refuse(out, tmp_path, capsys) -> None:
    path = write_lora(tmp_path / "x.safetensors", LoraOptions(rank=2, spelling="diffusers"))
    assert run("inspect", path) == 0
    assert "A1111 loads none of it" in capsys.readouterr().out


def test_inspect_goes_on_after_a_bad_file_and_fails_at_the_end(lora, tmp_path, capsys) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"")
    assert run("inspect", tmp_path / "bad.safetensors", lora) == 1
    captured = capsys.readouterr()
    assert "bad.safetensors" in captured.err
    assert "SDXL LoCon" in captured.out


def test_the_demo_runs_with_nothing_but_the_package(tmp_path, capsys) -> None:
    assert run("demo", "--keep", tmp_path / "demo") == 0
    table = capsys.readouterr().out
    assert table.count("%") >= 12
    assert len(outputs(tmp_path / "demo/resized")) == 6


# Whole processes --------------------------------------------------------------------------------------------


def command(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lib_resize", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        cwd=Path(cli.__file__).parents[2],
        env=env,
    )


def test_a_pipe_sees_no_bars(lora, out) -> None:
    ended = command("resize", lora, "-o", out)
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert "\r" not in ended.stdout


def test_a_terminal_that_knows_no_unicode_does_not_stop_the_work(lora, out) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = command("resize", lora, "-o", out, "--report", out.parent / "日本.json", env=environment)
    assert ended.returncode == 0, ended.stderr
    assert len(outputs(out)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_batch_lets_go_of_the_files_it_is_done_with(lora, out, tmp_path, monkeypatch) -> None:
    from lib_resize.engine import batch
    from lib_resize.engine.analysing import analyse

    library = _library(lora, tmp_path / "library", 8)
    mapped: list[int] = []

    def counting(*arguments, **options):
        maps = Path("/proc/self/maps").read_text("utf-8")
        mapped.append(len({line.split()[-1] for line in maps.splitlines() if str(library) in line}))
        return analyse(*arguments, **options)

    monkeypatch.setattr(batch, "analyse", counting)
    assert run("resize", library, "-o", out, "-r", "rank=1:rank=2") == 0
    assert len(mapped) == 8
    assert max(mapped) <= 2


def test_the_same_input_gives_the_same_bytes(checkpoint, lora, out) -> None:
    for place, threads in (("one", 1), ("two", 3)):
        command("resize", checkpoint, lora, "-o", out / place, "-r", "fro_ckpt=1,size=0.3", "--threads", threads)
    names = outputs(out / "one")
    assert names == outputs(out / "two")
    for name in names:
        assert (out / "one" / name).read_bytes() == (out / "two" / name).read_bytes()


def _library(lora: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        shutil.copy(lora, folder / f"{i:03}.safetensors")
    return folder


def _wait_for(folder: Path, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not any(folder.glob("*.safetensors")):
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_a_stopped_batch_leaves_whole_files_only(lora, out, tmp_path, number, status) -> None:
    library = _library(lora, tmp_path / "library", 40)
    arguments = [sys.executable, "-m", "lib_resize", "resize", str(library), "-o", str(out), "-r", "medium:rank=2"]
    process = subprocess.Popen(
        arguments, cwd=Path(cli.__file__).parents[2], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    _wait_for(out, process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    finished = list(out.glob("*.safetensors"))
    assert 0 < len(finished) < 80
    for path in finished:
        with SafeFile(path) as file:
            json.loads(file.header.metadata["resize_lora"])
    if number != signal.SIGKILL:
        assert b"stopped; finished files are complete" in error
        assert len(outputs(out)) == len(finished)
    assert all(path.read_bytes() == lora.read_bytes() for path in library.iterdir())


def test_two_batches_at_once_share_one_output_folder(checkpoint, lora, out, tmp_path) -> None:
    library = _library(lora, tmp_path / "library", 6)
    arguments = [sys.executable, "-m", "lib_resize", "resize", str(checkpoint), str(library), "-o", str(out),
                 "-r", "fro_ckpt=1,thr=-2", "--skip-existing", "--continue-on-error"]  # fmt: skip
    where = Path(cli.__file__).parents[2]
    both = [subprocess.Popen(arguments, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0 or b"exists already" in error, error
    assert outputs(out) == [f"{i:03}_frockpt1_th-2.safetensors" for i in range(6)]
    for name in outputs(out):
        with SafeFile(out / name) as file:
            assert file.header.metadata["ss_output_name"] == Path(name).stem


# Words and numbers ---------------------------------------------------------------------------------------------

NUMBERS = ["²", "٣٤x", "-1", "1.5", "1e3", "9" * 5000, "", " 1", "0x10", "1_0"]


@pytest.mark.parametrize("text", NUMBERS)
@pytest.mark.parametrize(
    "option", ["upsample --rank", "resize --threads", "resize --niter", "resize --seed", "ui --port", "extract --rank",
               "extract --conv-rank", "extract --max-rank"]
)  # fmt: skip
def test_what_is_no_number_is_refused_in_words(option, text, capsys) -> None:
    command, name = option.split()
    assert run(command, "a", "b", f"{name}={text}") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"argument {name}: '.*' is not a .+, \d+ to \d+$", error)
    assert len(error) < 200


def test_a_seed_without_a_random_method_is_refused_before_any_file_is_written(lora, out, capsys) -> None:
    assert run("resize", lora, "-o", out, "-r", "rank=4", "--seed", "1") == 2
    assert "'seed' works only with rsvd, projection, sparse or extend" in capsys.readouterr().err
    assert not out.exists() or not outputs(out)


@pytest.mark.parametrize("command", ["resize", "inspect", "library", "merge", "upsample"])
@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "", "x" * 300 + ":0.5", "[" + "y" * 300])
def test_no_name_ends_in_a_traceback(command, name, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    more = {"upsample": ["--rank", 4]}.get(command, [])
    assert run(command, name, *more) in (1, 2)
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert "internal error" not in errors


@pytest.mark.skipif(sys.platform != "linux", reason="other systems store no such name")
def test_a_name_that_is_not_utf8_is_resized_under_a_clean_one(lora, tmp_path, capsys) -> None:
    source = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    source.write_bytes(lora.read_bytes())
    source.with_suffix(".json").write_text('{"file_name": "x", "sha256": "1"}')
    report = tmp_path / "r.json"
    assert run("resize", source, "-r", "rank=1", "--report", report) == 0
    assert outputs(tmp_path) == sorted([source.name, "caf__rank1.safetensors", "caf__rank1.json", "r.json",
                                        source.with_suffix(".json").name])  # fmt: skip
    assert os.fsencode(json.loads(report.read_text("utf-8"))[0]["source"]) == os.fsencode(source)
    assert "caf\\xe9" not in capsys.readouterr().err


# What a path option must not touch -------------------------------------------------------------------------------


def _victims(folder: Path) -> dict[str, Path]:
    """Things that must not be lost, and other names of them."""
    names = {
        "source": "a.safetensors", "preview": "a.preview.png", "sidecar": "a.json", "notes": "a.txt", "mine": "r.json"
    }  # fmt: skip
    found = {kind: folder / name for kind, name in names.items()}
    for path in list(found.values())[1:]:
        path.write_bytes(b'{"description": "mine"}')
    found["hard"], found["soft"], found["dangling"] = (folder / f"{kind}.json" for kind in ("hard", "soft", "dangling"))
    os.link(found["source"], found["hard"])
    found["soft"].symlink_to(found["source"])
    found["dangling"].symlink_to(folder / "gone")
    found["pipe"], found["folder"] = folder / "pipe.json", folder / "folder.json"
    os.mkfifo(found["pipe"])
    found["folder"].mkdir()
    return found


VICTIMS = ["source", "preview", "sidecar", "notes", "mine", "hard", "soft", "dangling", "pipe", "folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes")
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("command", ["report", "merge", "plot"])
def test_no_path_option_replaces_what_is_not_ours(lora, tmp_path, command, victim, capsys) -> None:
    (tmp_path / "a.safetensors").write_bytes(lora.read_bytes())
    paths = _victims(tmp_path)
    before = {path: (path.lstat().st_ino, path.is_file() and path.read_bytes()) for path in tmp_path.iterdir()}
    source, target = tmp_path / "a.safetensors", paths[victim]
    if command == "report":
        status = run("resize", source, "-r", "rank=1", "--report", target)
    elif command == "merge":
        aimed = tmp_path / f"{target.name.removesuffix('.safetensors')}.safetensors"
        if aimed != target and victim != "folder":
            aimed.hardlink_to(target) if victim not in ("soft", "dangling") else aimed.symlink_to(target)
            before[aimed] = (aimed.lstat().st_ino, aimed.is_file() and aimed.read_bytes())
        status = run("merge", f"{source}:0.5", "-o", target if victim == "folder" else aimed, "--overwrite")
    else:
        if victim != "folder":
            status = run("inspect", source, "--plot", target)
        else:
            status = run("inspect", source, "--plot", tmp_path)
    assert status in ((0, 1) if (command, victim) == ("merge", "folder") else (1, 2))
    after = {path: (path.lstat().st_ino, path.is_file() and path.read_bytes()) for path in before}
    assert after == before
    assert "Traceback" not in capsys.readouterr().err


def test_a_destination_that_cannot_work_is_refused_before_the_work(lora, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    monkeypatch.setattr("lib_resize.engine.batch.analyse", None)  # would be called, and fail in other words
    assert run("resize", lora, "-o", tmp_path / "file", "-r", "rank=1") == 1
    assert run("merge", f"{lora}:0.5", "-o", tmp_path / "x", "--overwrite") == 1
    assert run("resize", lora, "-o", tmp_path, "-r", "rank=1:rank=2", "--suffix", "/../x", "--dry-run") == 1
    error = capsys.readouterr().err
    assert "there is a file where a folder should be" in error
    assert "is not a result of Resize LoRA" in error


def test_a_demo_replaces_nothing(tmp_path, capsys) -> None:
    (tmp_path / "pastry.safetensors").write_bytes(b"mine")
    assert run("demo", "--keep", tmp_path) == 1
    assert (tmp_path / "pastry.safetensors").read_bytes() == b"mine"
    assert outputs(tmp_path) == ["pastry.safetensors"]


def test_a_file_that_appears_during_the_work_is_not_replaced(lora, out, monkeypatch, capsys) -> None:
    assert run("resize", lora, "-o", out, "-r", "rank=2") == 0
    (result,) = out.iterdir()
    monkeypatch.setattr("lib_resize.engine.writing.check_deltas", lambda *_: result.write_bytes(b"mine"))
    assert run("resize", lora, "-o", out, "-r", "rank=2", "--overwrite") == 1
    assert result.read_bytes() == b"mine"
    assert "is not a result of Resize LoRA" in capsys.readouterr().err


def test_the_page_refuses_a_device_that_is_not_there_at_its_start(lora, capsys) -> None:
    assert run("ui", "--lora-dir", lora.parent, "-d", "warp") == 1
    assert "device 'warp' cannot be used" in capsys.readouterr().err


def test_the_panel_without_a_webui_bakes_with_the_presets_of_the_command_line(lora, tmp_path, capsys) -> None:
    from lib_resize.hosts.standalone import StandaloneHost

    presets = tmp_path / "mine.txt"
    assert StandaloneHost([lora.parent], presets=presets).block_presets() == presets
    assert run("ui", "--lora-dir", lora.parent, "--lbw-presets", presets) == 1
    assert "mine.txt: cannot be read as presets of block weights" in capsys.readouterr().err

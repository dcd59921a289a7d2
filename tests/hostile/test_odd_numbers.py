"""Numbers that no host can apply are one clear line each, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from lib_resize.cli import main as cli

LAYER = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


def lora(path: Path, stem: str = LAYER, **changes: np.ndarray) -> Path:
    """Return one layer, with parts replaced or added; `__` is a dot."""
    parts = {
        "lora_up.weight": np.ones((8, 4), np.float32),
        "lora_down.weight": np.eye(4, 8, dtype=np.float32),
        **{name.replace("__", "."): values for name, values in changes.items()},
    }
    save_file({f"{stem}.{name}": values for name, values in parts.items()}, path)
    return path


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> str:
    """The one line that the command prints before its table."""
    out = folder / "out"
    assert cli.main([*map(str, words), "-r", "rank=2", "-o", str(out), "--threads", "1"]) in (1, 2)
    assert not [path for path in out.rglob("*") if path.is_file()]
    (line,) = capsys.readouterr().err.splitlines()
    assert "a fault of" not in line
    return line


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"alpha": np.array(1e300)}, f"{LAYER}.alpha is 1e+300; a finite float32 number was expected"),
        ({"lora_up__weight": np.full((8, 4), 1e80)}, "its delta is larger than any number of float32"),
        ({"alpha": np.array(3e38, np.float32)}, "its delta is larger than any number of float32"),
        ({"lora_up__weight": np.full((8, 4), 1e-44, np.float32)}, "all 1 layers are zero"),
        ({"alpha": np.array(1e-44, np.float32)}, "all 1 layers are zero"),
        ({"dora_scale": np.full((8, 1), np.nan, np.float32)}, f"{LAYER}.dora_scale has NaN or infinite values"),
        ({"dora_scale": np.full((8, 1), np.inf, np.float16)}, f"{LAYER}.dora_scale has NaN or infinite values"),
        ({"diff_b": np.full(8, -np.inf, np.float32)}, f"{LAYER}.diff_b has NaN or infinite values"),
    ],
)
def test_a_file_with_numbers_that_hosts_cannot_apply_is_refused(tmp_path, capsys, changes, expected):
    line = refused(capsys, tmp_path, "resize", lora(tmp_path / "a.safetensors", **changes))
    assert expected in line
    assert line.startswith("resize-lora: ")


def test_a_merge_of_numbers_whose_squares_leave_float32_is_refused_by_layer(tmp_path, capsys):
    up = np.ones((8, 4), np.float32)
    up[0, 0] = 1e38
    big, other = lora(tmp_path / "a.safetensors", lora_up__weight=up), lora(tmp_path / "b.safetensors")
    line = refused(capsys, tmp_path, "resize", f"{big}:0.5,{other}:-0.5")
    assert f"layer {LAYER}: " in line
    assert "more than F16 can" in line


def test_a_sum_of_whole_weights_whose_squares_leave_float32_does_not_count_as_cancelled(tmp_path, capsys):
    rng = np.random.default_rng(0)
    names = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, strength in zip(names, (1e30, 1.0), strict=True):
        save_file({f"{LAYER}.diff": (strength * rng.standard_normal((8, 8))).astype(np.float32)}, path)
    line = refused(capsys, tmp_path, "resize", f"{names[0]}:0.5,{names[1]}:-0.5")
    assert f"layer {LAYER}: " in line
    assert "more than F16 can" in line


def test_a_strength_that_no_prompt_can_have_is_refused(tmp_path, capsys):
    line = refused(capsys, tmp_path, "resize", f"{lora(tmp_path / 'a.safetensors')}:1e300")
    assert "the strength of" in line
    assert "1e+300; expected a number up to 1e+06" in line


def test_a_line_break_in_the_name_of_a_layer_does_not_begin_a_line(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    save_file({"a\nresize-lora: all is well.lora_up.weight": np.ones((8, 4), np.float32)}, path)
    assert r"layer a\nresize-lora: all is well" in refused(capsys, tmp_path, "resize", path)


def test_a_file_that_the_library_reads_differently_gets_no_name(tmp_path, capsys, monkeypatch):
    """The safetensors library is what hosts open it with."""
    true = safetensors.safe_open

    class WithoutOne:
        def __init__(self, *names: Any, **options: Any) -> None:
            self._file = true(*names, **options)

        def __enter__(self):
            self._opened = self._file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self._file.__exit__(*error)

        def keys(self) -> list[str]:
            return list(self._opened.keys())[1:]

        def get_slice(self, name: str):
            return self._opened.get_slice(name)

    monkeypatch.setattr(safetensors, "safe_open", WithoutOne)
    line = refused(capsys, tmp_path, "resize", lora(tmp_path / "a.safetensors"))
    assert "the written file was read back and differs: tensor" in line

"""Death, a failing disk and a full disk at every system call of `resize`, `merge` and `extract`.

Whatever the moment: sources keep their bytes, what has a final name is whole and right, nothing else is left by a run
that could clean up, and the next run succeeds and leaves nothing behind. The suite strikes at some calls, evenly
spread; with ``RESIZE_LORA_FAULTS=all`` at each.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import faults
import numpy as np
import pytest

from lib_resize import cli
from lib_resize.files.atomic import sweep
from lib_resize.files.header import TensorSpec, file_order
from lib_resize.files.writer import write_safetensors

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
LONG = os.environ.get("RESIZE_LORA_FAULTS") == "all"
SHORT = 2
"""How many calls of each run the suite strikes at, by mode."""


def save(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int) -> Path:
    rng = np.random.default_rng(seed)
    specs = file_order(TensorSpec(name, "F16", shape) for name, shape in shapes.items())
    write_safetensors(path, specs, {}, [rng.standard_normal(spec.shape).astype(np.float16) for spec in specs])
    return path


def lora(path: Path, seed: int) -> Path:
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(6):
        stem = f"lora_unet_input_blocks_{i}_1_transformer_blocks_0_attn1_to_q"
        shapes |= {f"{stem}.lora_up.weight": (48, 8), f"{stem}.lora_down.weight": (8, 48)}
    return save(path, shapes, seed)


def checkpoint(path: Path, seed: int) -> Path:
    block = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"
    names = [f"{block}.attn{a}.to_{w}.weight" for a in (1, 2) for w in "qkv"]
    return save(path, dict.fromkeys(names, (40, 40)), seed)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    lora(folder / "a.safetensors", 1)
    lora(folder / "b.safetensors", 2)
    checkpoint(folder / "base.safetensors", 3)
    checkpoint(folder / "tuned.safetensors", 4)
    (folder / "a.txt").write_text("trigger " * 3000)
    return folder


COMMANDS: dict[str, list[str]] = {
    "resize": ["resize", "a.safetensors", "-r", "rank=3", "--suffix", "_x"],
    "resize over": ["resize", "a.safetensors", "-r", "rank=3", "--suffix", "_x", "--overwrite"],
    "merge": ["merge", "a.safetensors:0.5", "b.safetensors", "-o", "made.safetensors"],
    "extract": ["extract", "tuned.safetensors", "base.safetensors", "-o", "made.safetensors", "--rank", "3"],
}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


class Scene:
    """A folder in which one command is run again and again."""

    def __init__(self, sources: Path, folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sources, self._folder, self._name = sources, folder, command
        monkeypatch.setenv("RESIZE_LORA_CACHE", str(folder.parent / "cache"))
        self.own = digests(sources)

    def fresh(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._sources, self._folder)
        if self._name == "resize over":
            shutil.copy(self._folder / "b.safetensors", self._folder / "a_x.safetensors")
            (self._folder / "a_x.txt").write_text("old")
        self.before = digests(self._folder)

    def run(self) -> int:
        os.chdir(self._folder)
        return cli.main([*COMMANDS[self._name], "--threads", "1"])

    def look(self) -> dict[str, str]:
        return digests(self._folder)

    def sweep(self) -> None:
        sweep(self._folder)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has such a place: thousands of runs bring everything to the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


def points(calls: Sequence[str], seed: int) -> list[int]:
    """All calls, or some: those that write and name files more often than those that look."""
    if LONG:
        return list(range(1, len(calls) + 1))
    busy = [k for k, name in enumerate(calls, 1) if name not in ("open", "preadv", "scandir")]
    return random.Random(seed).sample(busy, SHORT)


SHORT_CASES = [
    *(("resize", mode) for mode in faults.MODES),
    ("resize over", "torn"),
    ("merge", "enospc"),
    ("extract", "after"),
]
CASES = [(command, mode) for command in COMMANDS for mode in faults.MODES] if LONG else SHORT_CASES


@pytest.mark.parametrize(("command", "mode"), CASES)
def test_nothing_is_lost_whatever_the_moment(sources, folder, monkeypatch, command, mode):
    scene = Scene(sources, folder / "run", command, monkeypatch)
    scene.fresh()
    whole = faults.traced(scene.run)
    assert whole.code == 0, whole.text
    assert {"write", "fsync"} <= set(whole.calls)
    right = scene.look()
    for k in points(whole.calls, len(command) * 10 + faults.MODES.index(mode)):
        scene.fresh()
        end = faults.struck(scene.run, k, mode)
        where = f"{command}, {mode} at call {k} of {len(whole.calls)} ({whole.calls[k - 1]}): {end.text}"
        left = scene.look()
        for name, digest in scene.own.items():
            assert left.get(name) == digest, f"source {name} changed: {where}"
        for name, digest in left.items():
            if name.endswith(".part"):
                assert end.was_killed, f"{name} was left: {where}"
            else:
                assert digest in (right.get(name), scene.before.get(name)), f"{name} is not whole: {where}"
        if mode in faults.FAILING:
            assert end.code in (0, 1), where
            assert "Traceback" not in end.text, where
        scene.sweep()
        assert not any(name.endswith(".part") for name in scene.look()), where
        for name in scene.look().keys() - scene.before.keys():
            (folder / "run" / name).unlink()
        again = faults.traced(scene.run)
        assert again.code == 0, f"the next run: {again.text}; {where}"
        assert scene.look() == right, where

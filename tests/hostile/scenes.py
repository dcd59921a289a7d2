"""A folder of LoRAs and checkpoints in which one command is run again and again, and cut off."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lib_resize.cli import main as cli
from lib_resize.cli import work
from lib_resize.extraction import extract
from lib_resize.files.atomic import sweep
from lib_resize.files.header import TensorSpec, file_order
from lib_resize.files.writer import write_safetensors
from tests.hostile import faults

PRELOADED = (work, extract)
"""Imported here, and not in each child anew."""


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

    def __init__(
        self, sources: Path, earlier: Path, folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._sources, self._earlier, self._folder, self._name = sources, earlier, folder, command
        monkeypatch.setenv("RESIZE_LORA_CACHE", str(folder.parent / "cache"))
        self.own = digests(sources)

    def fresh(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._sources, self._folder)
        if self._name == "resize over":
            shutil.copytree(self._earlier, self._folder, dirs_exist_ok=True)
        self.before = digests(self._folder)

    def run(self) -> int:
        os.chdir(self._folder)
        return cli.main([*COMMANDS[self._name], "--threads", "1"])

    def look(self) -> dict[str, str]:
        return digests(self._folder)

    def sweep(self) -> None:
        sweep(self._folder)

    def judge(self, right: Mapping[str, str], where: str, *, may_leave: bool) -> None:
        """Sources are as before, and what has a final name is whole; then the same command succeeds."""
        left = self.look()
        for name, digest in self.own.items():
            assert left.get(name) == digest, f"source {name} changed: {where}"
        for name, digest in left.items():
            if name.endswith(".part"):
                assert may_leave, f"{name} was left: {where}"
            else:
                assert digest in (right.get(name), self.before.get(name)), f"{name} is not whole: {where}"
        self.sweep()
        assert not any(name.endswith(".part") for name in self.look()), where
        for name in self.look().keys() - self.before.keys():
            (self._folder / name).unlink()
        again = faults.traced(self.run)
        assert again.code == 0, f"the next run: {again.text}; {where}"
        assert self.look() == right, where

"""A small library with sub-folders and sidecars, and what a folder of results contains."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lib_resize.cli.main import main
from lib_resize.recipe.grammar import parse_recipes
from lib_resize.remote.listing import list_items
from lib_resize.remote.order import Order, WorkItem
from lib_resize.remote.stores import STATE

RECIPES = "rank=2:fro_lora=1,retain=0.9"


def write_tiny(path: Path, seed: int = 0, *, rank: int = 4, layers: int = 4) -> Path:
    """A LoRA of a few layers: the tests here are about files, not about what is in them."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for number in range(layers):
        stem = f"lora_unet_input_blocks_{number}_1_proj_in"
        tensors[f"{stem}.lora_down.weight"] = random.standard_normal((rank, 24)).astype(np.float16)
        tensors[f"{stem}.lora_up.weight"] = random.standard_normal((24, rank)).astype(np.float16)
        tensors[f"{stem}.alpha"] = np.float16(rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: np.asarray(value) for key, value in tensors.items()}, path)
    return path


def write_library(folder: Path, count: int = 3) -> Path:
    """LoRAs ``a``, ``b`` …, every second one in a sub-folder; the first has sidecars."""
    folder.mkdir(parents=True)
    for number in range(count):
        home = folder / ("sub dir" if number % 2 else "")
        write_tiny(home / f"{chr(97 + number)}.safetensors", number)
    (folder / "a.png").write_bytes(b"a picture")
    (folder / "a.metadata.json").write_text(json.dumps({"file_name": "a", "file_path": "x/a.safetensors", "size": 1}))
    (folder / "notes.txt").write_text("not a sidecar")
    return folder


def order_for(output: Path | str, **more: object) -> Order:
    fields: dict[str, object] = {"recipes": parse_recipes(RECIPES), "retries": 0, **more}
    return Order(str(output), **fields)  # type: ignore[arg-type]


def only_item(folder: Path, stem: str = "a") -> WorkItem:
    return next(item for item in list_items([str(folder)]) if item.stem == stem)


def contents(folder: Path, *, markers: bool = False) -> dict[str, str]:
    """Name -> SHA-256 of every file but those of the state. The folder counts as the same in JSON sidecars."""
    own = folder.as_posix().encode()
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes().replace(own, b"OUT")).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (markers or STATE not in path.parts)
    }


def markers(folder: Path) -> list[Path]:
    return sorted((folder / STATE / "done").rglob("*.json"))


def leftovers(folder: Path) -> list[str]:
    """Files that are neither results nor markers nor manifests."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in found if path.suffix == ".part" or "tmp" in path.parts]


def plain_results(library: Path, out: Path) -> dict[str, str]:
    """What the plain command makes of a library, as `contents`."""
    assert run("resize", library, "-o", out, "-r", RECIPES) == 0
    return contents(out)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])

"""A small library with sub-folders and sidecars, and what a folder of results contains."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lib_resize.cli.main import main
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.recipe.grammar import parse_recipes
from lib_resize.remote.listing import list_items
from lib_resize.remote.order import Order, WorkItem
from lib_resize.remote.stores import STATE

RECIPES = "rank=2:fro_lora=1,retain=0.9"


def write_library(folder: Path, count: int = 3) -> Path:
    """LoRAs ``a``, ``b`` …, every second one in a sub-folder; the first has sidecars."""
    folder.mkdir(parents=True)
    for number in range(count):
        home = folder / ("sub dir" if number % 2 else "")
        home.mkdir(exist_ok=True)
        write_lora(home / f"{chr(97 + number)}.safetensors", LoraOptions(rank=4, seed=number))
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


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])

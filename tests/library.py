"""A small library of LoRAs with sidecars, and the laws that hold for it and its archive at every start."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lib_resize.adapters.write.style import Style
from lib_resize.archive.entries import Entry, entries
from lib_resize.archive.place import Archive, open_archive
from lib_resize.archive.recovery import Recovered, recover
from lib_resize.archive.replacing import Replacement, replace, staged_path
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.files import drafts
from lib_resize.files.atomic import sweep
from lib_resize.files.header import TensorSpec, file_order
from lib_resize.files.sidecars import SidecarFacts, updates_in_place
from lib_resize.files.writer import write_safetensors
from lib_resize.prompts.sources import Member, Source
from lib_resize.recipe.grammar import parse_recipes

JSONS = (".civitai.info", ".metadata.json")
OTHERS = (".preview.png", ".txt")


def write_small_lora(path: Path, seed: int, layers: int = 3) -> Path:
    """A LoRA of rank 8 in kohya's format, of a few KiB, with an alias."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(layers):
        stem = f"lora_unet_input_blocks_{i}_1_transformer_blocks_0_attn1_to_q"
        shapes |= {f"{stem}.lora_up.weight": (48, 8), f"{stem}.lora_down.weight": (8, 48)}
    rng = np.random.default_rng(seed)
    specs = file_order(TensorSpec(name, "F16", shape) for name, shape in shapes.items())
    data = [rng.standard_normal(spec.shape).astype(np.float16) for spec in specs]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, specs, {"ss_output_name": f"alias {seed}"}, data)
    return path


def write_sidecars(lora: Path) -> None:
    """A preview, a text, and two JSON files with facts about the LoRA."""
    data = lora.read_bytes()
    digest = sha256(data)
    for suffix in OTHERS:
        lora.with_name(lora.stem + suffix).write_bytes(f"{suffix} of {lora.stem}".encode() * 9)
    file = {"name": lora.name, "sizeKB": len(data) / 1024, "hashes": {"SHA256": digest.upper(), "AutoV2": digest[:10]}}
    info = {"modelId": 7, "trainedWords": ["ink"], "files": [file]}
    lora.with_name(lora.stem + JSONS[0]).write_text(json.dumps(info, indent=2))
    manager = {"file_name": lora.stem, "file_path": str(lora), "size": len(data), "sha256": digest, "notes": "mine"}
    lora.with_name(lora.stem + JSONS[1]).write_text(json.dumps(manager))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def contents(*folders: Path) -> dict[Path, bytes]:
    """Every file below the folders, links not followed."""
    found = (Path(place) / name for folder in folders for place, _, names in os.walk(folder) for name in names)
    return {path: path.read_bytes() for path in found}


def made_from(lora: Path, recipe: str, target: Path) -> bytes:
    """The bytes of the file that would replace a LoRA."""
    settings = Settings(
        recipes=parse_recipes(recipe),
        style=Style(keep_name=True),
        sidecars=False,
        overwrite=True,
        staged=lambda _: target,
    )
    (outcome,) = resize([Source((Member(lora),))], settings)
    if outcome.error is not None:
        raise outcome.error
    return target.read_bytes()


class Library:
    """One LoRA with sidecars, an archive, and two smaller files; made anew as often as wanted, without the engine."""

    def __init__(self, folder: Path, archive: Path, stem: str = "ink") -> None:
        self.root = folder / "Lora"
        self.lora = self.root / "style" / f"{stem}.safetensors"
        self.place = archive
        self.archive: Archive
        write_sidecars(write_small_lora(self.lora, 1))
        self.first = contents(self.root)
        self.small = {recipe: made_from(self.lora, recipe, folder / "x.staged") for recipe in ("rank=2", "rank=1")}
        (folder / "x.staged").unlink()
        self.fresh()

    @property
    def original(self) -> bytes:
        return self.first[self.lora]

    def fresh(self) -> None:
        """Only the originals, and an empty archive."""
        for folder in (self.root, self.place):
            shutil.rmtree(folder, ignore_errors=True)
        for path, data in self.first.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.archive = open_archive(self.place, [self.root])

    def staged(self, recipe: str) -> Replacement:
        """The smaller file, waiting."""
        staged = staged_path(self.lora)
        staged.write_bytes(self.small[recipe])
        return Replacement(self.lora, staged, sha256(self.original), "run", self.lora.stem, facts={"recipe": recipe})

    def replaced(self, recipe: str) -> Entry:
        return replace(self.archive, self.staged(recipe))

    def started(self) -> list[Recovered]:
        """What a new start does: the host sweeps its folders, and the archive recovers. Nothing of a step is left."""
        found = recover(self.archive)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                drafts, "_runs", lambda process: False
            )  # the staged file of this process is that of a dead one
            sweep(self.lora.parent)
        assert recover(self.archive) == []
        strange = [
            path for path in contents(self.root, self.place) if path.suffix in (".part", ".staged", ".aside", ".open")
        ]
        assert strange == [], strange
        return found

    def state(self) -> str:
        """``original``, or the recipe of the smaller file. Checks that all belongs together, entry and sidecars too."""
        now = self.lora.read_bytes()
        state = next((recipe for recipe, data in self.small.items() if data == now), "original")
        if state == "original":
            assert contents(self.root) == self.first
            assert entries(self.archive) == []
            assert contents(self.archive.originals) == {}
            return state
        check_entries(self.archive, {path.name: sha256(data) for path, data in self.first.items()})
        (entry,) = entries(self.archive)
        assert (entry.home, entry.facts) == (self.lora, {"recipe": state})
        assert {one.home.name for one in entry.sidecars} == {f"{self.lora.stem}{suffix}" for suffix in JSONS}
        check_facts(self.lora)
        assert_others_stay(self.lora, self.first)
        return state


def check_entries(archive: Archive, first: Mapping[str, str]) -> None:
    """All hashes of the entries are true, and the archive has exactly their originals, each once.

    `first` is the SHA-256 of each original, by its file name.
    """
    kept = []
    for entry in entries(archive):
        assert entry.original is not None
        assert sha256(entry.original.read_bytes()) == entry.sha256_before == first[entry.home.name]
        assert sha256(entry.home.read_bytes()) == entry.sha256_after
        assert (entry.original.stat().st_size, entry.home.stat().st_size) == (entry.bytes_before, entry.bytes_after)
        kept.append(entry.original)
        for one in entry.sidecars:
            assert sha256(one.kept.read_bytes()) == one.before == first[one.home.name]
            assert sha256(one.home.read_bytes()) == one.after
            kept.append(one.kept)
    assert Counter(contents(archive.originals).keys()) == Counter(kept)


def check_facts(lora: Path) -> None:
    """The JSON sidecars say the truth about the file: an update would change nothing."""
    data = lora.read_bytes()
    facts = SidecarFacts(len(data), sha256(data), sha256(data), lora.stat().st_mtime)
    assert updates_in_place(lora, facts) == []


def assert_others_stay(lora: Path, first: Mapping[Path, bytes]) -> None:
    for suffix in OTHERS:
        path = lora.with_name(lora.stem + suffix)
        assert path.read_bytes() == first[path]

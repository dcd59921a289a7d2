"""A host for tests: folders of LoRAs, an optional model, and a record of the calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_resize.errors import Cancelled, FileError
from lib_resize.hosts.host import (
    CARDS,
    GENERATE,
    LOADED_MODEL,
    PROMPT,
    XYZ,
    CheckpointFile,
    GeneratedImage,
    ImageWatch,
    LoadedModel,
    LoraFile,
    LoraList,
)
from lib_resize.hosts.locks import SharedLock

ALL_FEATURES = frozenset({LOADED_MODEL, GENERATE, PROMPT, CARDS, XYZ})
ENDINGS = (".safetensors", ".pt", ".ckpt")


@dataclass
class FakeHost:
    """Set the fields to describe the host; read the calls that it got from `events`."""

    roots: list[Path]
    checkpoint_files: list[Path] = field(default_factory=list)
    model: LoadedModel | None = None
    selected: str | None = None
    name: str = "Fake WebUI"
    features: frozenset[str] = ALL_FEATURES
    remote: bool = False
    working_on: str | None = None
    """Set it to be busy."""
    where: str = "cpu"
    listed: Sequence[LoraFile] | None = None
    """The host's list; None: read from the folders at each call. `refresh` reads it again."""
    set: dict[str, Any] = field(default_factory=dict)
    """The host's settings page."""
    picture: Callable[[Mapping[str, Any]], Any] | None = None
    latent: Callable[[Mapping[str, Any]], Any] | None = None
    """The latents of an image; None: the host gives none."""
    events: list[tuple[Any, ...]] = field(default_factory=list)
    queue_lock: Any = field(default_factory=threading.Lock)
    """Hold it to act as if an image is being generated."""

    presets: Path | None = None
    looks: int = 0
    """How often the list was asked for."""

    def __post_init__(self) -> None:
        self._lock = SharedLock(self.queue_lock)
        self._stopped = threading.Event()

    @property
    def holds_lock(self) -> bool:
        return self._lock.held

    def lora_roots(self) -> list[Path]:
        return list(self.roots)

    def loras(self) -> LoraList:
        self.looks += 1
        return LoraList(self.listed if self.listed is not None else self._scan())

    def _scan(self) -> list[LoraFile]:
        found: dict[str, LoraFile] = {}
        for root in self.roots:
            for path in sorted(root.rglob("*")):
                if path.suffix in ENDINGS:
                    preview = path.with_suffix(".png")
                    found[path.stem] = LoraFile(path.stem, path, None, preview if preview.exists() else None)
        return sorted(found.values(), key=lambda lora: lora.name)

    def resolve(self, name: str) -> LoraFile:
        lora = self.loras().get(name)
        if lora is None:
            raise FileError(f"{name}: no LoRA of this name is in the list of {self.name}.")
        return lora

    def checkpoints(self) -> list[CheckpointFile]:
        return [CheckpointFile(path.name, path) for path in self.checkpoint_files]

    def loaded(self) -> LoadedModel | None:
        return self.model

    def pending(self) -> str | None:
        return self.selected

    def lock(self) -> AbstractContextManager[None]:
        self.events.append(("lock",))
        return self._lock.shared()

    def busy(self) -> str | None:
        return self.working_on

    def is_wanted(self) -> bool:
        return False

    def device(self) -> str:
        return self.where

    def make_room(self, bytes: int) -> None:
        self.events.append(("make_room", bytes))

    def tidy(self) -> None:
        self.events.append(("tidy",))

    def refresh(self) -> None:
        self.events.append(("refresh",))
        if self.listed is not None:
            self.listed = self._scan()

    def replaced(self, paths: Collection[Path]) -> None:
        self.events.append(("replaced", *sorted(path.stem for path in paths), "locked" if self._lock.held else "open"))

    def is_remote(self) -> bool:
        return self.remote

    def settings(self) -> Mapping[str, Any]:
        return {"resize_lora_estimate": False, **self.set}

    def scanned_folders(self) -> list[Path]:
        return list(self.roots)

    def trash_root(self, path: Path | None = None) -> Path:
        home = next((root for root in self.roots if path is not None and root in path.parents), self.roots[0])
        return home / ".resize_lora_trash"

    def trash_roots(self) -> list[Path]:
        return [root / ".resize_lora_trash" for root in self.roots]

    def block_presets(self) -> Path | None:
        return self.presets

    def begin_job(self, title: str) -> None:
        self.events.append(("begin_job", title))

    def progress(self, done: int, total: int, text: str) -> None:
        self.events.append(("progress", done, total, text))

    def end_job(self) -> None:
        self.events.append(("end_job",))

    def generate(self, request: Mapping[str, Any], watch: ImageWatch | None = None) -> GeneratedImage:
        assert watch is None, "this host has no model"
        self.events.append(("generate", dict(request)))
        self._stopped.clear()
        with self._lock.alone():
            image = (self.picture or plain_picture)(request)
        if self._stopped.is_set():
            raise Cancelled("The image was stopped.")
        return GeneratedImage(image, None if self.latent is None else self.latent(request))

    def stop_generating(self) -> None:
        self.events.append(("stop_generating",))
        self._stopped.set()


def plain_picture(request: Mapping[str, Any]) -> Any:
    """One colour for one prompt and seed."""
    import zlib

    from PIL import Image

    number = zlib.crc32(f"{request['prompt']} {request.get('seed')}".encode())
    return Image.new("RGB", (32, 32), (number & 255, number >> 8 & 255, number >> 16 & 255))

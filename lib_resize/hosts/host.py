"""What the panel asks of the program that it lives in. Standard library only.

A host is a guest's view of its house: it says which LoRAs and checkpoints there are, lends the loaded model for
reading, and guards it by a lock. Features are asked for, never names of hosts:

``loaded_model``  a model is in memory and may be read
``generate``      the host makes pictures from our code
``prompt``        the page has prompts into which a LoRA can be written
``cards``         the page has cards of LoRAs
``xyz``           the host has an X/Y/Z plot
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

LOADED_MODEL = "loaded_model"
GENERATE = "generate"
PROMPT = "prompt"
CARDS = "cards"
XYZ = "xyz"


@dataclass(frozen=True)
class LoraFile:
    """A LoRA in the host's list."""

    name: str
    """What ``<lora:NAME:1>`` takes; no other entry of the list has it."""
    path: Path
    alias: str | None = None
    """Another name that the host knows it by."""
    preview: Path | None = None
    """A picture beside it."""


class LoraList(Sequence[LoraFile]):
    """One whole look at a host's list, sorted by name. Answer every question of one call from the same list.

    A file's own name wins over any alias, as in the hosts: an alias that is another file's name, or that several
    files share, names nobody.
    """

    def __init__(self, loras: Iterable[LoraFile] = ()) -> None:
        self._named = {lora.name: lora for lora in loras}
        self._loras = tuple(sorted(self._named.values(), key=lambda lora: lora.name.lower()))
        self._aliased: dict[str, list[LoraFile]] = {}
        for lora in self._loras:
            if lora.alias:
                self._aliased.setdefault(lora.alias, []).append(lora)

    def __len__(self) -> int:
        return len(self._loras)

    def __iter__(self) -> Iterator[LoraFile]:
        return iter(self._loras)

    @overload
    def __getitem__(self, index: int) -> LoraFile: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[LoraFile]: ...

    def __getitem__(self, index: int | slice) -> LoraFile | Sequence[LoraFile]:
        return self._loras[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoraList) and self._loras == other._loras

    __hash__ = None  # type: ignore[assignment]

    def get(self, name: str) -> LoraFile | None:
        """The LoRA that a prompt means by a name; None where the host finds none."""
        found = self.candidates(name)
        return found[0] if len(found) == 1 else None

    def candidates(self, name: str) -> Sequence[LoraFile]:
        """The file of that name, or else all files of that alias."""
        own = self._named.get(name)
        return (own,) if own is not None else tuple(self._aliased.get(name, ()))

    def at(self, path: Path) -> LoraFile | None:
        """The entry of a file, also where the host reaches it by another path."""
        found = self._by_path.get(path)
        if found is not None:
            return found
        alike = (lora for lora in self._loras if lora.path.name == path.name)
        return next((lora for lora in alike if same_file(lora.path, path)), None)

    @cached_property
    def folders(self) -> frozenset[Path]:
        """The folders that hold the files."""
        return frozenset(lora.path.parent for lora in self._loras)

    @cached_property
    def _by_path(self) -> Mapping[Path, LoraFile]:
        return {lora.path: lora for lora in reversed(self._loras)}


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file that exists."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint in the host's list."""

    title: str
    """As the host shows it; no other entry of the list has it."""
    path: Path


def find_checkpoint(listed: Iterable[CheckpointFile], title: str) -> CheckpointFile | None:
    """The checkpoint of a title, also of one that the host has given another hash since: ``name`` becomes
    ``name [hash]`` as soon as the host knows it. None where there is none, or several files have the name."""
    checkpoints = list(listed)
    exact = next((one for one in checkpoints if one.title == title), None)
    if exact is not None:
        return exact
    alike = [one for one in checkpoints if plain_title(one.title) == plain_title(title)]
    return alike[0] if len({one.path for one in alike}) == 1 else None


def plain_title(title: str) -> str:
    """A title without the hash that hosts put behind it."""
    name, bracket, rest = title.rpartition(" [")
    return name if bracket and rest.endswith("]") and set(rest[:-1]) <= _HEX else title


_HEX = frozenset("0123456789abcdefABCDEF")


class LoadedModel(Protocol):
    """The model that the host has in memory. An object of this kind holds names only, never a tensor or a module.

    Keys are those of a single-file checkpoint (``model.diffusion_model.….weight``,
    ``conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight``), however the host itself keeps
    the tensor: fused q, k, v or three apart.
    """

    @property
    def title(self) -> str:
        """What the host calls it."""
        ...

    @property
    def path(self) -> Path | None:
        """The file that it came from, as far as the host knows."""
        ...

    @property
    def family(self) -> str | None:
        """SDXL, SD1.5 or SD2, as far as the host knows."""
        ...

    def weight(self, key: str, rows: tuple[int, int] | None = None, device: str | None = None) -> Any | None:
        """A float32 copy of the tensor, LoRA patches set aside, as a torch tensor on a device (None: the host's).

        `rows` is a half-open range of its first dimension. None where the model has no such tensor, or where another
        model has taken its place since. Call it under the host's lock and in torch's inference mode.
        """
        ...

    def dtype(self, key: str) -> str:
        """How the tensor is kept in memory, in words of safetensors (F16, F32, F8_E4M3, ...); "" for no such tensor."""
        ...

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """All keys and shapes that `weight` can give, for a model whose file cannot be read."""
        ...

    def quantised(self) -> str | None:
        """Why the numbers in memory are not those of the file, in words; None where they are."""
        ...


class Host(Protocol):
    """The program that the panel lives in."""

    @property
    def name(self) -> str:
        """What the person calls it."""
        ...

    @property
    def features(self) -> frozenset[str]:
        """What it can do; see the words above."""
        ...

    def lora_roots(self) -> list[Path]:
        """Folders that hold LoRAs, the one for new files first; real paths, each once."""
        ...

    def loras(self) -> LoraList:
        """All LoRAs of the host's list, whole at any moment: a name is gone only when its file is gone."""
        ...

    def resolve(self, name: str) -> LoraFile:
        """One LoRA of the list by its name, or else by its alias. Raises FileError where there is none.

        For many names, look them up in one `loras`.
        """
        ...

    def checkpoints(self) -> list[CheckpointFile]:
        """All checkpoints of the host's list, by title."""
        ...

    def loaded(self) -> LoadedModel | None:
        """The model in memory; None where there is none yet. Never loads one."""
        ...

    def pending(self) -> str | None:
        """Title of the checkpoint that is selected and not loaded; None where that is the loaded one."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """While it is held the host neither makes pictures nor changes its model.

        Any thread of ours may take it while another thread of ours holds it, so it does not keep our own threads
        apart. Hold it for moments: a person's picture waits for it. Never call `generate` while holding it.
        """
        ...

    def busy(self) -> str | None:
        """What the host is doing at the moment, in words, where a job of ours would have to wait."""
        ...

    def device(self) -> str:
        """Where the host computes, as torch names it: "cpu", "cuda:0", "mps"."""
        ...

    def make_room(self, bytes: int) -> None:
        """Asks the host to free so much memory of its device. Hold the lock. Never fails."""
        ...

    def tidy(self) -> None:
        """Gives cached memory of the device back. Never fails."""
        ...

    def refresh(self) -> None:
        """The host's list of LoRAs is read again, so that it has our new files. Never fails."""
        ...

    def is_remote(self) -> bool:
        """Whether people at other machines may sit in front: then no path is shown or taken."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """What the person set on the host's settings page, by the host's keys (``resize_lora_…``); what is left out
        is as it comes."""
        ...

    def trash_root(self, path: Path | None = None) -> Path:
        """Folder for the undone result at a path; None: for new files. It may not exist yet."""
        ...

    def trash_roots(self) -> list[Path]:
        """All folders that may hold undone results, those of earlier versions included."""
        ...

    def block_presets(self) -> Path | None:
        """The person's file of block weights by name, as the extension LoRA Block Weight keeps it."""
        ...

    def begin_job(self, title: str) -> None:
        """A job of ours begins; shown in the host's own progress, where nothing else is shown there."""
        ...

    def progress(self, done: int, total: int, text: str) -> None:
        """So many steps of the job are done."""
        ...

    def end_job(self) -> None:
        """The job is over, however it ended."""
        ...

    def generate(self, request: Mapping[str, Any]) -> Any:
        """One picture (PIL image); takes the lock, saves nothing, sets everything back.

        `request` has ``prompt`` and may have ``negative_prompt``, ``seed``, ``steps``, ``cfg_scale``, ``width``,
        ``height``, ``sampler_name``, ``scheduler``, and ``loras``: names that must have been applied. Raises
        UsageError for other words, Cancelled where `stop_generating` came, FileError where a LoRA was not applied,
        and HostError where the host cannot do it.
        """
        ...

    def stop_generating(self) -> None:
        """Stops the picture of our own `generate`; nobody else's."""
        ...


class HostLock(Protocol):
    """What a host's lock has."""

    def acquire(self, blocking: bool = ..., /) -> object: ...

    def release(self) -> object: ...


class SharedLock:
    """A host's lock that is not re-entrant, taken once for all of our threads that read."""

    def __init__(self, lock: HostLock) -> None:
        self._lock = lock
        self._mutex = threading.Lock()
        self._holders = 0

    @property
    def held(self) -> bool:
        """Whether a thread of ours holds the lock."""
        return self._holders > 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Waits for its turn, or joins those of ours that have it."""
        with self._mutex:  # whoever comes while the first one waits, waits here
            if self._holders == 0:
                self._lock.acquire()
            self._holders += 1
        try:
            yield
        finally:
            with self._mutex:
                self._holders -= 1
                if self._holders == 0:
                    self._lock.release()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for its turn behind everyone, our own readers too."""
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

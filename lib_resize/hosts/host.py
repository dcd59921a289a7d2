"""The protocol between the tab and the program that it runs in. Standard library only.

A host lists LoRAs and checkpoints, gives access to the loaded model, and protects it with a lock. The code checks for
features, never for names of hosts; docs/hosts.md has all of them:

``loaded_model``  a model can be in memory, and can be read
``generate``      the host can generate images for this program
``prompt``        the page has prompts into which a LoRA can be written
``cards``         the page has cards of LoRAs
``xyz``           the host has an X/Y/Z plot
``fit``           new factors can be fitted to images of the loaded model
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

LOADED_MODEL = "loaded_model"
GENERATE = "generate"
PROMPT = "prompt"
CARDS = "cards"
XYZ = "xyz"
FIT = "fit"
IGNORES_TEXT_ENCODERS = "ignores_text_encoders"
PARTS_IN_TAGS = "parts_in_tags"

UNET = "unet"
TEXT_ENCODERS = ("text encoder 1", "text encoder 2", "text encoder 3")
"""Names of the parts of a model, in the order of LoRA files: ``te1``, ``te2`` and ``te3``."""


@dataclass(frozen=True)
class GeneratedImage:
    """One image that the host made."""

    image: Any
    """A PIL image."""
    latent: Any | None = None
    """Its final latents as a numpy array, float32 (channels, height, width); None where the host gives none."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA that the host lists."""

    name: str
    """The name in ``<lora:NAME:1>``; unique in the list."""
    path: Path
    alias: str | None = None
    """Another name that the host accepts for it."""
    preview: Path | None = None
    """An image next to it."""
    more_names: tuple[str, ...] = ()
    """Further names that the host accepts for it, and for no other file."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """All names besides its own, each once."""
        return tuple(dict.fromkeys((self.alias, *self.more_names) if self.alias else self.more_names))


class LoraList(Sequence[LoraFile]):
    """A snapshot of a host's LoRAs, sorted by name. Use one snapshot for the whole of one call.

    A file's own name takes precedence over any alias, as in the hosts: an alias that is the name of another file, or
    that several files share, finds nothing.
    """

    def __init__(self, loras: Iterable[LoraFile] = ()) -> None:
        self._named = {lora.name: lora for lora in loras}
        self._loras = tuple(sorted(self._named.values(), key=lambda lora: lora.name.lower()))
        self._aliased: dict[str, list[LoraFile]] = {}
        for lora in self._loras:
            for alias in lora.aliases:
                self._aliased.setdefault(alias, []).append(lora)

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
        """Return the LoRA that a name means in a prompt; None where the host finds none."""
        found = self.candidates(name)
        return found[0] if len(found) == 1 else None

    def candidates(self, name: str) -> Sequence[LoraFile]:
        """Return the file of that name, or else all files of that alias."""
        own = self._named.get(name)
        return (own,) if own is not None else tuple(self._aliased.get(name, ()))

    def at(self, path: Path) -> LoraFile | None:
        """Return the LoRA at a path, also where the host has another path to the same file; None if not listed."""
        found = self._by_path.get(path)
        if found is not None:
            return found
        alike = (lora for lora in self._loras if lora.path.name == path.name)
        return next((lora for lora in alike if same_file(lora.path, path)), None)

    @cached_property
    def folders(self) -> frozenset[Path]:
        """The folders that contain the files."""
        return frozenset(lora.path.parent for lora in self._loras)

    @cached_property
    def _by_path(self) -> Mapping[Path, LoraFile]:
        return {lora.path: lora for lora in reversed(self._loras)}


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to the same, existing file."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint that the host lists."""

    title: str
    """As the host shows it; unique in the list."""
    path: Path


def find_checkpoint(listed: Iterable[CheckpointFile], title: str) -> CheckpointFile | None:
    """Find a checkpoint by its title, with or without the hash: the host changes ``name`` to ``name [hash]`` as soon as
    it knows the hash. None where there is none, or several files have the name."""
    checkpoints = list(listed)
    exact = next((one for one in checkpoints if one.title == title), None)
    if exact is not None:
        return exact
    alike = [one for one in checkpoints if plain_title(one.title) == plain_title(title)]
    return alike[0] if len({one.path for one in alike}) == 1 else None


def plain_title(title: str) -> str:
    """Return a title without the hash that hosts append to it."""
    name, bracket, rest = title.rpartition(" [")
    return name if bracket and rest.endswith("]") and set(rest[:-1]) <= _HEX else title


_HEX = frozenset("0123456789abcdefABCDEF")


class LoadedModel(Protocol):
    """The model that the host has in memory. Such an object holds names only, never a tensor or a module.

    Keys are those of a single-file checkpoint (``model.diffusion_model.….weight``,
    ``conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight``), even where the host stores q, k and
    v as three tensors.
    """

    @property
    def title(self) -> str:
        """The host's name for it."""
        ...

    @property
    def path(self) -> Path | None:
        """The file that it was loaded from, if the host knows."""
        ...

    @property
    def family(self) -> str | None:
        """SDXL, SD1.5 or SD2, if the host knows."""
        ...

    def weight(self, key: str, rows: tuple[int, int] | None = None, device: str | None = None) -> Any | None:
        """Return a float32 copy of a tensor without LoRA patches, as a torch tensor on a device (None: the host's).

        `rows` is a half-open range of its first dimension. None where the model has no such tensor, or where the host
        has another model by now. Call it under the host's lock and in torch's inference mode.
        """
        ...

    def dtype(self, key: str) -> str:
        """Return safetensors' name of a tensor's dtype in memory (F16, F8_E4M3, ...); "" for no such tensor."""
        ...

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the keys and shapes of all tensors that `weight` can return, for a model whose file cannot be read."""
        ...

    def quantised(self) -> str | None:
        """Return the reason why the numbers in memory are not those of the file; None where they are."""
        ...


class TextRoute(Protocol):
    """The host's way from texts to conditioning, with all text encoders. Use it under the lock, in the image thread."""

    def encode(self, texts: Any) -> Any:
        """Return the conditioning of a list of texts, of the host's own class, with the LoRAs of the last image."""
        ...

    def listen(self, heard: Callable[[Any, Any], None]) -> Callable[[], None]:
        """Call `heard` with the texts and the conditioning whenever the host encodes texts, until the returned function
        is called. The host forgets conditioning of before, so that it encodes the texts of the next image."""
        ...


def always_ready(bytes: int) -> AbstractContextManager[None]:  # noqa: ARG001 - see `LivePart.ready`
    """Do nothing, for a part that is where it is called."""
    return nullcontext()


@dataclass(frozen=True)
class LivePart:
    """A torch module of the model in memory. Keep no reference to it after the call that gave it."""

    name: str
    """For messages, such as ``unet`` or ``text encoder 1``."""
    prefix: str
    """Of its weights in a checkpoint that has them under the same names, such as ``model.diffusion_model``; without the
    last dot."""
    module: Any
    texts: TextRoute | None = None
    """How the host calls a text encoder; None for a denoiser."""
    ready: Callable[[int], AbstractContextManager[None]] = always_ready
    """Puts the part where the host computes, with the LoRAs of the last image and so many bytes free; after an image
    only."""


class ImageWatch(Protocol):
    """Work with the model before and after one image, under the host's lock, in the thread that generates images."""

    def before(self, parts: Sequence[LivePart]) -> Callable[[], None]:
        """Prepare for the image, such as by hooks; return how to undo that, which is called also after an error."""
        ...

    def after(self, parts: Sequence[LivePart]) -> None:
        """Use the model. Called where the image was made, without gradients and in the host's contexts of torch.

        A part can be called inside of its `ready` only. The model must be unchanged afterwards.
        """
        ...


class HostFiles(Protocol):
    """The files that a host knows."""

    def lora_roots(self) -> list[Path]:
        """Return the folders with LoRAs as real paths, each once; the one for new files comes first."""
        ...

    def loras(self) -> LoraList:
        """Return all LoRAs. The list is complete at any moment: a name disappears only when its file does."""
        ...

    def resolve(self, name: str) -> LoraFile:
        """Return a LoRA by its name, or else by its alias. Raises ``FileError`` where there is none.

        To look up many names, call `loras` once.
        """
        ...

    def checkpoints(self) -> list[CheckpointFile]:
        """Return all checkpoints, sorted by title."""
        ...

    def refresh(self) -> None:
        """Make the host read its list of LoRAs again, so that it contains new files. Never raises."""
        ...

    def replaced(self, paths: Collection[Path]) -> None:
        """Make the host read LoRA files again that have new content under their names: for the next image, and in its
        list. Never raises.

        It holds `lock` meanwhile. Hold it from the replacement on, so that no image is generated in between.
        """
        ...

    def scanned_folders(self) -> list[Path]:
        """Return all folders that the host scans, those of LoRAs included, as real paths."""
        ...

    def trash_root(self, path: Path | None = None) -> Path:
        """Return the trash folder for the result at a path; None: for new files. It may not exist yet."""
        ...

    def trash_roots(self) -> list[Path]:
        """Return all folders that may contain results in the trash, those of earlier versions included."""
        ...

    def block_presets(self) -> Path | None:
        """Return the user's file of named block weights, in the format of the extension LoRA Block Weight."""
        ...


class HostModel(Protocol):
    """The model that a host has loaded, and the device that it computes on."""

    def loaded(self) -> LoadedModel | None:
        """Return the model in memory; None where there is none yet. Never loads one."""
        ...

    def pending(self) -> str | None:
        """Return the title of the checkpoint that is selected but not loaded; None where the loaded one is selected."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Return a lock: while it is held, the host neither generates images nor changes its model.

        Threads of this program share it: it does not exclude them from each other. Hold it briefly, because the user's
        images wait for it. Never call `generate` while holding it.
        """
        ...

    def busy(self) -> str | None:
        """Return what the host is doing, if a job of this program would have to wait for it; else None."""
        ...

    def is_wanted(self) -> bool:
        """Return whether work of the host waits for the lock while this program holds it, as far as the host shows."""
        ...

    def device(self) -> str:
        """Return the device that the host computes on, as torch names it: "cpu", "cuda:0", "mps"."""
        ...

    def make_room(self, bytes: int) -> None:
        """Ask the host to free so much memory of its device. Call it under the lock. Never raises."""
        ...

    def tidy(self) -> None:
        """Free the cached memory of the device. Never raises."""
        ...


class Host(HostFiles, HostModel, Protocol):
    """The program that the tab runs in."""

    @property
    def name(self) -> str:
        """The host's name, as users know it."""
        ...

    @property
    def features(self) -> frozenset[str]:
        """The features that the host has; see the constants above."""
        ...

    def is_remote(self) -> bool:
        """Return whether users may sit at other machines. Then no path is shown or accepted."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Return the user's settings by the host's keys (``resize_lora_…``); missing ones have their defaults."""
        ...

    def begin_job(self, title: str) -> None:
        """Show a job of this program in the host's own progress, if nothing else is shown there."""
        ...

    def progress(self, done: int, total: int, text: str) -> None:
        """Show how many steps of the job are done."""
        ...

    def end_job(self) -> None:
        """Remove the job from the host's progress, after success and failure alike."""
        ...

    def generate(self, request: Mapping[str, Any], watch: ImageWatch | None = None) -> GeneratedImage:
        """Generate one image under the host's lock. Nothing is saved, and no state of the host changes.

        `watch` needs the feature ``fit``, and may raise ResizeError and Cancelled.

        `request` has ``prompt`` and may have ``negative_prompt``, ``seed``, ``steps``, ``cfg_scale``, ``width``,
        ``height``, ``sampler_name``, ``scheduler``, ``loras``: names that must be applied, and ``files``: a mapping of
        names to paths of LoRA files outside of the list, which the host knows under these names during this image
        only. Raises ``UsageError`` for other keys and for names that are taken, ``Cancelled`` after `stop_generating`,
        ``FileError`` where the host reports that a LoRA was not applied, and ``HostError`` where the host cannot do it.
        """
        ...

    def stop_generating(self) -> None:
        """Stop the image that `generate` is making, and no other."""
        ...

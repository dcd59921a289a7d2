"""What A1111 and all WebUIs that grew from it have in common. Their modules are imported inside of functions only."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from ..errors import Cancelled, FileError, HostError, ResizeError, UsageError
from ..prompts.lookup import PRESET_FILE
from .access import Access, access_of, is_loopback
from .guard import asked, guarded, host_module, listed, read, warn_once
from .host import CARDS, GENERATE, LOADED_MODEL, PROMPT, XYZ, CheckpointFile, Loaded, LoraFile, LoraList, Turn
from .listing import Entries, Entry, Listing, WholeList, find
from .parts import (
    checkpoint_file,
    cmd_options,
    data_folder,
    extension_folders,
    listed_options,
    networks,
    own_lock,
    queue_lock,
    shared,
    usual_lora_folder,
)
from .scan import lora_paths, real_folders
from .trash_places import TrashPlaces

PICTURE_WORDS = frozenset(
    {"prompt", "negative_prompt", "seed", "steps", "cfg_scale", "width", "height", "sampler_name", "scheduler"}
)
_BUTTON = (
    '<div class="resize-lora-button card-button" title="Resize LoRA" '
    "onclick=\"resizeLoraFromCard(event, '{tabname}')\"></div>"
)


class WebUI:
    """The part of `host.Host` that is the same in the whole family."""

    name = "WebUI"
    job = "resize-lora"
    lora_options: tuple[str, ...] = ("lora_dir", "lora_dirs")
    """Options of the command line that name folders of LoRAs."""

    def __init__(self) -> None:
        lock = queue_lock()
        self._guarded = lock is not None
        self._queue_lock = lock or own_lock()
        self._turn = Turn(self._queue_lock)
        self._drawing = threading.Event()
        self._stopped = threading.Event()
        self._title: str | None = None
        self._whole = WholeList(self._on_disk)
        self._listing = Listing()
        self._refreshing = threading.Lock()
        self._trash: TrashPlaces | None = None

    # Files ------------------------------------------------------------------------------------------------

    def lora_roots(self) -> list[Path]:
        return real_folders(listed_options(*self.lora_options)) or real_folders([usual_lora_folder()])

    def loras(self) -> LoraList:
        return self._listing.of(self._entries())

    def resolve(self, name: str) -> LoraFile:
        return find(self.loras(), name)

    def _entries(self) -> Entries:
        """The host's own list, or the files in its folders if its Lora extension is off."""
        listed = read(networks(), "available_networks")
        if isinstance(listed, Mapping):
            return self._whole.look(listed)
        return {path.stem: Entry(path) for path in self._on_disk()}

    def _on_disk(self) -> Iterator[Path]:
        return (path for root in self.lora_roots() for path in lora_paths(root))

    def checkpoints(self) -> list[CheckpointFile]:
        known = read(host_module("modules.sd_models"), "checkpoints_list")
        infos = listed("checkpoints", known.values()) if isinstance(known, Mapping) else ()
        found = [file for file in map(checkpoint_file, infos) if file is not None]
        return sorted(found, key=lambda checkpoint: checkpoint.title.lower())

    def refresh(self) -> None:
        again = read(networks(), "list_available_networks")
        if again is not None:
            with self._refreshing, guarded("refreshing the list of LoRAs"):
                again()

    def is_remote(self) -> bool:
        """Of a host that cannot say it, the stricter answer."""
        return shared("cmd_opts") is None or asked("the command line", self._is_remote, True)

    def _is_remote(self) -> bool:
        options = cmd_options()
        if read(options, "hide_ui_dir_config") or access_of(options, os.environ).exposed:
            return True
        # A1111 sets this for any --server-name, that of this machine included.
        return bool(read(options, "disable_extension_access")) and not is_loopback(read(options, "server_name"))

    def trash_root(self, path: Path | None = None) -> Path:
        return self._trash_places().of(path)

    def trash_roots(self) -> list[Path]:
        return self._trash_places().all()

    def _trash_places(self) -> TrashPlaces:
        """The same while the folders of LoRAs are the same: results are recorded there."""
        roots = self.lora_roots()
        if self._trash is None or self._trash.roots != roots:
            home = read(host_module("modules.sd_models"), "model_path")
            listed = {checkpoint.path.parent for checkpoint in self.checkpoints()}
            named = listed_options("ckpt_dir", "ckpt_dirs", "embeddings_dir", "vae_dir", "vae_dirs")
            scanned = real_folders([*named, home if isinstance(home, str) else None, *listed])
            data = data_folder()
            self._trash = TrashPlaces(roots, scanned, None if data is None else Path(os.path.realpath(data)))
        return self._trash

    def block_presets(self) -> Path | None:
        files = (folder / "scripts" / PRESET_FILE for folder in extension_folders())
        return next((file for file in files if file.is_file()), None)

    # The model --------------------------------------------------------------------------------------------

    @property
    def features(self) -> frozenset[str]:
        found = {PROMPT}
        if self._guarded and host_module("modules.sd_models") is not None:
            found.add(LOADED_MODEL)
        if self._guarded and host_module("modules.processing") is not None and shared("state") is not None:
            found.add(GENERATE)
        if networks() is not None:
            found.add(CARDS)
        if self.xyz_script() is not None:
            found.add(XYZ)
        return frozenset(found)

    def loaded(self) -> Loaded | None:
        return asked("the loaded model", self._loaded, None) if self._guarded else None

    def _loaded(self) -> Loaded | None:
        return None

    def pending(self) -> str | None:
        return asked("the selected checkpoint", self._pending, None)

    def _pending(self) -> str | None:
        """A1111 loads what is selected at once, so that nothing is ever pending."""
        return None

    # The lock ---------------------------------------------------------------------------------------------

    def lock(self) -> AbstractContextManager[None]:
        return self._turn.shared()

    def busy(self) -> str | None:
        if self._turn.held or self._drawing.is_set():
            return None
        locked = read(read(self._queue_lock, "_lock", self._queue_lock), "locked")
        if self._guarded and callable(locked):
            return "the WebUI is making a picture or loading a model" if locked() else None
        job = read(shared("state"), "job")
        return "the WebUI is making a picture" if job and job != self.job else None

    def device(self) -> str:
        if read(cmd_options(), "resize_lora_cpu", False):
            return "cpu"
        return asked("the device", self._device, "cpu")

    def _device(self) -> str:
        device = read(host_module("modules.devices"), "device")
        return "cpu" if device is None else str(device)

    def make_room(self, bytes: int) -> None:  # noqa: ARG002 - A1111 can only be asked to tidy
        self.tidy()

    def tidy(self) -> None:
        collect = read(host_module("modules.devices"), "torch_gc")
        if collect is not None:
            with guarded("freeing memory of the device"):
                collect()

    # Progress ---------------------------------------------------------------------------------------------

    def begin_job(self, title: str) -> None:
        """The host's progress is a single one: it is ours only while nobody else works. Beginning clears it, so that is
        done under the lock, and left if that is not free at once."""
        state = shared("state")
        if state is None or not self._queue_lock.acquire(False):
            return
        try:
            with guarded("the host's progress"):
                if not state.job:
                    state.begin(job=self.job)
                    self._title = title
        finally:
            self._queue_lock.release()

    def progress(self, done: int, total: int, text: str) -> None:
        state: Any = shared("state")
        if self._title is not None and read(state, "job") == self.job:
            with guarded("the host's progress"):
                state.job_count, state.job_no = total, done
                state.textinfo = f"{self._title}: {text}".replace("\n", " ")  # a text of two lines is not shown

    def end_job(self) -> None:
        state: Any = shared("state")
        if self._title is not None and read(state, "job") == self.job:
            with guarded("the host's progress"):
                state.end()
        self._title = None

    # Pictures ---------------------------------------------------------------------------------------------

    def generate(self, request: Mapping[str, Any]) -> Any:
        settings = dict(request)
        loras = tuple(settings.pop("loras", ()))
        unknown = sorted(settings.keys() - PICTURE_WORDS)
        if unknown or not isinstance(settings.get("prompt"), str):
            raise UsageError(
                f"A picture was asked for with {unknown or 'no prompt'}; known are {sorted(PICTURE_WORDS)}."
            )
        self._stopped.clear()
        with self._turn.alone():
            if self._stopped.is_set():
                raise Cancelled("The picture was stopped before it began.")
            return self._draw(settings, loras)

    def _draw(self, settings: dict[str, Any], loras: tuple[str, ...]) -> Any:
        """Where the host wants its pictures made in a thread of its own, that is done here."""
        return self._picture(settings, loras)

    def _picture(self, settings: dict[str, Any], loras: tuple[str, ...]) -> Any:
        from modules import processing

        state = self._state()
        state.begin(job=self.job)
        state.job_count = 1
        self._drawing.set()
        try:
            made = processing.StableDiffusionProcessingTxt2Img(
                sd_model=shared("sd_model"),
                batch_size=1,
                n_iter=1,
                do_not_save_samples=True,
                do_not_save_grid=True,
                **settings,
            )
            made.scripts = None
            with closing(made):
                result = processing.process_images(made)
            return self._accepted(result, loras)
        except (Cancelled, ResizeError):
            raise
        except Exception as error:  # whatever a host and its extensions may raise
            raise HostError(f"The WebUI could not make the picture: {type(error).__name__}: {error}") from error
        finally:
            self._drawing.clear()
            state.end()

    def _accepted(self, result: Any, loras: tuple[str, ...]) -> Any:
        state = self._state()
        if self._stopped.is_set() or state.interrupted or getattr(state, "stopping_generation", False):
            raise Cancelled("The picture was stopped.")
        missing = _not_applied(loras)
        if missing:
            comments = str(getattr(result, "comments", "") or "").strip()
            raise FileError(f"{', '.join(missing)}: the WebUI did not apply this LoRA. {comments}".rstrip())
        if not result.images:
            raise HostError("The WebUI made no picture and gave no reason.")
        return result.images[0]

    def stop_generating(self) -> None:
        self._stopped.set()
        if self._drawing.is_set():
            self._state().interrupt()

    @staticmethod
    def _state() -> Any:
        state = shared("state")
        if state is None:
            raise HostError("The WebUI's progress (modules.shared.state) is missing, so no picture can be made.")
        return state

    # The page ---------------------------------------------------------------------------------------------

    def add_card_button(self) -> bool:
        """Puts our button on every card of a LoRA; to be called whenever the app has started. False: no cards."""
        pages = read(host_module("modules.ui_extra_networks"), "extra_pages", ())
        put = [_put_button(page) for page in listed("the button on cards", pages)]
        return any(put)

    def xyz_script(self) -> Any | None:
        """The module of the X/Y/Z plot; scripts are no part of `sys.modules`. None where there is none."""
        rows = listed("the X/Y/Z plot", read(host_module("modules.scripts"), "scripts_data"))
        modules = (read(row, "module") for row in rows if Path(str(read(row, "path"))).name == "xyz_grid.py")
        return next((module for module in modules if read(module, "axis_options") is not None), None)

    # Settings and access ----------------------------------------------------------------------------------

    def add_settings(self, section: tuple[str, str], offers: Iterable[Any]) -> None:
        """Puts rows (`panel.preferences.Offer`) on the settings page."""
        make, options = shared("OptionInfo"), shared("opts")
        if make is None or options is None:
            warn_once("settings: not available in this host (modules.shared has no OptionInfo or no opts).")
            return
        for offer in offers:
            with guarded(f"the setting {offer.label!r}"):
                row = make(offer.default, offer.label, offer.component, offer.arguments, section=section)
                row = row.info(offer.info) if offer.info else row
                options.add_option(offer.key, row.needs_reload_ui() if offer.reload else row)

    def settings(self) -> Mapping[str, Any]:
        data = read(shared("opts"), "data")
        if not isinstance(data, Mapping):
            return {}
        return {
            key: value for key, value in dict(data).items() if isinstance(key, str) and key.startswith("resize_lora_")
        }

    def names_files(self) -> bool:
        """Whether people may say how files are called, which ``--hide-ui-dir-config`` takes from them."""
        return not read(cmd_options(), "hide_ui_dir_config", False)

    def access(self) -> Access | None:
        """Who may use the HTTP API; None where it was not asked for."""
        options = cmd_options()
        return access_of(options, os.environ) if read(options, "resize_lora_api", False) else None


def _put_button(page: Any) -> bool:
    """Whether this is the page of LoRAs, which has our button now."""
    template = read(page, "btn_edit_item_tpl")
    if read(page, "name") != "lora" or not isinstance(template, str):
        return False
    if _BUTTON not in template:
        with guarded("the button on cards"):
            page.btn_edit_item_tpl = template + _BUTTON
    return True


def _not_applied(loras: tuple[str, ...]) -> list[str]:
    applied = read(networks(), "loaded_networks")
    if applied is None:
        return []
    names = {read(one, "name") for one in applied}
    return [name for name in loras if name not in names]

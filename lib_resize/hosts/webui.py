"""What A1111 and all WebUIs that grew from it have in common. Their modules are imported inside of functions only."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from ..errors import Cancelled, FileError, HostError, ResizeError, UsageError
from .access import Access, access_of
from .host import CARDS, GENERATE, LOADED_MODEL, PROMPT, XYZ, CheckpointFile, Loaded, LoraFile, Turn
from .scan import TRASH, lora_paths, previews, real_folders

PICTURE_WORDS = frozenset(
    {"prompt", "negative_prompt", "seed", "steps", "cfg_scale", "width", "height", "sampler_name", "scheduler"}
)
_REMOTE = ("share", "listen", "ngrok", "server_name", "hide_ui_dir_config", "disable_extension_access")
_BUTTON = (
    '<div class="resize-lora-button card-button" title="Resize LoRA" '
    "onclick=\"resizeLoraFromCard(event, '{tabname}')\"></div>"
)


class WebUI:
    """The part of `host.Host` that is the same in the whole family."""

    name = "WebUI"
    job = "resize-lora"

    def __init__(self) -> None:
        from modules import call_queue

        self._queue_lock = call_queue.queue_lock
        self._turn = Turn(self._queue_lock)
        self._drawing = threading.Event()
        self._stopped = threading.Event()
        self._title: str | None = None

    # Files ------------------------------------------------------------------------------------------------

    def lora_roots(self) -> list[Path]:
        options = cmd_options()
        listed = [getattr(options, "lora_dir", None), *(getattr(options, "lora_dirs", None) or ())]
        return real_folders([*listed, *self._further_roots()])

    def _further_roots(self) -> list[str | None]:
        return []

    def loras(self) -> list[LoraFile]:
        listed = self._listed()
        pictures = previews(path for path, _ in listed.values())
        found = [LoraFile(name, path, alias, pictures.get(path)) for name, (path, alias) in listed.items()]
        return sorted(found, key=lambda lora: lora.name.lower())

    def resolve(self, name: str) -> LoraFile:
        listed = self._listed()
        if name not in listed:
            aliased = [own for own, (_, alias) in listed.items() if alias == name]
            if len(aliased) != 1:
                raise FileError(
                    f"{name}: no LoRA of this name is in the WebUI's list. Refresh the list, or look for it."
                )
            name = aliased[0]
        path, alias = listed[name]
        return LoraFile(name, path, alias, previews([path]).get(path))

    def _listed(self) -> dict[str, tuple[Path, str | None]]:
        """Name -> path and alias: the host's own list, or what lies in its folders if its Lora extension is off."""
        known = getattr(networks(), "available_networks", None)
        if known is not None:
            return {str(name): (Path(entry.filename), _alias(name, entry)) for name, entry in list(known.items())}
        return {path.stem: (path, None) for root in self.lora_roots() for path in lora_paths(root)}

    def checkpoints(self) -> list[CheckpointFile]:
        from modules import sd_models

        found = [
            CheckpointFile(str(info.title), Path(info.filename)) for info in list(sd_models.checkpoints_list.values())
        ]
        return sorted(found, key=lambda checkpoint: checkpoint.title.lower())

    def refresh(self) -> None:
        module = networks()
        if module is not None:
            module.list_available_networks()

    def trash_root(self) -> Path:
        roots = self.lora_roots() or [Path(os.path.realpath(cmd_options().lora_dir))]
        return roots[0] / TRASH

    def is_remote(self) -> bool:
        options = cmd_options()
        return any(getattr(options, name, None) for name in _REMOTE)

    # The model --------------------------------------------------------------------------------------------

    @property
    def features(self) -> frozenset[str]:
        found = {LOADED_MODEL, GENERATE, PROMPT}
        if networks() is not None:
            found.add(CARDS)
        if self.xyz_script() is not None:
            found.add(XYZ)
        return frozenset(found)

    def loaded(self) -> Loaded | None:
        return None

    def pending(self) -> str | None:
        """A1111 loads what is selected at once, so that nothing is ever pending."""
        return None

    # The lock ---------------------------------------------------------------------------------------------

    def lock(self) -> AbstractContextManager[None]:
        return self._turn.shared()

    def busy(self) -> str | None:
        if self._turn.held or self._drawing.is_set():
            return None
        inner = getattr(self._queue_lock, "_lock", self._queue_lock)
        locked = getattr(inner, "locked", None)
        if locked is not None:
            return "the WebUI is making a picture or loading a model" if locked() else None
        job = _state().job
        return "the WebUI is making a picture" if job and job != self.job else None

    def device(self) -> str:
        from modules import devices

        return "cpu" if getattr(cmd_options(), "resize_lora_cpu", False) else str(devices.device)

    def make_room(self, bytes: int) -> None:  # noqa: ARG002 - A1111 can only be asked to tidy
        self.tidy()

    def tidy(self) -> None:
        from modules import devices

        with whatever_happens():
            devices.torch_gc()

    # Progress ---------------------------------------------------------------------------------------------

    def begin_job(self, title: str) -> None:
        """The host's progress is a single one: it is ours only while nobody else works. Beginning clears it, so that is
        done under the lock, and left if that is not free at once."""
        if not self._queue_lock.acquire(False):
            return
        try:
            if not _state().job:
                _state().begin(job=self.job)
                self._title = title
        finally:
            self._queue_lock.release()

    def progress(self, done: int, total: int, text: str) -> None:
        state = _state()
        if self._title is not None and state.job == self.job:
            state.job_count, state.job_no = total, done
            state.textinfo = f"{self._title}: {text}".replace("\n", " ")  # a text of two lines is not shown

    def end_job(self) -> None:
        if self._title is not None and _state().job == self.job:
            _state().end()
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
        from modules import processing, shared

        state = _state()
        state.begin(job=self.job)
        state.job_count = 1
        self._drawing.set()
        try:
            made = processing.StableDiffusionProcessingTxt2Img(
                sd_model=shared.sd_model,
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
        state = _state()
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
            _state().interrupt()

    # The page ---------------------------------------------------------------------------------------------

    def add_card_button(self) -> bool:
        """Puts our button on every card of a LoRA; to be called whenever the app has started. False: no cards."""
        try:
            from modules import ui_extra_networks
        except ImportError:
            return False
        found = False
        for page in getattr(ui_extra_networks, "extra_pages", ()):
            template = getattr(page, "btn_edit_item_tpl", None)
            if page.name == "lora" and isinstance(template, str):
                found = True
                if _BUTTON not in template:
                    page.btn_edit_item_tpl = template + _BUTTON
        return found

    def xyz_script(self) -> Any | None:
        """The module of the X/Y/Z plot; scripts are no part of `sys.modules`. None where there is none."""
        try:
            from modules import scripts
        except ImportError:
            return None
        loaded = getattr(scripts, "scripts_data", None) or ()
        modules = (getattr(one, "module", None) for one in loaded if Path(str(one.path)).name == "xyz_grid.py")
        return next((module for module in modules if hasattr(module, "axis_options")), None)

    # Settings and access ----------------------------------------------------------------------------------

    def add_settings(self, section: tuple[str, str], offers: Iterable[Any]) -> None:
        """Puts rows (`panel.preferences.Offer`) on the settings page."""
        from modules import shared

        for offer in offers:
            row = shared.OptionInfo(offer.default, offer.label, offer.component, offer.arguments, section=section)
            row = row.info(offer.info) if offer.info else row
            shared.opts.add_option(offer.key, row.needs_reload_ui() if offer.reload else row)

    def settings(self) -> Mapping[str, Any]:
        from modules import shared

        data = getattr(getattr(shared, "opts", None), "data", None)
        return {key: value for key, value in dict(data or {}).items() if key.startswith("resize_lora_")}

    def names_files(self) -> bool:
        """Whether people may say how files are called, which ``--hide-ui-dir-config`` takes from them."""
        return not getattr(cmd_options(), "hide_ui_dir_config", False)

    def access(self) -> Access | None:
        """Who may use the HTTP API; None where it was not asked for."""
        options = cmd_options()
        return access_of(options, os.environ) if getattr(options, "resize_lora_api", False) else None

    # Caches -----------------------------------------------------------------------------------------------

    def forget(self, path: Path) -> None:
        with self._turn.shared(), whatever_happens():
            self._forget(path)
        self.refresh()

    def _forget(self, path: Path) -> None:  # noqa: ARG002 - of use to those who extend it
        from modules import processing

        for owner in ("StableDiffusionProcessing", "StableDiffusionProcessingTxt2Img"):
            for slot in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
                held = getattr(processing, owner, None)
                if slot in vars(held or object):
                    setattr(held, slot, [None, None])


def networks() -> Any | None:
    """The built-in Lora extension's module; None where that is switched off."""
    return sys.modules.get("networks")


def loaded_model() -> Any | None:
    """The model object in memory, looked at without loading one, which the usual way of asking would do."""
    from modules import sd_models

    return getattr(getattr(sd_models, "model_data", None), "sd_model", None)


def family_of(model: Any) -> str | None:
    """What the host says of its model, in the words of our families."""
    flags = (("is_sdxl", "SDXL"), ("is_sd2", "SD2"), ("is_sd1", "SD1.5"))
    return next((word for flag, word in flags if getattr(model, flag, False)), None)


@contextmanager
def whatever_happens() -> Iterator[None]:
    """For courtesies towards the host, whose failure must not end our work."""
    try:
        yield
    except (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError):
        return


def _not_applied(loras: tuple[str, ...]) -> list[str]:
    applied = getattr(networks(), "loaded_networks", None)
    if applied is None:
        return []
    names = {getattr(one, "name", None) for one in applied}
    return [name for name in loras if name not in names]


def _alias(name: Any, entry: Any) -> str | None:
    alias = getattr(entry, "alias", None)
    return str(alias) if alias and alias != name else None


def cmd_options() -> Any:
    """The host's command line."""
    from modules import shared

    return shared.cmd_opts


def _state() -> Any:
    from modules import shared

    return shared.state

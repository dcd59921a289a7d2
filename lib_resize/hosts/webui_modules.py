"""The modules and objects that A1111 and its family share, each found anew at every question and none of them taken for
granted."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .guard import host_module, listed, read, warn_once
from .host import CheckpointFile, HostLock


def networks() -> Any | None:
    """The built-in Lora extension's module; None where that is switched off."""
    return sys.modules.get("networks")


def shared(name: str) -> Any | None:
    """An attribute of ``modules.shared``; None where it is missing."""
    return read(host_module("modules.shared"), name)


def cmd_options() -> Any:
    """The host's command line; an empty one where it is missing."""
    options = shared("cmd_opts")
    return SimpleNamespace() if options is None else options


def loaded_model() -> Any | None:
    """The model object in memory, looked at without loading one, which the usual way of asking would do."""
    return read(read(host_module("modules.sd_models"), "model_data"), "sd_model")


def family_of(model: Any) -> str | None:
    """What the host says of its model, in the words of our families."""
    flags = (("is_sdxl", "SDXL"), ("is_sd2", "SD2"), ("is_sd1", "SD1.5"))
    return next((word for flag, word in flags if read(model, flag, False)), None)


def queue_lock() -> HostLock | None:
    """What the host holds while it makes a picture or changes its model; None where there is no such lock."""
    lock = read(host_module("modules.call_queue"), "queue_lock")
    if callable(read(lock, "acquire")) and callable(read(lock, "release")):
        return lock  # type: ignore[no-any-return]
    warn_once("this host has no lock of its model (modules.call_queue.queue_lock), so the model is not read.")
    return None


def checkpoint_file(info: Any) -> CheckpointFile | None:
    """An entry of the host's list of checkpoints; None for one that names no file."""
    title, filename = read(info, "title"), read(info, "filename")
    if not title or not isinstance(filename, (str, os.PathLike)) or not os.fspath(filename):
        warn_once(f"the checkpoint {str(title)[:80]!r} of the host's list names no file, so it is left out.")
        return None
    return CheckpointFile(str(title), Path(filename))


def usual_lora_folder() -> Path | None:
    """Where A1111 keeps LoRAs if the command line does not say."""
    models = _folder("models_path")
    return None if models is None else models / "Lora"


def data_folder() -> Path | None:
    """Where the host keeps what its users make: its own folder, or that of ``--data-dir``."""
    return _folder("data_path")


def _folder(name: str) -> Path | None:
    found = read(host_module("modules.paths"), name)
    return Path(found) if isinstance(found, str) and found else None


def listed_options(*names: str) -> list[str]:
    """Values of the command line's options that name one folder or several."""
    values = (read(cmd_options(), name) for name in names)
    each = (value if isinstance(value, (list, tuple)) else (value,) for value in values)
    return [str(one) for several in each for one in several if isinstance(one, (str, os.PathLike)) and one]


def extension_folders() -> list[Path]:
    """Folders of the extensions that the host knows."""
    known = listed("extensions", read(host_module("modules.extensions"), "extensions"))
    return [Path(path) for path in (read(one, "path") for one in known) if isinstance(path, str)]


def own_lock() -> HostLock:
    """Stands in for the host's where that is missing: it keeps only our own threads apart."""
    return threading.Lock()

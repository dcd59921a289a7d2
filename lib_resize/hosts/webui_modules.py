"""Modules and objects that A1111 and its family have in common. Each is looked up at every use, and may be missing."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .guard import attempt_list, host_module, read, warn_once
from .host import CheckpointFile
from .locks import HostLock

SDNEXT_LIST = "modules.lora.lora_load"
"""The module in which SD.Next has its list of LoRAs. No other WebUI has it."""


def is_sdnext() -> bool:
    """Return whether the host's list of LoRAs is SD.Next's."""
    return sys.modules.get("networks") is None and sys.modules.get(SDNEXT_LIST) is not None


def networks() -> Any | None:
    """Return the module with the host's list of LoRAs; None where the built-in Lora extension is disabled."""
    return sys.modules.get("networks") or sys.modules.get(SDNEXT_LIST)


def loaded_networks() -> Any:
    """Return the host's list of the LoRAs of its last image, which SD.Next has in another module; None without one."""
    own = read(networks(), "loaded_networks")
    return own if own is not None else read(sys.modules.get("modules.lora.lora_common"), "loaded_networks")


def own_class(module: str, name: str) -> Callable[..., Any] | None:
    """Return a class of the built-in Lora extension, such as `NetworkOnDisk` of its module ``network``."""
    found = read(read(networks(), module) or sys.modules.get(module), name)
    return found if callable(found) else None


def shared(name: str) -> Any | None:
    """Return an attribute of ``modules.shared``; None where it is missing."""
    return read(host_module("modules.shared"), name)


def cmd_options() -> Any:
    """Return the host's command line options; without any where they are missing."""
    options = shared("cmd_opts")
    return SimpleNamespace() if options is None else options


def loaded_model() -> Any | None:
    """Return the model object in memory. ``shared.sd_model`` would load one, this does not."""
    return read(read(host_module("modules.sd_models"), "model_data"), "sd_model")


def family_of(model: Any) -> str | None:
    """Return the family of the host's model by this package's names; None where the host does not know it."""
    flags = (("is_sdxl", "SDXL"), ("is_sd2", "SD2"), ("is_sd1", "SD1.5"))
    return next((word for flag, word in flags if read(model, flag, False)), None)


def queue_lock() -> HostLock | None:
    """Return the lock that the host holds while it generates an image or changes its model; None without one."""
    lock = read(host_module("modules.call_queue"), "queue_lock")
    if callable(read(lock, "acquire")) and callable(read(lock, "release")):
        return lock  # type: ignore[no-any-return]
    warn_once("this host has no lock for its model (modules.call_queue.queue_lock), so the model is not read.")
    return None


def checkpoint_file(info: Any) -> CheckpointFile | None:
    """Convert an entry of the host's list of checkpoints; None where it names no file."""
    title, filename = read(info, "title"), read(info, "filename")
    if not title or not isinstance(filename, (str, os.PathLike)) or not os.fspath(filename):
        warn_once(f"the checkpoint {str(title)[:80]!r} in the host's list names no file and is ignored.")
        return None
    return CheckpointFile(str(title), Path(filename))


def usual_lora_folder() -> Path | None:
    """Return the folder in which A1111 keeps LoRAs without an option on the command line."""
    models = _folder("models_path")
    return None if models is None else models / "Lora"


def data_folder() -> Path | None:
    """Return the host's folder for its users' data: its own, or that of ``--data-dir``."""
    return _folder("data_path")


def _folder(name: str) -> Path | None:
    found = read(host_module("modules.paths"), name)
    return Path(found) if isinstance(found, str) and found else None


def listed_options(*names: str) -> list[str]:
    """Return the values of command line options that name one folder or several."""
    values = (read(cmd_options(), name) for name in names)
    each = (value if isinstance(value, (list, tuple)) else (value,) for value in values)
    return [str(one) for several in each for one in several if isinstance(one, (str, os.PathLike)) and one]


def extension_folders() -> list[Path]:
    """Return the folders of the host's extensions."""
    known = attempt_list("extensions", read(host_module("modules.extensions"), "extensions"))
    return [Path(path) for path in (read(one, "path") for one in known) if isinstance(path, str)]


def own_lock() -> HostLock:
    """Return a lock to use where the host has none. It excludes only threads of this program from each other."""
    return threading.Lock()

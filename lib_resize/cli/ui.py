"""``resize-lora ui``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..prompts.lookup import presets_of
from .command import Command
from .demo import TEMPORARY
from .options import add_device, add_lora_folders, port

_DESCRIPTION = """\
Serve the Resize LoRA tab of AUTOMATIC1111 and Forge as a web page of its own, for the LoRA folders of ComfyUI, SD.Next
and others. Needs Gradio: pip install ".[ui]" in the folder of Resize LoRA."""

_Logins = tuple[tuple[str, str], ...]
"""User names and passwords."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_lora_folders(parser)
    add("--checkpoint", action="append", default=[], metavar="FILE", help="a base model, or a folder; can be repeated")
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1); any other, such as 0.0.0.0, is reachable from other machines "
        "and needs --auth",
    )
    add("--port", type=port, default=7867, help="port to listen on (default: 7867)")
    add_device(parser)
    add("--demo", action="store_true", help="add a few generated files")
    add(
        "--auth",
        "--api-auth",
        dest="auth",
        metavar="USER:PASSWORD",
        help="login for the page and the API; separate several with commas (default: no login, this machine only)",
    )
    add("--api", action="store_true", help="also serve the HTTP API, at /resize-lora/v1")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until it is stopped."""
    if not (arguments.lora_dir or arguments.demo):
        raise UsageError("name a folder of LoRAs with --lora-dir DIR, or try generated files with --demo.")
    users = _users(arguments)
    _check_device_and_presets(arguments)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
        loras, checkpoints = [Path(name) for name in arguments.lora_dir], [Path(name) for name in arguments.checkpoint]
        if arguments.demo:
            made, checkpoint = _demo_library(Path(folder))
            loras, checkpoints = [*loras, made], [*checkpoints, checkpoint]
        return _serve(loras, checkpoints, users, arguments)


def _check_device_and_presets(arguments: argparse.Namespace) -> None:
    """Raise DeviceError or FileError at the start, not when the first LoRA is resized or baked."""
    from ..linalg.arrays import open_arrays, resolved

    arguments.device = resolved(arguments.device)
    open_arrays(arguments.device)
    presets_of(arguments.lbw_presets)


def _users(arguments: argparse.Namespace) -> _Logins | None:
    """Return the logins. Raises UsageError where other machines can reach the page and there is no login."""
    from ..hosts.access import is_loopback, read_users

    if arguments.auth is not None:
        users = read_users(arguments.auth)
        if len(users) < arguments.auth.count(",") + 1 or any(not name or not password for name, password in users):
            raise UsageError("--auth needs a name and a password with a colon between, such as --auth me:secret.")
        return users
    if not is_loopback(arguments.host):
        raise UsageError(
            f"--host {arguments.host} lets other machines in, and they could change and remove your files. "
            "Add a login: --auth USER:PASSWORD."
        )
    return None


def _demo_library(folder: Path) -> tuple[Path, Path]:
    """Write a folder of LoRAs and a checkpoint."""
    from ..demo.synthetic import LoraOptions, write_checkpoint, write_lora

    loras = folder / "loras"
    (loras / "styles").mkdir(parents=True)
    write_lora(loras / "styles" / "pastry.safetensors", LoraOptions(rank=32, seed=1))
    write_lora(loras / "styles" / "ink_locon.safetensors", LoraOptions(rank=16, conv=True, conv_rank=8, seed=2))
    write_lora(loras / "portrait_fp32.safetensors", LoraOptions(rank=16, dtype="F32", seed=3))
    return loras, write_checkpoint(folder / "small_sdxl.safetensors")


def _serve(
    loras: Sequence[Path], checkpoints: Sequence[Path], users: _Logins | None, arguments: argparse.Namespace
) -> int:
    try:
        from ..panel.standalone import Address, check_free, serve
    except ImportError as error:
        raise UsageError(
            f"the page needs Gradio, and {error.name} is not installed. In the folder of Resize LoRA, run "
            'pip install ".[ui]", preferably in its own environment.'
        ) from error
    from ..hosts.access import Access
    from ..hosts.standalone import StandaloneHost
    from ..panel.service import Service

    address = Address(arguments.host, arguments.port)
    check_free(address)
    access = Access(users, exposed=address.remote)
    presets = Path(arguments.lbw_presets) if arguments.lbw_presets else None
    host = StandaloneHost(loras, checkpoints, device=arguments.device, remote=address.remote, presets=presets)
    service = Service(host)
    print(f"Resize LoRA runs at {address.url}; press Ctrl-C to stop it.", flush=True)
    try:
        serve(service.call, address, access, with_api=arguments.api)
    finally:
        service.close()
    return 0


COMMAND = Command("ui", _DESCRIPTION, _add_options, run)

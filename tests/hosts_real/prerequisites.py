"""What the suite needs before the first test, with a message for each missing thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lib_resize
from tests.chromium import LackingError, found
from tests.hosts_real.rest import OURS, Rest, UnreachableError

ENOUGH = 3
"""Minimum number of LoRAs of one family."""


def lacking(rest: Rest) -> list[str]:
    """Return messages for everything that is missing. What depends on a missing thing is not checked."""
    return [*_browser(), *_first(rest, _server, _api, _extension, _checkpoint, _loras)]


def _first(rest: Rest, *checks: Callable[[Rest], Iterator[str]]) -> list[str]:
    """Return the messages of the first check that has any."""
    for check in checks:
        try:
            if faults := list(check(rest)):
                return faults
        except UnreachableError as error:
            return [f"No server answers at {rest.url}: {error}. Start the WebUI, and wait until its page opens."]
    return []


def _browser() -> Iterator[str]:
    try:
        found()
        import playwright.sync_api  # noqa: F401
    except LackingError as error:
        yield f"No browser: {error}."
    except ImportError:
        yield "No browser: Playwright for Python is not installed. `python develop.py hosts URL` installs it."


def _server(rest: Rest) -> Iterator[str]:
    status, _ = rest.ask("")
    if status == 401:
        yield f"{rest.url} requires a login. Start the WebUI without --gradio-auth and --api-auth."
    elif status != 200:
        yield f"{rest.url} answers with HTTP status {status} instead of a page. Is this the WebUI's address?"


def _api(rest: Rest) -> Iterator[str]:
    status, _ = rest.ask("sdapi/v1/options")
    if status != 200:
        yield f"The host's API does not answer (HTTP status {status}). Start the WebUI with --api."


def _extension(rest: Rest) -> Iterator[str]:
    status, hello = rest.ask(f"{OURS}hello")
    if status != 200 or not isinstance(hello, dict):
        yield (
            f"The API of Resize LoRA does not answer (HTTP status {status}). Put the extension into the WebUI's folder"
            " `extensions`, and start the WebUI with --resize-lora-api and without a login."
        )
    elif hello["version"] != lib_resize.__version__:
        yield (
            f"The WebUI runs Resize LoRA {hello['version']}, and these tests are of {lib_resize.__version__}."
            " Update the extension, and restart the WebUI."
        )


def _checkpoint(rest: Rest) -> Iterator[str]:
    """Generate an image: a host may load its model only for the first one."""
    if not rest.get("sdapi/v1/sd-models"):
        yield "The WebUI has no checkpoint. Put one into its folder `models/Stable-diffusion`."
        return
    status, answer = rest.ask("sdapi/v1/txt2img", {"prompt": "a cake", "steps": 1, "width": 64, "height": 64})
    if status != 200:
        yield f"The WebUI cannot generate an image of 64 x 64 pixels (HTTP status {status}): {str(answer)[:300]}"
    elif rest.get(f"{OURS}hello")["reference"]["kind"] == "none":
        yield "Resize LoRA finds no loaded checkpoint after the WebUI generated an image. Choose one in its page."


def _loras(rest: Rest) -> Iterator[str]:
    files = rest.get(f"{OURS}list")["files"]
    sound: list[dict[str, Any]] = [one for one in files if not one["problem"] and not one["ours"]]
    other = sorted(one["name"] for one in sound if one["fits"] is False)
    if other:
        yield (
            f"{len(other)} LoRAs are for another family than the loaded checkpoint: {', '.join(other[:5])}."
            " Start the WebUI with a folder where all fit (--lora-dir)."
        )
    if len(sound) < ENOUGH:
        yield f"{len(sound)} LoRAs can be resized; the tests need {ENOUGH}. Add some to the LoRA folder."

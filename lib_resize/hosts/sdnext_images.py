"""Images in SD.Next, and its progress. Its modules are imported inside of functions only."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import replace
from typing import Any

from .guard import attempt, attempt_list, guarded, host_module, read
from .host import GeneratedImage
from .webui_images import AppliedLoras, ImageGenerator
from .webui_latents import plain_latent
from .webui_modules import loaded_networks, shared
from .webui_progress import WebUIProgress

APPLY_TEXT_ENCODERS = "lora_apply_te"
"""The host's option. While it is off, which is the default, the text encoder layers of all LoRAs are ignored."""
_ADDED_TAGS = "lora_apply_tags"  # the host's option: words of the LoRA's file, or its name, are added to the prompt
_SAMPLER = "Default"
_ENCODER_LAYERS = ("lora_te", "lora_llm_adapter")


class SdnextApplied(AppliedLoras):
    """Which LoRAs SD.Next applied to its last image.

    Its list of loaded LoRAs has also those of which it applied no layer, such as a LoRA of another model. A second list
    has the layers that were changed.
    """

    def missing(self, loras: tuple[str, ...], comments: str) -> list[str]:  # noqa: ARG002 - SD.Next only logs
        loaded = {read(one, "name"): one for one in attempt_list("applied LoRAs", loaded_networks())}
        return [name for name in loras if not _is_applied(name, loaded.get(name))]

    def reason(self, missing: list[str]) -> str:
        loaded = {read(one, "name"): one for one in attempt_list("applied LoRAs", loaded_networks())}
        layers = [layer for name in missing for layer in read(loaded.get(name), "modules") or ()]
        if layers and not applies_text_encoders() and all(str(one).startswith(_ENCODER_LAYERS) for one in layers):
            return (
                "It has text encoder layers only, and SD.Next ignores these unless its setting "
                "'LoRA native apply to text encoder' is on."
            )
        return ""


def applies_text_encoders() -> bool:
    """Return whether SD.Next uses the text encoder layers of LoRAs."""
    return bool(read(shared("opts"), APPLY_TEXT_ENCODERS, True))


def _is_applied(name: str, network: Any) -> bool:
    if network is None:
        return False
    layers = read(network, "modules")
    if not layers:  # loaded by diffusers, whose names have no dots
        adapters = attempt_list("applied LoRAs", read(host_module("modules.lora.lora_diffusers"), "diffuser_loaded"))
        return name.replace(".", "_") in adapters
    applied = attempt_list("applied LoRAs", read(host_module("modules.lora.networks"), "applied_layers"))
    return not set(layers).isdisjoint(applied)


class SdnextImages(ImageGenerator):
    """Generates images in SD.Next."""

    applied_loras = SdnextApplied

    def _made(self, settings: dict[str, Any], loras: tuple[str, ...]) -> GeneratedImage:
        """Generate an image with its latents, and restore the host's history.

        Every image is added to the history that the host shows to its user, with the latents of each of its steps.
        """
        history = read(shared("history"), "latents")
        before = attempt_list("the history of images", history)
        try:
            made = super()._made(settings, loras)
            added = [item for item in attempt_list("the history of images", history) if not _is_in(item, before)]
        finally:
            if isinstance(history, MutableSequence):
                with guarded("the history of images"):
                    history.clear()
                    history.extend(before)
        latents = [read(item, "latent") for item in added]
        newest = next((latent for latent in latents if latent is not None), None)
        return replace(made, latent=attempt("the latents of images", lambda: plain_latent(newest), None))

    def _no_scripts(self) -> Any:
        """Return None: SD.Next asks whether there is a runner, and its own has parts that others lack."""
        return None

    def _all_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings as SD.Next knows them: it has no scheduler, and adds no words to our prompt."""
        known = {**super()._all_settings(settings)}
        known.pop("scheduler", None)
        known.setdefault("sampler_name", _SAMPLER)
        if read(shared("opts"), _ADDED_TAGS, 0):
            known["override_settings"] = {**known.get("override_settings", {}), _ADDED_TAGS: 0}
        return known


def _is_in(item: Any, items: Sequence[Any]) -> bool:
    return any(item is one for one in items)


class SdnextProgress(WebUIProgress):
    """The host shows steps of an image, and no number of jobs."""

    def _count(self, state: Any, done: int, total: int) -> None:
        state.sampling_steps, state.sampling_step = total, done

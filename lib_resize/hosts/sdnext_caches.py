"""What SD.Next keeps of LoRA files by their names, in addition to `webui_caches`.

SD.Next applies LoRAs only where the names and strengths of a prompt differ from those of the last image, so a new file
under an old name changes no image. The record of the last image is replaced, never emptied: with an empty one, an image
without LoRAs would count as unchanged, and the old LoRA would stay in the weights. The networks of the last image are
left alone, because SD.Next subtracts them from the weights.

Call everything here under the host's lock. Nothing here raises. Where SD.Next is not the host, nothing happens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from .guard import attempt, attempt_list, guarded, host_module, read
from .host import same_file
from .sdnext_parts import parts_of, pipeline_of
from .webui_modules import SDNEXT_LIST, loaded_model

_STALE = "replaced"
"""A record of the last image that is equal to none of the host's."""
_STALE_NAMES = ((_STALE, 0.0, [0.0, 0.0, 0.0], None),)


def forget(names: Collection[str]) -> None:
    """Make the host read the files of these names again, and apply them again."""
    with guarded("the cache of LoRA files"):
        _drop(read(host_module(SDNEXT_LIST), "lora_cache"), names)
    pipeline = attempt("the loaded model", lambda: pipeline_of(loaded_model()), None)
    if pipeline is not None:
        with guarded("the LoRAs that are applied to the model"):
            _forget_last_image(pipeline)
        with guarded("the LoRAs that are merged into layers"):
            _forget_layers(pipeline, names)
        with guarded("the LoRAs that are adapters of the model"):
            _forget_adapters(pipeline, names)
    forget_texts()


def forget_texts() -> None:
    """Make the host encode the texts of its next image again."""
    with guarded("the cache of prompts"):
        cache = read(host_module("modules.prompt_parser_diffusers"), "cache")
        if isinstance(cache, MutableMapping):
            cache.clear()


def forget_files(paths: Collection[Path]) -> None:
    """Make the host read these files again: it keeps tensors and metadata by path, without the file's time."""
    tensors = read(read(host_module("modules.sd_models_utils"), "state_dict_cache"), "_cache")
    metadata = read(host_module("modules.sd_checkpoint"), "sd_metadata")
    for cache in (tensors, metadata):
        with guarded("the cache of files"):
            _drop(cache, [key for key in cache or () if is_one_of(Path(key), paths)])


def is_one_of(path: Path, paths: Collection[Path]) -> bool:
    """Return whether a path leads to one of these files, perhaps on another way."""
    return path in paths or any(path.name == one.name and same_file(path, one) for one in paths)


def _drop(cache: Any, keys: Collection[str]) -> None:
    if isinstance(cache, MutableMapping):
        for key in keys:
            cache.pop(key, None)


def _forget_last_image(pipeline: Any) -> None:
    applied = read(pipeline, "loaded_loras")
    if isinstance(applied, MutableMapping):
        for filters in list(applied):
            applied[filters] = [_STALE]


def _forget_layers(pipeline: Any, names: Collection[str]) -> None:
    """Let layers that have one of these LoRAs merged in be restored before the next image."""
    for module in _modules(pipeline):
        current = read(module, "network_current_names") or ()
        if any(one[0] in names for one in current):
            module.network_current_names = _STALE_NAMES


def _modules(pipeline: Any) -> Iterator[Any]:
    for _, part in parts_of(pipeline):
        yield from attempt_list("the layers of the model", part.modules())


def _forget_adapters(pipeline: Any, names: Collection[str]) -> None:
    """Delete adapters, which the host makes again for its next image. Their names have no dots."""
    listed, delete = read(pipeline, "get_list_adapters"), read(pipeline, "delete_adapters")
    if callable(listed) and callable(delete):
        wanted = {name.replace(".", "_") for name in names}
        found = listed()
        made = {one for each in found.values() for one in each} if isinstance(found, Mapping) else set()
        for name in sorted(made & wanted):
            delete(name)

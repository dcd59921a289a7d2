"""What WebUIs keep of LoRA files by their names, so that a file that was replaced under its name is read again.

A1111 and its family compare layers, prompts and hashes by a LoRA's name and multipliers, and Forge reads files by their
path alone: a new file under an old name changes no image. Each cache is reset by itself, where the host has it. Call
everything here under the host's lock. Nothing here raises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import sdnext_caches
from .guard import attempt, attempt_list, guarded, host_module, read
from .listing import copy_of
from .tensors import attribute
from .webui_modules import is_sdnext, loaded_model, loaded_networks, networks, own_class

_STALE = "replaced"
"""A hash that is equal to none of the host's."""
_STALE_NAMES = ((_STALE, 0.0, 0.0, None),)
_DISK_CACHES = ("hashes", "hashes-addnet", "safetensors-metadata")
_PROMPT_CACHES = {
    "StableDiffusionProcessing": ("cached_c", "cached_uc"),
    "StableDiffusionProcessingTxt2Img": ("cached_hr_c", "cached_hr_uc"),
}
_OBJECTS = ("forge_objects", "forge_objects_original", "forge_objects_after_applying_lora")
_LOADERS = ("unet.model.lora_loader", "clip.cond_stage_model.lora_loader")


def names_at(paths: Collection[Path]) -> set[str]:
    """Return the names under which the host may keep files: their stems, and those of its list."""
    names = {path.stem for path in paths}
    for name, entry in (*_items("available_networks"), *_items(_ALIASES)):
        filename = read(entry, "filename")
        if isinstance(name, str) and isinstance(filename, str) and sdnext_caches.is_one_of(Path(filename), paths):
            names.add(name)
    return names


def forget(names: Collection[str]) -> None:
    """Reset all caches of the LoRAs of these names."""
    with guarded("the cache of LoRA files"):
        _forget_networks(names)
    with guarded("the cache of LoRA files by path"):
        clear = read(read(networks(), "load_lora_state_dict"), "cache_clear")
        if callable(clear):
            clear()
    for model in _models():
        with guarded("the LoRAs that are merged into layers"):
            _forget_layers(model, names)
        with guarded("the LoRAs that are applied to the model"):
            _forget_patches(model)
    forget_prompts()
    for section in _DISK_CACHES:
        with guarded("the cache of hashes and metadata"):
            _forget_on_disk(section, names)
    sdnext_caches.forget(names)


def forget_prompts() -> None:
    """Make the host encode the texts of its next image again."""
    for owner, caches in _PROMPT_CACHES.items():
        for cache in caches:
            with guarded("the cache of prompts"):
                _empty(read(host_module("modules.processing"), owner), cache)


def _forget_networks(names: Collection[str]) -> None:
    memory, loaded = read(networks(), "networks_in_memory"), loaded_networks()
    if isinstance(memory, MutableMapping):
        for name in names:
            memory.pop(name, None)
    if isinstance(loaded, list):
        loaded[:] = [one for one in loaded if read(one, "name") not in names]


def _models() -> Iterator[Any]:
    """Yield the model in memory, and others that the host keeps."""
    seen = set()
    kept = read(read(host_module("modules.sd_models"), "model_data"), "loaded_sd_models")
    for model in (attempt("the loaded model", loaded_model, None), *attempt_list("models in memory", kept)):
        if model is not None and id(model) not in seen:
            seen.add(id(model))
            yield model


def _forget_layers(model: Any, names: Collection[str]) -> None:
    """Let layers that have one of these LoRAs merged in be restored from their backup before the next image."""
    mapping = read(model, "network_layer_mapping")
    for module in list(mapping.values()) if isinstance(mapping, Mapping) else ():
        current = read(module, "network_current_names") or ()
        has_backup = read(module, "network_weights_backup") is not None
        if has_backup and any(one[0] in names for one in current):
            module.network_current_names = _STALE_NAMES


def _forget_patches(model: Any) -> None:
    if read(model, "current_lora_hash") is not None:
        model.current_lora_hash = _STALE
    for objects in _OBJECTS:
        for loader in _LOADERS:
            found = attribute(read(model, objects), loader)
            if read(found, "loaded_hash") is not None:
                found.loaded_hash = _STALE


def _empty(owner: Any, name: str) -> None:
    """Empty a cache of the host's class, in place: its running objects share it."""
    cache = read(owner, name)
    if isinstance(cache, list):
        cache[:] = [None] * len(cache)


def _forget_on_disk(section: str, names: Collection[str]) -> None:
    """Drop hash and metadata: the host reads them again only where a file is newer, and a restored one is not."""
    open_cache = read(host_module("modules.cache") or host_module("modules.hashes"), "cache")
    cache = open_cache(section) if callable(open_cache) else None
    if cache is not None:
        for name in names:
            cache.pop(f"lora/{name}", None)


# Entries of the list -------------------------------------------------------------------------------------------

_ALIASES, _HASHES = "available_network_aliases", "available_network_hash_lookup"
_TABLES = ("available_networks", _ALIASES, _HASHES)


def renew(names: Collection[str]) -> None:
    """Make the entries of these names again, with the alias, hash and metadata of the files of today."""
    listed, make = _table("available_networks"), own_class("network", "NetworkOnDisk")
    if listed is None or make is None:
        return
    for name in names:
        with guarded("the entry of a replaced LoRA"):
            _renew(name, listed.get(name), make)


def _renew(name: str, old: Any, make: Callable[[str, str], Any]) -> None:
    if old is not None:
        keys = [key for key, entry in _items(_ALIASES) if entry is old]
        drop_all(lambda entry: entry is old)
        put(name, make(name, str(old.filename)), keys)


def put(name: str, entry: Any, aliases: Collection[str] = ()) -> None:
    """Add an entry to the host's list, under its name and further ones. Raises what the host raises."""
    for table, keys in (("available_networks", [name]), (_ALIASES, [name, *aliases])):
        found = _table(table)
        if found is not None:
            found.update(dict.fromkeys(keys, entry))


def drop_all(is_meant: Callable[[Any], bool], before: Mapping[Any, Any] = MappingProxyType({})) -> None:
    """Remove entries from all tables of the host, and put back what they replaced in the table of hashes.

    Raises what the host raises.
    """
    for table in _TABLES:
        for key, entry in _items(table):
            if is_meant(entry):
                _table(table).pop(key, None)
                if table == _HASHES and key in before:
                    _table(table)[key] = before[key]


def all_names() -> frozenset[Any]:
    """Return the names of the host's list; in SD.Next also the others that prompts can use."""
    tables = ("available_networks", _ALIASES) if is_sdnext() else ("available_networks",)
    return frozenset(name for table in tables for name, _ in _items(table))


def by_hash() -> dict[Any, Any]:
    """Return the host's table of hashes, in which an entry registers itself when it is made."""
    return dict(_items(_HASHES))


def _table(name: str) -> Any:
    found = read(networks(), name)
    return found if isinstance(found, MutableMapping) else None


def _items(table: str) -> list[tuple[Any, Any]]:
    found = _table(table)
    return [] if found is None else list(copy_of(found).items())

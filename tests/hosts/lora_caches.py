"""What WebUIs keep of LoRA files, played by a stand-in: the "image" is what layers, prompt and infotext have of them.

Each cache is as in the host that it is named after: A1111 compares a file's time but not its layers' content, Forge
knows paths alone, Neo the paths of the last image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.hosts.standins import Loader, WebUI, module

Image = tuple[tuple[str, ...], ...]


class DiskCache:
    """Hashes that are computed again only where a file is newer."""

    def __init__(self) -> None:
        self.sections: dict[str, dict[str, Any]] = {}

    def cache(self, section: str) -> dict[str, Any]:
        return self.sections.setdefault(section, {})

    def hash_of(self, key: str, path: str) -> str:
        known = self.cache("hashes").get(key)
        time = Path(path).stat().st_mtime
        if known is None or time > known["mtime"]:
            known = {"mtime": time, "value": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
            self.cache("hashes")[key] = known
        return str(known["value"])


class LoraHost:
    """A host's list and one of the ways to use its files."""

    def __init__(self, webui: WebUI, kind: str) -> None:
        self.webui = webui
        self.disk = DiskCache()
        self.networks = webui.modules["networks"]
        self.original = "original"
        self.kind = kind
        use = {"a1111": self._as_a1111, "forge": self._as_forge, "neo": self._as_forge}[kind]
        webui.on_draw = lambda made: setattr(made, "image", self._image(made, use))
        webui.modules["modules.cache"] = module("modules.cache", cache=self.disk.cache)
        webui.modules["modules"].cache = webui.modules["modules.cache"]
        self.networks.network = webui.modules["network"] = module("network", NetworkOnDisk=self._entry)
        self.networks.available_network_aliases = {}
        self.networks.available_network_hash_lookup = {}
        self.layer = SimpleNamespace(weight=(), network_current_names=(), network_weights_backup=None)
        self.model = webui.load(self._model())
        webui.modules["modules.processing"].process_images = self._process

    def _model(self) -> Any:
        if self.kind == "a1111":
            return SimpleNamespace(network_layer_mapping={"layer": self.layer})
        unet: Any = SimpleNamespace(merged=(), lora_loader=Loader())
        if self.kind == "neo":
            del unet.lora_loader
        objects = SimpleNamespace(unet=SimpleNamespace(model=unet))

        def load(path: str) -> str:
            return Path(path).read_text()

        self.networks.load_lora_state_dict = lru_cache(maxsize=5)(load) if self.kind == "forge" else partial(load)
        return SimpleNamespace(
            forge_objects=objects, forge_objects_original=objects, current_lora_hash="[]", patches=()
        )

    def _entry(self, name: str, filename: str) -> Any:
        text = Path(filename).read_text()
        digest = self.disk.hash_of(f"lora/{name}", filename)
        entry = SimpleNamespace(name=name, filename=filename, alias=text.split(":")[0], hash=digest)
        self.networks.available_network_hash_lookup[digest[:12]] = entry
        return entry

    def add(self, path: Path) -> None:
        entry = self._entry(path.stem, str(path))
        self.networks.available_networks[path.stem] = entry
        self.networks.available_network_aliases |= {path.stem: entry, entry.alias: entry}

    def image(self, *names: str) -> Image:
        """An image of the user's."""
        prompt = " ".join(f"<lora:{name}:1>" for name in names)
        made = self.webui.modules["modules.processing"].StableDiffusionProcessingTxt2Img(prompt=prompt)
        with self.webui.lock:
            (image,) = self._process(made).images
        return image  # type: ignore[no-any-return]

    def _process(self, made: Any) -> Any:
        assert self.webui.lock._lock.locked()
        assert self.webui.on_draw is not None
        self.webui.on_draw(made)
        return SimpleNamespace(images=[made.image], comments="")

    def _image(self, made: Any, use: Callable[[list[Any]], tuple[str, ...]]) -> Image:
        names = re.findall(r"<lora:([^:>]+)", made.settings["prompt"])
        entries = [self.networks.available_network_aliases.get(name) for name in names]
        found = [one for one in entries if one is not None]
        layers = use(found)
        cache = self.webui.modules["modules.processing"].StableDiffusionProcessing.cached_c
        if cache[0] != tuple(names):
            cache[:] = [tuple(names), tuple(Path(one.filename).read_text() for one in found)]
        return layers, cache[1], tuple(one.hash for one in found)

    def _as_a1111(self, entries: list[Any]) -> tuple[str, ...]:
        memory, loaded = self.networks.networks_in_memory, self.networks.loaded_networks
        loaded.clear()
        for entry in entries:
            net, time = memory.get(entry.name), Path(entry.filename).stat().st_mtime
            if net is None or time > net.mtime:
                net = SimpleNamespace(name=entry.name, content=Path(entry.filename).read_text(), mtime=time)
                memory[entry.name] = net
            loaded.append(net)
        wanted = tuple((net.name, 1.0, 1.0, None) for net in loaded)
        if self.layer.network_current_names != wanted:
            if self.layer.network_weights_backup is None and wanted:
                assert self.layer.network_current_names == (), "no backup, and the weights are not unchanged"
                self.layer.network_weights_backup = self.layer.weight
            self.layer.weight = self.layer.network_weights_backup + tuple(net.content for net in loaded)
            self.layer.network_current_names = wanted
        return tuple(self.layer.weight)

    def _as_forge(self, entries: list[Any]) -> tuple[str, ...]:
        self.networks.loaded_networks[:] = entries
        wanted = str([(one.filename, 1.0) for one in entries])
        model = self.model
        if model.current_lora_hash != wanted:
            model.patches = tuple(self.networks.load_lora_state_dict(one.filename) for one in entries)
            model.current_lora_hash = wanted
        unet = model.forge_objects.unet.model
        loader = getattr(unet, "lora_loader", None)
        if loader is None or loader.loaded_hash != wanted:
            unet.merged = model.patches
            if loader is not None:
                loader.loaded_hash = wanted
        return tuple(unet.merged)

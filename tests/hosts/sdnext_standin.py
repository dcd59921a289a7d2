"""SD.Next played by a few modules and tensors: its list, its loader of LoRAs, its pipeline, and the traps of each."""

from __future__ import annotations

import json
import re
import threading
import types
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lib_resize.names.architecture import SDXL_UNET, UNetConfig, open_clip_weights, unet_weights
from tests.hosts.standins import OPEN_CLIP, WebUI, below, module, tensors_of, tree

ENCODERS = ["text_encoder", "text_encoder_2", "text_encoder_3"]


class SdnextState:
    """The one progress of SD.Next: `begin` returns a name that `end` needs, and jobs nest."""

    def __init__(self) -> None:
        self.clear()
        self.interrupted = False
        self.jobs: list[str] = []
        self.ended: list[Any] = []
        self.textinfo: str | None = None
        self.sampling_step = self.sampling_steps = 0

    def clear(self) -> None:
        self.job, self.job_no, self.job_count = "", 0, 0

    def begin(self, title: str = "", task_id: int = 0, api: Any = None) -> str:
        self.clear()
        self.interrupted = False
        self.job, self.job_count, self.sampling_step, self.sampling_steps = title, 1, 0, 0
        self.jobs.append(title)
        return f"id {len(self.jobs)}"

    def end(self, task_id: str | None = None, api: Any = None) -> None:
        self.ended.append(task_id)
        self.clear()

    def interrupt(self) -> None:
        self.interrupted = True


class OnDisk:
    """An entry of the list. The metadata of a file are kept by its path, and never read again."""

    def __init__(self, host: Sdnext, name: str, filename: str) -> None:
        self.name, self.filename = name, filename
        root = host.cmd_opts.lora_dir
        below_root = filename[len(root) :].lstrip("/") if filename.startswith(root) else ""
        self.fullname = below_root.rpartition(".")[0] or name
        kept = host.modules["modules.sd_checkpoint"].sd_metadata
        self.metadata = kept.setdefault(filename, json.loads(Path(filename).read_text() or "{}"))
        self.alias = self.metadata.get("alias", name)
        self.shorthash = ""


class Layer(nn.Module):
    """A layer of one number, for images that are compared exactly."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[value]], dtype=torch.float64), requires_grad=False)


class Part(nn.Module):
    def __init__(self, **layers: float) -> None:
        super().__init__()
        for name, value in layers.items():
            setattr(self, name, Layer(value))


class StableDiffusionXLPipeline:
    """What diffusers calls a pipeline; no torch module itself."""

    def __init__(self, info: Any = None, **parts: Any) -> None:
        self.sd_checkpoint_info = info
        vars(self).update(parts)

    def get_list_adapters(self) -> Mapping[str, list[str]]:
        return {}


def small_pipeline() -> StableDiffusionXLPipeline:
    info = SimpleNamespace(title="tiny [abc]", name="tiny", filename="nowhere", path="nowhere")
    return StableDiffusionXLPipeline(info, unet=Part(a=1.0, b=2.0), text_encoder=Part(c=3.0))


class Sdnext(WebUI):
    """The modules of SD.Next; `install` puts them where imports find them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.state: Any = SdnextState()
        self.lock: Any = threading.Lock()
        del self.modules["networks"]
        shared, more = self.modules["modules.shared"], {}
        shared.state = self.state
        self.modules["modules.call_queue"].queue_lock = self.lock
        self.data.lock = threading.Lock()  # type: ignore[attr-defined]
        self.options.data |= {"lora_apply_te": False, "lora_fuse_native": True}
        names: dict[str, dict[str, Any]] = {
            "lora": {"__path__": []},
            "lora.lora_common": {"loaded_networks": [], "previously_loaded_networks": []},
            "lora.networks": {"applied_layers": []},
            "lora.lora_diffusers": {"diffuser_loaded": []},
            "lora.network": {"NetworkOnDisk": lambda name, filename: OnDisk(self, name, filename)},
            "lora.lora_load": {
                "lora_cache": {},
                "available_networks": {},
                "available_network_aliases": {},
                "available_network_hash_lookup": {},
                "list_available_networks": self.list_available_networks,
            },
            "sd_checkpoint": {"checkpoints_list": {}, "sd_metadata": {}},
            "sd_models_utils": {"state_dict_cache": SimpleNamespace(_cache={})},
            "prompt_parser_diffusers": {"cache": OrderedDict()},
            "hashes": {"cache": lambda store=None: self.hashes},
        }
        self.hashes: dict[str, Any] = {}
        self.history: deque[Any] = deque(maxlen=3)
        shared.history = SimpleNamespace(latents=self.history)
        for name, contents in names.items():
            more[f"modules.{name}"] = module(f"modules.{name}", **contents)
        self.modules |= more
        self.modules["modules.lora.lora_load"].network = self.modules["modules.lora.network"]
        for name, one in more.items():
            package, _, own = name.rpartition(".")
            setattr(self.modules[package], own, one)
        self.modules["modules.processing"] = self._images()
        self.modules["modules"].processing = self.modules["modules.processing"]

    # The list ---------------------------------------------------------------------------------------------

    @property
    def lora(self) -> Any:
        return self.modules["modules.lora.lora_load"]

    def list_available_networks(self) -> None:
        lora = self.lora
        for table in (lora.available_networks, lora.available_network_aliases):
            table.clear()
        for path in sorted(Path(self.cmd_opts.lora_dir).rglob("*.safetensors")):
            entry = OnDisk(self, path.stem.replace(".", "_"), str(path))
            lora.available_networks[entry.name] = entry
            lora.available_network_aliases |= {entry.name: entry, entry.fullname: entry}
            if path.stem not in (entry.name, entry.fullname):
                lora.available_network_aliases.setdefault(path.stem, entry)

    # Images -----------------------------------------------------------------------------------------------

    def _images(self) -> types.ModuleType:
        webui = self

        class StableDiffusionProcessingTxt2Img:
            def __init__(self, **settings: Any) -> None:
                assert "scheduler" not in settings, "this would be an attribute that nothing reads"
                self.settings, self.scripts = settings, None
                self.override_settings = settings.get("override_settings", {})
                webui.draws.append(self)

            @property
            def sd_model(self) -> Any:
                return webui.data.sd_model

            def close(self) -> None:
                self.scripts = None

        def process_images(made: Any) -> Any:
            assert webui.lock.locked(), "an image without the lock"
            if webui.data.sd_model is None:
                return None
            with webui.options.changed(made.override_settings):
                job = webui.state.begin("Process")
                if webui.on_draw is not None:
                    webui.on_draw(made)
                image = webui._drawn(made.settings["prompt"])
                for latent in (webui.sampled, None):  # newest first, the oldest are dropped
                    webui.history.appendleft(SimpleNamespace(latent=latent, images=[image]))
                webui.state.end(job)
            return SimpleNamespace(images=[image], comments="")

        return module(
            "modules.processing",
            StableDiffusionProcessingTxt2Img=StableDiffusionProcessingTxt2Img,
            process_images=process_images,
        )

    def image(self, *names: str) -> Any:
        """An image of the user's: the weights of the model with these LoRAs, and what its texts were encoded with."""
        with self.lock:
            return self._drawn(" ".join(f"<lora:{name}:1>" for name in names))

    def _drawn(self, prompt: str) -> Any:
        tags = re.findall(r"<lora:([^:>]+):?([^>]*)>", prompt)
        self._activate(tags)
        pipeline = self.data.sd_model
        weights = tuple(float(layer.weight) for _, layer in _layers(pipeline))
        cache = self.modules["modules.prompt_parser_diffusers"].cache
        texts = cache.setdefault(str(tags), float(pipeline.text_encoder.c.weight))
        return weights, texts

    def _activate(self, tags: list[tuple[str, str]]) -> None:
        common, applied = self.modules["modules.lora.lora_common"], self.modules["modules.lora.networks"]
        pipeline = self.data.sd_model
        entries = [self.lora.available_network_aliases.get(name) for name, _ in tags]
        if None in entries:
            self.list_available_networks()
            entries = [self.lora.available_network_aliases.get(name) for name, _ in tags]
        common.loaded_networks.clear()
        for entry, (name, _) in zip(entries, tags, strict=True):
            network = None if entry is None else self._load(name, entry)
            if network is not None:
                common.loaded_networks.append(network)
        requested = [f"{name}:{strength}" for name, strength in tags]
        exclude = [] if self.options.lora_apply_te else ENCODERS
        kept = pipeline.__dict__.setdefault("loaded_loras", {})
        filters = ",".join(exclude)
        if kept.get(filters, []) == requested:
            return
        kept.clear()
        kept[filters] = requested
        job = self.state.begin("LoRA")
        fused = self.options.lora_fuse_native
        if fused and common.previously_loaded_networks:
            applied.applied_layers.clear()
            for part, layer in _layers(pipeline):
                if part not in exclude:
                    if getattr(layer, "network_weights_backup", None):
                        self._add(layer, common.previously_loaded_networks, -1.0)
                    layer.network_current_names = ()
        applied.applied_layers.clear()
        wanted = tuple((one.name, 1.0, [1.0] * 3, None) for one in common.loaded_networks)
        for part, layer in _layers(pipeline):
            goal = () if part in exclude else wanted
            if getattr(layer, "network_current_names", ()) == goal:
                continue
            self._change(layer, common.loaded_networks if goal else [], fused, applied.applied_layers)
            layer.network_current_names = goal
        common.previously_loaded_networks = list(common.loaded_networks)
        self.state.end(job)

    def _change(self, layer: Any, networks: list[Any], fused: bool, applied: list[str]) -> None:
        backup = getattr(layer, "network_weights_backup", None)
        if backup is None and networks:
            layer.network_weights_backup = True if fused else layer.weight.detach().clone()
        elif backup is not None and not isinstance(backup, bool):
            layer.weight = nn.Parameter(backup.clone(), requires_grad=False)
        if self._add(layer, networks, 1.0):
            applied.append(layer.network_layer_name)

    def _add(self, layer: Any, networks: list[Any], sign: float) -> bool:
        found = [one.modules[layer.network_layer_name] for one in networks if layer.network_layer_name in one.modules]
        with torch.no_grad():
            layer.weight += sign * sum(found)
        return bool(found)

    def _load(self, name: str, entry: Any) -> Any:
        cache = self.lora.lora_cache
        if name not in cache:
            tensors = self.modules["modules.sd_models_utils"].state_dict_cache._cache
            content = tensors.setdefault(entry.filename, json.loads(Path(entry.filename).read_text()))
            layers = {key: value for key, value in content.items() if key.startswith("lora_")}
            known = {layer.network_layer_name for _, layer in _layers(self.data.sd_model)}
            if not known & layers.keys():
                return None
            cache[name] = SimpleNamespace(name=name, network_on_disk=entry, modules=layers)
        return cache[name]


def _layers(pipeline: Any) -> Iterator[tuple[str, Any]]:
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te1_")):
        for name, layer in getattr(pipeline, part).named_children():
            layer.network_layer_name = prefix + name
            yield part, layer


# The pipeline of a checkpoint ---------------------------------------------------------------------------------


def pipeline_of_file(path: Path, config: UNetConfig = SDXL_UNET, *, level: str = "text_model.") -> Any:
    """A checkpoint as a pipeline of diffusers. Newer transformers have no `level` in the names of a text encoder."""
    held = tensors_of(path)
    own = below(held, "model.diffusion_model.")
    names = {weight.sgm: weight.diffusers for weight in unet_weights(config)}
    unet: Any = tree(
        {f"{names[k[:-7]]}.weight": t for k, t in own.items() if k[:-7] in names and k.endswith(".weight")}
    )
    unet.config = SimpleNamespace(
        block_out_channels=list(config.widths),
        down_block_types=["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in config.depths],
        transformer_layers_per_block=[max(depth, 1) for depth in config.depths[:-1]] + [config.middle_depth],
        layers_per_block=config.res_blocks,
    )
    first = {k.replace("text_model.", level): t for k, t in below(held, "conditioner.embedders.0.transformer.").items()}
    second = {k.replace("text_model.", level): t for k, t in _hugging_face(below(held, OPEN_CLIP))}
    info = SimpleNamespace(filename=str(path), path=str(path), title=f"{path.stem} [abc]", name=path.stem)
    return StableDiffusionXLPipeline(info, unet=unet, text_encoder=tree(first), text_encoder_2=tree(second))


def _hugging_face(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for weight in open_clip_weights():
        tensor = tensors.get(weight.stored)
        if tensor is None:
            continue
        third = tensor if weight.part is None else tensor.chunk(3)[weight.part]
        yield f"{weight.name}.weight", third.T.contiguous() if weight.transposed else third


def unet_layers(pipeline: Any) -> list[Any]:
    return [one for one in pipeline.unet.modules() if "weight" in one._parameters]


def text_layers(pipeline: Any) -> list[Any]:
    return [one for one in pipeline.text_encoder_2.modules() if "weight" in one._parameters and one.weight.dim() > 1]

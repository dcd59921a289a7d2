"""WebUIs played by a few modules and tensors: what matters to us of their memory, locks, lists and traps."""

from __future__ import annotations

import threading
import types
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from lib_resize.files.reader import SafeFile
from lib_resize.linalg.casts import STORAGE, singles

OPEN_CLIP = "conditioner.embedders.1.model."
HF_NAMES = {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "attn.out_proj": "self_attn.out_proj"}


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint, as the 16 or 32 bit numbers that it holds."""
    with SafeFile(path) as file:
        kinds = {key: entry.dtype for key, entry in file.header.entries.items() if entry.dtype in STORAGE}
        numbers = {key: torch.from_numpy(singles(file.bits(key), kind)) for key, kind in kinds.items()}
    return {key: one.half() if kinds[key] == "F16" else one for key, one in numbers.items()}


def tree(tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Modules inside of one another by the dots of the names, with a parameter under every last word."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *path, own = name.split(".")
        module = root
        for word in path:
            if word not in module._modules:
                module.add_module(word, torch.nn.Module())
            module = module.get_submodule(word)
        module.register_parameter(own, torch.nn.Parameter(tensor.clone(), requires_grad=True))
    return root


def below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _modules(root: torch.nn.Module) -> Iterator[Any]:
    yield from root.modules()


# A1111 ------------------------------------------------------------------------------------------------------


def a1111_model(path: Path, tensors: Mapping[str, torch.Tensor] | None = None) -> Any:
    """The file's own names, TE2 with fused q, k, v; parameters that want gradients."""
    held = tensors_of(path) if tensors is None else tensors
    embedders = [SimpleNamespace(wrapped=tree(below(held, f"conditioner.embedders.{i}."))) for i in (0, 1)]
    return SimpleNamespace(
        model=SimpleNamespace(diffusion_model=tree(below(held, "model.diffusion_model."))),
        conditioner=SimpleNamespace(embedders=embedders),
        sd_checkpoint_info=SimpleNamespace(filename=str(path), title=f"{path.name} [abc]", sha256=str(path)),
        is_sdxl=True,
        network_layer_mapping={},
    )


def a1111_roots(model: Any) -> list[torch.nn.Module]:
    return [model.model.diffusion_model, *(embedder.wrapped for embedder in model.conditioner.embedders)]


def a1111_merge(model: Any, amount: float = 0.5) -> None:
    """A generation with a LoRA: every layer is backed up, fused attention as a pair, then changed in place."""
    for root in a1111_roots(model):
        for module in _modules(root):
            if "in_proj_weight" in module._parameters:
                own = (module.in_proj_weight, module.out_proj.weight)
                module.network_weights_backup = tuple(one.detach().clone() for one in own)
                _shift(amount, *own)
            elif "weight" in module._parameters and not hasattr(module, "network_weights_backup"):
                module.network_weights_backup = module.weight.detach().clone()
                _shift(amount, module.weight)
            else:
                continue
            module.network_current_names = (("style", 1.0, 1.0, None),)
            model.network_layer_mapping[str(len(model.network_layer_mapping))] = module


def _shift(amount: float, *parameters: torch.Tensor) -> None:
    with torch.no_grad():
        for one in parameters:
            one += amount


def fix_out_proj(model: Any) -> None:
    """The real host hangs no backup of its own at the projection inside of a fused attention."""
    for root in a1111_roots(model):
        for module in _modules(root):
            if "in_proj_weight" in module._parameters and hasattr(module.out_proj, "network_weights_backup"):
                del module.out_proj.network_weights_backup


def a1111_fp8(model: Any, keep_exact: bool) -> None:
    """Convert all but fused attention and norms to 8 bits; keep 16-bit copies if the host is set to."""
    for root in a1111_roots(model):
        for module in _modules(root):
            weight = module._parameters.get("weight")
            if weight is not None and weight.dim() >= 2:
                if keep_exact:
                    module.fp16_weight = weight.detach().clone()
                module.weight = torch.nn.Parameter(weight.detach().to(torch.float8_e4m3fn), requires_grad=False)


# Forge ------------------------------------------------------------------------------------------------------


class FakeInitialModel:
    """The placeholder that Forge has before the first image."""

    cond_stage_model = None
    chunk_length = 75


def split_clip_g(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """OpenCLIP's tensors in Hugging Face's layout, below ``clip_g.transformer.``."""
    for name, tensor in tensors.items():
        _, _, rest = name.partition("transformer.resblocks.")
        home = "clip_g.transformer.text_model.encoder.layers."
        if name == "text_projection":
            yield "clip_g.transformer.text_projection.weight", tensor.T.contiguous()
        elif rest.endswith("attn.in_proj_weight"):
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{home}{rest.split('.')[0]}.self_attn.{part}_proj.weight", third
        elif rest and not rest.endswith("in_proj_bias"):
            for old, new in HF_NAMES.items():
                rest = rest.replace(old, new)
            yield home + rest, tensor


@dataclass
class Loader:
    """Forge's loader of LoRAs: one for each module tree."""

    backup: dict[str, torch.Tensor] = field(default_factory=dict)
    loaded_hash: str = "[]"


def forge_model(path: Path, tensors: Mapping[str, torch.Tensor] | None = None, *, loaders: bool = True) -> Any:
    """Two patchers around modules with inference tensors that want gradients."""
    held = tensors_of(path) if tensors is None else tensors
    with torch.inference_mode():
        unet: Any = torch.nn.Module()
        unet.diffusion_model = tree(below(held, "model.diffusion_model."))
        first = {f"clip_l.transformer.{k}": t for k, t in below(held, "conditioner.embedders.0.transformer.").items()}
        clip: Any = tree({**first, **dict(split_clip_g(below(held, OPEN_CLIP)))})
    if loaders:
        unet.lora_loader, clip.lora_loader = Loader(), Loader()
    clip_patcher = SimpleNamespace(model=clip, backup={})
    objects = SimpleNamespace(
        unet=SimpleNamespace(model=unet, backup={}),
        clip=SimpleNamespace(cond_stage_model=clip, patcher=clip_patcher),
    )
    info = SimpleNamespace(filename=str(path), title=f"{path.name} [abc]")
    return SimpleNamespace(
        forge_objects=objects, forge_objects_original=objects, sd_checkpoint_info=info, is_sdxl=True,
        current_lora_hash="[]", cond_stage_model=None,
    )  # fmt: skip


def forge_parts(model: Any) -> list[tuple[Any, Any]]:
    objects = model.forge_objects_original
    return [(objects.unet.model, objects.unet), (objects.clip.cond_stage_model, objects.clip.patcher)]


def forge_merge(model: Any, *, where: str = "loader") -> None:
    """A generation with a LoRA: backup by key, then another parameter in the same module."""
    for module, patcher in forge_parts(model):
        for key, parameter in list(module.named_parameters()):
            if parameter.dim() < 2:
                continue
            if where == "loader":
                module.lora_loader.backup[key] = parameter
            else:
                patcher.backup[key] = SimpleNamespace(weight=parameter, inplace_update=False)
            parent = module.get_submodule(key.rpartition(".")[0])
            with torch.inference_mode():
                setattr(parent, key.rpartition(".")[2], torch.nn.Parameter(parameter + 0.5, requires_grad=True))


def each_weight(model: Any) -> Iterator[tuple[torch.nn.Module, str, torch.Tensor]]:
    for module, _ in forge_parts(model):
        for key, parameter in list(module.named_parameters()):
            if parameter.dim() >= 2:
                yield module.get_submodule(key.rpartition(".")[0]), key.rpartition(".")[2], parameter


# The programs -----------------------------------------------------------------------------------------------


class FifoLock:
    """Fair and not re-entrant, as the hosts' own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mutex = threading.Lock()
        self._pending_threads: deque[threading.Event] = deque()

    def acquire(self, blocking: bool = True) -> bool:
        with self._mutex:
            if self._lock.acquire(False):
                return True
            if not blocking:
                return False
            turn = threading.Event()
            self._pending_threads.append(turn)
        return turn.wait()

    def release(self) -> None:
        """The next in the line has it at once."""
        with self._mutex:
            if self._pending_threads:
                self._pending_threads.popleft().set()
            else:
                self._lock.release()

    __enter__ = acquire

    def __exit__(self, *error: object) -> None:
        self.release()


@dataclass
class State:
    """The one progress of a host."""

    job: str = ""
    job_no: int = 0
    job_count: int = 0
    textinfo: str | None = None
    interrupted: bool = False
    stopping_generation: bool = False
    begun: int = 0
    ended: int = 0

    def begin(self, job: str = "(unknown)") -> None:
        self.job, self.job_no, self.job_count, self.textinfo = job, 0, -1, None
        self.interrupted = self.stopping_generation = False
        self.begun += 1

    def end(self) -> None:
        self.job, self.job_count = "", 0
        self.ended += 1

    def interrupt(self) -> None:
        self.interrupted = True


class ModelData:
    """Where a host keeps its model; asking the usual way loads one."""

    def __init__(self, model: Any) -> None:
        self.sd_model = model
        self.forge_loading_parameters: dict[str, Any] = {}

    def get_sd_model(self) -> Any:
        raise AssertionError("this loads a model")


class Shared(types.ModuleType):
    """``modules.shared``, whose `sd_model` loads one where none is there."""

    cmd_opts: Any
    state: Any
    model_data: ModelData
    opts: Options

    @property
    def sd_model(self) -> Any:
        return self.model_data.sd_model or self.model_data.get_sd_model()


class Options:
    """``modules.shared.opts``: the user's settings, which an image can change while it is made."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self.data:
            return self.data[name]
        raise AttributeError(name)

    @contextmanager
    def changed(self, values: Mapping[str, Any]) -> Iterator[None]:
        stored = {name: self.data[name] for name in values if name in self.data}
        self.data.update(values)
        try:
            yield
        finally:
            self.data.update(stored)


def options(**changes: Any) -> SimpleNamespace:
    """A local host's command line."""
    plain = dict.fromkeys(("share", "listen", "ngrok", "server_name", "hide_ui_dir_config"))
    return SimpleNamespace(**{**plain, "disable_extension_access": False, "lora_dir": None, **changes})


@dataclass
class OnDisk:
    """An entry of the host's list of LoRAs."""

    name: str
    filename: str
    alias: str


@dataclass
class WebUI:
    """The modules of one host; `install` puts them where imports find them."""

    lora_dir: Path
    model: Any = None
    cmd_opts: SimpleNamespace = field(default_factory=options)
    picture: Any = "picture"
    draws: list[Any] = field(default_factory=list)
    on_draw: Any = None
    comments: str = "Lora not found: style"
    sampled: Any = None
    """What the sampler returns."""

    def __post_init__(self) -> None:
        self.cmd_opts.lora_dir = str(self.lora_dir)
        self.state = State()
        self.lock = FifoLock()
        self.data = ModelData(self.model)
        self.calls: list[Any] = []
        self.options = Options()
        self.modules: dict[str, Any] = {
            "modules": module("modules", __path__=[]),
            "modules.shared": self._shared(),
            "modules.call_queue": module("modules.call_queue", queue_lock=self.lock),
            "modules.sd_models": module("modules.sd_models", model_data=self.data, checkpoints_list={}),
            "modules.devices": module(
                "modules.devices", device=torch.device("cpu"), torch_gc=lambda: self.calls.append("gc")
            ),
            "modules.processing": self._processing(),
            "modules.ui_extra_networks": module("modules.ui_extra_networks", extra_pages=[]),
            "networks": module(
                "networks",
                available_networks={},
                loaded_networks=[],
                networks_in_memory={},
                list_available_networks=lambda: self.calls.append("listed"),
            ),
        }
        for name, one in self.modules.items():
            if name.startswith("modules."):
                setattr(self.modules["modules"], name.partition(".")[2], one)

    def _shared(self) -> Shared:
        shared = Shared("modules.shared")
        shared.cmd_opts, shared.state, shared.model_data = self.cmd_opts, self.state, self.data
        shared.opts = self.options
        return shared

    def _processing(self) -> types.ModuleType:
        webui = self

        class StableDiffusionProcessing:
            cached_c: ClassVar = ["old", "old"]
            cached_uc: ClassVar = ["old", "old"]

        class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
            cached_hr_c: ClassVar = ["old", "old"]

            def __init__(self, **settings: Any) -> None:
                self.settings, self.closed, self.scripts = settings, False, "scripts"
                self.override_settings = settings.get("override_settings", {})
                webui.draws.append(self)

            def sample(self, **_: Any) -> Any:
                return webui.sampled

            def close(self) -> None:
                self.closed = True

        def process_images(made: Any) -> SimpleNamespace:
            assert webui.lock._lock.locked(), "an image without the lock"
            with webui.options.changed(made.override_settings):
                if webui.on_draw is not None:
                    webui.on_draw(made)
                made.sample(conditioning=None)
            return SimpleNamespace(images=[webui.picture], comments=webui.comments)

        return module(
            "modules.processing",
            StableDiffusionProcessing=StableDiffusionProcessing,
            StableDiffusionProcessingTxt2Img=StableDiffusionProcessingTxt2Img,
            process_images=process_images,
        )

    def load(self, model: Any) -> Any:
        """The host now holds this model."""
        self.data.sd_model = model
        return model

    def add_lora(self, name: str, path: Path, alias: str | None = None) -> None:
        self.modules["networks"].available_networks[name] = OnDisk(name, str(path), alias or name)

    def install(self, monkeypatch: Any) -> WebUI:
        import sys

        for name, one in self.modules.items():
            monkeypatch.setitem(sys.modules, name, one)
        return self


def module(name: str, **contents: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(contents)
    return made


def add_backend(webui: WebUI, device: str = "cpu") -> types.ModuleType:
    """Forge's memory manager, and its main thread, which swallows exceptions."""

    def run_and_wait_result(work: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread(), "this waits for itself"
        result: list[Any] = []

        def loop() -> None:
            try:
                result.append(work())
            except Exception:
                result.append(None)

        thread = threading.Thread(target=loop, name="host's main thread")
        thread.start()
        thread.join()
        return result[0]

    manager = module(
        "backend.memory_management",
        get_torch_device=lambda: torch.device(device),
        free_memory=lambda amount, where: webui.calls.append(("free", amount, str(where))),
        soft_empty_cache=lambda: webui.calls.append("empty cache"),
    )
    main_thread = module("modules_forge.main_thread", run_and_wait_result=run_and_wait_result)
    webui.modules |= {
        "backend": module("backend", __path__=[], memory_management=manager),
        "backend.memory_management": manager,
        "modules_forge": module("modules_forge", __path__=[], main_thread=main_thread),
        "modules_forge.main_thread": main_thread,
    }
    webui.modules["modules.devices"].device = torch.device(device)
    return manager

"""Resize LoRA: shrink LoRA files with little visible change.

The public names are loaded on first use, so that importing the package is fast.

>>> import lib_resize
>>> lib_resize.parse_recipe("rank=16").selection
'rank'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOMES: dict[str, str] = {
    "ResizeError": "errors",
    "UsageError": "errors",
    "PromptError": "errors",
    "RecipeError": "errors",
    "FileError": "errors",
    "DamagedFileError": "errors",
    "UnsupportedError": "errors",
    "LayerError": "errors",
    "PairingError": "errors",
    "DeviceError": "errors",
    "HostError": "errors",
    "OutputError": "errors",
    "InternalError": "errors",
    "Cancelled": "errors",
    "Plan": "plans",
    "LayerPlan": "plans",
    "Result": "plans",
    "Recipe": "recipe.grammar",
    "parse_recipe": "recipe.grammar",
    "parse_recipes": "recipe.grammar",
    "Analysis": "engine.analysis",
    "Checkpoint": "base.checkpoint",
    "Settings": "engine.settings",
    "Outcome": "engine.settings",
    "Style": "adapters.write.style",
    "Progress": "progress",
    "Finding": "studies.inspection",
    "LayerAnalysis": "studies.lora_analysis",
    "LoraAnalysis": "studies.lora_analysis",
    "RecipeSize": "studies.lora_analysis",
    "resize": "api",
    "replace": "api_replacing",
    "restore": "api_replacing",
    "plan": "api",
    "analyse": "api",
    "merge": "api",
    "extract": "api",
    "upsample": "api",
    "expand": "api",
    "inspect": "api",
    "resize_all": "api",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from .adapters.write.style import Style as Style
    from .api import analyse as analyse
    from .api import expand as expand
    from .api import extract as extract
    from .api import inspect as inspect
    from .api import merge as merge
    from .api import plan as plan
    from .api import resize as resize
    from .api import resize_all as resize_all
    from .api import upsample as upsample
    from .api_replacing import replace as replace
    from .api_replacing import restore as restore
    from .base.checkpoint import Checkpoint as Checkpoint
    from .engine.analysis import Analysis as Analysis
    from .engine.settings import Outcome as Outcome
    from .engine.settings import Settings as Settings
    from .errors import Cancelled as Cancelled
    from .errors import DamagedFileError as DamagedFileError
    from .errors import DeviceError as DeviceError
    from .errors import FileError as FileError
    from .errors import HostError as HostError
    from .errors import InternalError as InternalError
    from .errors import LayerError as LayerError
    from .errors import OutputError as OutputError
    from .errors import PairingError as PairingError
    from .errors import PromptError as PromptError
    from .errors import RecipeError as RecipeError
    from .errors import ResizeError as ResizeError
    from .errors import UnsupportedError as UnsupportedError
    from .errors import UsageError as UsageError
    from .plans import LayerPlan as LayerPlan
    from .plans import Plan as Plan
    from .plans import Result as Result
    from .progress import Progress as Progress
    from .recipe.grammar import Recipe as Recipe
    from .recipe.grammar import parse_recipe as parse_recipe
    from .recipe.grammar import parse_recipes as parse_recipes
    from .studies.inspection import Finding as Finding
    from .studies.lora_analysis import LayerAnalysis as LayerAnalysis
    from .studies.lora_analysis import LoraAnalysis as LoraAnalysis
    from .studies.lora_analysis import RecipeSize as RecipeSize


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)

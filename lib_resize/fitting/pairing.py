"""Find the modules of a model in memory that the layers of a LoRA change, by the names of their weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..adapters.layer import Adapter
from ..base.model_index import read_base
from ..base.pairing import fitted, partner
from ..base.weights import BaseModel, Partner
from .places import Place

_IN_PROJECTION = ".in_proj_weight"
_WITHOUT_LEVEL = ("encoder.layers.", "embeddings.", "final_layer_norm.")


def places_in(adapter: Adapter, parts: Mapping[str, nn.Module]) -> dict[str, dict[int, Place]]:
    """Return the places of a LoRA's layers: part -> index of the layer -> place.

    `parts` are the components of a model by their prefixes in checkpoints, such as ``unet`` and ``text_encoder`` of
    diffusers, or ``model.diffusion_model``. Layers without a place are left out: those that the model does not have,
    or has in several modules, transposed, or with other rows or columns.
    """
    weights = {
        f"{prefix}.{_in_file(name)}": (prefix, name, tuple(parameter.shape))
        for prefix, part in parts.items()
        for name, parameter in part.named_parameters()
    }
    base = read_base({key: shape for key, (_, _, shape) in weights.items()})
    found: dict[str, dict[int, Place]] = {prefix: {} for prefix in parts}
    for index, layer in enumerate(adapter.layers):
        weight = _weight(base, layer.canonical, layer.stem, layer.size)
        if weight is not None:
            prefix, name, _ = weights[weight.key]
            found[prefix][index] = _place(parts[prefix], weight, name)
    return found


def _in_file(name: str) -> str:
    """Return the name of a weight in files: newer versions of transformers have no level ``text_model`` in memory."""
    return f"text_model.{name}" if name.startswith(_WITHOUT_LEVEL) else name


def _weight(base: BaseModel, canonical: str | None, stem: str, size: tuple[int, int]) -> Partner | None:
    """Return the weight of a layer, where it is one module's, or rows of it."""
    named = partner(base, canonical, stem)
    found = None if named is None else fitted(named, size, canonical, base.family)
    if found is None or len(found.parts) > 1 or found.swapped or found.transposed or found.width is not None:
        return None
    return found


def _place(part: nn.Module, weight: Partner, name: str) -> Place:
    rows = weight.parts[0].rows
    owner = name.removesuffix(_IN_PROJECTION).removesuffix(".weight")
    first = _batch_dimension(part, owner)
    return Place(part.get_submodule(owner), rows, sees_output=owner + _IN_PROJECTION != name, batch_dimension=first)


def _batch_dimension(part: nn.Module, name: str) -> int:
    """Return 1 for a module with the tokens before the samples: attention of torch shows it, and its block has it too.

    The module itself and those that contain it are looked at, with their direct children.
    """
    around = part.get_submodule(name)
    attention = [around] if isinstance(around, nn.MultiheadAttention) else []
    while name and not attention:
        name = name.rpartition(".")[0]
        children = part.get_submodule(name).children()
        attention = [child for child in children if isinstance(child, nn.MultiheadAttention)]
    return 1 if attention and not attention[0].batch_first else 0

"""The Python API: one function for each task, with paths and recipes as plain text.

No function prints. Errors are `ResizeError`s, whose text says what was found, where, and what to do.

Paths are strings or `pathlib.Path`s. Recipes are texts such as ``"medium"``, ``"rank=16"`` or
``"fro_ckpt=1,thr=-3.5"``; docs/recipes.md explains them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from .api_options import FilePath, RecipeText, first_of, one_file, opened, planned_of, result_of, settings_of, style_of
from .base.checkpoint import Checkpoint
from .engine.batch import resize as resize_sources
from .engine.settings import Outcome, Settings
from .errors import UsageError
from .extraction.extract import extract as extract_difference
from .extraction.models import ExtractOptions
from .plans import Plan, Result
from .progress import Progress, Quiet
from .prompts.sources import Member, Source
from .prompts.sources import expand as expand_sources
from .recipe.grammar import ALL_RANKS, parse_recipes
from .studies.inspection import Finding, describe
from .studies.lora_analysis import LoraAnalysis, analyse_file


def resize(
    source: FilePath,
    recipe: RecipeText | None = None,
    *,
    output: FilePath | None = None,
    base: FilePath | Checkpoint | None = None,
    dtype: str = "16",
    naming: str = "keep",
    convert: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    sidecars: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Write a smaller LoRA file.

    The source file is not changed. The new file gets its name only when it is complete and has been read back.

    Args:
        source: The LoRA file.
        recipe: What to keep. The default is ``fro_ckpt=1,thr=-3.5`` with a base model and ``high`` without.
        output: A folder, or a file name that ends in ``.safetensors``. By default the file is written next to the
            source, with a name that contains the recipe.
        base: A checkpoint, for recipes that compare with the base model. An open `Checkpoint` is not closed.
        dtype: ``16`` (float16), ``bf16``, ``32``, ``8`` (float8 e4m3), or ``same`` as the source.
        naming: Key format: ``keep``, or ``kohya``, which every host loads.
        convert: ``lora`` converts every layer to LoRA where possible, ``none`` keeps the kind of each layer, and
            ``auto`` keeps it except LoHa where LoRA is smaller at equal quality.
        device: ``cpu``; a torch device such as ``cuda``, which gets the work that it does faster; or ``auto`` for
            CUDA's device if there is one. The default is ``auto`` if the program has loaded torch, else ``cpu``.
        threads: Number of worker threads; by default one per core.
        overwrite: Replace an earlier result. Other files are never replaced.
        sidecars: Copy previews and descriptions to the new name.
        progress: Called with each step; it can raise `Cancelled` to stop.

    Returns:
        The path of the new file, and the `Plan` with sizes, retention and layers.

    Raises:
        UsageError: The options do not fit together, or the recipe (RecipeError) cannot be parsed.
        FileError: A file is missing or damaged, or its kind is not supported (UnsupportedError).
        PairingError: The recipe needs base layers that the checkpoint does not have.
        LayerError: A layer has NaN, Inf or inconsistent shapes.
        DeviceError: The device is not available.
        OutputError: The result exists already or cannot be written.
        Cancelled: `progress` raised it.

    Examples:
        >>> result = resize("pastry.safetensors", "medium", output="small.safetensors")
        >>> result.path.name
        'small.safetensors'
        >>> result.plan.bytes_after < result.plan.bytes_before
        True
    """
    more = {"device": device, "threads": threads, "overwrite": overwrite, "sidecars": sidecars}
    settings = settings_of(recipe, output, base, style_of(dtype, naming, convert), **more)
    return result_of(resize_sources([one_file(source)], settings, progress))


def plan(
    source: FilePath,
    recipe: RecipeText | None = None,
    *,
    base: FilePath | Checkpoint | None = None,
    dtype: str = "16",
    naming: str = "keep",
    convert: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Compute what `resize` would do, with the exact size in bytes, and write nothing.

    The parameters and the errors are those of `resize`.

    Examples:
        >>> planned = plan("pastry.safetensors", "rank=4")
        >>> planned.layers[0].new_rank
        4
        >>> 0 < planned.retention < 1
        True
    """
    style = style_of(dtype, naming, convert)
    settings = settings_of(recipe, None, base, style, device=device, threads=threads, dry_run=True)
    return planned_of(first_of(resize_sources([one_file(source)], settings, progress)))


def analyse(
    source: FilePath,
    recipes: str = "high:medium:low",
    *,
    base: FilePath | Checkpoint | None = None,
    dtype: str = "16",
    threads: int | None = None,
) -> LoraAnalysis:
    """Compute the singular values of every layer, and what recipes would keep of them.

    All recipes share one decomposition, so this is much faster than a `plan` for each.

    Args:
        source: The LoRA file.
        recipes: One or more recipes, separated by colons.
        base: A checkpoint, for recipes that compare with the base model; it also adds curves of its scores.
        dtype: The dtype for which `RecipeSize.bytes` is computed, as in `resize`.
        threads: Number of worker threads; by default one per core.

    Returns:
        The `LoraAnalysis`: for each layer its rank, singular values in descending order and effective rank; for each
        recipe the exact size of the file in bytes and its retention; and curves of retention over size.

    Raises:
        UsageError: A recipe needs a base model and there is none, or it cannot be parsed (RecipeError).
        FileError: The file is missing or damaged, or its kind is not supported (UnsupportedError).
        LayerError: A layer has NaN, Inf or inconsistent shapes.

    Examples:
        >>> found = analyse("pastry.safetensors", "medium:rank=4")
        >>> first = found.layers[0]
        >>> (first.rank, len(first.singular_values), first.effective_rank < 8)
        (8, 8, True)
        >>> [size.recipe for size in found.recipes]
        ['fro_lora=1,min_rank=1,retain=0.92', 'rank=4']
        >>> all(size.bytes < found.bytes for size in found.recipes)
        True
    """
    asked = parse_recipes(recipes)
    for recipe in asked:
        if recipe.needs_base and base is None:
            raise UsageError(f"recipe {recipe} compares with the base model; pass a checkpoint as base.")
    with opened(base) as checkpoint:
        return analyse_file(Path(source), asked, style_of(dtype), checkpoint, threads)


def inspect(path: FilePath, *, base: FilePath | Checkpoint | None = None, threads: int | None = None) -> Finding:
    """Describe a LoRA file: family, kind, ranks, dtypes, effective rank, and its size at several retentions.

    Args:
        path: The LoRA file.
        base: A checkpoint, for kinds whose delta depends on the base model (GLoRA).
        threads: Number of worker threads; by default one per core.

    Raises:
        FileError: The file is missing or damaged, or its kind is not supported (UnsupportedError).
        LayerError: A layer has NaN, Inf or inconsistent shapes.

    Examples:
        >>> found = inspect("pastry.safetensors")
        >>> (found.family, found.kind)
        ('SDXL', 'LoRA')
    """
    with opened(base) as checkpoint:
        return describe(Path(path), base=checkpoint, threads=threads)


def merge(
    loras: Mapping[str, float] | Iterable[tuple[FilePath, float]],
    output: FilePath,
    recipe: RecipeText | None = None,
    *,
    base: FilePath | Checkpoint | None = None,
    dtype: str = "16",
    naming: str = "keep",
    convert: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write one LoRA that is the sum of several, each with a strength.

    The sum is exact. A recipe then resizes it; without one, all of its rank is kept.

    Args:
        loras: Path -> strength, or pairs of both. A strength may be negative, but not 0.
        output: A folder, or a file name that ends in ``.safetensors``.
        recipe: What to keep of the sum.
        base: A checkpoint, for recipes that compare with it, and for kinds whose delta depends on it.

    The other parameters and the errors are those of `resize`.

    Examples:
        >>> merge({"pastry.safetensors": 0.6, "ink_locon.safetensors": 0.4}, "both.safetensors").path.name
        'both.safetensors'
    """
    pairs = loras.items() if isinstance(loras, Mapping) else loras
    members = tuple(Member(Path(path), float(strength)) for path, strength in pairs)
    if not members or any(member.weight == 0 for member in members):
        raise UsageError("merge needs at least one LoRA, each with a strength other than 0.")
    more = {"device": device, "threads": threads, "overwrite": overwrite, "sidecars": False}
    settings = settings_of(recipe or ALL_RANKS, output, base, style_of(dtype, naming, convert), **more)
    return result_of(resize_sources([Source(members)], settings, progress))


def extract(
    tuned: FilePath,
    base: FilePath,
    output: FilePath,
    *,
    rank: int = 64,
    recipe: RecipeText | None = None,
    conv_rank: int | None = None,
    text_encoders: bool = True,
    all_layers: bool = False,
    biases: bool = False,
    dtype: str = "16",
    device: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write the difference ``tuned - base`` of two checkpoints as a LoRA.

    Args:
        tuned: The checkpoint that the LoRA should reproduce.
        base: The checkpoint to which the LoRA is applied.
        output: A folder, or a file name that ends in ``.safetensors``.
        rank: Rank of each layer; with a recipe, the number of dimensions of each layer from which it chooses.
        recipe: What to keep of these dimensions, in place of all.
        conv_rank: Rank of convolutions larger than 1x1; 0 omits them. The default is `rank`.
        text_encoders: Include the text encoders.
        all_layers: Include the first and last convolution, time and label embedding, and the text projection.
        biases: Include biases and the UNet's norms, which not all hosts load.

    The other parameters are those of `resize`. Raises what `resize` raises, and UnsupportedError if the checkpoints are
    of different families or equal.

    Examples:
        >>> result = extract("tuned.safetensors", "base.safetensors", "difference.safetensors", rank=4)
        >>> result.plan.layers[0].new_rank
        4
    """
    limit = f",max_conv_rank={conv_rank}" if conv_rank else ""
    more = {"device": device, "threads": threads, "overwrite": overwrite}
    settings = settings_of(recipe or f"rank={rank}{limit}", output, None, style_of(dtype), **more)
    options = ExtractOptions(rank, conv_rank, text_encoders, all_layers, biases)
    with closing(Checkpoint(Path(tuned))) as ours, closing(Checkpoint(Path(base))) as theirs:
        return result_of(extract_difference(ours, theirs, options, settings, progress or Quiet()))


def upsample(
    source: FilePath,
    rank: int,
    *,
    output: FilePath | None = None,
    seed: int = 0,
    dtype: str = "same",
    naming: str = "keep",
    threads: int | None = None,
    overwrite: bool = False,
    sidecars: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Expand the rank of every layer without changing its delta.

    The new directions of ``down`` are orthonormal to the old ones, and ``up`` is zero for them until it is trained.
    `expand` is the same function.

    Args:
        source: The LoRA file.
        rank: The new rank of every layer.
        seed: Random seed of the new directions.

    The other parameters and the errors are those of `resize`. LayerError is raised if a layer has a larger rank.

    Examples:
        >>> max(layer.new_rank for layer in expand("pastry.safetensors", 12).plan.layers)
        12
    """
    more = {"threads": threads, "overwrite": overwrite, "sidecars": sidecars}
    settings = settings_of(f"rank={rank},extend,seed={seed}", output, None, style_of(dtype, naming), **more)
    return result_of(resize_sources([one_file(source)], settings, progress))


expand = upsample


def resize_all(
    sources: Iterable[FilePath], settings: Settings | None = None, progress: Progress | None = None
) -> Iterator[Outcome]:
    """Resize files and folders with each of the settings' recipes, and yield an `Outcome` for each file and recipe.

    A file that fails is an outcome with an `error`, and the work continues.

    Args:
        sources: Files, folders and patterns, as on the command line.
        settings: Recipes, output folder, dtype and so on; see `Settings`.
        progress: Called with each step; it can raise `Cancelled` to stop.

    Raises:
        UsageError: The settings do not fit together.
        DeviceError: The device is not available.
        FileError: The base model cannot be read.

    Examples:
        >>> for outcome in resize_all(["pastry.safetensors"], Settings(recipes=parse_recipes("low"), dry_run=True)):
        ...     print(outcome.plan.recipe, outcome.error)
        fro_lora=1,min_rank=1,retain=0.88 None
    """
    return resize_sources(expand_sources([os.fspath(one) for one in sources]), settings or Settings(), progress)

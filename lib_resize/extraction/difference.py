"""The difference of two checkpoints as a LoRA: layer by layer, with few layers in memory at a time.

The factors of each layer's strongest dimensions wait on the disk. What comes out is an `Adapter` like one that was read
from a file, so that recipes, sizes and files are those of `jobs`. What its ranks do not hold of the difference is known
for each layer and counts in every share.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ..adapters.forms.lora import low_rank
from ..adapters.layer import Adapter, Copied, Layer
from ..adapters.read import groups_together
from ..adapters.suffixes import Part
from ..base.checkpoint import Checkpoint
from ..base.vectors import BIAS, NORM_BIAS, NORM_WEIGHT, BaseVector, named_vectors
from ..base.weights import BaseWeight
from ..engine.analysis import Analysis, Runtime, analyse
from ..engine.batch import Outcome, Settings, check_output, open_runtime
from ..engine.jobs import execute, prepare
from ..errors import LayerError, ResizeError, UnsupportedError
from ..files.file_names import unique_path
from ..files.spool import Spool
from ..files.target import Inputs
from ..linalg.casts import Single, singles
from ..linalg.factor import Pair, Stored
from ..linalg.leading import leading
from ..names.families import Family, block
from ..progress import Progress, in_order
from ..recipe.grammar import Recipe

_BUDGET = 1200 << 20  # bytes of layers under work at a time
_COPIES = 4  # float32 copies of a layer that its work takes at most
_EDGES = frozenset({"TIME", "LABEL", "OUT", "IN00", "EDGE"})
_NO_MATRIX = re.compile(r"embedding|pos_embed|embed_tokens|shared_weight|_shared$")

DEFAULT_RANK = 128
"""Dimensions that are looked for in each layer where nothing else is said."""


class Weights(Protocol):
    """A model whose weights can be read one at a time: a checkpoint file, or one in a host's memory."""

    @property
    def path(self) -> Path: ...

    @property
    def family(self) -> Family | None: ...

    @property
    def weights(self) -> Mapping[str, BaseWeight]:
        """Name of a layer, canonical or by kohya's rule -> its weight."""
        ...

    @property
    def vectors(self) -> Mapping[str, tuple[int, ...]]:
        """Biases and norms by their keys, and their shapes."""
        ...

    def matrix(self, weight: BaseWeight) -> Stored: ...

    def vector(self, key: str) -> Stored:
        """A bias or norm, (1, n)."""
        ...


@dataclass(frozen=True)
class ExtractOptions:
    """Which layers, and how many of their dimensions are looked for."""

    rank: int = DEFAULT_RANK
    conv_rank: int | None = None
    """For convolutions larger than 1x1: None is `rank`, 0 leaves them out."""
    text_encoders: bool = True
    edges: bool = False
    """Also first and last convolution, time and label embedding, which trainers leave alone and older diffusers does
    not read, and the text projection, which A1111 passes over."""
    vectors: bool = False
    """Also biases, and norms of UNets, as plain differences."""


@dataclass
class _Tally:
    """What became of all layers."""

    held: list[float] = field(default_factory=list)
    equal: int = 0
    only_one: int = 0
    sizes: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    vectors: _Vectors | None = None


@dataclass
class _Vectors:
    """What became of biases and norms that differ."""

    taken: list[Copied] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Keys of those that were not asked for."""
    lone: list[str] = field(default_factory=list)
    """Keys of those that cannot be had: they have no name in a LoRA, or their layer is not in it."""


def difference(tuned: Weights, base: Weights, wish: ExtractOptions, spool: Spool, runtime: Runtime) -> Adapter:
    """``tuned - base`` as an adapter; its files are to be put in by the caller.

    Raises UnsupportedError where families differ or nothing is left, LayerError where a layer cannot be decomposed.
    """
    _check_families(tuned, base)
    tally = _Tally()
    pairs = _pairs(tuned, base, wish, tally)
    layers = tuple(_layers(tuned, base, pairs, wish, spool, runtime, tally))
    if not layers:
        raise UnsupportedError(_nothing_differs(tuned, base, tally))
    tally.vectors = _changed_vectors(tuned, base, wish, {layer.stem for layer in layers})
    family = tuned.family
    return Adapter(
        name=f"{tuned.path.stem}-{base.path.stem}",
        files=(),
        metadata=_metadata(family, tuned.path, base.path),
        layers=layers,
        copied=tuple(tally.vectors.taken) if tally.vectors else (),
        family=family,
        notes=tuple(_notes(layers, tally, wish)),
        weights=(1.0, -1.0),
        together=groups_together(layers, family),
        extracted=True,
    )


def _nothing_differs(tuned: Weights, base: Weights, tally: _Tally) -> str:
    """Why there is no layer: all are equal, or too few could be compared to say so."""
    models = f"{tuned.path} and {base.path}" if tuned.path != base.path else f"{tuned.path}, in memory and as a file"
    missed = [f"{tally.only_one} are in one of the two alone"] if tally.only_one else []
    missed += [f"{len(tally.sizes)} differ in size"] if tally.sizes else []
    missed += [f"{count} are {reason}" for reason, count in tally.left_out.items() if reason == _OTHER_LAYOUT]
    apart = tally.only_one + len(tally.sizes) + tally.left_out.get(_OTHER_LAYOUT, 0)
    others = "; ".join(missed)
    if tally.equal > apart:
        told = f" Not compared: {others}." if missed else ""
        return f"{models}: no layer differs that a LoRA could hold ({tally.equal} were compared and are equal).{told}"
    count = f"{tally.equal} of {tally.equal + apart} layers" if tally.equal else "no layer"
    equal = " and are equal" if tally.equal else ""
    return (
        f"{models}: {count} could be compared{equal}; of the others, {others or 'none is wanted'}. "
        f"Name two checkpoints of one model in one layout."
    )


def extract(
    tuned: Checkpoint, base: Checkpoint, wish: ExtractOptions, settings: Settings, progress: Progress
) -> Iterator[Outcome]:
    """Takes the difference once, and makes a LoRA of it by each recipe of the settings.

    A recipe that cannot be met is an outcome. Raises what `difference` raises, and OutputError.
    """
    check_output(settings, Inputs((*tuned.paths, *base.paths)))
    with ExitStack() as stack:
        runtime = open_runtime(settings, progress, stack)
        spool = stack.enter_context(Spool(_folder(tuned.path, settings)))
        adapter = of_checkpoints(difference(tuned, base, wish, spool, runtime), tuned, base)
        hashes = [] if settings.dry_run else [runtime.pool.submit(file.sha256) for file in adapter.files]
        needy = any(recipe.needs_base for recipe in settings.all_recipes)
        analysis = analyse(adapter, base if needy else None, settings.all_recipes, runtime)
        for recipe in settings.all_recipes:
            yield _made(analysis, recipe, settings, runtime, hashes)


def of_checkpoints(adapter: Adapter, tuned: Checkpoint, base: Checkpoint) -> Adapter:
    """A difference with the files that it was made of."""
    models = [(model, file, weight) for model, weight in ((tuned, 1.0), (base, -1.0)) for file in model.files]
    return replace(
        adapter,
        files=tuple(file for _, file, _ in models),
        models=tuple(model.path for model, _, _ in models),
        weights=tuple(weight for *_, weight in models),
    )


def _made(
    analysis: Analysis, recipe: Recipe, settings: Settings, runtime: Runtime, hashes: Sequence[Future[str]]
) -> Outcome:
    folder = _folder(analysis.adapter.paths[0], settings)
    target = settings.target
    try:
        job = prepare(analysis, recipe, settings.style, lambda stem: target or unique_path(folder, stem, ()))
        if settings.dry_run:
            return Outcome(job.plan.source, job.plan, job)
        plan = execute(job, runtime, [future.result() for future in hashes], overwrite=settings.overwrite)
    except ResizeError as error:
        return Outcome(analysis.adapter.name, error=error)
    return Outcome(plan.source, plan, job)


def _folder(tuned: Path, settings: Settings) -> Path:
    """Where results go, and until then what waits on the disk."""
    return settings.target.parent if settings.target else settings.output or tuned.parent


def _check_families(tuned: Weights, base: Weights) -> None:
    if tuned.family != base.family:
        words = [
            f"{one.path.name} is {one.family.name if one.family else 'of no known family'}" for one in (tuned, base)
        ]
        raise UnsupportedError(f"{' and '.join(words)}: a difference is taken between models of one kind.")


def _pairs(
    tuned: Weights, base: Weights, wish: ExtractOptions, tally: _Tally
) -> list[tuple[str, BaseWeight, BaseWeight]]:
    """The layers of both models that are wanted, in the order of the first."""
    ours, theirs = tuned.weights, base.weights
    tally.only_one = len(ours.keys() ^ theirs.keys())
    found = []
    for name, weight in ours.items():
        other = theirs.get(name)
        reason = None if other is None else _left_out(name, weight, wish, tuned.family)
        if other is not None and not _comparable(weight, other, tuned.family):
            reason = _OTHER_LAYOUT
        if reason is not None:
            tally.left_out[reason] = tally.left_out.get(reason, 0) + 1
        elif other is not None and other.matrix != weight.matrix:
            tally.sizes.append(name)
        elif other is not None:
            found.append((name, weight, other))
    return found


_OTHER_LAYOUT = "kept in another layout; only Stable Diffusion is compared across layouts"
_ACROSS = frozenset({"SDXL", "SD1.5", "SD2"})


def _comparable(ours: BaseWeight, theirs: BaseWeight, family: Family | None) -> bool:
    """Whether two weights hold the same numbers in the same order: elsewhere layouts swap halves and fuse rows."""
    return _same_words(ours.key, theirs.key) or (family is not None and family.name in _ACROSS)


def _same_words(one: str, other: str) -> bool:
    """Whether two keys of one layer differ in nothing but the prefix of their file."""
    ours, theirs = one.split("."), other.split(".")
    shared = 0
    while shared < min(len(ours), len(theirs)) and ours[-1 - shared] == theirs[-1 - shared]:
        shared += 1
    before = ours[: len(ours) - shared] + theirs[: len(theirs) - shared]
    return not before or (shared > 1 and not any(part.isdecimal() for part in before))


def _left_out(name: str, weight: BaseWeight, wish: ExtractOptions, family: Family | None) -> str | None:
    """Why a layer is not wanted; None where it is."""
    known = family is not None
    if name.startswith("lora_te") and not wish.text_encoders:
        return "text encoders"
    if name.endswith("text_projection") and not wish.edges:
        return "text projection, which A1111 does not read (see --all-layers)"
    if known and not wish.edges and block(name) in _EDGES:
        return "first, last and embedding layers of the UNet (see --all-layers)"
    if not known and _NO_MATRIX.search(name):
        return "embeddings"
    if _is_conv(weight) and wish.conv_rank == 0:
        return "convolutions"
    return None


def _is_conv(weight: BaseWeight) -> bool:
    return math.prod(weight.shape[2:]) > 1


def _layers(
    tuned: Weights,
    base: Weights,
    pairs: Sequence[tuple[str, BaseWeight, BaseWeight]],
    wish: ExtractOptions,
    spool: Spool,
    runtime: Runtime,
    tally: _Tally,
) -> Iterator[Layer]:
    budget = _Budget(_BUDGET)

    def work(pair: tuple[str, BaseWeight, BaseWeight]) -> tuple[Layer, float] | None:
        name, ours, theirs = pair
        rank = wish.rank if wish.conv_rank is None or not _is_conv(ours) else wish.conv_rank
        with budget.of(_COPIES * 4 * math.prod(ours.shape)):
            matrix = _subtracted(tuned, base, ours, theirs)
            return None if matrix is None else _layer(name, ours, matrix, rank, tuned, spool, runtime)

    runtime.progress.start("compare", len(pairs))
    for found in in_order(runtime.pool, work, pairs, runtime.pool._max_workers + 1):
        runtime.progress.step()
        if found is None:
            tally.equal += 1
        else:
            tally.held.append(found[1])
            yield found[0]


def _subtracted(tuned: Weights, base: Weights, ours: BaseWeight, theirs: BaseWeight) -> Single | None:
    """``tuned - base`` in float32, (n, m); None where they are equal."""
    one, other = tuned.matrix(ours), base.matrix(theirs)
    if one.kind == other.kind and ours.transposed == theirs.transposed and np.array_equal(one.bits, other.bits):
        return None
    matrix = _upright(one, ours)
    with np.errstate(invalid="ignore", over="ignore"):
        matrix -= _upright(other, theirs)
    return matrix if matrix.any() else None


def _upright(stored: Stored, weight: BaseWeight) -> Single:
    values = singles(stored.bits, stored.kind)
    return values.T if weight.transposed else values


def _layer(
    name: str, weight: BaseWeight, matrix: Single, rank: int, tuned: Weights, spool: Spool, runtime: Runtime
) -> tuple[Layer, float] | None:
    """The layer, and the square of the Frobenius norm of what it holds."""
    try:
        found = leading(matrix, rank, runtime.arrays)
    except LayerError as error:
        raise LayerError(f"{tuned.path}: layer {name}: {error}") from error
    if not len(found.s):
        return None
    layer = Layer(
        stem=name,
        form=low_rank(Pair(spool.add(found.up), spool.add(found.down)), weight.shape[2:], "F32"),
        parts={
            "up": Part(f"{name}.lora_up.weight", name, "up", ".lora_up.weight"),
            "down": Part(f"{name}.lora_down.weight", name, "down", ".lora_down.weight"),
        },
        canonical=name if tuned.family is not None else None,
        lost=found.lost,
    )
    return layer, float(found.s @ found.s)


class _Budget:
    """Lets work begin while so many bytes are free; a piece that is larger than all of it works alone."""

    def __init__(self, bytes: int) -> None:
        self._all = self._free = bytes
        self._changed = threading.Condition()

    @contextmanager
    def of(self, bytes: int) -> Iterator[None]:
        taken = min(bytes, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()


# Biases and norms ---------------------------------------------------------------------------------------------


def _changed_vectors(tuned: Weights, base: Weights, wish: ExtractOptions, stems: Set[str]) -> _Vectors | None:
    """Biases and norms that differ; None where the models name none alike. `stems` are the layers of the LoRA."""
    ours, theirs = tuned.vectors, base.vectors
    pairs = list(_vector_pairs(_named(tuned, ours), _named(base, theirs), ours, theirs))
    if not pairs and (ours or theirs):
        return None
    groups: dict[str, list[tuple[BaseVector, Single]]] = {}
    for one, other in pairs:
        groups.setdefault(one.stem, []).append((one, _vector(tuned, one) - _vector(base, other)))
    found = _Vectors()
    for group in groups.values():
        if not any(change.any() for _, change in group):
            continue
        if wish.vectors and _has_place(group[0][0], len(group), stems, wish):
            found.taken += [Copied(one.name, _WHY[one.role], one.stem, gain=1.0, made=change) for one, change in group]
        else:
            (found.lone if wish.vectors else found.left).extend(one.key for one, _ in group)
    return found


_WHY = {BIAS: "bias difference", NORM_WEIGHT: "norm", NORM_BIAS: "norm"}


def _named(model: Weights, vectors: Mapping[str, tuple[int, ...]]) -> dict[str, BaseVector]:
    is_unet = model.family is not None and model.family.name in _ACROSS
    return named_vectors(model.weights, vectors, norms=is_unet)


def _vector_pairs(
    ours: Mapping[str, BaseVector],
    theirs: Mapping[str, BaseVector],
    shapes: Mapping[str, tuple[int, ...]],
    other_shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[BaseVector, BaseVector]]:
    """The same vector in both models: by its name in a LoRA, else by its key, and then without a name."""
    pairs = [(one, theirs[name]) for name, one in ours.items() if name in theirs]
    same = [(one, other) for one, other in pairs if _length(one, shapes) == _length(other, other_shapes)]
    yield from same
    known = {one.key for one, _ in same}
    for key in (key for key, shape in shapes.items() if key not in known and other_shapes.get(key) == shape):
        nameless = BaseVector(key, key, "", "")
        yield nameless, nameless


def _length(vector: BaseVector, shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, last = vector.rows or (0, shapes[vector.key][0])
    return last - first


def _vector(model: Weights, vector: BaseVector) -> Single:
    """Its numbers, (n,)."""
    stored = model.vector(vector.key)
    values = singles(stored.bits, stored.kind).reshape(-1)
    return values if vector.rows is None else values[slice(*vector.rows)]


def _has_place(vector: BaseVector, count: int, stems: Set[str], wish: ExtractOptions) -> bool:
    """A1111 refuses a file that has a bias without its layer, or half of a norm."""
    if vector.role == BIAS:
        return vector.stem in stems
    return bool(vector.role) and count == 2 and (wish.edges or block(vector.layer) not in _EDGES)


# What is said -------------------------------------------------------------------------------------------------


def _notes(layers: Sequence[Layer], tally: _Tally, wish: ExtractOptions) -> Iterator[str]:
    yield _share_held(layers, tally, wish)
    if tally.equal:
        yield f"{tally.equal} layers are equal in both and left out"
    for reason, count in sorted(tally.left_out.items()):
        yield f"{count} layers left out: {reason}"
    if tally.sizes:
        yield f"{len(tally.sizes)} layers differ in size and are left out (first {tally.sizes[0]})"
    if tally.only_one:
        yield f"{tally.only_one} layers are in one of the two checkpoints alone"
    yield from _notes_of_vectors(tally.vectors)


def _notes_of_vectors(vectors: _Vectors | None) -> Iterator[str]:
    if vectors is None:
        yield "biases and norms were not compared: the two models do not name them alike"
        return
    if vectors.taken:
        yield (
            f"{len(vectors.taken)} differences of biases and norms go along: ComfyUI and Forge apply them all, A1111 "
            f"the norms alone, and diffusers refuses the file"
        )
    if vectors.left:
        yield f"{_vectors_told(vectors.left)} differ and are left out, since hosts do not agree on them (see --biases)"
    if vectors.lone:
        yield f"{_vectors_told(vectors.lone)} differ and are left out: no host finds them in a LoRA of these layers"


def _vectors_told(keys: Sequence[str]) -> str:
    each = list(dict.fromkeys(keys))
    norms = [key for key in each if "norm" in key or "ln_" in key or re.search(r"(in_layers|out_layers|out)\.0\.", key)]
    return f"{len(each)} biases and norms ({len(norms)} of norms; first {each[0]})"


def _share_held(layers: Sequence[Layer], tally: _Tally, wish: ExtractOptions) -> str:
    lost, held = math.fsum(layer.lost**2 for layer in layers), math.fsum(tally.held)
    conv = "" if wish.conv_rank in (None, wish.rank) else f" and conv rank {wish.conv_rank}"
    share = math.sqrt(held / (held + lost))
    return f"rank {wish.rank}{conv} holds {100 * share:.1f} % of the difference; no recipe can keep more"


_RESOLUTIONS = {"SDXL": "1024x1024", "SD1.5": "512x512", "SD2": "512x512"}


def _metadata(family: Family | None, tuned: Path, base: Path) -> dict[str, str]:
    """What trainers write of a LoRA, as far as it is true of this one."""
    found = {"ss_network_module": "networks.lora", "ss_sd_model_name": base.name, "modelspec.title": tuned.stem}
    found["modelspec.sai_model_spec"] = "1.0.0"
    if family is None:
        return found
    if family.base_model_version is not None:
        found["ss_base_model_version"] = family.base_model_version
        found["ss_v2"] = str(family.base_model_version.startswith("sd_v2"))
    if family.modelspec_architecture is not None:
        found["modelspec.architecture"] = family.modelspec_architecture
    if family.name in _RESOLUTIONS:
        found["modelspec.implementation"] = "https://github.com/Stability-AI/generative-models"
        found["modelspec.resolution"] = _RESOLUTIONS[family.name]
    return found

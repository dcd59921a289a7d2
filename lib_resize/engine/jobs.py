"""One recipe for one analysed LoRA: the plan, without writing anything, and then the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from .. import __version__
from ..adapters.forms.form import Decomposition, Form, WriteSpec, relative_difference, relative_distance
from ..adapters.forms.full import Full
from ..adapters.forms.lora import LowRank
from ..adapters.keys.registry import LONE_ALPHA, MOST_UNKNOWN_TO_FORGE, UNKNOWN_TO_FORGE
from ..adapters.layer import Copied
from ..adapters.merge.onto_base import magnitudes
from ..adapters.read.adapter import read_written_form
from ..adapters.write.float8 import float8_result
from ..adapters.write.layout import (
    FillRows,
    NewLayer,
    OutputLayout,
    becomes_float8,
    layer_tensors,
    output_layout,
    zero_rows,
)
from ..adapters.write.style import FLOAT8, Style
from ..errors import LayerError, OutputError, ResizeError, UnsupportedError
from ..files.header import TensorSpec
from ..files.reader import SafeFile
from ..files.stamp import LayerFact, MergedSource, Record, StampFacts, restamp
from ..files.target import RESULT, Inputs, check_target
from ..files.writer import Chunk, file_bytes, verify, write_safetensors
from ..linalg.arrays import Arrays
from ..linalg.casts import LARGEST, Bits, Single, largest_magnitude, round_to, singles
from ..linalg.dora import DoraWeight
from ..linalg.extension import orthonormal_rows
from ..linalg.factor import Factor, Pair, Spectrum, Stored
from ..linalg.finite import check_finite, without_float_warnings
from ..linalg.lazy import materialise
from ..linalg.random_projection import layer_generator
from ..linalg.truncate import discarded_norm, norm_of_strengths
from ..plans import LayerPlan, Plan
from ..progress import in_order
from ..recipe.grammar import Recipe, format_number
from ..recipe.scores import check_partners, with_estimates
from ..recipe.select import Choice, SelectionInput, choose, weight_retention
from .analysis import Analysis, Runtime
from .reduction import Reduction, reduction

_UNKNOWN_HASH = "0" * 64
_EXPECTED_FLOAT8 = 0.036
"""What rounding two factors to fp8 usually does to a delta, relative, Frobenius: for plans that are not measured."""
_LONGEST_SHARE = 0.123456

Place = Callable[[str], Path]
"""From a file's wished stem to its path; the stem may be changed to be unique."""


@dataclass(frozen=True)
class ResizeJob:
    """All that is settled before the first byte is written."""

    analysis: Analysis
    recipe: Recipe
    style: Style
    choice: Choice
    draft: OutputLayout
    plan: Plan
    path: Path
    reduction: Reduction | None = None
    """What the factors are made with where that is not the exact decomposition."""
    rounded: Mapping[int, float] | None = None
    """Of layers that are written in fp8: Frobenius norm of the delta less the written one, without `rescale`, by
    index. None where it is not measured yet, and estimated in the plan."""

    def solved(self, index: int) -> Decomposition:
        """What layer `index` of the adapter is written with."""
        return (self.reduction or self.analysis).spectra[index]


def prepare(analysis: Analysis, recipe: Recipe, style: Style, place: Place, *, suffix: str | None = None) -> ResizeJob:
    """Chooses, drafts and sizes a file. The plan's `bytes_after` is exact. Where the analysis holds the LoRA in another
    form as well, the better of both is taken, or the one that `style` asks for, and a note says so.

    Raises PairingError where the recipe needs base layers that are missing, ResizeError where nothing fits.
    """
    own = _Attempt(analysis, recipe, style, place, suffix)
    mine = own.job()
    other = analysis.others.get(style.convert)
    theirs = other and _Attempt(other, recipe, style, place, suffix).job()
    if not theirs or other is None:
        return mine or own.fail()
    if mine is None:
        return theirs
    if style.convert == "lora":
        return _noted(theirs, _CONVERTED.format(kinds=_kinds_that_differ(analysis, other), **_sizes(theirs, mine)))
    if _is_better(theirs, mine):
        return _noted(theirs, _BETTER.format(**_sizes(theirs, mine)))
    return _noted(mine, _KEPT.format(**_sizes(mine, theirs)))


_CONVERTED = "written as LoRA, as asked: {size} at retention {held}; {kinds} it would have {other} at {other_held}"
_BETTER = "LoHa written as LoRA, the better file here: {size} at retention {held}; as LoHa {other} at {other_held}"
_KEPT = "LoHa kept, the better file here: {size} at retention {held}; as LoRA {other} at {other_held}"


@dataclass
class _Attempt:
    """One form of the LoRA under one recipe."""

    analysis: Analysis
    recipe: Recipe
    style: Style
    place: Place
    suffix: str | None
    error: ResizeError | None = None

    def job(self) -> ResizeJob | None:
        """None where the recipe cannot be had; see `fail`."""
        maker = _Maker(self.analysis, self.recipe, self.style, self.place, self.suffix)
        try:
            _check_something_is_left(self.analysis)
            unpaired = check_partners(self.recipe, self.analysis.layers, self.analysis.base_name or "")
            layers = with_estimates(self.recipe, self.analysis.layers)
            question = SelectionInput(layers, self.analysis.adapter.together, maker.size_of)
            choice = choose(self.recipe, question)
            maker.reduction = reduction(self.analysis, self.recipe, choice)
            return maker.job(choice, unpaired)
        except ResizeError as error:
            self.error = error
            return None

    def fail(self) -> NoReturn:
        assert self.error is not None
        raise self.error


def _check_something_is_left(analysis: Analysis) -> None:
    """Raises UnsupportedError where all layers are zero, which no recipe can help."""
    layers = analysis.adapter.layers
    if len(analysis.zero) < len(layers):
        return
    if all(layer.form.scale == 0.0 for layer in layers):
        why = (
            f"alpha is 0 in all {len(layers)} layers, so that hosts apply nothing of them. kohya's scripts and LyCORIS "
            "read alpha 0 as alpha = rank: if that was meant, write the rank as alpha with the program that made it"
        )
    elif len(analysis.adapter.files) > 1:
        why = f"the layers of these files cancel one another, all {len(layers)} of them"
    else:
        why = f"all {len(layers)} layers are zero: their factors or their alphas are, and hosts apply nothing of them"
    raise UnsupportedError(f"{_label(analysis)}: nothing is left to write: {why}.")


def _is_better(other: ResizeJob, own: ResizeJob) -> bool:
    """Smaller at the asked retention, closer at the asked size; else only where it is no worse in both."""
    mine, theirs = own.plan, other.plan
    if own.recipe.selection == "retain":
        return theirs.bytes_after < mine.bytes_after
    if own.recipe.selection == "size":
        return theirs.retention > mine.retention
    return theirs.bytes_after < mine.bytes_after and theirs.retention >= mine.retention


def _sizes(taken: ResizeJob, left: ResizeJob) -> dict[str, str]:
    def mib(plan: Plan) -> str:
        return f"{plan.bytes_after / (1 << 20):.2f} MiB"

    return {
        "size": mib(taken.plan),
        "held": f"{taken.plan.retention:.1%}",
        "other": mib(left.plan),
        "other_held": f"{left.plan.retention:.1%}",
    }


def _kinds_that_differ(analysis: Analysis, other: Analysis) -> str:
    pairs = zip(analysis.adapter.layers, other.adapter.layers, strict=True)
    kinds = {own.form.kind for own, new in pairs if type(own.form) is not type(new.form)}
    return "as " + " and ".join(sorted(kinds))


def _noted(job: ResizeJob, note: str) -> ResizeJob:
    return replace(job, plan=replace(job.plan, notes=(*job.plan.notes, note)))


def execute(
    job: ResizeJob, runtime: Runtime, hashes: Sequence[str], *, overwrite: bool = False, inputs: Inputs | None = None
) -> Plan:
    """Writes the file, whole or not at all, and checks it. `hashes` are the SHA-256 of the adapter's files.

    With `overwrite` it replaces a result of ours, but none of the `inputs` of the run. Raises OutputError where it
    cannot be written or does not hold what it should.
    """
    inputs = inputs or Inputs(job.analysis.adapter.paths)
    check_target(job.path, RESULT, overwrite=overwrite, inputs=inputs)
    job = _measured_float8(job, runtime)
    maker = _maker_of(job)
    metadata = maker.metadata(job.choice, job.draft, job.path.stem, hashes)

    def check(path: Path) -> None:
        verify(path, job.draft.specs)
        _check_deltas(path, job, runtime)
        check_target(job.path, RESULT, overwrite=overwrite, inputs=inputs)  # perhaps somebody put a file there

    written = write_safetensors(
        job.path,
        job.draft.specs,
        metadata,
        _chunks(job, runtime),
        overwrite=overwrite,
        check=check,
        sources=job.analysis.adapter.paths,
    )
    return replace(job.plan, bytes_after=written.bytes)


def wished_stem(name: str, recipe: Recipe, threshold: float | None, suffix: str | None) -> str:
    """``my_lora_spnckpt1_size32_th-2.871``: the source's name and what was done, or the user's own suffix."""
    if suffix is not None:
        return name + suffix
    return f"{name}_{stem_details(recipe)}" + ("" if threshold is None else f"_th{format_number(threshold, 3)}")


def stem_details(recipe: Recipe) -> str:
    """The recipe as it stands in a file name, all but the threshold."""
    parts = [f"{name.replace('_', '')}{format_number(weight, 2)}" for name, weight in sorted(recipe.weights.items())]
    if recipe.rescale != 1.0:
        parts.append(f"scale{format_number(recipe.rescale, 2)}")
    if recipe.selection != "thr":
        parts.append(f"{recipe.selection.replace('_', '')}{format_number(recipe.value, 3)}")
    limits = (("max", recipe.max_rank), ("conv", recipe.max_conv_rank), ("min", recipe.min_rank))
    parts += [f"{word}{limit}" for word, limit in limits if limit]
    usual = {f"{name}={default}" for name, default in (("niter", 2), ("oversample", 8), ("seed", 0))}
    parts += [item.replace("=", "") for item in recipe.method_items if item not in usual]
    return "_".join(parts)


class _Maker:
    """Turns a choice into names, metadata, size and plan."""

    def __init__(self, analysis: Analysis, recipe: Recipe, style: Style, place: Place, suffix: str | None) -> None:
        self.analysis = analysis
        self.adapter = analysis.adapter
        self.recipe = recipe
        self.style = style
        self.place = place
        self.suffix = suffix
        self.strongest = [float(facts.strengths[0]) * recipe.rescale for facts in analysis.layers]
        self.reduction: Reduction | None = None
        self.float8 = [i for i, layer in enumerate(self.adapter.layers) if becomes_float8(layer, style)]
        self.rounded: Mapping[int, float] | None = None
        self._drafts: dict[tuple[int, ...], OutputLayout] = {}

    def path(self, choice: Choice) -> Path:
        return self.place(wished_stem(self.adapter.name, self.recipe, choice.threshold, self.suffix))

    def draft(self, choice: Choice) -> OutputLayout:
        ranks = tuple(choice.ranks)
        if ranks not in self._drafts:  # the search for a size ends at one that it has seen
            self._drafts[ranks] = output_layout(self.adapter, self.strongest, ranks, self.style)
        return self._drafts[ranks]

    def size_of(self, choice: Choice) -> int:
        if not any(choice.ranks):
            return file_bytes((), self.metadata(choice, OutputLayout((), {}, ()), self.path(choice).stem))
        made = self.draft(choice)
        return file_bytes(made.specs, self.metadata(choice, made, self.path(choice).stem))

    def metadata(
        self, choice: Choice, made: OutputLayout, stem: str, hashes: Sequence[str] | None = None
    ) -> dict[str, str]:
        layers = {
            new.stem: LayerFact(new.rank, new.alpha_value if new.alpha else None, new.layer.form.is_conv)
            for new in made.layers
        }
        ranks = {layer.rank for layer in self.adapter.layers}
        family = self.adapter.family
        return restamp(
            self.adapter.metadata,
            StampFacts(
                output_name=stem,
                record=self._record(choice, list(hashes or [_UNKNOWN_HASH] * len(self.adapter.files))),
                layers=layers,
                source_rank=ranks.pop() if len(ranks) == 1 else None,
                base_model_version=family.base_model_version if family else None,
                network_module="networks.lora" if self.adapter.converted else None,
            ),
        )

    def _record(self, choice: Choice, hashes: list[str]) -> Record:
        names = self.adapter.titles
        merged = len(names) > 1 or self.adapter.weights != (1.0,)
        return Record(
            version=__version__,
            source=names[0] if not merged else self.adapter.name,
            source_sha256=hashes[0] if not merged else "",
            recipe=str(self.recipe),
            threshold=choice.threshold,
            retention=self._noted_retention(choice),
            merged=[MergedSource(*one) for one in zip(names, hashes, self.adapter.weights, strict=True)]
            if merged
            else (),
            extracted=self.adapter.extracted,
        )

    def job(self, choice: Choice, unpaired: Sequence[str]) -> ResizeJob:
        made, path = self.draft(choice), self.path(choice)
        size = file_bytes(made.specs, self.metadata(choice, made, path.stem))
        plan = Plan(
            source=_label(self.analysis),
            output=str(path),
            recipe=str(self.recipe),
            threshold=choice.threshold,
            bytes_before=self.adapter.bytes,
            bytes_after=size,
            retention=self.retention(choice),
            layers=self._layer_plans(choice),
            copied=tuple((key, source.why) for key, source in made.copied.items()),
            dropped=tuple(
                facts.name for facts, rank in zip(self.analysis.layers, choice.ranks, strict=True) if not rank
            ),
            zero=tuple(self.analysis.zero),
            notes=tuple(self._notes(choice, made, unpaired)),
        )
        return ResizeJob(self.analysis, self.recipe, self.style, choice, made, plan, path, self.reduction, self.rounded)

    def _layer_plans(self, choice: Choice) -> tuple[LayerPlan, ...]:
        exact = self.recipe.is_exact
        return tuple(_layer_plans(self.analysis, choice, self.losses(choice), exact, self.recipe.rescale))

    def losses(self, choice: Choice) -> list[float]:
        """Frobenius norm of what each layer loses, without `rescale`: by what goes, and by rounding to fp8."""
        layers = self.analysis.layers
        if self.reduction is not None:
            found = [
                math.hypot(lost, facts.residual_norm) for lost, facts in zip(self.reduction.lost, layers, strict=True)
            ]
        else:
            rows = zip(layers, choice.kept, strict=True)
            found = [math.hypot(discarded_norm(one.s, kept), one.residual_norm) for one, kept in rows]
        for i in self.float8:
            if not choice.ranks[i]:
                continue
            if self.rounded is None:
                found[i] = math.hypot(found[i], _EXPECTED_FLOAT8 * norm_of_strengths(layers[i].s[choice.kept[i]]))
            else:
                found[i] = math.hypot(self.rounded[i], layers[i].residual_norm)
        return found

    def retention(self, choice: Choice) -> float:
        """For the exact decomposition the share that is kept; for others, and for fp8, what the error of the delta
        leaves of it."""
        if self.reduction is None and not self.float8:
            return weight_retention(self.analysis.layers, choice.kept)
        return math.sqrt(max(0.0, 1.0 - self._error(choice) ** 2))

    def _noted_retention(self, choice: Choice) -> float:
        """As the file's record has it. Of fp8 the plan holds the longest text, so that the file is never larger."""
        if not self.float8:
            return self.retention(choice)
        return _LONGEST_SHARE if self.rounded is None else round(self.retention(choice), 6)

    def _error(self, choice: Choice) -> float:
        """Frobenius norm of what is lost over that of the whole LoRA; may be above 1 for random projections."""
        whole = math.hypot(*(facts.fro for facts in self.analysis.layers))
        return math.hypot(*self.losses(choice)) / whole if whole > 0 else 0.0

    def _notes(self, choice: Choice, made: OutputLayout, unpaired: Sequence[str]) -> Iterator[str]:
        yield from self.adapter.notes
        orphans = [copied.key for copied in self.adapter.copied if copied.why == LONE_ALPHA.name]
        if orphans:
            yield f"{len(orphans)} alpha keys without factors left out ({orphans[0]}): hosts refuse a file with them"
        pairs = zip(self.adapter.layers, self.analysis.layers, strict=True)
        cancelled = [layer.stem for layer, facts in pairs if layer.cancels is not None and not facts.alive]
        if cancelled:
            yield f"{_some(cancelled)} cancel one another in this merge and are left out"
        if self.adapter.family is None:
            yield "unknown model family; layers are taken as they are"
        if any(layer.magnitude for layer in self.adapter.layers):
            yield "DoRA: the low-rank part is resized, the magnitudes are kept as they are"
        yield from self._float8(made)
        yield from self._in_pieces()
        yield from self._kept_whole(choice)
        yield from self._biases_beside_factors(made)
        unread = [copied.key for copied in self.adapter.copied if copied.why in UNKNOWN_TO_FORGE]
        if len(unread) > MOST_UNKNOWN_TO_FORGE:
            most = MOST_UNKNOWN_TO_FORGE
            yield f"Forge applies no file with more than {most} keys that it does not know; here are {len(unread)}"
        if self.reduction is not None and self.recipe.method != "svd":
            yield f"{self.recipe.method}: the new delta is off by {self._error(choice):.1%} of the LoRA's norm"
        if unpaired:
            yield f"{_some(unpaired)} scored without the base model: no partner in {self.analysis.base_name}"
        restored = self._below_threshold(choice)
        whole = {i for group in self.adapter.together for i in group}
        companions = [self.analysis.layers[i].name for i in restored if i not in whole]
        attention = [self.analysis.layers[i].name for i in restored if i in whole]
        if attention:
            yield f"{_some(attention)} kept at rank 1: A1111 applies text encoder attention only whole"
        if companions:
            yield f"{_some(companions)} kept at rank 1: other tensors of theirs stay"

    def _float8(self, made: OutputLayout) -> Iterator[str]:
        """Who cannot load the numbers that are written."""
        layers = ((new.layer, [spec.dtype for spec in new.tensors.values()]) for new in made.layers)
        programs = float8_result(layers, self.adapter.family, kohya=self.style.kohya)
        if programs:
            which = self.adapter.family.name if self.adapter.family else "a transformer"
            yield f"{' and '.join(programs)} cannot load a float8 LoRA of {which} in this spelling; -t 16 loads there"

    def _biases_beside_factors(self, made: OutputLayout) -> Iterator[str]:
        """What was a difference in full, with one of its bias, and is up and down now."""
        biases = {copied.stem for copied in made.copied.values() if copied.why == "bias difference"}
        found = [new for new in made.layers if isinstance(new.layer.form, Full) and "up" in new.tensors]
        names = [new.layer.stem for new in found if new.layer.stem in biases]
        if names:
            yield f"{_some(names)} are up and down now, beside which A1111 applies no bias difference; others do"

    def _kept_whole(self, choice: Choice) -> Iterator[str]:
        """Layers of which nothing was taken, because fewer dimensions would not be smaller."""
        pairs = zip(self.analysis.layers, choice.kept, strict=True)
        whole = [facts.name for facts, kept in pairs if facts.stored_ranks is not None and not facts.nested
                 and len(kept) == len(facts.s)]  # fmt: skip
        if whole:
            yield f"{_some(whole)} kept in full: factors of the asked rank would be no smaller"

    def _in_pieces(self) -> Iterator[str]:
        solved = zip(self.adapter.layers, self.analysis.spectra, strict=True)
        pieced = [layer.stem for layer, one in solved if getattr(one, "owner", None) is not None]
        if pieced:
            yield f"{_some(pieced)} fused, but trained in pieces: each piece is resized by itself, and stays apart"

    def _below_threshold(self, choice: Choice) -> list[int]:
        """Layers that the recipe alone would have dropped."""
        if choice.threshold is None or self.recipe.min_rank:
            return []
        return [
            i
            for i, (kept, scores) in enumerate(zip(choice.kept, choice.scores, strict=True))
            if len(kept) == 1 and scores[kept[0]] < choice.threshold
        ]


def _some(names: Sequence[str]) -> str:
    """A count and the first names; the JSON report tells the rank of every layer."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{len(names)} layers ({', '.join(names[:2])}{more})"


def _label(analysis: Analysis) -> str:
    adapter = analysis.adapter
    if len(adapter.files) == 1 and adapter.weights == (1.0,):
        return str(adapter.paths[0])
    files = list(zip(adapter.models or adapter.paths, adapter.weights, strict=True))
    each = list(dict.fromkeys(files)) if adapter.models else files
    return ",".join(f"{path}:{weight if isinstance(weight, str) else f'{weight:g}'}" for path, weight in each)


def _layer_plans(
    analysis: Analysis, choice: Choice, losses: Sequence[float], exact: bool, rescale: float
) -> Iterator[LayerPlan]:
    rows = zip(analysis.layers, choice.kept, choice.ranks, losses, strict=True)
    for facts, kept, rank, lost in rows:
        whole = facts.fro
        error = lost / whole if whole > 0 else 1.0
        fro = facts.base.fro if facts.base else None
        stays = facts.s[kept][facts.s[kept] > 0]
        spectral = exact and whole > 0 and not facts.nested and not facts.residual_norm
        yield LayerPlan(
            name=facts.name,
            old_rank=len(facts.s),
            new_rank=rank,
            error_lora=error,
            error_ckpt=lost * rescale / fro if fro else None,
            fro_retained=math.sqrt(max(0.0, 1.0 - error**2)) if whole > 0 else None,
            sum_retained=float(stays.sum() / facts.s.sum()) if spectral else None,
            max_ratio=float(facts.s[0] / stays.min()) if spectral and len(stays) else None,
        )


# Writing ----------------------------------------------------------------------------------------------------


def _chunks(job: ResizeJob, runtime: Runtime) -> Iterator[Chunk]:
    """The data of every tensor, in the order of the file; layers are computed a little ahead."""
    made = job.draft
    alphas = {new.alpha.name: new.alpha_value for new in made.layers if new.alpha is not None}
    groups = list(_groups(_in_file_order(made)))
    results = zip(
        groups, in_order(runtime.pool, lambda group: _factors(job, group, runtime), groups, runtime.ahead), strict=True
    )
    ready: dict[str, Bits] = {}
    runtime.progress.start("write", len(made.layers))
    for spec in made.specs:
        if spec.name in alphas:
            yield np.array(alphas[spec.name], np.float32)
        elif spec.name in made.copied:
            yield _copy(spec, made.copied[spec.name], job)
        else:
            while spec.name not in ready:
                group, tensors = next(results)
                ready.update(tensors)
                runtime.progress.step(len(group))
            yield ready.pop(spec.name)


def _copy(spec: TensorSpec, copied: Copied, job: ResizeJob) -> Chunk:
    """A tensor as it was, or times what its layer's scale and the recipe do to it."""
    gain = 1.0 if copied.gain is None else copied.gain * job.recipe.rescale
    if copied.made is not None:
        return _fitted(spec, copied.made * np.float32(gain))
    file = job.analysis.adapter.files[copied.source]
    kind, bits = file.header.entries[copied.key].dtype, file.bits(copied.key)
    if kind in LARGEST:
        check_finite(f"{file.path}: {copied.key} has", singles(bits, kind))
    if gain == 1.0:
        return bits
    if kind not in LARGEST:
        raise LayerError(f"{file.path}: {copied.key} has the dtype {kind}, which cannot be scaled with its layer.")
    return _fitted(spec, np.asarray(singles(bits, kind) * np.float32(gain)))


def _fitted(spec: TensorSpec, values: Single) -> Bits:
    """Rounded, if the numbers fit. Raises LayerError."""
    if not largest_magnitude(values) <= LARGEST[spec.dtype]:
        raise LayerError(
            f"{spec.name} would hold {largest_magnitude(values):.3g}, more than {spec.dtype} can. "
            "Use a smaller strength."
        )
    return round_to(values, spec.dtype)


def _in_file_order(made: OutputLayout) -> list[NewLayer]:
    owner = {spec.name: new for new in made.layers for spec in new.tensors.values()}
    ordered = {id(owner[spec.name]): owner[spec.name] for spec in made.specs if spec.name in owner}
    return list(ordered.values())


_GROUP = 1 << 18  # numbers written: fewer, larger steps, so that workers seldom wait for one another


def _groups(layers: Sequence[NewLayer]) -> Iterator[list[NewLayer]]:
    """Neighbours that are computed in one go."""
    group: list[NewLayer] = []
    size = 0
    for new in layers:
        group.append(new)
        size += new.numbers
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _factors(job: ResizeJob, group: Sequence[NewLayer], runtime: Runtime) -> dict[str, Bits]:
    rows = _new_rows(job.recipe) if job.recipe.fill == "extend" else zero_rows
    with without_float_warnings():
        return layer_tensors([(new, _work(job, new, runtime.arrays)) for new in group], rows)


def _new_rows(recipe: Recipe) -> FillRows:
    def rows(new: NewLayer, down: Single, count: int) -> Single:
        try:
            return orthonormal_rows(down, count, layer_generator(recipe.seed, new.layer.stem))
        except LayerError as error:
            raise LayerError(f"layer {new.layer.stem}: {error}.") from error

    return rows


def _work(job: ResizeJob, new: NewLayer, arrays: Arrays, gain: float | None = None) -> WriteSpec:
    """What is to be written of a layer; `gain` in place of the one that its alpha asks for."""
    return WriteSpec(
        solved=job.solved(new.index),
        kept=job.choice.kept[new.index],
        arrays=arrays,
        gain=(new.gain if gain is None else gain) * math.sqrt(job.recipe.rescale),
        base=_base(job.analysis, new) if new.layer.form.needs_base else None,
    )


# Measuring --------------------------------------------------------------------------------------------------


def measured(job: ResizeJob, runtime: Runtime) -> ResizeJob:
    """The job with figures that were measured and not only worked out: of fp8 layers, on the rounded numbers; of DoRA
    layers whose base weights are known, on the weights that hosts apply: normalised, times the magnitudes. Not for
    those who only move a slider: it computes the factors and reads the base model.

    Raises LayerError where fp8 cannot hold a layer.
    """
    job = _measured_float8(job, runtime)
    found = [new for new in job.draft.layers if new.layer.magnitude is not None and new.index in job.analysis.weights]
    runtime.progress.start("measure", len(found))
    layers = list(job.plan.layers)
    for new, errors in zip(
        found, in_order(runtime.pool, lambda new: _dora_errors(job, new, runtime), found, 4), strict=True
    ):
        layers[new.index] = replace(layers[new.index], error_lora=errors[0], error_ckpt=errors[1])
        runtime.progress.step()
    return replace(job, plan=replace(job.plan, layers=tuple(layers)))


def _maker_of(job: ResizeJob) -> _Maker:
    maker = _Maker(job.analysis, job.recipe, job.style, lambda _: job.path, None)
    maker.reduction, maker.rounded = job.reduction, job.rounded
    return maker


def _measured_float8(job: ResizeJob, runtime: Runtime) -> ResizeJob:
    """The job with the losses of its fp8 layers, and with plan and size by them."""
    found = [new for new in job.draft.layers if _is_float8(new)]
    if not found or job.rounded is not None:
        return job
    runtime.progress.start("measure", len(found))
    rounded = dict.fromkeys(range(len(job.analysis.layers)), 0.0)
    for new, lost in zip(
        found, in_order(runtime.pool, lambda new: _lost_in_float8(job, new, runtime), found, runtime.ahead), strict=True
    ):
        rounded[new.index] = lost
        runtime.progress.step()
    job = replace(job, rounded=rounded)
    _check_float8(job, found)
    maker = _maker_of(job)
    plan = replace(
        job.plan,
        bytes_after=maker.size_of(job.choice),
        retention=maker.retention(job.choice),
        layers=tuple(_layer_plans(job.analysis, job.choice, maker.losses(job.choice), False, job.recipe.rescale)),
    )
    return replace(job, plan=plan)


def _is_float8(new: NewLayer) -> bool:
    return any(spec.dtype == FLOAT8 for spec in new.tensors.values())


def _lost_in_float8(job: ResizeJob, new: NewLayer, runtime: Runtime) -> float:
    """Frobenius norm of the source's delta less the one that is written."""
    form, values = new.layer.form, _written_values(job, new, runtime)
    with without_float_warnings():
        if isinstance(form, LowRank):
            up, down = (Stored(np.ascontiguousarray(values[role]), "F32") for role in form.roles)
            error = relative_distance(Pair(up, down), form.pair)
        else:
            whole = form.full(
                form.values(replace(_work(job, new, runtime.arrays, gain=1.0), kept=np.arange(form.rank)))
            )
            error = relative_difference(form.full(values).astype(np.float64), whole.astype(np.float64))
    return error * norm_of_strengths(job.analysis.layers[new.index].s)


def _written_values(job: ResizeJob, new: NewLayer, runtime: Runtime) -> dict[str, Single]:
    """The numbers of a layer as they are after rounding, at scale 1 and without `rescale`."""
    bits = _factors(job, [new], runtime)
    gain = new.gain * math.sqrt(job.recipe.rescale)
    share = gain if len(new.tensors) == 2 else gain**2
    rounded = {role: singles(bits[spec.name], spec.dtype) for role, spec in new.tensors.items()}
    return {role: rounded[role].reshape(spec.shape[0], -1) / np.float32(share) for role, spec in new.tensors.items()}


def _check_float8(job: ResizeJob, found: Sequence[NewLayer]) -> None:
    """Refuse a file in which rounding does more than it may: its numbers are too far apart for fp8."""
    assert job.rounded is not None
    layers = job.analysis.layers
    plain = [discarded_norm(one.s, kept) for one, kept in zip(layers, job.choice.kept, strict=True)]
    whole = math.hypot(*(facts.fro for facts in layers))
    for new in found:
        facts, kept = layers[new.index], job.choice.kept[new.index]
        lost = plain[new.index] if job.reduction is None else job.reduction.lost[new.index]
        rounding = math.sqrt(max(0.0, job.rounded[new.index] ** 2 - lost**2))
        allowed = max(_ROUNDING[FLOAT8] * norm_of_strengths(facts.s[kept]), _NEGLIGIBLE * whole)
        if not rounding <= allowed:
            raise LayerError(
                f"layer {new.layer.stem}: fp8 would change what is written of it by "
                f"{rounding / norm_of_strengths(facts.s[kept]):.1%}; at most {_ROUNDING[FLOAT8]:.0%} is right. "
                f"Use -t 16."
            )


def _dora_errors(job: ResizeJob, new: NewLayer, runtime: Runtime) -> tuple[float, float]:
    """Of the change that a layer makes, and of the base weight; see `linalg.dora`."""
    work, form = _work(job, new, runtime.arrays, gain=1.0), new.layer.form
    whole = replace(work, kept=np.arange(form.rank))
    base, key = _base(job.analysis, new), new.layer.magnitude
    assert key is not None
    adapter = job.analysis.adapter
    try:
        normalised = DoraWeight(materialise(base), magnitudes(adapter.files[0], key))
        with without_float_warnings():
            new_values = _written_values(job, new, runtime) if _is_float8(new) else form.values(work)
            return normalised.errors(form.full(form.values(whole)), form.full(new_values))
    except LayerError as error:
        raise LayerError(f"{adapter.name}: layer {new.layer.stem}: {error}") from error


def _base(analysis: Analysis, new: NewLayer) -> Factor:
    return analysis.weights[new.index]()


# Checking ---------------------------------------------------------------------------------------------------

_ROUNDING = {"F32": 1e-3, "F16": 3e-3, "BF16": 2e-2, "F8_E4M3": 0.06}
"""What rounding to a dtype may do to a layer's delta, relative, Frobenius; see docs/maths.md."""
_UNBALANCED = 0.06
"""The same of a difference in full in float16, which has no factors to scale: small numbers lose digits."""
_NEGLIGIBLE = 1e-4
"""Share of the whole LoRA's norm that does not count: a layer may be nothing next to the others."""
_SAMPLES = 4
_PROBES = 96
"""Layers that are compared by one vector. All 986 layers of a large SDXL LoRA would cost 12 to 18 % of the run, 96 of
them below 2 %; a file of fewer layers is compared as a whole."""


def _check_deltas(path: Path, job: ResizeJob, runtime: Runtime) -> None:
    """Read the layers back and compare their deltas with what was meant.

    Layers in fp8, and four of the others, are compared in full, in factor space. LoRA layers whose singular vectors are
    at hand are compared by what they do to one random vector: all of them, or in a large file 96. Those that are chosen
    are spread over the file. (That the file holds the bytes that were computed is compared elsewhere, for all of them.)
    """
    strong = [new for new in job.draft.layers if job.analysis.layers[new.index].alive]
    sample = {new.index for new in _spread(strong, _SAMPLES)}
    probed = {new.index for new in _spread([new for new in strong if _has_vectors(job, new)], _PROBES)}
    layers = [new for new in strong if new.index in sample | probed or _is_float8(new)]
    allowed = _NEGLIGIBLE * math.hypot(*(facts.fro for facts in job.analysis.layers)) * abs(job.recipe.rescale)

    def error(new: NewLayer) -> float:
        with without_float_warnings():
            found = _read_back(file, new)
            in_full = new.index in sample or _is_float8(new)
            return _difference(found, job, new, runtime.arrays) if in_full else _probed(found, job, new)

    with SafeFile(path) as file:
        for new, off in zip(layers, in_order(runtime.pool, error, layers, runtime.ahead), strict=True):
            if not off <= max(_tolerance(new), allowed / _kept_norm(job, new)):
                raise OutputError(
                    f"{job.path}: layer {new.layer.stem} read back differs by {off:.2g} from what was computed; "
                    f"nothing was kept. Check the disk and the memory of this machine, and report this."
                )


def _spread(layers: Sequence[NewLayer], most: int) -> list[NewLayer]:
    """All of them, or `most` at even distances."""
    count = len(layers)
    return [layers[i * count // most] for i in range(most)] if count > most else list(layers)


def _kept_norm(job: ResizeJob, new: NewLayer) -> float:
    kept = norm_of_strengths(job.analysis.layers[new.index].s[job.choice.kept[new.index]])
    return kept * abs(job.recipe.rescale) or 1.0


def _has_vectors(job: ResizeJob, new: NewLayer) -> bool:
    solved = job.solved(new.index)
    return (
        job.recipe.is_exact
        and isinstance(new.layer.form, LowRank)
        and isinstance(solved, Spectrum)
        and bool(solved.p.size)
    )


def _probed(found: Form, job: ResizeJob, new: NewLayer) -> float:
    """``|F x - D x| / ||D||_F`` of a random x, F read back from the file, D the kept part of the source's delta: near
    the relative error in the Frobenius norm."""
    form, spectrum = new.layer.form, job.solved(new.index)
    assert isinstance(form, LowRank)
    assert isinstance(found, LowRank)
    assert isinstance(spectrum, Spectrum)
    x = layer_generator(0, new.layer.stem).standard_normal(form.size[1]).astype(np.float32)
    kept = job.choice.kept[new.index]
    inner = spectrum.p[:, kept] @ (spectrum.q[kept] @ (materialise(form.pair.down) @ x))
    wanted = np.float32(job.recipe.rescale) * (materialise(form.pair.up) @ inner)
    written = np.float32(found.pair.scale) * (materialise(found.pair.up) @ (materialise(found.pair.down) @ x))
    return float(np.linalg.norm((written - wanted).astype(np.float64))) / _kept_norm(job, new)


def _difference(found: Form, job: ResizeJob, new: NewLayer, arrays: Arrays) -> float:
    """How far a layer that was read back is from what was to be written, relative, Frobenius."""
    form, work = new.layer.form, _work(job, new, arrays, gain=1.0)
    if job.recipe.method == "svd" or not isinstance(form, LowRank) or not isinstance(found, LowRank):
        return form.error(found, work)
    up, down = (np.ascontiguousarray(values) for values in form.values(work).values())
    return relative_distance(found.pair, Pair(Stored(up, "F32"), Stored(down, "F32")))


def _tolerance(new: NewLayer) -> float:
    """What rounding may do to a layer: a bound of its dtype, however badly the numbers fit."""
    if "diff" in new.tensors and new.tensors["diff"].dtype == "F16":
        return _UNBALANCED
    return max(_ROUNDING[spec.dtype] for spec in new.tensors.values())


def _read_back(file: SafeFile, new: NewLayer) -> Form:
    """The layer as readers see it."""
    specs = {**new.tensors, **({"alpha": new.alpha} if new.alpha else {})}
    return read_written_form(file, new.stem, {role: spec.name for role, spec in specs.items()})

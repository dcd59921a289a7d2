"""One recipe for one analysed LoRA: which dimensions stay, and the exact size of the file. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..adapters.write.layout import OutputLayout, output_layout
from ..adapters.write.style import Style
from ..errors import ResizeError, UnsupportedError
from ..files.metadata import FitRecord
from ..plans import Plan
from ..recipe.grammar import Recipe
from ..recipe.scores import check_partners, with_estimates
from ..recipe.select import Choice, SelectionInput, choose
from ..shown import MIB
from .analysis import Analysis
from .job import ResizeJob
from .notes import label, notes
from .output_names import output_stem
from .reduction import reduction
from .selection import Selection
from .stamping import size

PathFor = Callable[[str], Path]
"""From the stem that a file should have to its path; the stem may be changed to be unique."""


def prepare(
    analysis: Analysis,
    recipe: Recipe,
    style: Style,
    path_for: PathFor,
    *,
    suffix: str | None = None,
    fit: FitRecord | None = None,
) -> ResizeJob:
    """Select, lay out and size a file; its plan's `bytes_after` is exact.

    `fit` is the longest record that a fit may add to the file; see `engine.fitting_job`.

    Where the analysis has the LoRA in a second form, the better of the two is used, or the one that `style` asks for,
    and a note says so. Raises PairingError where the recipe needs base layers that are missing, ResizeError where
    nothing fits.
    """
    other = analysis.others.get(style.convert)
    converted = None if other is None else _job_or_none(other, recipe, style, path_for, suffix, fit)
    if converted is None:
        return _job(analysis, recipe, style, path_for, suffix, fit)
    own = _job_or_none(analysis, recipe, style, path_for, suffix, fit)
    return converted if own is None else _better(own, converted)


def size_of_choice(analysis: Analysis, recipe: Recipe, style: Style, choice: Choice, path: Path) -> int:
    """Return the exact bytes of the file at `path` that holds a choice of the recipe; faster than `prepare`.

    Raises UnsupportedError where all layers are zero, or where the style does not fit the file.
    """
    _check_something_is_left(analysis)
    return _Sizes(analysis, recipe, style, lambda _: path, None, None).size_of(choice)


def _job_or_none(
    analysis: Analysis, recipe: Recipe, style: Style, path_for: PathFor, suffix: str | None, fit: FitRecord | None
) -> ResizeJob | None:
    try:
        return _job(analysis, recipe, style, path_for, suffix, fit)
    except ResizeError:
        return None


def _job(
    analysis: Analysis, recipe: Recipe, style: Style, path_for: PathFor, suffix: str | None, fit: FitRecord | None
) -> ResizeJob:
    _check_something_is_left(analysis)
    unpaired = check_partners(recipe, analysis.layers, analysis.base_name or "")
    layers = with_estimates(recipe, analysis.layers)
    sizes = _Sizes(analysis, recipe, style, path_for, suffix, fit)
    choice = choose(recipe, SelectionInput(layers, analysis.adapter.together, sizes.size_of))
    selection = replace(sizes.selection(choice), reduction=reduction(analysis, recipe, choice))
    path = sizes.path(choice)
    return ResizeJob(selection, _plan(selection, path, unpaired), path)


class _Sizes:
    """The exact size of the file that a choice gives, while a recipe searches for a size."""

    def __init__(
        self,
        analysis: Analysis,
        recipe: Recipe,
        style: Style,
        path_for: PathFor,
        suffix: str | None,
        fit: FitRecord | None,
    ) -> None:
        self._analysis = analysis
        self._recipe = recipe
        self._style = style
        self._path_for = path_for
        self._suffix = suffix
        self._fit = fit
        self._strongest = [float(facts.strengths[0]) * recipe.rescale for facts in analysis.layers]
        self._layouts: dict[tuple[int, ...], OutputLayout] = {(0,) * len(analysis.layers): OutputLayout((), {}, ())}

    def size_of(self, choice: Choice) -> int:
        return size(self.selection(choice), self.path(choice).stem)

    def selection(self, choice: Choice) -> Selection:
        return Selection(self._analysis, self._recipe, self._style, choice, self._layout(choice), fit=self._fit)

    def path(self, choice: Choice) -> Path:
        return self._path_for(output_stem(self._analysis.adapter.name, self._recipe, choice.threshold, self._suffix))

    def _layout(self, choice: Choice) -> OutputLayout:
        ranks = tuple(choice.ranks)
        if ranks not in self._layouts:  # the search for a size ends at one that it has seen
            self._layouts[ranks] = output_layout(self._analysis.adapter, self._strongest, ranks, self._style)
        return self._layouts[ranks]


def _plan(selection: Selection, path: Path, unpaired: Sequence[str]) -> Plan:
    analysis, choice = selection.analysis, selection.choice
    ranks = zip(analysis.layers, choice.ranks, strict=True)
    return Plan(
        source=label(analysis.adapter),
        output=str(path),
        recipe=str(selection.recipe),
        threshold=choice.threshold,
        bytes_before=analysis.adapter.bytes,
        bytes_after=size(selection, path.stem),
        retention=selection.retention,
        layers=tuple(selection.layer_plans()),
        copied=tuple((key, source.why) for key, source in selection.layout.copied.items()),
        dropped=tuple(facts.name for facts, rank in ranks if not rank),
        zero=tuple(analysis.zero),
        notes=tuple(notes(selection, unpaired)),
    )


def _check_something_is_left(analysis: Analysis) -> None:
    """Raise UnsupportedError where all layers are zero, which no recipe can help."""
    layers = analysis.adapter.layers
    if len(analysis.zero) == len(layers):
        raise UnsupportedError(f"{label(analysis.adapter)}: there is nothing to write: {_why_all_is_zero(analysis)}.")


def _why_all_is_zero(analysis: Analysis) -> str:
    layers = analysis.adapter.layers
    if all(layer.form.scale == 0.0 for layer in layers):
        return (
            f"alpha is 0 in all {len(layers)} layers, so hosts apply none of them. kohya's scripts and LyCORIS read "
            "alpha 0 as alpha = rank: if that is what you want, set alpha to the rank with the program that made it"
        )
    if len(analysis.adapter.files) > 1:
        return f"the layers of these files cancel one another, all {len(layers)} of them"
    return f"all {len(layers)} layers are zero: their factors or their alphas are, and hosts apply none of them"


# Two forms of one LoRA ----------------------------------------------------------------------------------------

_CONVERTED = "written as LoRA, as requested: {size} at retention {kept}; as {kinds} it would be {other} at {other_kept}"
_BETTER = "LoHa written as LoRA, which is better here: {size} at retention {kept}; as LoHa {other} at {other_kept}"
_KEPT = "LoHa kept, which is better here: {size} at retention {kept}; as LoRA {other} at {other_kept}"


def _better(own: ResizeJob, with_converted_layers: ResizeJob) -> ResizeJob:
    if own.selection.style.convert == "lora":
        kinds = _kinds_that_differ(own.analysis, with_converted_layers.analysis)
        return _noted(with_converted_layers, _CONVERTED.format(kinds=kinds, **_figures(with_converted_layers, own)))
    if _is_better(with_converted_layers.plan, own.plan, own.recipe):
        return _noted(with_converted_layers, _BETTER.format(**_figures(with_converted_layers, own)))
    return _noted(own, _KEPT.format(**_figures(own, with_converted_layers)))


def _is_better(other: Plan, own: Plan, recipe: Recipe) -> bool:
    """Return whether it is smaller at the asked retention, or closer at the asked size; else no worse in both."""
    if recipe.selection == "retain":
        return other.bytes_after < own.bytes_after
    if recipe.selection == "size":
        return other.retention > own.retention
    return other.bytes_after < own.bytes_after and other.retention >= own.retention


def _figures(used: ResizeJob, unused: ResizeJob) -> dict[str, str]:
    return {
        "size": f"{used.plan.bytes_after / MIB:.2f} MiB",
        "kept": f"{used.plan.retention:.1%}",
        "other": f"{unused.plan.bytes_after / MIB:.2f} MiB",
        "other_kept": f"{unused.plan.retention:.1%}",
    }


def _kinds_that_differ(analysis: Analysis, other: Analysis) -> str:
    pairs = zip(analysis.adapter.layers, other.adapter.layers, strict=True)
    kinds = {own.form.kind for own, new in pairs if type(own.form) is not type(new.form)}
    return " and ".join(sorted(kinds))


def _noted(job: ResizeJob, note: str) -> ResizeJob:
    return replace(job, plan=replace(job.plan, notes=(*job.plan.notes, note)))

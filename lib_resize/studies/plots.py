"""Plots of a study: PNG and SVG for people, CSV and JSON for other programs. Drawing needs matplotlib.

The colors are those of Okabe and Ito, which are distinct for every kind of color vision, and lines also differ in
their dashes. The heat map uses cividis, in which lightness rises with the value.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files.atomic import write_whole
from ..files.target import FileKind, Inputs, check_folder, check_target
from ..shown import MIB, json_text, shown
from .spectra import TYPES, Group, Study


@dataclass(frozen=True)
class Theme:
    """The colors of a plot."""

    back: str
    ink: str
    faint: str
    lines: tuple[str, ...]


THEMES = {
    "light": Theme(
        "#ffffff", "#1a1a1a", "#c8c8c8",
        ("#0072b2", "#d55e00", "#009e73", "#a5518f", "#8a6d00", "#3a8fc0", "#555555", "#9b3d00", "#00614a", "#1a1a1a"),
    ),
    "dark": Theme(
        "#161b22", "#e6e6e6", "#444c56",
        ("#56b4e9", "#e69f00", "#2fcf9f", "#e08fc4", "#f0e442", "#8ecbff", "#b0b0b0", "#ff8a4c", "#6fe0bd", "#ffffff"),
    ),
}  # fmt: skip
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = "os^vDPX*<>"  # more than there are curves, because colors and dashes repeat
FORMATS = ("png", "svg")


def save(study: Study, folder: Path, stem: str, theme: str = "light", *, inputs: Inputs | None = None) -> list[Path]:
    """Write all plots of a study and their numbers as ``stem_*``, and return the paths.

    Earlier plots are replaced, but no other file. Raises UsageError if matplotlib is missing, and OutputError if a file
    cannot be written.
    """
    pyplot = _pyplot()
    check_can_save(folder, stem, inputs)
    written = [_write(folder / f"{stem}_{name}.csv", _csv(rows)) for name, rows in tables(study).items()]
    text = json_text(study.as_json(), indent=1) + "\n"
    written.append(_write(folder / f"{stem}.json", text.encode()))
    with pyplot.rc_context(_style(THEMES[theme])):
        for name, draw in _PLOTS.items():
            figure = draw(pyplot, study, THEMES[theme])
            if figure is None:
                continue
            for kind in FORMATS:
                written.append(_write(folder / f"{stem}_{name}.{kind}", _image(figure, kind)))
            pyplot.close(figure)
    return written


def tables(study: Study) -> dict[str, list[list[Any]]]:
    """Return the numbers of each plot by its name, after a row of titles."""
    cells = [(row, column) for row in study.blocks for column in study.types if (row, column) in study.bytes]
    return {
        "spectra": [
            _TITLES["spectra"],
            *(
                [g.name, g.layers, g.effective_rank, g.top_energy, g.rank_90, g.rank_99, i, value]
                for g in study.groups
                for i, value in enumerate(g.spectrum, 1)
            ),
        ],
        "effective_rank": [
            _TITLES["effective_rank"],
            *([*cell, study.heat[cell][1], study.heat[cell][0]] for cell in cells if cell in study.heat),
        ],
        "bytes": [_TITLES["bytes"], *([*cell, study.bytes[cell]] for cell in cells)],
        "retention": [
            _TITLES["retention"],
            *([curve.name, *point] for curve in study.curves for point in curve.points),
        ],
    }


# Files -------------------------------------------------------------------------------------------------------

_MARK = "resize-lora"
_TITLES = {
    "spectra": ["group", "layers", "effective_rank", "top_energy", "rank_90", "rank_99", "index", "mean_s_over_s1"],
    "effective_rank": ["block", "type", "layers", "effective_rank"],
    "bytes": ["block", "type", "bytes"],
    "retention": ["method", "bytes", "weight_retention"],
}


def check_can_save(folder: Path, stem: str, inputs: Inputs | None = None) -> None:
    """Raise OutputError if `save` cannot write all of its files. Call it before the work."""
    check_folder(folder)
    names = [f"{stem}.json"]
    names += [f"{stem}_{plot}.{kind}" for plot in _TITLES for kind in ("csv", *FORMATS)]
    for name in names:
        check_target(folder / name, PLOT, overwrite=True, inputs=inputs)


def _is_plot(path: Path) -> bool:
    if path.suffix == ".json":  # a sidecar may have this name, or a host may have added to the file
        document = json.loads(path.read_text("utf-8"))
        return isinstance(document, dict) and document.keys() == Study("", 0, (), {}, {}).as_json().keys()
    with open(path, "rb") as stream:
        beginning = stream.read(4096)
    if path.suffix == ".csv":
        return beginning.partition(b"\n")[0].decode("utf-8", "replace") in [",".join(row) for row in _TITLES.values()]
    return _MARK.encode() in beginning


PLOT = FileKind("a plot of Resize LoRA", _is_plot)


def check_can_draw() -> None:
    """Raise UsageError if matplotlib is missing. Call it before the work."""
    _pyplot()


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("agg")
        import matplotlib.pyplot
    except ImportError as error:
        raise UsageError(
            "plots need matplotlib, which is not installed: pip install matplotlib. "
            "--spectra --json prints the numbers without it."
        ) from error
    return matplotlib.pyplot


def _write(path: Path, data: bytes) -> Path:
    write_whole(path, data, overwrite=True)
    return path


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8")


def _image(figure: Any, kind: str) -> bytes:
    data = io.BytesIO()
    figure.savefig(
        data, format=kind, dpi=150, metadata={"Date": None, "Creator": _MARK} if kind == "svg" else {"Software": _MARK}
    )
    return data.getvalue()


def _style(theme: Theme) -> dict[str, Any]:
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), theme.back),
        **dict.fromkeys(ink, theme.ink),
        "grid.color": theme.faint,
        "axes.grid": True,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 9,
        "axes.titlesize": 10,
        "svg.hashsalt": "resize-lora",  # the same numbers make the same file
        "figure.constrained_layout.use": True,
        "legend.frameon": False,
    }


# Drawing -----------------------------------------------------------------------------------------------------


def _title(study: Study, what: str) -> str:
    return f"{shown(study.name, 100)}: {what}" + (f" ({study.files} files)" if study.files > 1 else "")


def _draw_spectra(pyplot: Any, study: Study, theme: Theme) -> Any:
    if not study.groups:
        return None
    columns = min(3, len(study.groups))
    rows = -(-len(study.groups) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(10, 2.4 * rows + 0.5), sharey=True, squeeze=False)
    figure.suptitle(_title(study, "mean singular values, largest of each layer = 1; dashed: effective rank"))
    figure.supxlabel("dimension", fontsize=9)
    for axis, group in zip(axes.flat, study.groups, strict=False):
        _draw_group(axis, group, theme)
    for axis in axes.flat[len(study.groups) :]:
        axis.set_visible(False)
    return figure


def _draw_group(axis: Any, group: Group, theme: Theme) -> None:
    index = np.arange(1, len(group.spectrum) + 1)
    axis.fill_between(index, group.spectrum, color=theme.lines[0], alpha=0.18, linewidth=0)
    axis.plot(index, group.spectrum, color=theme.lines[0], marker=".", markersize=4)
    axis.axvline(group.effective_rank, ymax=0.7, color=theme.lines[1], linestyle="--", linewidth=1.2)
    axis.set_title(f"{group.name} ({group.layers} layers)", fontsize=9)
    axis.xaxis.get_major_locator().set_params(integer=True)
    note = f"effective rank {group.effective_rank:.1f}\nfirst dimension: {group.top_energy:.0%} of energy"
    axis.text(0.97, 0.93, note, transform=axis.transAxes, ha="right", va="top", fontsize=8)
    axis.set_ylim(0, 1.05)


def _draw_heat(pyplot: Any, study: Study, _: Theme) -> Any:
    if not study.heat:
        return None
    blocks, types = study.blocks, study.types
    values = np.array([[study.heat.get((row, column), (np.nan, 0))[0] for column in types] for row in blocks])
    figure, axis = pyplot.subplots(figsize=(1.6 + 0.72 * len(types), 1.6 + 0.3 * len(blocks)))
    shown = axis.imshow(np.ma.masked_invalid(values), aspect="auto", cmap="cividis")
    axis.set_xticks(range(len(types)), types, rotation=40, ha="right")
    axis.set_yticks(range(len(blocks)), blocks)
    axis.grid(False)
    middle = np.nanmin(values) + 0.55 * (np.nanmax(values) - np.nanmin(values))
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "#000000" if value > middle else "#ffffff"
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(shown, label="effective rank, mean over layers")
    axis.set_title(_title(study, "effective rank"))
    return figure


def _draw_retention(pyplot: Any, study: Study, theme: Theme) -> Any:
    if not study.curves:
        return None
    figure, axis = pyplot.subplots(figsize=(10.5, 5.2))
    for place, curve in enumerate(study.curves):
        sizes, shares = zip(*curve.points, strict=True) if curve.points else ((), ())
        axis.plot(
            [size / MIB for size in sizes],
            [100 * share for share in shares],
            color=theme.lines[place % len(theme.lines)],
            linestyle=_DASHES[place % len(_DASHES)],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=4,
            label=curve.name,
        )
    axis.set_xscale("log")
    axis.xaxis.get_major_locator().set_params(subs=(1.0, 2.0, 5.0))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda *_: "")
    axis.set_xlabel("MiB of the float16 file")
    axis.set_ylabel("weight retention, %")
    axis.set_title(_title(study, "weight retention over size (a measure of weights, not of image quality)"), fontsize=9)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))  # outside, because curves may go anywhere
    return figure


_KINDS = {
    "self-attention": ("self Q", "self K", "self V", "self out"),
    "cross-attention": ("cross Q", "cross K", "cross V", "cross out"),
    **{kind: (kind,) for kind in TYPES[8:]},
}


def _draw_bytes(pyplot: Any, study: Study, theme: Theme) -> Any:
    blocks = study.blocks
    figure, axis = pyplot.subplots(figsize=(9, 1.6 + 0.26 * len(blocks)))
    left = np.zeros(len(blocks))
    for place, (name, kinds) in enumerate(_KINDS.items()):
        sizes = np.array([sum(study.bytes.get((row, kind), 0) for kind in kinds) / MIB for row in blocks])
        if not sizes.any():
            continue
        hatch, colour = ("", "//", "", "..", "", "xx", "")[place], theme.lines[place]
        axis.barh(range(len(blocks)), sizes, left=left, label=name, color=colour, edgecolor=theme.back, hatch=hatch)
        left += sizes
    axis.set_yticks(range(len(blocks)), blocks)
    axis.invert_yaxis()
    axis.set_axisbelow(True)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("MiB of factors, as stored")
    axis.set_title(_title(study, "file size by block"))
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


_PLOTS: Mapping[str, Callable[[Any, Study, Theme], Any]] = {
    "spectra": _draw_spectra,
    "effective_rank": _draw_heat,
    "retention": _draw_retention,
    "bytes": _draw_bytes,
}

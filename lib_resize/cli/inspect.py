"""``resize-lora inspect``."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ResizeError, internal
from ..files.file_names import fold, unique_path
from ..files.target import Inputs, check_folder
from ..prompts.sources import Source, expand
from ..shown import json_text, shown, shown_lines
from . import report
from .command import Command
from .options import add_threads
from .output import complain, complain_of_folder

if TYPE_CHECKING:
    from ..base.checkpoint import Checkpoint
    from ..studies.inspection import Finding
    from ..studies.spectra import LayerSpectrum, Study

_DESCRIPTION = """\
Show the family, kind, ranks and dtypes of LoRA files, how many of their dimensions matter, the predicted size at
several retentions, the images that they were fitted to and compared on, and what hosts would refuse."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="FILE", help="LoRA files, folders or patterns")
    add("--json", action="store_true", help="print a JSON list")
    add(
        "--spectra",
        action="store_true",
        help="show singular values by group of layers; for several files, also together",
    )
    add("--plot", metavar="DIR", help="save plots (spectra, effective rank, retention vs size, bytes) to this folder")
    add("--theme", choices=("light", "dark"), default="light", help="colors of the plots (default: light)")
    add("--base", metavar="FILE", help="a checkpoint: adds the curves of its scores; needed for GLoRA")
    add_threads(parser)


def run(arguments: argparse.Namespace) -> int:
    """Describe LoRA files."""
    from ..base.checkpoint import Checkpoint

    sources = expand(arguments.inputs, complain_of_folder)
    if arguments.plot:
        from ..studies.plots import check_can_draw

        check_can_draw()
        check_folder(Path(arguments.plot))
    with contextlib.ExitStack() as stack:
        base = Checkpoint(Path(arguments.base)) if arguments.base else None
        if base is not None:
            stack.callback(base.close)
        inspection = _Inspection(arguments, base, _inputs(sources, base))
        for source in sources:
            inspection.add(source.members[0].path)
        return inspection.finish()


def _inputs(sources: list[Source], base: Checkpoint | None) -> Inputs:
    from ..engine.settings import inputs_of

    inputs = inputs_of(sources)
    inputs.add(*(base.paths if base else ()))
    return inputs


class _Inspection:
    """The findings of one run so far, printed as they come or as JSON at the end."""

    def __init__(self, arguments: argparse.Namespace, base: Checkpoint | None, inputs: Inputs) -> None:
        self._arguments = arguments
        self._inputs = inputs
        self._base = base
        self._closely = bool(arguments.plot or arguments.spectra)
        self._findings: list[dict[str, Any]] = []
        self._layers: list[list[LayerSpectrum]] = []
        self._stems: set[str] = set()
        self._failed = False

    def add(self, path: Path) -> None:
        """Describe one more file. An error is one of the findings."""
        try:
            self._describe(path)
        except (ResizeError, OSError, MemoryError) as error:
            self._fail(path, error)
        except Exception as error:
            self._fail(path, internal(str(path), error))

    def finish(self) -> int:
        """Print what concerns all files, and return the exit status."""
        if len(self._layers) > 1:
            self._add_all()
        if self._arguments.json:
            print(json_text(self._findings, indent=2))
        return int(self._failed)

    def _describe(self, path: Path) -> None:
        from ..studies.inspection import describe, describe_closely

        if not self._closely:
            self._print(describe(path, base=self._base, threads=self._arguments.threads), None)
            return
        stem = self._stem(path.stem)
        found, study, layers = describe_closely(path, base=self._base, threads=self._arguments.threads)
        self._layers.append(layers)
        self._print(found, study)
        self._draw(study, stem)

    def _stem(self, name: str) -> str:
        """Return the beginning of the plots' names. Raises OutputError, before the work, if they cannot be written."""
        if not self._arguments.plot:
            return name
        from ..studies.plots import check_can_save

        stem = unique_path(Path(), name, self._stems).stem
        self._stems.add(fold(stem))
        check_can_save(Path(self._arguments.plot), stem, self._inputs)
        return stem

    def _fail(self, path: Path, error: Exception) -> None:
        self._failed = True
        self._findings.append({"source": str(path), "error": str(error)})
        if not self._arguments.json:
            complain(str(error))

    def _print(self, found: Finding, study: Study | None) -> None:
        more = {} if study is None else {"spectra": study.as_json()}
        self._findings.append(found.as_json() | more)
        if not self._arguments.json:
            print(shown_lines(found.as_text()) + "\n")
            if study is not None and self._arguments.spectra:
                print(shown_lines(report.spectra_table(study.groups)) + "\n")

    def _draw(self, study: Study, stem: str) -> None:
        if self._arguments.plot:
            from ..studies.plots import save

            folder = Path(self._arguments.plot)
            written = save(study, folder, stem, self._arguments.theme, inputs=self._inputs)
            if not self._arguments.json:
                print(shown(f"{len(written)} files {folder / stem}*") + "\n")

    def _add_all(self) -> None:
        """Add the spectra of all files together."""
        from ..studies.spectra import study_of_many

        study = study_of_many("all", self._layers)
        if self._arguments.spectra and not self._arguments.json:
            print(shown_lines(f"all {study.files} files\n{report.spectra_table(study.groups)}\n"))
        self._findings.append({"source": "all", "spectra": study.as_json()})
        self._draw(study, self._stem("all"))


COMMAND = Command("inspect", _DESCRIPTION, _add_options, run)

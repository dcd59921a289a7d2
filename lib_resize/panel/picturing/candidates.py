"""Files of one LoRA in other sizes, which the host can use and no list shows. All come from one decomposition."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...effect.search import SizeRange
from ...engine.analysing import reattached
from ...engine.analysis import Analysis
from ...engine.job import ResizeJob
from ...engine.measuring import with_float8_errors
from ...engine.runtime import Runtime, cpu_runtime
from ...engine.settings import Refine
from ...engine.writing import execute
from ...errors import OutputError
from ...files import private_folders
from ...files.atomic import is_full
from ...files.file_names import SUFFIX
from ...hosts.host import Host, HostFiles
from ...plans import Plan
from ...recipe.grammar import Recipe
from ...shown import MIB
from ..analyses import reopened
from ..bases import analysis_for, open_required_base
from ..cached import CachedAnalysis
from ..names import inside
from ..options import Options, target_recipe
from ..protocol.types import Json
from ..queue import Handle
from ..resizing import planned

FOLDER = "trials"
"""The folder of private folders, in the cache."""
_LEAST_RETENTION = 1e-6
_FIRST = "high"


def places(cache: Path, host: HostFiles) -> list[Path]:
    """Return the folders in which private folders are made, best first; none of them is one that the host scans."""
    wished = [cache / FOLDER, Path(tempfile.gettempdir()) / "resize-lora" / FOLDER]
    scanned = [*host.lora_roots(), *host.scanned_folders()]
    return [place for place in wished if not inside(place, scanned)]


@contextlib.contextmanager
def private_folder(cache: Path, host: HostFiles) -> Iterator[Path]:
    """Return a new folder, which is removed at the end of the block. Raises OutputError."""
    with private_folders.create(places(cache, host)) as folder:
        yield folder.path


def sweep(cache: Path, host: HostFiles) -> None:
    """Remove what killed servers left; folders of servers that run stay."""
    for place in places(cache, host):
        private_folders.sweep(place)


@dataclass(frozen=True)
class Candidate:
    """A file that was written."""

    key: str
    """The same for all files that keep the same dimensions."""
    name: str
    """The name by which the host knows it during an image; never used for another file."""
    path: Path
    plan: Plan
    bytes: int
    """The planned size; the record of a fit may be shorter than planned."""
    fitted: bool = False
    """Its factors were fitted to images of the original, which made it better."""


class Candidates:
    """Writes candidates into a folder, from one analysis that is kept in memory."""

    def __init__(
        self, host: Host, kept: CachedAnalysis, options: Options, folder: Path, refine: Refine | None = None
    ) -> None:
        """`kept` has the base norms that the scores of the options need. Raises ResizeError where no file is possible,
        and what `bases.analysis_for` raises."""
        self._host = host
        self._kept = kept
        self._options = options
        self._folder = folder
        self._refine = refine
        self._written: dict[str, Candidate] = {}
        self._digest = ""
        self._number = 0
        self.sizes = self._sizes()

    def of_size(self, bytes: int, handle: Handle) -> Candidate:
        """Return the largest file that is not larger, written if necessary.

        Raises Cancelled, FileError where the LoRA was changed since it was analysed, and OutputError.
        """
        recipe = self._recipe_of(bytes)
        self._number += 1
        with (
            reopened(self._kept) as adapter,
            open_required_base(adapter, self._host, self._options.reference) as base,
            cpu_runtime(handle.quiet()) as tools,
        ):
            job = self._planned(reattached(self._analysis(recipe), adapter, base), recipe)
            key = _key(job)
            if key not in self._written:
                self._digest = self._digest or adapter.files[0].sha256()
                self._written[key] = self._write(job, key, tools)
        return self._written[key]

    def keep_only(self, keys: Collection[str]) -> None:
        """Remove all other files; they are written again where they are needed."""
        for key in self._written.keys() - set(keys):
            candidate = self._written.pop(key)
            with contextlib.suppress(OSError):
                candidate.path.unlink()

    def _write(self, job: ResizeJob, key: str, tools: Runtime) -> Candidate:
        bytes = job.plan.bytes_after
        job = job if self._refine is None else self._refine(job, tools)
        try:
            _make_folder(job.path.parent)
            plan = execute(with_float8_errors(job, tools), tools, [self._digest])
        except OutputError as error:
            raise _not_written(error) from error
        name, fitted = f"resize-lora-trial-{secrets.token_hex(6)}", bool(job.selection.fitted)
        return Candidate(key, name, job.path, plan, bytes, fitted)

    # Plans -------------------------------------------------------------------------------------------------------

    def _sizes(self) -> SizeRange:
        """Return the smallest file, that of the preset High, and the one with all dimensions."""
        largest = self._bytes(self._recipe({"retention": 1.0}))
        return SizeRange(
            smallest=min(self._bytes(self._recipe({"retention": _LEAST_RETENTION})), largest),
            first=self._bytes(self._recipe({"preset": _FIRST})),
            largest=largest,
        )

    def _recipe_of(self, bytes: int) -> Recipe:
        """Return the recipe of a size; both ends of the range are exact, for a text of any length."""
        if bytes >= self.sizes.largest:
            return self._recipe({"retention": 1.0})
        if bytes <= self.sizes.smallest:
            return self._recipe({"retention": _LEAST_RETENTION})
        return self._recipe({"size": bytes / MIB})

    def _recipe(self, target: Json) -> Recipe:
        return target_recipe(target, self._options)

    def _bytes(self, recipe: Recipe) -> int:
        return self._planned(self._analysis(recipe), recipe).plan.bytes_after

    def _planned(self, analysis: Analysis, recipe: Recipe) -> ResizeJob:
        longest = None if self._refine is None else self._refine.longest
        return planned(analysis, recipe, self._options, self._path, None, longest)

    def _analysis(self, recipe: Recipe) -> Analysis:
        return analysis_for(self._kept, recipe, self._options.reference, self._host, self._options.convert)

    def _path(self, stem: str) -> Path:
        """Return a path in a folder of its own: files of several sizes may have one name, such as ``style_2mb``."""
        return self._folder / str(self._number) / f"{stem}{SUFFIX}"


def _key(job: ResizeJob) -> str:
    forms = [type(layer.form).__name__ for layer in job.analysis.adapter.layers]
    kept = [[int(index) for index in one] for one in job.choice.kept]
    return hashlib.sha256(repr((forms, kept)).encode()).hexdigest()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.name}: {error.strerror}") from error


def _not_written(error: OutputError) -> OutputError:
    if is_full(error):
        return OutputError(
            "The disk with the folder for temporary files is full, so the next size cannot be tried. Free some space, "
            "or set RESIZE_LORA_CACHE to a folder on another disk."
        )
    return OutputError(f"The next size cannot be written to the folder for temporary files. {error}")

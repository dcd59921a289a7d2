"""Files of one LoRA in other sizes, which the host can use and no list shows. All come from one decomposition."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ...effect.search import SizeRange
from ...engine.analysing import reattached
from ...engine.analysis import Analysis
from ...engine.job import ResizeJob
from ...engine.measuring import with_float8_errors
from ...engine.runtime import Runtime
from ...engine.settings import Refine
from ...engine.writing import execute
from ...errors import OutputError
from ...files import private_folders
from ...files.atomic import is_full
from ...files.file_names import SUFFIX
from ...files.restamping import WrittenTensors
from ...hosts.device_jobs import host_runtime
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
from ..references import NO_REFERENCE, ReferenceInfo
from ..resizing import planned, used_by

FOLDER = "trials"
"""The folder of private folders, in the cache."""
_LEAST_RETENTION = 1e-6
_FIRST = "high"


def places(cache: Path, host: HostFiles) -> list[Path]:
    """Return the folders in which private folders are made, best first; none of them is one that the host scans."""
    wished = [cache / FOLDER, Path(tempfile.gettempdir()) / "resize-lora" / FOLDER]
    scanned = [*host.lora_roots(), *host.scanned_folders()]
    return [place for place in wished if not inside(place, scanned)]


def sweep(cache: Path, host: HostFiles) -> None:
    """Remove what killed servers left; folders of servers that run stay."""
    for place in places(cache, host):
        private_folders.sweep(place)


@dataclass(frozen=True)
class Candidate:
    """A file that was written."""

    key: str
    """The same for all files that keep the same dimensions; of a fit, for those with the same tensors."""
    name: str
    """The name by which the host knows it during an image; never used for another file."""
    path: Path
    plan: Plan
    bytes: int
    """The planned size; the record of a fit may be shorter than planned."""
    fitted: bool = False
    """Its factors were fitted to images of the original, which made it better."""
    reference: ReferenceInfo = NO_REFERENCE
    """The base model that it depends on."""
    source_sha256: str = ""
    """Of the LoRA, hex."""


class CandidateFiles:
    """The candidates of one search, in a private folder that is removed when this is closed."""

    def __init__(self, cache: Path, host: HostFiles) -> None:
        """Raises OutputError where no folder can be created."""
        self._folder = private_folders.create(places(cache, host))
        self._written: dict[str, Candidate] = {}
        self._number = 0

    @property
    def is_there(self) -> bool:
        """Whether files can be written; programs that tidy disks may remove the folder."""
        return self._folder.path.is_dir()

    def new_folder(self) -> Path:
        """Return the path of a folder for one file: files of several sizes may have one name, such as ``style_2mb``."""
        self._number += 1
        return self._folder.path / str(self._number)

    def planned(self, plan: str) -> Candidate | None:
        """Return the file that was written of a plan; None where there is none, or none any more."""
        found = self._written.get(plan)
        return found if found is not None and found.path.is_file() else None

    def get(self, key: str) -> Candidate | None:
        """Return the file of a `Candidate.key`; None where there is none, or none any more."""
        found = next((one for one in self._written.values() if one.key == key), None)
        return found if found is not None and found.path.is_file() else None

    def add(self, plan: str, candidate: Candidate) -> None:
        """Note a file that was written of a plan."""
        self._written[plan] = candidate

    def keep_only(self, keys: Collection[str]) -> None:
        """Remove all other files; they are written again where they are needed."""
        for plan, candidate in [one for one in self._written.items() if one[1].key not in keys]:
            del self._written[plan]
            with contextlib.suppress(OSError):
                candidate.path.unlink()

    def close(self) -> None:
        """Remove all files."""
        self._written.clear()
        self._folder.close()


class Candidates:
    """Writes candidates, from one analysis that is kept in memory."""

    def __init__(
        self, host: Host, kept: CachedAnalysis, options: Options, files: CandidateFiles, refine: Refine | None = None
    ) -> None:
        """`kept` has the base norms that the scores of the options need. Raises ResizeError where no file is possible,
        and what `bases.analysis_for` raises."""
        self._host = host
        self._kept = kept
        self._options = options
        self._files = files
        self._folder = Path()
        self._refine = refine
        self._digest = ""
        self._recipes: dict[int, Recipe] = {}
        """Planned bytes -> the recipe of that file."""
        self.sizes = self._sizes()

    def of_size(self, bytes: int, handle: Handle, image: Callable[[], None] | None = None) -> Candidate:
        """Return the largest file that is not larger, written if necessary.

        `image` is called after each image that a fit makes for it. Raises Cancelled, FileError where the LoRA was
        changed since it was analysed, and OutputError.
        """
        recipe = self._recipe_of(bytes)
        self._folder = self._files.new_folder()
        with (
            reopened(self._kept) as adapter,
            open_required_base(adapter, self._host, self._options.reference) as base,
            host_runtime(self._host, handle.quiet(image)) as tools,
        ):
            job = self._planned(reattached(self._analysis(recipe), adapter, base), recipe)
            self._recipes.setdefault(job.plan.bytes_after, recipe)
            key = _key(job)
            found = self._files.planned(key)
            if found is None:
                self._digest = self._digest or adapter.files[0].sha256()
                found = self._write(job, key, tools)
                self._files.add(key, found)
        return found

    def _write(self, job: ResizeJob, key: str, tools: Runtime) -> Candidate:
        bytes = job.plan.bytes_after
        job = job if self._refine is None else self._refine(job, tools)
        try:
            _make_folder(job.path.parent)
            plan = execute(with_float8_errors(job, tools), tools, [self._digest])
        except OutputError as error:
            raise _not_written(error) from error
        if self._refine is not None:  # a second fit of the same plan may give other tensors, and thus other images
            key = f"{key}/{WrittenTensors.of(job.path).hash}"
        return Candidate(
            key,
            f"resize-lora-trial-{secrets.token_hex(6)}",
            job.path,
            plan,
            bytes,
            fitted=bool(job.selection.fitted),
            reference=used_by(self._kept, job.recipe),
            source_sha256=self._digest,
        )

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
        """Return the recipe of a size; both ends of the range are exact, for a text of any length.

        The size of a file that was planned has that file's recipe: one with another text may be a few bytes longer.
        """
        if bytes >= self.sizes.largest:
            return self._recipe({"retention": 1.0})
        if bytes <= self.sizes.smallest:
            return self._recipe({"retention": _LEAST_RETENTION})
        return self._recipes.get(bytes) or self._recipe({"size": bytes / MIB})

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
        return self._folder / f"{stem}{SUFFIX}"


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

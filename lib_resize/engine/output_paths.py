"""The paths of results: names that are unique in their folder tree, because hosts identify a LoRA by its name.

Each folder is listed once in a run, and the files that the run writes are added: a batch takes linear time.
"""

from __future__ import annotations

import bisect
import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ResizeError
from ..files.file_names import SUFFIX, clean_stem, fold, folded_stems, names_in_tree, numbered, unique_path
from ..files.header import read_header
from ..files.metadata import RECORD
from ..files.walk import exists, names_in
from ..prompts.sources import Source
from ..recipe.grammar import Recipe
from .output_names import output_stem, recipe_in_name


@dataclass
class _Folder:
    """One folder of results."""

    names: list[str]
    """Its safetensors files, sorted."""
    stems: set[str]
    """Their folded stems."""


@dataclass
class _Claims:
    """The names of this run's results."""

    stems: set[str] = field(default_factory=set)
    materialise: dict[str, int] = field(default_factory=dict)
    """Folded stem -> the first number that is not used, where the search for a free one starts."""

    def add(self, stem: str, wished: str) -> None:
        self.stems.add(fold(stem))
        clean = clean_stem(wished)
        format_number = self.materialise.get(fold(clean), 1)
        while fold(numbered(clean, format_number)) in self.stems:
            format_number += 1
        self.materialise[fold(clean)] = format_number


class OutputPaths:
    """The paths of all results of a run."""

    def __init__(self, output: Path | None, suffix: str | None) -> None:
        self._output = output
        self._suffix = suffix
        self._trees: dict[Path, set[str]] = {}
        self._folders: dict[Path, _Folder] = {}
        self._claims = _Claims()

    def folder_of(self, source: Source) -> Path:
        """Return the folder for the results of a source."""
        return self._output / source.below if self._output else source.members[0].path.parent

    def of(self, source: Source) -> SourcePaths:
        """Return the paths for the results of one source."""
        folder = self.folder_of(source)
        return SourcePaths(folder, self._tree(self._output or folder), self._folder(folder), self._claims)

    def expected(self, source: Source, recipe: Recipe) -> Path | None:
        """Return the path of a result; None where it is not known before the source is opened."""
        if recipe.selection != "thr" and recipe.weights and self._suffix is None:
            return None  # the threshold, which is part of the name, comes out of the file
        threshold = recipe.value if recipe.selection == "thr" else None
        return self.of(source)(output_stem(source.name, recipe, threshold, self._suffix))

    def existing(self, source: Source, recipe: Recipe) -> Path | None:
        """Return the result of an earlier run, found by its name or its record; None where there is none."""
        path = self.expected(source, recipe)
        if path is not None:
            return path if exists(path) else None
        beginning = clean_stem(f"{source.name}_{recipe_in_name(recipe)}_th")
        place = self.of(source)
        return next((path for path in place.beginning(beginning) if _is_result(path, recipe)), None)

    def _tree(self, root: Path) -> set[str]:
        if root not in self._trees:
            self._trees[root] = names_in_tree(root)
        return self._trees[root]

    def _folder(self, folder: Path) -> _Folder:
        if folder not in self._folders:
            names = sorted(name for name in names_in(folder) if name.lower().endswith(SUFFIX))
            self._folders[folder] = _Folder(names, set(folded_stems(names)))
        return self._folders[folder]


@dataclass(frozen=True)
class SourcePaths:
    """Makes paths from stems. An existing file at that exact path is allowed: the writer decides about it."""

    folder: Path
    _tree: set[str]
    """Folded stems of the whole folder tree."""
    _here: _Folder
    _claims: _Claims

    def __call__(self, stem: str) -> Path:
        start = self._claims.materialise.get(fold(clean_stem(stem)), 1)
        return unique_path(self.folder, stem, self._is_taken, start=start)

    def _is_taken(self, folded: str) -> bool:
        """Return whether a result of this run or a file in another folder has the name."""
        return folded in self._claims.stems or (folded in self._tree and folded not in self._here.stems)

    def claim(self, path: Path, wished: str) -> None:
        """Reserve the name of a result."""
        self._claims.add(path.stem, wished)

    def written(self, path: Path) -> None:
        """Add a file that was written."""
        place = bisect.bisect_left(self._here.names, path.name)
        if self._here.names[place : place + 1] != [path.name]:
            self._here.names.insert(place, path.name)
        self._here.stems.add(fold(path.stem))
        self._tree.add(fold(path.stem))

    def beginning(self, text: str) -> list[Path]:
        """Return the files of the folder whose names start with a text."""
        names = self._here.names
        end = begin = bisect.bisect_left(names, text)
        while end < len(names) and names[end].startswith(text):
            end += 1
        return [self.folder / name for name in names[begin:end]]


def _is_result(path: Path, recipe: Recipe) -> bool:
    with contextlib.suppress(ResizeError, ValueError, RecursionError):
        record = json.loads(read_header(path).metadata.get(RECORD, ""))
        return isinstance(record, dict) and record.get("recipe") == str(recipe)
    return False

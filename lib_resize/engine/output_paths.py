"""Where results go: under names that no other file of the tree has, for hosts know a LoRA by that alone.

Each folder is looked at once in a run; what the run writes is added. A batch of any size costs linear time.
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
    """The safetensors files, sorted."""
    stems: set[str]
    """The folded stems of these."""


@dataclass
class _Claims:
    """The names that the results of this run have."""

    stems: set[str] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)
    """Folded stem -> the first number that no result has, so that the search for one begins there."""

    def add(self, stem: str, wished: str) -> None:
        self.stems.add(fold(stem))
        clean = clean_stem(wished)
        number = self.numbers.get(fold(clean), 1)
        while fold(numbered(clean, number)) in self.stems:
            number += 1
        self.numbers[fold(clean)] = number


class OutputPaths:
    """The names of all results of a run."""

    def __init__(self, output: Path | None, suffix: str | None) -> None:
        self._output = output
        self._suffix = suffix
        self._trees: dict[Path, set[str]] = {}
        self._folders: dict[Path, _Folder] = {}
        self._claims = _Claims()

    def folder_of(self, source: Source) -> Path:
        """Where the results of a source go."""
        return self._output / source.below if self._output else source.members[0].path.parent

    def of(self, source: Source) -> SourcePaths:
        """For the results of a source."""
        folder = self.folder_of(source)
        return SourcePaths(folder, self._tree(self._output or folder), self._folder(folder), self._claims)

    def expected(self, source: Source, recipe: Recipe) -> Path | None:
        """The path of a result, where it is known before the source is opened."""
        if recipe.selection != "thr" and recipe.weights and self._suffix is None:
            return None  # the threshold, which is part of the name, comes out of the file
        threshold = recipe.value if recipe.selection == "thr" else None
        return self.of(source)(output_stem(source.name, recipe, threshold, self._suffix))

    def existing(self, source: Source, recipe: Recipe) -> Path | None:
        """The result of an earlier run, where its name or its own record tells."""
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
    """From a wished stem to a path. A file under that very path is not in the way: the writer asks about it."""

    folder: Path
    _tree: set[str]
    """Folded stems of the whole tree."""
    _here: _Folder
    _claims: _Claims

    def __call__(self, stem: str) -> Path:
        start = self._claims.numbers.get(fold(clean_stem(stem)), 1)
        return unique_path(self.folder, stem, self._is_taken, start=start)

    def _is_taken(self, folded: str) -> bool:
        """By a result of this run, or by a file in another folder of the tree."""
        return folded in self._claims.stems or (folded in self._tree and folded not in self._here.stems)

    def claim(self, path: Path, wished: str) -> None:
        """Keeps the name of a result from all others of the run."""
        self._claims.add(path.stem, wished)

    def written(self, path: Path) -> None:
        """A result is there now."""
        place = bisect.bisect_left(self._here.names, path.name)
        if self._here.names[place : place + 1] != [path.name]:
            self._here.names.insert(place, path.name)
        self._here.stems.add(fold(path.stem))
        self._tree.add(fold(path.stem))

    def beginning(self, text: str) -> list[Path]:
        """The files of the folder whose names begin with a text."""
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

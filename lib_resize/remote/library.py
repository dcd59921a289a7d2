"""A survey of LoRAs in a store: each file is fetched, measured and removed, one after the other."""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import ResizeError, UsageError
from ..files.header import read_header
from ..progress import Progress
from ..studies.survey import Survey, SurveyOptions, survey
from ..studies.survey_store import SurveyedFile
from .order import SUFFIX
from .stores import StoredFile, StorePlace, open_place

_FOLDER = Path("library")
"""In place of the URL, which no `Path` can hold."""


def survey_store(url: str, options: SurveyOptions, progress: Progress) -> Survey:
    """Survey every LoRA file below a URL. A file that cannot be fetched or read is one of the findings.

    Nothing is cached: another survey fetches all files again. Raises UsageError if there is no LoRA, ``OSError`` where
    the store cannot be listed, and Cancelled if `progress` does.
    """
    place = open_place(url)
    files = sorted((one for one in place.files() if one.name.lower().endswith(SUFFIX)), key=lambda one: one.name)
    if not files:
        raise UsageError(f"{url} has no {SUFFIX} file; name a folder of LoRAs.")
    entries, same = [], defaultdict(list)
    progress.start("spectra", len(files))
    for entry, digest in _surveyed(place, files, options):
        entries.append(entry)
        if digest is not None:
            same[digest].append(entry.path)
        progress.step()
    duplicates = tuple(tuple(paths) for paths in same.values() if len(paths) > 1)
    found = Survey(_FOLDER, tuple(entries), duplicates, label=url)
    options.on_headers(found)
    return found


def _surveyed(
    place: StorePlace, files: list[StoredFile], options: SurveyOptions
) -> Iterator[tuple[SurveyedFile, bytes | None]]:
    """Yield each file with the SHA-256 of its tensors; None where it cannot be read."""
    with tempfile.TemporaryDirectory(prefix="resize-lora-") as scratch:
        own = replace(options, cache=Path(scratch, "cache.json"), on_headers=lambda _: None)
        for number, one in enumerate(files):
            folder = Path(scratch, str(number))
            folder.mkdir()
            local = folder / one.name.rpartition("/")[2]
            path = _FOLDER / one.name
            try:
                place.fetch(one.name, local)
            except OSError as error:
                local.write_bytes(b"")
                (entry,) = survey(folder, own).entries
                yield replace(entry, path=path, stamp=(one.size, 0), problem=f"cannot be fetched: {error}"), None
            else:
                (entry,) = survey(folder, own).entries
                yield replace(entry, path=path), _digest(local)
            local.unlink()


def _digest(path: Path) -> bytes | None:
    digest = hashlib.sha256()
    try:
        start = read_header(path).data_start
        with path.open("rb") as stream:
            stream.seek(start)
            while piece := stream.read(1 << 20):
                digest.update(piece)
    except (ResizeError, OSError):
        return None
    return digest.digest()

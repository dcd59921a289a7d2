"""The manifest of a run, one JSON object a line, and sums over it; both can be made again from the markers."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..progress import in_order
from .stores import STATE, StorePlace, joined, open_place
from .unit import Line

MANIFEST, SUMMARY = f"{STATE}/manifest.jsonl", f"{STATE}/summary.json"
_READERS = 16  # requests at once: a store answers in tens of milliseconds


@dataclass
class RunSums:
    """The sums of a run."""

    files: int = 0
    """Sources that were done, now or before."""
    skipped: int = 0
    """Those among `files` that were done before."""
    results: int = 0
    bytes_before: int = 0
    """Size of the sources of all results; a source counts once for each recipe."""
    bytes_after: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Kind of error -> sources that have one."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Stage -> seconds of all workers together."""

    def add(self, line: Line) -> None:
        """Add what became of one source."""
        self.files += 1
        self.skipped += bool(line.get("skipped"))
        kinds = {line["kind"]} if "kind" in line else {one["kind"] for one in line["results"] if "kind" in one}
        self.failed.update(kinds)
        for one in line.get("results", ()):
            if "output" in one:
                self.results += 1
                self.bytes_before += one["bytes_before"]
                self.bytes_after += one["bytes_after"]
        if not line.get("skipped"):
            self.seconds.update(line.get("seconds", {}))

    def as_json(self) -> dict[str, Any]:
        """Return the sums as JSON values."""
        return {
            "files": self.files,
            "skipped": self.skipped,
            "results": self.results,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "failed": dict(sorted(self.failed.items())),
            "seconds": {stage: round(total, 3) for stage, total in self.seconds.items()},
        }


class Manifest:
    """Collects lines on the local disk, and gives them a name in the output at the end, also after Ctrl-C."""

    def __init__(self, output: StorePlace, name: str) -> None:
        self._output = output
        self._name = name
        self._folder = tempfile.TemporaryDirectory(prefix="resize-lora-")
        self._path = Path(self._folder.name, "lines.jsonl")
        self._stream: IO[str] = self._path.open("w", encoding="utf-8")

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._folder, self._stream:
            size = self._stream.tell()
            self._stream.close()
            if size:
                self._output.publish(self._path, self._name)

    def add(self, line: Line) -> None:
        """Add one line."""
        self._stream.write(json.dumps(line) + "\n")


def run_name() -> str:
    """Return a new name for the manifest of a run: UTC time, and random digits because shards begin at once."""
    return f"{STATE}/run-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}.jsonl"


def done_keys(output: str) -> set[bytes]:
    """Return the keys of work that succeeded, as bytes, with two listings in place of a look for each file.

    Work that failed for good is left to the workers, who find its marker and name it again.
    """
    return _keys_in(joined(output, STATE, "done")) - _keys_in(joined(output, STATE, "failed"))


def _keys_in(folder: str) -> set[bytes]:
    names = (one.name.rpartition("/")[2] for one in open_place(folder).files())
    return {key for name in names if (key := _key_in(name)) is not None}


def _key_in(name: str) -> bytes | None:
    try:
        return bytes.fromhex(name.removesuffix(".json")) if name.endswith(".json") else None
    except ValueError:
        return None


def marked_lines(output: str) -> Iterator[Line]:
    """Yield the lines of all markers. A damaged one is left out: its work is done again by the next run."""
    place = open_place(joined(output, STATE, "done"))
    names = [one.name for one in place.files()]

    def read(name: str) -> Line | None:
        try:
            line = json.loads(place.read(name))
        except ValueError:
            return None
        return line if isinstance(line, dict) and "results" in line else None

    with ThreadPoolExecutor(_READERS) as pool:
        yield from (line for line in in_order(pool, read, sorted(names), ahead=4 * _READERS) if line is not None)


def write_report(output: str) -> RunSums:
    """Make the manifest and the summary of an output again from its markers, and return the sums."""
    tally, place = RunSums(), open_place(output)
    with Manifest(place, MANIFEST) as manifest:
        for line in marked_lines(output):
            tally.add(line)
            manifest.add(line)
    place.write(SUMMARY, (json.dumps(tally.as_json(), indent=1) + "\n").encode())
    return tally

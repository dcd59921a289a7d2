"""The driver of `resize --cluster` over very many files: memory, time for each file, and whether any is lost.

    python -m benchmarks.cluster 100000 --cluster local:2
    python -m benchmarks.cluster 100000                     # this process alone

The files are real but tiny, and the workers write markers without resizing: what is measured is the driver. Each tenth
of the run is timed, so that time that grows with the number of files shows. The second run finds all markers.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from lib_resize.recipe.grammar import parse_recipes
from lib_resize.remote.dask_workers import by_dask
from lib_resize.remote.driver import Done, planned
from lib_resize.remote.listing import list_items
from lib_resize.remote.order import Order, WorkItem, key_of, marker_name
from lib_resize.remote.stores import open_place
from lib_resize.remote.unit import Line

FOLDERS = 100


def mark(item: WorkItem, order: Order) -> Line:
    """Write the marker of a file that is said to be done."""
    key = key_of(item, order)
    line = {"key": key, "source": item.url, "results": [], "seconds": {}}
    path = open_place(order.output).folder
    assert path is not None
    marker = path / marker_name(key)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(f'{{"key": "{key}", "results": []}}')
    return line


def here(items: Iterable[WorkItem], order: Order) -> Iterator[Done]:
    """Do the work in this process. See `driver.Workers`."""
    for item in items:
        yield item, mark(item, order)


def write_files(folder: Path, count: int) -> None:
    """Write files with the names of LoRAs."""
    for number in range(FOLDERS):
        (folder / f"creator {number}").mkdir(parents=True)
    for number in range(count):
        (folder / f"creator {number % FOLDERS}" / f"a lora of number {number}.safetensors").write_bytes(b"x")


def peak_mib() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def run(folder: Path, output: Path, cluster: str | None) -> None:
    """Run over all files once, and print what it cost."""
    start, cpu = time.perf_counter(), time.process_time()
    items = list_items([str(folder)])
    order = Order(output.as_posix(), parse_recipes("rank=4"))
    whole = planned(order, items)
    show(f"listed and checked {len(items)} files: {time.perf_counter() - start:.1f} s, peak {peak_mib():.0f} MiB")
    workers = here if cluster is None else partial(_by_dask, cluster)
    times = [time.perf_counter()]
    for seen, _ in enumerate(whole.go(workers), 1):
        if seen % max(1, len(items) // 10) == 0:
            times.append(time.perf_counter())
    parts = ", ".join(f"{after - before:.1f}" for before, after in itertools.pairwise(times))
    show(f"  seconds of each tenth: {parts or 'nothing was left to do'}")
    show(
        f"  {whole.tally.files} files, {whole.tally.skipped} known before, {sum(whole.tally.failed.values())} failed: "
        f"{time.perf_counter() - times[0]:.1f} s, driver CPU {time.process_time() - cpu:.1f} s, "
        f"peak {peak_mib():.0f} MiB"
    )


def show(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _by_dask(cluster: str, items: Iterable[WorkItem], order: Order) -> Iterator[Done]:
    return by_dask(cluster, items, order, work=mark)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=int)
    parser.add_argument("--cluster")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "loras")
        write_files(folder, arguments.files)
        for _ in range(2):
            run(folder, Path(scratch, "out"), arguments.cluster)


if __name__ == "__main__":
    main()

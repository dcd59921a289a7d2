"""SIGKILLs at random moments while a folder of 30 LoRAs is replaced, restored or purged from the command line.

After each kill the next start must find every name with the whole original or the whole new file, every original
exactly once, and all hashes true. Long: ``RESIZE_LORA_KILLS=500 pytest -n 0 --log-cli-level=INFO
tests/hostile/test_killed_shrinking.py`` kills so many runs.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from lib_resize.archive.entries import entries
from lib_resize.archive.place import Archive
from lib_resize.archive.recovery import recover
from lib_resize.cli import main as cli
from lib_resize.cli import work
from lib_resize.files.atomic import sweep
from lib_resize.shrinking import shrinking
from tests.hostile.faults import silent_child
from tests.library import JSONS, check_entries, check_facts, contents, sha256, write_sidecars, write_small_lora

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
LOGGER = logging.getLogger(__name__)
COUNT = int(os.environ.get("RESIZE_LORA_KILLS", "15"))
FILES = 30
PRELOADED = (work, shrinking)
"""Imported here, and not in each child anew."""

COMMANDS: dict[str, list[str]] = {
    "replace": ["resize", "Lora", "--replace", "-r", "rank=2", "--threads", "1"],
    "replace again": ["resize", "Lora", "--replace", "-r", "rank=1", "--threads", "1"],
    "restore": ["restore", "--all"],
}


@pytest.fixture
def first(folder: Path) -> dict[Path, bytes]:
    """A library of 30 LoRAs with sidecars in three folders, as it is at the beginning."""
    for number in range(FILES):
        name = f"{('ink', 'pâte', '墨')[number % 3]} {number}"
        write_sidecars(write_small_lora(folder / "Lora" / f"style {number % 3}" / f"{name}.safetensors", number, 2))
    return contents(folder / "Lora")


def run(folder: Path, words: list[str], after: float | None = None) -> bool:
    """Run a command in a child, killed after so many seconds. Return whether it was killed."""

    def command() -> int:
        os.chdir(folder)
        return cli.main(words)

    pid = silent_child(command)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, words
    return os.WIFSIGNALED(status)


def judge(folder: Path, first: dict[Path, bytes]) -> Counter[str]:
    """Check every law; return how many files are original and how many are smaller."""
    root, archive = folder / "Lora", Archive(folder / "Resize LoRA archive")
    now, kept = contents(root), contents(archive.originals)
    assert now.keys() == first.keys(), now.keys() ^ first.keys()
    digests = {path.name: sha256(data) for path, data in first.items()}
    check_entries(archive, digests)
    by_home = {entry.home: entry for entry in entries(archive)}
    assert len(by_home) == len(entries(archive))
    states: Counter[str] = Counter()
    copies = Counter(sha256(data) for data in (*now.values(), *kept.values()))
    for path, data in first.items():
        if path.suffix == ".safetensors":
            states["small" if path in by_home else "original"] += 1
            assert (now[path] == data) == (path not in by_home), path
            assert copies[sha256(data)] == 1, path
            if path in by_home:
                check_facts(path)
        elif not path.name.endswith(JSONS):
            assert now[path] == data, path
    for path in first:
        if path.name.endswith(JSONS):
            lora = next(one for one in first if one.suffix == ".safetensors" and path.name.startswith(f"{one.stem}."))
            assert (now[path] == first[path]) == (lora not in by_home), path
    return states


def test_a_kill_at_a_random_moment_loses_nothing(folder: Path, first: dict[Path, bytes]) -> None:
    rng = random.Random(COUNT)
    times = {}
    for name, words in COMMANDS.items():
        start = time.monotonic()
        assert not run(folder, words)
        times[name] = time.monotonic() - start
    assert contents(folder / "Lora") == first
    kills, runs, states, recovered = 0, 0, Counter[str](), Counter[str]()
    while kills < COUNT:
        name = rng.choice(list(COMMANDS))
        moment = rng.uniform(0, times[name])
        kills += run(folder, COMMANDS[name], moment)
        runs += 1
        found = recover(Archive(folder / "Resize LoRA archive"))
        recovered.update(one.direction for one in found)
        assert recovered["blocked"] == 0, found
        for place in (folder / "Lora").iterdir():
            sweep(place)  # as hosts do at their start
        states += judge(folder, first)
    run(folder, COMMANDS["restore"])
    assert contents(folder / "Lora") == first
    assert contents(folder / "Resize LoRA archive" / "originals") == {}
    LOGGER.info("%d kills in %d runs; steps recovered: %s; states seen: %s", kills, runs, dict(recovered), dict(states))

"""Goal S9: CPU seconds inside a WebUI, against those of the command line without its start-up.

Each side is one process that does everything with a small LoRA first, so that nothing is imported or generated while
the large one is measured. The service behind the tab runs in a host without a WebUI, which computes the same.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.bench import ROOT, Row, Runtime, link, say
from lib_resize.demo.synthetic import LoraOptions, write_lora

RECIPE = "fro_lora=1,retain=0.95"
RESIZE, ANALYSIS = "first resize of an analysed LoRA", "analysis"
NAMES = ("small", "large")

Seconds = dict[str, float]
"""CPU seconds by job."""


def s9(runtime: Runtime) -> Iterator[Row]:
    """The service behind the tab as a share of the command line, which decomposes the LoRA for a resize as well."""
    say(f"r32 inside a WebUI and on the command line x {runtime.options.pairs}")
    rounds: dict[str, list[Seconds]] = {side: [] for side in MEASURES}
    for _ in range(runtime.options.pairs):
        for side, found in rounds.items():
            found.append(_measured(side, runtime.material.r32, runtime.scratch / side))
    for job in (RESIZE, ANALYSIS):
        panel, command = (statistics.median(seconds[job] for seconds in found) for found in rounds.values())
        what = f"r32 inside a WebUI, {job}, CPU, share of the command line's {command:.2f} s"
        yield Row("S9", what, panel / command, 1.0, False)


def _measured(side: str, lora: Path, folder: Path) -> Seconds:
    """Measure one side in a process of its own, on two LoRAs in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "loras").mkdir(parents=True)
    small, large = (folder / "loras" / f"{name}.safetensors" for name in NAMES)
    write_lora(small, LoraOptions(rank=4))
    link(lora, large)
    words = [sys.executable, "-m", "benchmarks.webui", side, str(folder)]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: Seconds = json.loads(done.stdout.splitlines()[-1])
    return found


def panel_seconds(folder: Path) -> Seconds:
    """The service behind the tab."""
    from lib_resize.hosts.standalone import StandaloneHost
    from lib_resize.panel.service import Service

    service = Service(StandaloneHost([folder / "loras"]), folder / "library.json")

    def ask(method: str, parameters: dict[str, object]) -> None:
        service.ask(method, parameters)
        service.desk.queue.join()

    ask("library", {})
    service.desk.library.join()
    found: Seconds = {}
    for name in NAMES:
        order: dict[str, object] = {"names": [name], "recipe": RECIPE, "options": {"reference": "none"}}
        found = {
            ANALYSIS: _cpu_of(partial(ask, "analyse", {"names": [name], "reference": "none"})),
            RESIZE: _cpu_of(partial(ask, "resize", order)),
        }
    written = len(list((folder / "loras").glob("*.safetensors"))) - len(NAMES)
    if written != len(NAMES):
        raise RuntimeError(f"{written} files were written, not {len(NAMES)}")
    service.close()
    service.desk.library.join()
    return found


def command_seconds(folder: Path) -> Seconds:
    """``resize-lora inspect`` and ``resize-lora resize``."""
    from lib_resize.cli.main import main

    gc.set_threshold(100_000)  # as in a process of its own
    sys.setswitchinterval(5e-4)
    found: Seconds = {}
    for name in NAMES:
        lora = str(folder / "loras" / f"{name}.safetensors")
        with contextlib.redirect_stdout(io.StringIO()):
            found = {
                ANALYSIS: _cpu_of(partial(main, ["inspect", lora])),
                RESIZE: _cpu_of(partial(main, ["resize", lora, "-r", RECIPE, "-o", str(folder / "out")])),
            }
    return found


def _cpu_of(action: Callable[[], object]) -> float:
    begun = time.process_time()
    action()
    return time.process_time() - begun


MEASURES: dict[str, Callable[[Path], Seconds]] = {"panel": panel_seconds, "command line": command_seconds}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(MEASURES[sys.argv[1]](Path(sys.argv[2]))))

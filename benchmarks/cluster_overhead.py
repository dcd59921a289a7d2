"""What a cluster costs a file: the plain command against local workers and a shard, in turns on the same LoRAs.

    python -m benchmarks.cluster_overhead r32.safetensors 200 --rounds 1

The LoRA is linked under as many names, so the disk is read once. Figures are CPU seconds of all processes together over
the number of files, and ratios to the plain command.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.bench import link
from benchmarks.harness import Command, interleave, median

Ways = Mapping[str, tuple[str, ...]]
"""Name -> the options that make the difference. The first is what the others are compared with."""
CLUSTER: Ways = {"plain": ("--threads", "2"), "cluster": ("--cluster", "local:2")}
SHARDS: Ways = {"plain, one thread": ("--threads", "1"), "shard, one thread": ("--shard", "0/1", "--threads", "1")}


def commands(ways: Ways, loras: Path, scratch: Path, recipe: str) -> dict[str, Command]:
    """Return one command for each way; each begins with an empty folder."""
    found = {}
    for name, options in ways.items():
        output = scratch / name
        words = ["resize", str(loras), "-o", str(output), "-r", recipe, *options]
        found[name] = Command([sys.executable, "-m", "lib_resize", *words], remove=[output])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lora", type=Path)
    parser.add_argument("files", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--recipe", default="medium")
    parser.add_argument("--shards", action="store_true", help="measure a shard against one thread, and no cluster")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk of the LoRA (default: next to it)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch or arguments.lora.parent) as folder:
        loras = Path(folder, "loras")
        loras.mkdir()
        for number in range(arguments.files):
            link(arguments.lora, loras / f"lora {number}.safetensors")
        ways = SHARDS if arguments.shards else CLUSTER
        samples = interleave(commands(ways, loras, Path(folder), arguments.recipe), arguments.rounds)
    found = {name: median(runs) for name, runs in samples.items()}
    base = next(iter(found.values()))
    for name, sample in found.items():
        sys.stdout.write(
            f"{name}: {sample.cpu / arguments.files:.3f} s CPU a file ({sample.cpu / base.cpu - 1:+.1%}), "
            f"{sample.wall / arguments.files:.3f} s wall ({sample.wall / base.wall - 1:+.1%}), "
            f"largest process {sample.peak >> 20} MiB, others {sample.others:.2f} cores\n"
        )


if __name__ == "__main__":
    main()

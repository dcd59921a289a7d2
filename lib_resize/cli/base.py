"""``resize-lora base``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..shown import mib, shown
from .command import Command
from .options import add_nice, add_threads
from .output import Bars, set_priority

_DESCRIPTION = """\
Write the header and the norms of a checkpoint to a small JSON file. With --base FILE.json, recipes that compare with
norms (fro_ckpt, spn_ckpt) work without the checkpoint, such as on many machines."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("export",), help="what to do")
    add("checkpoint", metavar="CHECKPOINT", help="the checkpoint: a file or a folder")
    add("-o", "--output", metavar="FILE.json", help="the new file (default: the checkpoint's name, here)")
    add("--overwrite", action="store_true", help="replace an earlier norms file")
    add_threads(parser)
    add_nice(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the norms of a checkpoint."""
    from ..base.norms_export import export_norms
    from ..base.norms_file import NormsStore
    from ..engine.runtime import cpu_runtime
    from ..errors import UsageError
    from ..files.atomic import write_whole
    from ..files.target import FileKind, Inputs, check_target

    def is_norms(path: Path) -> bool:
        return bool(NormsStore(path).norms)

    source = Path(arguments.checkpoint)
    target = Path(arguments.output) if arguments.output else Path(f"{source.stem}.base.json")
    if target.suffix.lower() != ".json":
        raise UsageError(f"-o {target}: the name must end in .json, by which --base recognizes it.")
    kind = FileKind("a norms file of Resize LoRA", is_norms)
    check_target(target, kind, overwrite=arguments.overwrite, inputs=Inputs([source]))
    set_priority(arguments.nice)
    with Bars(None) as bars, cpu_runtime(bars, arguments.threads) as runtime:
        data = export_norms(source, arrays=runtime.arrays, pool=runtime.pool, progress=bars)
    write_whole(target, data, overwrite=arguments.overwrite)
    print(shown(f"{target}: {mib(len(data))} MiB"))
    return 0


COMMAND = Command("base", _DESCRIPTION, _add_options, run)

"""``resize-lora resize`` for URLs, shards and clusters."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..recipe.grammar import DEFAULT_WITH_BASE, DEFAULT_WITHOUT_BASE, Recipe, parse_recipes
from .output import complain, set_priority

if TYPE_CHECKING:
    from ..remote.driver import Workers
    from ..remote.order import Order

_ONLY_HERE = {
    "replace": "--replace",
    "report": "--report",
    "report_layers": "--report-layers",
    "max_vram": "--max-vram",
    "skip_existing": "--skip-existing",
    "verbose": "--verbose",
}
"""Options of `resize` that have no meaning here."""


def shard(text: str) -> tuple[int, int]:
    """Parse ``I/N``: shard I, counted from 0, of N."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no shard; expected I/N, with I from 0 to N - 1, such as 0/8"
        )
    return int(found[1]), int(found[2])


def add_remote_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for many files on several machines."""
    add = parser.add_argument
    add(
        "--cluster",
        metavar="ADDRESS",
        help="do the work on a Dask cluster: tcp://host:8786, or local:4 for four processes here",
    )
    add("--shard", type=shard, metavar="I/N", help="do only part I of N, counted from 0: for job arrays")
    add(
        "--retries",
        type=int,
        choices=range(11),
        default=3,
        metavar="N",
        help="with URLs, --cluster and --shard: "
        "how often a file is tried again after a fault of a store or the network (default: 3)",
    )


def is_remote(arguments: argparse.Namespace) -> bool:
    """Return whether the run uses stores, shards or a cluster."""
    from ..remote.stores import is_url

    names = [*arguments.inputs, *filter(None, (arguments.output_folder, arguments.base))]
    return bool(arguments.cluster or arguments.shard or any(map(is_url, names)))


def run_remote(arguments: argparse.Namespace, recipes: tuple[Recipe, ...]) -> int:
    """Resize LoRA files in stores, or a part of them, and return the exit status."""
    from ..remote.driver import planned
    from ..remote.listing import list_items
    from .remote_output import RunDisplay, progress, sums

    _check(arguments)
    order = _order(arguments, recipes)
    run = planned(order, list_items(arguments.inputs), arguments.shard or (0, 1))
    if arguments.dry_run:
        print(f"{progress(run)}. Nothing was written (--dry-run).")
        return 0
    set_priority(arguments.nice)
    display = RunDisplay(run)
    try:
        for line in run.go(workers_of(arguments.cluster)):
            display.show(line)
    finally:
        display.close()
        print(sums(run.tally))
    left = len(run.items) - run.tally.files
    if left:
        complain(f"{left} files are left. The same command goes on.")
    return int(bool(run.tally.failed or left))


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.output_folder:
        raise UsageError("-o is needed with URLs, --cluster and --shard: name a folder for the results.")
    for name, option in _ONLY_HERE.items():
        if getattr(arguments, name):
            raise UsageError(f"{option} does not work with URLs, --cluster and --shard. Omit it.")
    if arguments.device != "cpu":
        raise UsageError("-d: with URLs, --cluster and --shard the work is done on the CPU. Omit it.")
    if arguments.cluster and arguments.shard:
        raise UsageError("--cluster and --shard divide the work in different ways. Use one of them.")


def _order(arguments: argparse.Namespace, recipes: tuple[Recipe, ...]) -> Order:
    from ..adapters.write.style import DTYPES
    from ..remote.driver import base_of
    from ..remote.order import Order
    from ..remote.stores import open_place

    output = open_place(arguments.output_folder).url
    base = base_of(arguments.base, output) if arguments.base else None
    recipes = recipes or parse_recipes(DEFAULT_WITH_BASE if base else DEFAULT_WITHOUT_BASE)
    for recipe in recipes:
        _check_base(recipe, has_base=base is not None, norms_only=base is not None and base.norms_only)
    return Order(
        output=output,
        recipes=recipes,
        dtype=DTYPES[arguments.output_dtype],
        kohya=arguments.naming == "kohya",
        convert=arguments.convert,
        suffix=arguments.suffix,
        sidecars=not arguments.no_sidecars,
        overwrite=arguments.overwrite,
        base=base,
        threads=arguments.threads or (1 if arguments.cluster else None),
        retries=arguments.retries,
    )


def _check_base(recipe: Recipe, *, has_base: bool, norms_only: bool) -> None:
    if recipe.needs_base and not has_base:
        raise UsageError(f"recipe {recipe} compares with the base model. Name a checkpoint or its norms with --base.")
    if norms_only and "subspace" in recipe.weights:
        raise UsageError(f"recipe {recipe} needs the weights of the base model, not only norms. Give the checkpoint.")


def workers_of(cluster: str | None) -> Workers:
    """Return who does the work: this process, or a cluster."""
    from ..remote.driver import alone

    if cluster is None:
        return alone
    from ..remote.dask_workers import by_dask

    return lambda items, order: by_dask(cluster, items, order)

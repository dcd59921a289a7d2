"""The subcommands: from parsed arguments to calls of the library, and from outcomes to text and exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.write.style import DTYPES, Style
from ..base.checkpoint import Checkpoint
from ..base.checkpoint_keys import looks_like_checkpoint
from ..base.store import is_model_folder
from ..engine.batch import resize as resize_all
from ..engine.settings import Outcome, Settings, inputs_of
from ..errors import ResizeError, UsageError, internal
from ..files.file_names import fold, unique_path
from ..files.reader import SafeFile
from ..files.target import RESULT, Inputs, check_folder, check_target
from ..files.walk import is_file, is_folder
from ..progress import Progress, Quiet
from ..prompts.lookup import LoraFolders, preset_file
from ..prompts.sources import SUFFIX, Source, expand, of_members, of_prompt
from ..prompts.tags import BLOCK_PRESETS, Presets, check_bakeable, parse_prompt
from ..recipe.grammar import ALL_RANKS, METHOD_NUMBERS, Recipe, parse_recipes, with_method_items
from ..shown import json_text, shown, shown_lines
from . import report
from .ledger import Ledger
from .priority import stand_back

if TYPE_CHECKING:
    from ..extraction.models import ExtractOptions
    from ..studies.inspection import Finding
    from ..studies.spectra import LayerSpectrum, Study

Logins = tuple[tuple[str, str], ...]
"""Names and passwords."""


def resize(arguments: argparse.Namespace) -> int:
    """``resize-lora resize``."""
    with contextlib.ExitStack() as stack:
        base, names = _base_and_loras(arguments)
        if base is not None:
            stack.callback(base.close)
        return _run(expand(names, _skipped), _settings(arguments, base), arguments)


def upsample(arguments: argparse.Namespace) -> int:
    """``resize-lora upsample``."""
    arguments.score_recipes = parse_recipes(f"rank={arguments.rank},extend,seed={arguments.seed}")
    arguments.device = "cpu"
    return _run(expand(arguments.inputs, _skipped), _settings(arguments, None), arguments)


def _skipped(error: OSError) -> None:
    """A folder that cannot be read does not end the search."""
    _complain(f"{error.filename}: cannot be read: {error.strerror}; the folder is skipped.")


def _complain(message: str) -> None:
    print(f"resize-lora: {shown(message)}", file=sys.stderr)


def _recipes(arguments: argparse.Namespace) -> tuple[Recipe, ...]:
    """Those asked for, with what --method and its companions add to them."""
    recipes: tuple[Recipe, ...] = arguments.score_recipes or ()
    if arguments.command != "resize":
        return recipes
    words = [*([arguments.method] if arguments.method else []), *(["pad"] if arguments.pad else [])]
    numbers = [f"{name}={value}" for name in METHOD_NUMBERS if (value := getattr(arguments, name)) is not None]
    return with_method_items(recipes, [*words, *numbers])


def merge(arguments: argparse.Namespace) -> int:
    """``resize-lora merge``."""
    recipes = arguments.score_recipes or parse_recipes(ALL_RANKS)
    source = _merge_source(arguments)
    with contextlib.ExitStack() as stack:
        base = Checkpoint(Path(arguments.base)) if arguments.base else None
        if base is not None:
            stack.callback(base.close)
        settings = _work_settings(arguments, base)
        folder, target = _output_of(arguments.output, len(recipes))
        sidecars = settings.sidecars and not arguments.prompt
        inputs = Inputs([Path(arguments.lbw_presets)] if arguments.lbw_presets else [])
        settings = replace(settings, recipes=recipes, output=folder, target=target, sidecars=sidecars, inputs=inputs)
        arguments.continue_on_error = False
        return _run([source], settings, arguments)


_EXTRACT_RECIPE = "rank=64"


def extract(arguments: argparse.Namespace) -> int:
    """``resize-lora extract``."""
    from ..extraction.extract import extract as extract_all

    recipes = _extract_recipes(arguments)
    folder, target = _output_of(arguments.output, len(recipes))
    arguments.continue_on_error = False
    with contextlib.ExitStack() as stack:
        tuned = Checkpoint(Path(arguments.tuned))
        stack.callback(tuned.close)
        base = Checkpoint(Path(arguments.base))
        stack.callback(base.close)
        inputs = Inputs((*tuned.paths, *base.paths))
        settings = replace(
            _work_settings(arguments, None), recipes=recipes, output=folder, target=target, inputs=inputs
        )
        wish = _extract_wish(arguments, recipes)
        return _show(lambda bars: extract_all(tuned, base, wish, settings, bars), 1, inputs, arguments)


def _extract_recipes(arguments: argparse.Namespace) -> tuple[Recipe, ...]:
    texts = [f"rank={arguments.rank}"] if arguments.rank else []
    texts += [f"fro_lora=1,size={arguments.size}"] if arguments.size else []
    if len(texts) + bool(arguments.score_recipes) > 1:
        raise UsageError("extract takes one of --rank, --size and -r.")
    conv = f",max_conv_rank={arguments.conv_rank}" if arguments.conv_rank else ""
    return arguments.score_recipes or parse_recipes((texts or [_EXTRACT_RECIPE])[0] + conv)


def _extract_wish(arguments: argparse.Namespace, recipes: Sequence[Recipe]) -> ExtractOptions:
    """As many dimensions as any of the recipes could keep."""
    from ..extraction.models import DEFAULT_RANK, ExtractOptions

    most = [int(recipe.value) if recipe.selection == "rank" else recipe.max_rank for recipe in recipes]
    rank = arguments.max_rank or max(DEFAULT_RANK if one is None else one for one in most)
    return ExtractOptions(rank, arguments.conv_rank, not arguments.no_te, arguments.all_layers, arguments.biases)


def _merge_source(arguments: argparse.Namespace) -> Source:
    """From files with strengths, or from a prompt. Raises UsageError, and PromptError for what cannot be baked."""
    if bool(arguments.inputs) == (arguments.prompt is not None):
        raise UsageError("merge takes LoRA files with strengths, or --prompt with --lora-dir; give one of the two.")
    if arguments.inputs:
        if arguments.lora_dir:
            raise UsageError("--lora-dir belongs to --prompt; files are named by their paths.")
        if arguments.lbw_presets:
            raise UsageError("--lbw-presets belongs to --prompt; a file has one strength here.")
        return of_members(arguments.inputs)
    tags = parse_prompt(arguments.prompt, _presets(arguments.lbw_presets)).tags
    check_bakeable(tags)
    return of_prompt(tags, LoraFolders([Path(name) for name in arguments.lora_dir]).find)


def _presets(name: str | None) -> Presets:
    """Block weights by name, with those of a file. Raises FileError."""
    return preset_file(Path(name)) if name else BLOCK_PRESETS


def _output_of(text: str | None, recipes: int) -> tuple[Path | None, Path | None]:
    """Folder or file of the result, as far as it is given."""
    if text is None or is_folder(Path(text)) or text.endswith(("/", os.sep)):
        return (Path(text) if text else None), None
    if recipes > 1:
        raise UsageError(f"-o {text}: one file cannot hold the results of {recipes} recipes; name a folder.")
    path = Path(text)
    if not path.name:
        raise UsageError(f"-o {text!r}: this is no file name. Name the new file, or a folder.")
    return None, path if path.suffix.lower() == SUFFIX else path.with_name(path.name + SUFFIX)


def _settings(arguments: argparse.Namespace, base: Checkpoint | None) -> Settings:
    return replace(
        _work_settings(arguments, base),
        output=Path(arguments.output_folder) if arguments.output_folder else None,
        suffix=arguments.suffix,
        skip_existing=arguments.skip_existing,
    )


def _work_settings(arguments: argparse.Namespace, base: Checkpoint | None) -> Settings:
    """What all commands share that write."""
    return Settings(
        recipes=_recipes(arguments),
        base=base,
        style=Style(
            dtype=DTYPES[arguments.output_dtype],
            kohya=getattr(arguments, "naming", "keep") == "kohya",
            convert=getattr(arguments, "convert", "auto"),
        ),
        device=arguments.device,
        threads=arguments.threads,
        max_vram=getattr(arguments, "max_vram", None),
        dry_run=arguments.dry_run,
        overwrite=arguments.overwrite,
        sidecars=not getattr(arguments, "no_sidecars", True),
    )


def inspect(arguments: argparse.Namespace) -> int:
    """``resize-lora inspect``."""
    sources = expand(arguments.inputs, _skipped)
    inputs = inputs_of(sources)
    if arguments.plot:
        from ..studies.plots import check_can_draw

        check_can_draw()
        check_folder(Path(arguments.plot))
    with contextlib.ExitStack() as stack:
        base = Checkpoint(Path(arguments.base)) if arguments.base else None
        if base is not None:
            stack.callback(base.close)
            inputs.add(*base.paths)
        look = _Look(arguments, base, inputs)
        for source in sources:
            look.at(source.members[0].path)
        return look.finish()


class _Look:
    """What `inspect` has seen so far."""

    def __init__(self, arguments: argparse.Namespace, base: Checkpoint | None, inputs: Inputs) -> None:
        self._arguments = arguments
        self._inputs = inputs
        self._base = base
        self._closely = bool(arguments.plot or arguments.spectra)
        self._findings: list[dict[str, Any]] = []
        self._layers: list[list[LayerSpectrum]] = []
        self._stems: set[str] = set()
        self._failed = False

    def at(self, path: Path) -> None:
        try:
            self._look_at(path)
        except (ResizeError, OSError, MemoryError) as error:
            self._fail(path, error)
        except Exception as error:
            self._fail(path, internal(str(path), error))

    def _look_at(self, path: Path) -> None:
        from ..studies.inspection import describe, describe_closely

        if not self._closely:
            self._tell(describe(path, base=self._base, threads=self._arguments.threads), None)
            return
        stem = self._stem(path.stem)
        found, seen, layers = describe_closely(path, base=self._base, threads=self._arguments.threads)
        self._layers.append(layers)
        self._tell(found, seen)
        self._draw(seen, stem)

    def _stem(self, name: str) -> str:
        """What the names of plots begin with. Raises OutputError where they cannot be written, before the work."""
        if not self._arguments.plot:
            return name
        from ..studies.plots import check_can_save

        stem = unique_path(Path(), name, self._stems).stem
        self._stems.add(fold(stem))
        check_can_save(Path(self._arguments.plot), stem, self._inputs)
        return stem

    def _fail(self, path: Path, error: Exception) -> None:
        self._failed = True
        self._findings.append({"source": str(path), "error": str(error)})
        if not self._arguments.json:
            _complain(str(error))

    def _tell(self, found: Finding, seen: Study | None) -> None:
        more = {} if seen is None else {"spectra": seen.as_json()}
        self._findings.append(found.as_json() | more)
        if not self._arguments.json:
            print(shown_lines(found.as_text()) + "\n")
            if seen is not None and self._arguments.spectra:
                print(shown_lines(report.spectra_table(seen.groups)) + "\n")

    def _draw(self, seen: Study, stem: str) -> None:
        if self._arguments.plot:
            from ..studies.plots import save

            folder = Path(self._arguments.plot)
            written = save(seen, folder, stem, self._arguments.theme, inputs=self._inputs)
            if not self._arguments.json:
                print(shown(f"{len(written)} files {folder / stem}*") + "\n")

    def finish(self) -> int:
        if len(self._layers) > 1:
            from ..studies.spectra import study_of_many

            seen = study_of_many("all", self._layers)
            if self._arguments.spectra and not self._arguments.json:
                print(shown_lines(f"all {seen.files} files\n{report.spectra_table(seen.groups)}\n"))
            self._findings.append({"source": "all", "spectra": seen.as_json()})
            self._draw(seen, self._stem("all"))
        if self._arguments.json:
            print(json_text(self._findings, indent=2))
        return int(self._failed)


def library(arguments: argparse.Namespace) -> int:
    """``resize-lora library``."""
    from ..studies.survey import SurveyOptions, survey

    folder = Path(arguments.folder)
    if not arguments.folder.strip() or not is_folder(folder):
        raise UsageError(f"{folder} is not a folder; name one that holds LoRA files.")
    _stand_back(arguments)
    quiet = arguments.json or arguments.csv
    with _Bars(None) as bars:
        told = (lambda _: None) if quiet else (lambda seen: bars.say(report.survey_headers(seen)))
        wish = SurveyOptions(exact=arguments.exact, threads=arguments.threads, on_headers=told, on_skip=_skipped)
        found = survey(folder, wish, bars)
    if arguments.json:
        print(json_text(found.as_json(), indent=1))
    elif arguments.csv:
        print(found.as_csv(), end="")
    else:
        print(shown_lines(report.survey_text(found)))
    return 0


def _stand_back(arguments: argparse.Namespace) -> None:
    if arguments.nice and not stand_back():
        print("resize-lora: --nice: this system does not let the priority be lowered", file=sys.stderr)


_DEMO_RECIPES = "medium:fro_ckpt=1,thr=-3.5:fro_lora=1,size=0.25"


def demo(arguments: argparse.Namespace) -> int:
    """``resize-lora demo``: the whole way on files made for the purpose."""
    import tempfile

    if arguments.keep:
        return _demo_in(Path(arguments.keep), arguments)
    with tempfile.TemporaryDirectory(prefix="resize-lora-demo-") as folder:
        return _demo_in(Path(folder), arguments)


def _demo_in(folder: Path, arguments: argparse.Namespace) -> int:
    checkpoint, *loras = _demo_files(folder)
    print(f"A small SDXL-shaped checkpoint and {len(loras)} LoRAs, resized by {_DEMO_RECIPES}\n")
    settings = Settings(
        recipes=parse_recipes(_DEMO_RECIPES), output=folder / "resized", base=checkpoint, overwrite=True
    )
    chosen = argparse.Namespace(
        verbose=arguments.verbose, report=None, report_layers=False, continue_on_error=False, dry_run=False, nice=False
    )
    status = _run(expand([str(path) for path in loras]), settings, chosen)
    if arguments.keep:
        print(f"\nThe files are in {folder}.")
    return status


def _demo_files(folder: Path) -> list[Path]:
    """A checkpoint and two LoRAs. Raises OutputError where another file has one of the names."""
    import tempfile

    from ..demo.synthetic import LoraOptions, write_checkpoint, write_lora
    from ..files.atomic import write_whole

    check_folder(folder)
    paths = [folder / f"{name}.safetensors" for name in ("small_sdxl", "pastry", "ink_locon")]
    with tempfile.TemporaryDirectory(prefix="resize-lora-demo-") as name:
        made = [Path(name) / path.name for path in paths]
        write_checkpoint(made[0])
        write_lora(made[1], LoraOptions(rank=32, seed=1))
        write_lora(made[2], LoraOptions(rank=16, conv=True, conv_rank=8, seed=2))
        data = [path.read_bytes() for path in made]
    missing = [(path, content) for path, content in zip(paths, data, strict=True) if not _is_same(path, content)]
    for path, _ in missing:
        check_target(path, RESULT, overwrite=False)
    for path, content in missing:
        write_whole(path, content)
    return paths


def _is_same(path: Path, content: bytes) -> bool:
    """Whether an earlier demo made the file."""
    return is_file(path) and path.stat().st_size == len(content) and path.read_bytes() == content


def ui(arguments: argparse.Namespace) -> int:
    """``resize-lora ui``: the panel in a browser, until it is stopped."""
    import tempfile

    if not (arguments.lora_dir or arguments.demo):
        raise UsageError("name a folder of LoRAs with --lora-dir DIR, or look at made-up ones with --demo.")
    users = _users(arguments)
    _presets(arguments.lbw_presets)  # a file that cannot be read is an error now, not when a prompt is baked
    with tempfile.TemporaryDirectory(prefix="resize-lora-demo-") as folder:
        loras, checkpoints = [Path(name) for name in arguments.lora_dir], [Path(name) for name in arguments.checkpoint]
        if arguments.demo:
            made, checkpoint = _demo_library(Path(folder))
            loras, checkpoints = [*loras, made], [*checkpoints, checkpoint]
        return _serve(loras, checkpoints, users, arguments)


def _users(arguments: argparse.Namespace) -> Logins | None:
    """Who may use the page. Raises UsageError where other machines could, and there is no login."""
    from ..hosts.access import is_loopback, read_users

    if arguments.auth is not None:
        users = read_users(arguments.auth)
        if len(users) < arguments.auth.count(",") + 1 or any(not name or not password for name, password in users):
            raise UsageError("--auth needs a name and a password with a colon between, such as --auth me:secret.")
        return users
    if not is_loopback(arguments.host):
        raise UsageError(
            f"--host {arguments.host} lets other machines in, who could change and remove your files. "
            "Add a login: --auth USER:PASSWORD."
        )
    return None


def _demo_library(folder: Path) -> tuple[Path, Path]:
    from ..demo.synthetic import LoraOptions, write_checkpoint, write_lora

    loras = folder / "loras"
    (loras / "styles").mkdir(parents=True)
    write_lora(loras / "styles" / "pastry.safetensors", LoraOptions(rank=32, seed=1))
    write_lora(loras / "styles" / "ink_locon.safetensors", LoraOptions(rank=16, conv=True, conv_rank=8, seed=2))
    write_lora(loras / "portrait_fp32.safetensors", LoraOptions(rank=16, dtype="F32", seed=3))
    return loras, write_checkpoint(folder / "small_sdxl.safetensors")


def _serve(
    loras: Sequence[Path], checkpoints: Sequence[Path], users: Logins | None, arguments: argparse.Namespace
) -> int:
    try:
        from ..panel.standalone import Address, check_free, serve
    except ImportError as error:
        raise UsageError(
            f"the panel needs Gradio, and {error.name} is not installed. In the folder of Resize LoRA: "
            'pip install ".[ui]", best in an environment of its own.'
        ) from error
    from ..hosts.access import Access
    from ..hosts.standalone import StandaloneHost
    from ..panel.service import Service

    address = Address(arguments.host, arguments.port)
    check_free(address)
    access = Access(users, exposed=address.remote)
    presets = Path(arguments.lbw_presets) if arguments.lbw_presets else None
    host = StandaloneHost(loras, checkpoints, device=arguments.device, remote=address.remote, presets=presets)
    service = Service(host)
    print(f"The panel is at {address.url}; Ctrl-C stops it.", flush=True)
    try:
        serve(service.call, address, access, with_api=arguments.api)
    finally:
        service.close()
    return 0


def _base_and_loras(arguments: argparse.Namespace) -> tuple[Checkpoint | None, list[str]]:
    """A checkpoint may stand first; it is known by its content."""
    names = list(arguments.inputs)
    if arguments.base:
        return Checkpoint(Path(arguments.base)), names
    first = _checkpoint(Path(names[0]))
    if first is None:
        return None, names
    if len(names) == 1:
        first.close()
        raise UsageError(f"{first.path} is a checkpoint; name the LoRA files after it.")
    return first, names[1:]


def _checkpoint(path: Path) -> Checkpoint | None:
    """The base model in a file or folder; None where it is none, and where it cannot be read, which is told in its
    turn."""
    if not is_file(path) and not is_folder(path):
        return None
    if is_model_folder(path) or (is_file(path) and path.suffix.lower() == ".gguf"):
        return Checkpoint(path)
    if not is_file(path):
        return None
    try:
        file = SafeFile(path)
    except ResizeError:
        return None
    if looks_like_checkpoint(file.header.entries):
        return Checkpoint(file)
    file.close()
    return None


def _run(sources: Sequence[Source], settings: Settings, arguments: argparse.Namespace) -> int:
    inputs = inputs_of(sources, settings.inputs)
    inputs.add(*(settings.base.paths if isinstance(settings.base, Checkpoint) else ()))
    return _show(lambda bars: resize_all(sources, settings, bars), len(sources), inputs, arguments)


def _show(
    work: Callable[[Progress], Iterator[Outcome]], files: int, inputs: Inputs, arguments: argparse.Namespace
) -> int:
    """Does the work, prints each outcome as it comes, and the table at the end. Who stops a night's work wants to know
    how far it came."""
    _stand_back(arguments)
    with contextlib.ExitStack() as stack:
        summary = stack.enter_context(_table(arguments))
        ledger = stack.enter_context(_ledger(arguments, inputs))
        bars = stack.enter_context(_Bars(files))
        for outcome in _until_failure(work(bars), arguments.continue_on_error):
            summary.add(outcome)
            if ledger is not None:
                ledger.add(outcome)
            bars.file(outcome.source)
            for line in _lines(outcome, arguments.verbose):
                bars.say(line, error=outcome.error is not None)
            del outcome  # it keeps its source open, and there may be thousands
    return int(summary.failed)


@contextlib.contextmanager
def _ledger(arguments: argparse.Namespace, inputs: Inputs) -> Iterator[Ledger | None]:
    if not arguments.report:
        yield None
        return
    path = Path(arguments.report)
    with Ledger(path, inputs, layers=arguments.report_layers) as ledger:
        yield ledger
    if ledger.path != path:
        _complain(f"--report {path}: another file took this name during the run; the report is {ledger.path}.")


@contextlib.contextmanager
def _table(arguments: argparse.Namespace) -> Iterator[report.Summary]:
    summary = report.Summary()
    try:
        yield summary
    finally:
        if summary:
            print(summary.table())
        if arguments.dry_run:
            print("Nothing was written (--dry-run).")


def _until_failure(outcomes: Iterator[Outcome], go_on: bool) -> Iterator[Outcome]:
    for outcome in outcomes:
        failed = outcome.error is not None
        yield outcome
        if failed and not go_on:
            return
        del outcome  # before the next source is opened


def _lines(outcome: Outcome, verbose: int) -> Iterator[str]:
    if outcome.error is not None:
        told, source = str(outcome.error), outcome.source
        yield f"resize-lora: {told if Path(source).stem in told else f'{source}: {told}'}"
        return
    if outcome.plan is None:
        own = outcome.skipped == Path(outcome.source)
        yield f"{outcome.source}: skipped, " + ("a result already" if own else f"{outcome.skipped} is there already")
        return
    if verbose and outcome.job is not None:
        yield from report.thresholds(outcome.job)
    if verbose > 1:
        yield from report.layer_lines(outcome.plan)
    for note in report.notes(outcome.plan):
        yield f"{Path(outcome.plan.output).name}: {note}"
    for path in outcome.kept:
        yield f"{path}: kept, because it is not as an earlier run wrote it; remove it to have it copied again"


class _Bars(Quiet):
    """One bar over files and one over the steps of each, on a terminal; nothing in a pipe."""

    def __init__(self, files: int | None) -> None:
        """Without a number of files the steps are themselves files, and have the only bar."""
        self._bars: tuple[Any, Any] | None = None
        self._seen: set[str] = set()
        if sys.stderr.isatty():
            from tqdm import tqdm

            alone = files is None
            over = tqdm(total=files, unit="file", leave=False, disable=alone)
            self._bars = over, tqdm(unit="file" if alone else "layer", leave=False, position=int(not alone))

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *error: object) -> None:
        for bar in self._bars or ():
            bar.close()

    def start(self, stage: str, total: int) -> None:
        if self._bars:
            self._bars[1].reset(total=total)
            self._bars[1].set_description(stage)

    def step(self, count: int = 1) -> None:
        if self._bars:
            self._bars[1].update(count)

    def file(self, source: str) -> None:
        """A source is told of once, whatever the number of its recipes."""
        if self._bars and source not in self._seen:
            self._seen.add(source)
            self._bars[0].update()

    def say(self, line: str, *, error: bool = False) -> None:
        """Text that does not disturb the bars. An error is one line: names of a file may be in it."""
        stream, text = (sys.stderr, shown(line)) if error else (sys.stdout, shown_lines(line))
        if self._bars:
            self._bars[1].write(text, file=stream)
        else:
            print(text, file=stream)

"""Which room may import which, and what an import costs: held by reading the code, and by running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lib_resize.cli.main import SUMMARIES
from lib_resize.demo.synthetic import LoraOptions, write_lora

PACKAGE = "lib_resize"
ROOT = Path(__file__).parents[1]

ROOMS: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "plans": frozenset(),
    "progress": frozenset(),
    "shared_setting": frozenset(),
    "shown": frozenset(),
    "names": frozenset(),
    "effect": frozenset(),
    "files": frozenset({"errors"}),
    "archive": frozenset({"errors", "files"}),
    "linalg": frozenset({"errors", "shared_setting"}),
    "prompts": frozenset({"errors", "files", "shown"}),
    "recipe": frozenset({"errors", "linalg", "shown"}),
    "base": frozenset({"errors", "files", "linalg", "names", "progress"}),
    "adapters": frozenset({"errors", "files", "linalg", "names", "prompts"}),
    "demo": frozenset({"errors", "files", "linalg", "names"}),
    "engine": frozenset(
        {"adapters", "base", "errors", "files", "linalg", "package", "plans", "progress", "prompts", "recipe"}
        | {"shared_setting", "shown"}
    ),
    "extraction": frozenset({"adapters", "base", "engine", "errors", "files", "linalg", "names", "progress", "recipe"}),
    "fitting": frozenset({"adapters", "base", "engine", "errors", "files", "linalg", "names", "progress"}),
    "studies": frozenset(
        {"adapters", "base", "engine", "errors", "files", "linalg", "names", "progress", "prompts", "recipe", "shown"}
    ),
    "shrinking": frozenset({"archive", "base", "engine", "errors", "files", "plans", "progress", "prompts"}),
    "remote": frozenset(
        {
            "adapters",
            "base",
            "engine",
            "errors",
            "files",
            "linalg",
            "package",
            "progress",
            "prompts",
            "recipe",
            "shared_setting",
            "studies",
        }
    ),
    "api_options": frozenset({"adapters", "base", "engine", "errors", "plans", "prompts", "recipe"}),
    "api_replacing": frozenset({"api_options", "archive", "base", "errors", "plans", "progress", "shrinking"}),
    "api": frozenset(
        {"api_options", "base", "engine", "errors", "extraction", "plans", "progress", "prompts", "recipe", "studies"}
    ),
    "cli": frozenset(
        {"adapters", "archive", "base", "demo", "engine", "errors", "extraction", "files", "fitting", "linalg"}
        | {"package", "plans", "progress", "prompts", "recipe", "remote", "shown", "shrinking", "studies"}
    ),
    "package": frozenset(),
    "__main__": frozenset({"cli"}),
}
"""Room -> the rooms that it may import, besides itself. A room is a file or folder of `lib_resize`; ``package`` is
``lib_resize/__init__.py``."""

OUTER: dict[str, frozenset[str]] = {
    "hosts": frozenset({"backend", "ldm_patched", "modules", "modules_forge", "numpy", "torch"}),
    "panel": frozenset({"PIL", "fastapi", "gradio", "numpy", "uvicorn"}),
}
"""Rooms around the engine -> the libraries that they may import. They may use every room of `ROOMS`, and `panel` may
use `hosts`; no room of `ROOMS` may use them."""

EAGER = {
    "panel.api": frozenset({"fastapi"}),
    "panel.layout": frozenset({"gradio"}),
    "panel.standalone": frozenset({"fastapi", "gradio"}),
}
"""Modules of these rooms that import such a library when they are themselves imported; numpy may be by all."""

NARROWER: dict[str, frozenset[str]] = {
    "files.damage": frozenset({"errors"}),
    "files.header": frozenset(
        {"errors", "files.damage", "files.header_entries", "files.header_json", "files.other_formats"}
    ),
    "files.header_entries": frozenset({"errors", "files.damage", "files.header_json"}),
    "files.header_json": frozenset({"files.damage"}),
    "files.other_formats": frozenset({"errors", "files.damage"}),
    "recipe.grammar": frozenset({"errors"}),
    "linalg.threads": frozenset({"shared_setting"}),
    "linalg.casts": frozenset(),
    "adapters.keys.suffixes": frozenset(),
    "adapters.keys.registry": frozenset({"adapters.keys.suffixes"}),
    "base.norm_cache": frozenset({"files.user_cache"}),
}
"""Single modules that may import less than their room, their neighbours included."""

LIBRARIES: dict[str, frozenset[str]] = {
    "adapters": frozenset({"numpy"}),
    "base": frozenset({"numpy"}),
    "demo": frozenset({"numpy"}),
    "effect": frozenset({"numpy"}),
    "engine": frozenset({"numpy"}),
    "extraction": frozenset({"numpy"}),
    "files.reader": frozenset({"numpy"}),
    "files.spool": frozenset({"numpy"}),
    "files.writer": frozenset({"numpy"}),
    "fitting": frozenset({"numpy", "torch"}),
    "linalg": frozenset({"numpy"}),
    "recipe.scores": frozenset({"numpy"}),
    "recipe.select": frozenset({"numpy"}),
    "studies": frozenset({"numpy"}),
}
"""Room or module -> the libraries that it may import when it is itself imported; no other may import any."""

LATE_LIBRARIES: dict[str, frozenset[str]] = {
    "base.gguf_store": frozenset({"gguf"}),
    "cli.output": frozenset({"tqdm"}),
    "files.writer": frozenset({"safetensors"}),
    "fitting.pipeline": frozenset({"diffusers"}),
    "linalg.arrays": frozenset({"torch"}),
    "linalg.threads": frozenset({"numpy"}),
    "remote.dask_workers": frozenset({"dask", "distributed"}),
    "remote.fsspec_store": frozenset({"fsspec"}),
    "studies.plots": frozenset({"matplotlib"}),
}
"""Module -> the libraries that it may import inside of functions."""


@dataclass(frozen=True)
class Import:
    """One import statement's target."""

    target: str
    """Dotted, inside of the package without its name: ``files.header``; a library's top name: ``numpy``."""
    inside: bool
    """Of our own package."""
    late: bool = False
    """In a function, so that it costs nothing until that is called."""
    for_types: bool = False
    """Under ``if TYPE_CHECKING``."""


def module_name(path: Path) -> str:
    """``files.header`` for its path; ``package`` for the package's own ``__init__``."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "package"


MODULES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
PACKAGES = {"package", *(name for name, path in MODULES.items() if path.name == "__init__.py")}


def imports_of(name: str, code: str) -> list[Import]:
    """All imports of a module's code, the standard library's left out."""
    finder = _Finder(name)
    finder.visit(ast.parse(code))
    return finder.found


class _Finder(ast.NodeVisitor):
    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[Import] = []
        self._late = self._for_types = False

    def visit_Import(self, node: ast.Import) -> None:
        self._note(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._note(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, self._late = self._late, True
        self.generic_visit(node)
        self._late = before

    def visit_If(self, node: ast.If) -> None:
        before = self._for_types
        self._for_types = before or ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body:
            self.visit(child)
        self._for_types = before
        for child in node.orelse:
            self.visit(child)

    def _note(self, node: ast.Import | ast.ImportFrom) -> None:
        for target, inside in _targets(node, self.name):
            self.found.append(Import(target, inside, self._late, self._for_types))


def _targets(node: ast.Import | ast.ImportFrom, name: str) -> Iterator[tuple[str, bool]]:
    if isinstance(node, ast.ImportFrom) and node.level:
        above = name.split(".") if name != "package" else []
        if name not in PACKAGES:
            above = above[:-1]
        above = above[: len(above) - node.level + 1]
        start = ".".join([*above, *(node.module.split(".") if node.module else [])])
        for alias in node.names:
            below = f"{start}.{alias.name}".lstrip(".")
            yield (below if below in MODULES else start or "package"), True
        return
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    for full in names:
        top, _, rest = full.partition(".")
        if top == PACKAGE:
            yield rest or "package", True
        elif top not in sys.stdlib_module_names:
            yield top, False


def room(name: str) -> str:
    """Return the file or folder of the package that a module is or belongs to."""
    return name.split(".")[0]


def used_by(own: str) -> frozenset[str]:
    """Return the rooms that a room may import."""
    if own in ROOMS:
        return ROOMS[own]
    return frozenset(ROOMS) - {"cli", "__main__"} | ({"hosts"} if own == "panel" else set())


def floors() -> dict[str, int]:
    """Return the floor of each room: 1 for those that import no other, else one above the highest that it may import.

    Raises AssertionError if rooms import one another in a cycle.
    """
    found: dict[str, int] = {}
    left = {*ROOMS, *OUTER}
    while left:
        ready = {name for name in left if used_by(name) <= found.keys()}
        assert ready, f"these rooms import one another in a cycle: {sorted(left)}"
        found |= {name: 1 + max((found[used] for used in used_by(name)), default=0) for name in ready}
        left -= ready
    return found


def faults(name: str, code: str) -> list[str]:
    """What a module's imports break of the tables above, in words."""
    return [message for one in imports_of(name, code) if (message := _fault(name, one)) is not None]


def _fault(name: str, one: Import) -> str | None:
    if room(name) in OUTER:
        return _outer_fault(name, one)
    if one.inside:
        return _inner_fault(name, one)
    if one.for_types:
        return None
    allowed = _libraries(name) | (LATE_LIBRARIES.get(name, frozenset()) if one.late else frozenset())
    if one.target in allowed:
        return None
    return f"{name} imports the library {one.target}" + (" in a function" if one.late else "")


def _libraries(name: str) -> frozenset[str]:
    return LIBRARIES.get(name, frozenset()) | LIBRARIES.get(room(name), frozenset())


def _outer_fault(name: str, one: Import) -> str | None:
    own = room(name)
    if one.inside:
        allowed = used_by(own) | {own}
        return None if room(one.target) in allowed else f"{name} imports {one.target}"
    free = OUTER[own] if one.late or one.for_types else {"numpy"} | EAGER.get(name, frozenset())
    return None if one.target in free else f"{name} imports the library {one.target}"


def _inner_fault(name: str, one: Import) -> str | None:
    target, own = room(one.target), room(name)
    if name in NARROWER:
        allowed = NARROWER[name]
        return None if one.target in allowed or target in allowed else f"{name} imports {one.target}"
    if target == own or target in ROOMS[own]:
        return None
    if name == "package" and one.for_types:
        return None
    if own == "cli" and one.late and target in OUTER:  # ``resize-lora ui``
        return None
    return f"{name} imports {one.target}: the room {own} may not use the room {target}"


HOSTS_OWN = frozenset({"backend", "ldm_patched", "modules", "modules_forge"})
WEBUIS = frozenset({"hosts.a1111", "hosts.forge", "hosts.reforge", "hosts.webui_images"})


@pytest.mark.parametrize("name", sorted(MODULES.keys() - WEBUIS))
def test_a_hosts_own_modules_are_known_to_the_webuis_alone(name: str) -> None:
    assert not {one.target for one in imports_of(name, MODULES[name].read_text("utf-8"))} & HOSTS_OWN


def test_the_protocol_of_hosts_needs_nothing_at_all() -> None:
    """So that a host can be faked, and written, without the engine."""
    assert imports_of("hosts.host", MODULES["hosts.host"].read_text("utf-8")) == []


@pytest.mark.parametrize("name", ["hosts.host", "hosts.detect", "hosts.standalone", "hosts.a1111", "hosts.forge"])
def test_hosts_load_no_library_until_weights_are_read(name: str) -> None:
    assert (HEAVY | {"gradio", "modules"}) & loaded_by(f"import lib_resize.{name}") == set()


# The tables hold --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_its_room_may(name: str) -> None:
    assert faults(name, MODULES[name].read_text("utf-8")) == []


def test_every_room_is_in_the_table_and_the_table_has_no_other() -> None:
    assert {room(name) for name in MODULES} - OUTER.keys() == ROOMS.keys()
    assert {*NARROWER, *LATE_LIBRARIES} <= MODULES.keys()
    assert LIBRARIES.keys() <= MODULES.keys() | ROOMS.keys()


def test_no_room_imports_itself_by_way_of_others() -> None:
    assert floors().keys() == ROOMS.keys() | OUTER.keys()


def test_the_architecture_page_shows_the_same_table() -> None:
    lines = (ROOT / "docs" / "architecture.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    shown = {row[0].strip("`"): frozenset(row[2].split(", ")) - {"nothing"} for row in rows}
    assert shown == ROOMS


def test_every_entry_of_the_tables_is_used() -> None:
    """A permission that nobody needs is a hole."""
    used: dict[str, set[str]] = {name: set() for name in {**ROOMS, **OUTER}}
    libraries: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        for one in imports_of(name, path.read_text("utf-8")):
            if one.inside and not one.for_types:
                used[room(name)].add(room(one.target))
            elif not one.inside:
                libraries.setdefault(name, set()).add(one.target)
                libraries.setdefault(room(name), set()).add(one.target)
    assert {name: sorted(allowed - used[name]) for name, allowed in ROOMS.items() if allowed - used[name]} == {}
    for table in (LIBRARIES, LATE_LIBRARIES):
        assert {name: sorted(allowed - libraries.get(name, set())) for name, allowed in table.items()} == {
            name: [] for name in table
        }


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("linalg.factor", "from ..files.reader import SafeFile"),
        ("linalg.factor", "import torch"),
        ("linalg.factor", "def f():\n    import torch"),
        ("linalg.arrays", "import torch"),
        ("linalg.arrays", "try:\n    import torch\nexcept ImportError:\n    torch = None"),
        ("linalg.arrays", "class A:\n    from torch import nn"),
        ("adapters.read.adapter", "from ...recipe import grammar"),
        ("adapters.read.adapter", "from lib_resize.base.checkpoint import Checkpoint"),
        ("base.checkpoint", "from .. import adapters"),
        ("recipe.grammar", "from .scores import score"),
        ("recipe.grammar", "import numpy as np"),
        ("files.header", "from .reader import SafeFile"),
        ("files.header", "from safetensors import safe_open"),
        ("plans", "from .cli.report import table"),
        ("engine.batch", "from ..cli import main"),
        ("engine.batch", "import gradio"),
        ("engine.batch", "from ..hosts import host"),
        ("cli.report", "from ..panel.names import tag"),
        ("hosts.webui", "from modules import shared"),
        ("hosts.webui", "from ..panel import names"),
        ("hosts.webui", "def f():\n    import gradio"),
        ("panel.service", "import gradio"),
        ("panel.service", "def f():\n    from modules import shared"),
        ("panel.service", "from ..cli import main"),
        ("engine.batch", "def f():\n    from modules import shared"),
        ("cli.output", "from tqdm import tqdm"),
        ("prompts.tags", "from ..engine.settings import Outcome"),
        ("package", "from .plans import Plan"),
    ],
)
def test_a_forbidden_import_is_found(name: str, code: str) -> None:
    assert len(faults(name, code)) == 1


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("linalg.arrays", "def f():\n    try:\n        import torch\n    except ImportError:\n        pass"),
        ("files.writer", "from . import atomic"),
        ("engine.stamping", "from .. import __version__"),
        ("hosts.webui", "def f():\n    from modules import shared"),
        ("panel.service", "from ..hosts.host import Host"),
        ("panel.layout", "import gradio as gr"),
        ("cli.output", "def f():\n    if x:\n        from tqdm import tqdm"),
    ],
)
def test_an_allowed_import_is_let_through(name: str, code: str) -> None:
    assert faults(name, code) == []


# What an import costs ---------------------------------------------------------------------------------------


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Top names of the modules that a fresh Python holds after it has run the code."""
    report = (
        "\nimport sys as _sys\n_sys.stderr.write('LOADED ' + ' '.join({n.partition('.')[0] for n in _sys.modules}))"
    )
    command = [sys.executable, "-c", code + report, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.partition("LOADED ")[2].split())


AS_COMMAND = """
import contextlib, runpy, sys
sys.argv = ["lib_resize", *sys.argv[1:]]
with contextlib.suppress(SystemExit):
    runpy.run_module("lib_resize", run_name="__main__")
"""
HEAVY = {"numpy", "torch", "safetensors", "tqdm"}


def test_importing_the_package_loads_no_library() -> None:
    assert HEAVY & loaded_by("import lib_resize") == set()


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([name, "--help"] for name in SUMMARIES)],
    ids=" ".join,
)
def test_asking_for_help_loads_no_library(arguments: list[str]) -> None:
    assert HEAVY & loaded_by(AS_COMMAND, *arguments) == set()


def modules_of(code: str, *arguments: str) -> set[str]:
    """Return the modules of the package that a fresh Python holds after it has run the code, without its name."""
    report = "\nimport sys as _sys\n_sys.stderr.write('LOADED ' + ' '.join(_sys.modules))"
    command = [sys.executable, "-c", code + report, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = done.stderr.partition("LOADED ")[2].split()
    return {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_asking_for_all_commands_loads_none_of_them(option: str) -> None:
    """Each would cost more than Python's own parser."""
    assert modules_of(AS_COMMAND, option) == {"cli", "cli.main"}


def test_asking_for_help_on_a_command_loads_no_other_command() -> None:
    assert modules_of(AS_COMMAND, "library", "--help") & {f"cli.{name}" for name in SUMMARIES} == {"cli.library"}


def test_a_plain_lora_needs_no_module_of_other_kinds_and_no_merge(tmp_path: Path) -> None:
    code = (
        "import sys, lib_resize.cli.work\nfrom lib_resize.cli.main import main\n"
        "assert main(['resize', sys.argv[1], '-r', 'rank=2', '-o', sys.argv[2]]) == 0"
    )
    lora = write_lora(tmp_path / "a.safetensors", LoraOptions(rank=4))
    loaded = modules_of(code, str(lora), str(tmp_path / "out"))
    kinds = {f"adapters.forms.{kind}" for kind in ("full", "glora", "loha", "lokr", "lokr_factors", "tucker")}
    merging = {name for name in MODULES if name.startswith("adapters.merge.")} | {"engine.merging", "prompts.tags"}
    rare = {"linalg.dora", "linalg.extension", "linalg.random_projection", "linalg.tucker", "archive.place"}
    assert loaded & (kinds | merging | rare) == set()
    assert {"adapters.forms.lora", "engine.batch"} <= loaded


def test_a_bad_recipe_is_refused_before_any_library_is_loaded() -> None:
    assert HEAVY & loaded_by(AS_COMMAND, "resize", "a.safetensors", "-r", "nonsense=1") == set()


def test_a_whole_resize_on_the_cpu_loads_no_torch() -> None:
    loaded = loaded_by(AS_COMMAND, "demo")
    assert "numpy" in loaded
    assert {"torch", "gradio", "modules"} & loaded == set()


def test_these_tests_see_what_is_loaded() -> None:
    assert "numpy" in loaded_by("import lib_resize; lib_resize.Settings")
    assert "colorsys" in loaded_by("import lib_resize, colorsys")

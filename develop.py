"""Commands for a machine that has only Python and pip:

    python develop.py demo         see Resize LoRA work, on files made for the purpose
    python develop.py test         the whole check: formatting, lint, types, tests, the scripts of the page
    python develop.py hosts URL    the tests inside a WebUI that runs at URL; docs/hosts.md says how to start it

Each makes its own environment in the folder `.venv` next to this file and installs what it needs there. Nothing else
on the machine changes, and deleting `.venv` undoes it. The second call is quick. Standard library only.

For the tests in a browser two more environments are in `.venv`, one for each Gradio that a WebUI has. Where one cannot
be made, or no Chromium is found, those tests are skipped with the reason; where CI=true they fail. So are the checks of
the scripts in `javascript/` where Node.js or npm is missing; their packages are in `node_modules`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BOOTSTRAP = VENV / "pip-bootstrap"

OLDEST_PYTHON = (3, 10)
OLDEST_PIP = (22, 3)  # the first with `pip --python`
EXTRAS = {"demo": "", "test": "[test,docs]", "hosts": "[test,docs]"}
"""Command -> what it needs installed."""
PANELS = {"gradio3": "[ui-gradio3]", "gradio4": "[ui-gradio4]"}
"""Folders in `.venv` whose Python can serve the tab -> what is installed there."""
WORKERS = min((os.cpu_count() or 1) + 1, 4)
"""Processes of pytest: one more than cores, because tests in a browser wait."""
NEVER_COMPILED = "numpy,pandas,pillow,pydantic-core"
CHECKS = {
    "ruff format": ("ruff", "format", "--check", "."),
    "ruff check": ("ruff", "check", "."),
    "mypy": ("mypy",),
    "mkdocs": ("mkdocs", "build", "--strict", "--quiet"),
    "pytest": ("pytest", "-n", str(WORKERS), "--dist", "loadfile"),
}
"""Name -> a module of Python and its arguments."""
PAGE = ("javascript", "tests/javascript", "eslint.config.mjs")
PAGE_CHECKS = {
    "prettier": ("node_modules/prettier/bin/prettier.cjs", "--check", *PAGE),
    "eslint": ("node_modules/eslint/bin/eslint.js", "--max-warnings", "0"),
    "node --test": ("--test",),
}
"""Name -> arguments of Node.js, for the scripts of the page."""
OLDEST_NODE = 18
HOSTS = ("pytest", "tests/hosts_real", "--url")
_VERSIONS = """
import platform, importlib.metadata as installed
names = {"ruff", "mypy", "pytest", "numpy", "safetensors", "torch", "diffusers"}
found = {one.metadata["Name"].lower(): one.version for one in installed.distributions()}
print("Python", platform.python_version(), *(f"{name} {found[name]}" for name in sorted(names & found.keys())))
"""


class SetupError(Exception):
    """A problem that the user can solve. Its text names what to do."""


def main(arguments: list[str]) -> int:
    """Run a command and return its exit status."""
    command, *more = arguments or [""]
    if command not in EXTRAS or bool(more) != (command == "hosts"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        _check_python()
        _install(command)
        panels = _panels() if command == "test" else []
    except SetupError as error:
        print(f"develop.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("develop.py: stopped.", file=sys.stderr)
        return 130
    if command == "hosts":
        return _hosts(more)
    return _demo() if command == "demo" else _test(panels)


def _demo() -> int:
    return _run([_python(VENV), "-m", "lib_resize", "demo"])


def _hosts(arguments: list[str]) -> int:
    """Run the tests inside a WebUI. `arguments`: its address, and options of pytest."""
    return _run([_python(VENV), "-m", *HOSTS, *arguments])


def _test(panels: list[str]) -> int:
    """Run all checks, also after one fails. `panels`: the Pythons that can serve the tab."""
    start = time.monotonic()
    lack = _provide_node()
    _run([_python(VENV), "-c", _VERSIONS])
    commands = {name: [_python(VENV), "-m", *command] for name, command in CHECKS.items()}
    if not lack:
        commands = {**_page_commands(), **commands}
    failed = [f"the checks of the page: {lack}"] if lack and _is_ci() else []
    for name, command in commands.items():
        print("\n$", Path(command[0]).name, *command[1:], flush=True)
        status = _run(command, {"RESIZE_LORA_PYTHONS": os.pathsep.join(panels)})
        if status:
            failed.append(name if status > 0 else f"{name} (killed by signal {-status})")
    seconds = time.monotonic() - start
    if failed:
        print(f"\nFailed: {', '.join(failed)} ({seconds:.0f} s).")
    else:
        print(f"\nAll is well: {', '.join(commands)} ({seconds:.0f} s).")
    return int(bool(failed))


# The scripts of the page ------------------------------------------------------------------------------------


def _page_commands() -> dict[str, list[str]]:
    tests = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "javascript").glob("*.test.mjs"))
    more = {"node --test": tests}
    return {name: [_found("node"), *command, *more.get(name, [])] for name, command in PAGE_CHECKS.items()}


def _provide_node() -> str:
    """Install the packages of the page's checks in `node_modules`, unless they are there.

    Return what is missing for that, or an empty text.
    """
    lack = _node_lack()
    if not lack and not _is_node_ready():
        print("Installing what the checks of the page need into node_modules ...", flush=True)
        command = [_found("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        lack = "npm ci failed; see its message above" if _run(command) else ""
    if lack:
        print(f"develop.py: the checks of the page are left out: {lack}", flush=True)
    return lack


def _node_lack() -> str:
    """Return what is missing of Node.js and npm, or an empty text."""
    if not _found("node") or not _found("npm"):
        return f"no Node.js with npm here; install Node.js {OLDEST_NODE} or newer"
    version = subprocess.run([_found("node"), "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = version.lstrip("v").partition(".")[0]
    if not major.isdigit() or int(major) < OLDEST_NODE:
        return f"this is Node.js {version}; {OLDEST_NODE} or newer is needed"
    return ""


def _is_node_ready() -> bool:
    """Return whether `npm ci` ran since the lock file was last changed."""
    installed, lock = ROOT / "node_modules" / ".package-lock.json", ROOT / "package-lock.json"
    return installed.is_file() and installed.stat().st_mtime_ns >= lock.stat().st_mtime_ns


def _found(program: str) -> str:
    """Return the path of a program; empty where it is not installed. On Windows npm is a script with a suffix."""
    return shutil.which(program) or ""


def _is_ci() -> bool:
    return os.environ.get("CI") == "true"


# The environment --------------------------------------------------------------------------------------------


def _check_python() -> None:
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise SetupError(f"this is Python {sys.version.split()[0]}; {oldest} or newer is needed. Start it with that.")


def _install(command: str) -> None:
    """Install what a command needs in `.venv`, unless it is there."""
    stamp = "installed-for-demo" if command == "demo" else "installed-for-test"
    _provide(VENV, EXTRAS[command], stamp, "installed-for-test")


def _panels() -> list[str]:
    """Return the Pythons that can serve the tab, one for each Gradio.

    The environment variable RESIZE_LORA_PYTHONS overrides them. Raises SetupError where one is missing and CI=true.
    """
    named = os.environ.get("RESIZE_LORA_PYTHONS")
    if named:
        return named.split(os.pathsep)
    return [_python(VENV / name) for name in PANELS if _panel(name)]


def _panel(name: str) -> bool:
    """Make the environment of a Gradio. Return whether it works. Nothing large is compiled: that is slow or fails."""
    try:
        _provide(VENV / name, PANELS[name], "installed-for-ui", more=("--only-binary", NEVER_COMPILED))
    except SetupError as error:
        if _is_ci():
            raise
        print(f"develop.py: the browser tests leave {name} out: {error}", flush=True)
        return False
    return True


def _provide(folder: Path, extra: str, *stamps: str, more: tuple[str, ...] = ()) -> None:
    """Install the package with an extra in an environment, unless one of the stamps shows that it is installed.

    The first stamp is written; `more` are arguments for pip. pip compiles no modules: most are never imported, and
    compiling all of them takes longer than the rest. Raises SetupError where the installation fails.
    """
    state, works = _state(), _works(folder)
    if works and any(_read(folder / stamp) == state for stamp in stamps):
        return
    if not works:
        print(f"Making an environment in {folder} ...", flush=True)
        _must(
            [_base_python(), "-m", "venv", "--without-pip", "--clear", str(folder)],
            "the environment cannot be made; see the message above. On Debian and Ubuntu: apt install python3-venv.",
        )
    print("Installing what is needed there; later calls skip this ...", flush=True)
    pip, environment = _pip()
    quiet = () if sys.stdout.isatty() else ("--quiet",)
    _must(
        [*pip, "--python", _python(folder), "install", "--no-compile", *quiet, *more, "--editable", f"{ROOT}{extra}"],
        "pip could not install what is needed; see its message above. It fetches packages, so it needs a network.",
        environment,
    )
    (folder / stamps[0]).write_text(state, "utf-8")


def _python(folder: Path) -> str:
    """Return the interpreter of an environment."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def _state() -> str:
    """Return a hash of the lists of packages and of the path of this folder."""
    state = (ROOT / "pyproject.toml").read_bytes() + os.fsencode(ROOT)
    return hashlib.sha256(state).hexdigest()


def _works(folder: Path) -> bool:
    """Return whether an environment's Python runs and is new enough."""
    asked = f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    python = _python(folder)
    return Path(python).is_file() and subprocess.run([python, "-c", asked], check=False).returncode == 0


def _base_python() -> str:
    """Return the Python that made this one's environment, so that `.venv` does not depend on that environment."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _pip() -> tuple[list[str], dict[str, str]]:
    """Return a pip that can install into another environment, and the variables to run it with.

    That is the installed pip if it is new enough, else a new one that the old one installs in `.venv`.
    """
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"}
    for python in dict.fromkeys((sys.executable, _base_python())):
        version = _pip_version(python)
        if version is None:
            continue
        if version < OLDEST_PIP:
            print(f"pip {version[0]}.{version[1]} is too old for this; a new one goes into .venv ...", flush=True)
            _must(
                [python, "-m", "pip", "install", "--quiet", "--target", str(BOOTSTRAP), "--upgrade", "pip"],
                "the old pip could not fetch a new one; see its message above.",
                environment,
            )
            paths = [str(BOOTSTRAP), *filter(None, [environment.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        return [python, "-m", "pip"], environment
    raise SetupError(
        "this Python has no pip. Install it (on Debian and Ubuntu: apt install python3-pip), then try again."
    )


def _pip_version(python: str) -> tuple[int, int] | None:
    found = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
    words = found.stdout.decode("utf-8", "replace").split()
    if found.returncode or len(words) < 2:
        return None
    major, minor, *_ = *words[1].split("."), "0"
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else OLDEST_PIP


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except OSError:
        return None


def _run(command: list[str], more: dict[str, str] | None = None) -> int:
    """Run a command with a cache of norms inside `.venv`. `more` are environment variables."""
    environment = {**os.environ, "RESIZE_LORA_CACHE": str(VENV / "cache"), **(more or {})}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _must(command: list[str], otherwise: str, environment: dict[str, str] | None = None) -> None:
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        raise SetupError(otherwise)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The package as a wheel, laid where no checkout is, and Pythons that have Gradio."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.gradios import lacking, parametrize, pythons

ROOT = Path(__file__).parents[2]
MADE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "python" in metafunc.fixturenames:
        parametrize(metafunc, "python", pythons())


@pytest.fixture(scope="session")
def python(request: pytest.FixtureRequest) -> str:
    if request.param is None:
        lacking("no Gradio here; name interpreters that have it in RESIZE_LORA_PYTHONS")
    path: str = request.param
    return path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the project's own backend from a copy, so that nothing of an older build gets in."""
    if not (_installed("setuptools") and _installed("pip")):
        lacking("pip and setuptools are not installed; they build the wheel")
    copy, out = tmp_path_factory.mktemp("source") / "copy", tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, copy, ignore=MADE)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=copy, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def _installed(name: str) -> bool:
    """By its record alone: setuptools complains of distutils where a test before this one imported it, and pip is
    looked for."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with the wheel in it, as ``pip install --target`` lays it."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return folder

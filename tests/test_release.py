"""The version, the changelog and the release agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lib_resize
from tools.release_notes import CHANGELOG, notes

ROOT = Path(__file__).parents[1]


def test_the_changelog_has_the_version_of_the_package() -> None:
    assert notes(lib_resize.__version__, CHANGELOG.read_text("utf-8"))


def test_the_notes_are_the_section_of_the_version() -> None:
    version = lib_resize.__version__
    text = f"# Changelog\n\n## {version} - 2026-01-02\n\nSmaller.\n\n- a\n\n## 0.0.1 - 2025-01-01\n\nOld.\n"
    assert notes(version, text) == "Smaller.\n\n- a"


@pytest.mark.parametrize(
    ("version", "text", "message"),
    [("9.9.9", "", "the tag is 9.9.9"), (lib_resize.__version__, "## Unreleased\n", "has no section")],
)
def test_a_tag_that_does_not_agree_is_refused(version: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        notes(version, text)


def test_the_workflow_tests_every_python_that_the_package_names() -> None:
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8")
    named = re.findall(r'Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    listed = re.search(r"python: \[(.*)\]", workflow)
    assert listed
    assert re.findall(r"3\.\d+", listed[1]) == named
    assert ".ci/run" in workflow

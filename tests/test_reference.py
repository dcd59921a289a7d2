"""The command line reference: every option has a help text, and the page has every option."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from lib_resize.cli.main import commands, parser
from lib_resize.cli.reference import markdown


def actions_of(name: str) -> list[argparse.Action]:
    subparsers = next(one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
    return [one for one in subparsers.choices[name]._actions if one.dest != "help"]


def section_of(name: str) -> str:
    return markdown().partition(f"## `{name}`")[2].partition("\n## ")[0]


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_every_argument_has_a_help_text_and_a_row(command) -> None:
    section = section_of(command.name)
    assert command.description.strip() in section
    for action in actions_of(command.name):
        assert action.help, action.dest
        assert f"| {action.help}".replace("%%", "%") in section
        for spelling in action.option_strings:
            assert f"`{spelling}" in section


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_every_row_has_two_cells(command) -> None:
    rows = [line for line in section_of(command.name).splitlines() if line.startswith("|")]
    assert rows
    assert {line.replace("\\|", "").count("|") for line in rows} == {3}


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_the_help_of_a_command_can_be_printed(command, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args([command.name, "--help"])
    assert end.value.code == 0
    assert command.description.strip() in capsys.readouterr().out


def test_the_module_prints_the_page() -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "lib_resize.cli.reference"]
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == markdown()
    assert done.stdout.endswith("\n")

"""The command line reference as Markdown, generated from the parser: ``python -m lib_resize.cli.reference``.

The text does not depend on the terminal or on the version of Python, so that a test can compare it with the page in
the documentation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from .command import Command
from .main import COMMANDS
from .options import RECIPES_HELP

_INTRODUCTION = """\
# Command line

`resize-lora COMMAND` or `python -m lib_resize COMMAND`. `--help` after a command prints its options, and
`resize-lora --version` the version.

The exit status is 0 on success, 1 if a file failed, 2 for a bad command, and 130 after Ctrl-C."""

_RECIPES = f"""\
## Recipes

```text
{RECIPES_HELP}
```"""


def markdown() -> str:
    """Return the page: a section for each command with its usage, arguments and options, and one on recipes."""
    return "\n\n".join([_INTRODUCTION, *(_section(command) for command in COMMANDS), _RECIPES]) + "\n"


def _section(command: Command) -> str:
    options = argparse.ArgumentParser(add_help=False)
    command.add_options(options)
    arguments = [action for action in options._actions if not action.option_strings]
    named = [action for action in options._actions if action.option_strings]
    parts = [
        f"## `{command.name}`",
        command.description.strip(),
        f"```sh\n{_usage(command.name, arguments, named)}\n```",
        _table("Argument", arguments),
        _table("Option", named),
    ]
    return "\n\n".join(part for part in parts if part)


def _usage(name: str, arguments: Iterable[argparse.Action], named: Iterable[argparse.Action]) -> str:
    required = (f"{action.option_strings[-1]} {_value(action)}" for action in named if action.required)
    return " ".join(["resize-lora", name, *required, "[OPTIONS]", *map(_argument, arguments)])


def _argument(action: argparse.Action) -> str:
    name = _value(action)
    return {"+": f"{name} ...", "*": f"[{name} ...]"}.get(str(action.nargs), name)


def _table(title: str, actions: Iterable[argparse.Action]) -> str:
    rows = [f"| {_cell(action)} | {_escaped(action.help or '')} |" for action in actions]
    return "\n".join([f"| {title} | Meaning |", "| --- | --- |", *rows]) if rows else ""


def _cell(action: argparse.Action) -> str:
    *others, last = action.option_strings or [""]
    return ", ".join(f"`{_escaped(text)}`" for text in (*others, f"{last} {_value(action)}".strip()))


def _value(action: argparse.Action) -> str:
    """Return the placeholder of the action's value; empty for a flag."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("%%", "%")


if __name__ == "__main__":
    sys.stdout.write(markdown())

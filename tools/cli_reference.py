"""Write docs/cli.md from the parser of `resize-lora`:

    python -m tools.cli_reference

A test fails while the page and the parser differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from lib_resize.cli.main import _parser

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

_HEAD = """\
<!-- Made by `python -m tools.cli_reference` from the parser. Edit the parser instead. -->

# Command line reference

Every command and option of `resize-lora`; `python -m lib_resize` is the same program. [Command line](command-line.md)
shows how to use them, [Output and reports](report.md) describes what they print, and `resize-lora COMMAND --help`
prints this text. Long options can be shortened while they stay unique.
"""

_EXIT = """\
## Exit status

| status | meaning |
|---|---|
| 0 | success |
| 1 | at least one file failed, or the checkpoint or the device cannot be used |
| 2 | the command is not valid; nothing was started |
| 130 | stopped by Ctrl-C or by the system; finished files are kept |
"""


def page() -> str:
    """Return the whole page as Markdown."""
    commands = subcommands()
    overview = "\n".join(_row(f"[`{name}`](#{name})", help_of) for name, (_, help_of) in commands.items())
    parts = [_HEAD, f"| command | what it does |\n|---|---|\n{overview}\n"]
    parts += ["\n".join(_section(name, parser)) for name, (parser, _) in commands.items()]
    epilogs = dict.fromkeys(parser.epilog for parser, _ in commands.values() if parser.epilog)
    parts += [f"## Words of recipes\n\nAs `--help` prints them:\n\n```text\n{text}\n```\n" for text in epilogs]
    return "\n".join([*parts, _EXIT])


def subcommands() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Return the parser and the one-line help of each subcommand."""
    (action,) = (one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction))
    helps = {one.dest: one.help or "" for one in action._choices_actions}
    return {name: (parser, helps[name]) for name, parser in action.choices.items()}


def _section(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines of one subcommand's section."""
    actions = [one for one in parser._actions if not isinstance(one, argparse._HelpAction)]
    yield f"## {name}\n"
    yield f"{parser.description}\n"
    yield f"```text\nresize-lora {name} {_usage(actions)}\n```\n"
    yield "| argument | meaning |\n|---|---|"
    for action in actions:
        yield _row(_spelled(action), parser._get_formatter()._expand_help(action))
    yield ""


def _usage(actions: list[argparse.Action]) -> str:
    required = [f"{one.option_strings[0]} {one.metavar}" for one in actions if one.option_strings and one.required]
    return " ".join([*required, "[options]", *(_positional(one) for one in actions if not one.option_strings)])


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return {"+": f"{name} ...", "*": f"[{name} ...]"}.get(str(action.nargs), name)


def _spelled(action: argparse.Action) -> str:
    """Return an argument as it is typed: `-o`, `--output DIR`."""
    if not action.option_strings:
        return f"`{_positional(action)}`"
    *first, last = action.option_strings
    return ", ".join([*(f"`{one}`" for one in first), f"`{last}{_value(action)}`"])


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return f" {action.metavar or (action.choices and '{' + ','.join(action.choices) + '}') or action.dest.upper()}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

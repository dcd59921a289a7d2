"""README and docs say what the program does: options, recipes, examples, links, tables."""

from __future__ import annotations

import argparse
import ast
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lib_resize.adapters.keys.registry import EMBEDDING, KINDS, UNKNOWN
from lib_resize.adapters.keys.suffixes import _ROLES
from lib_resize.cli import main as cli
from lib_resize.cli.report import Totals
from lib_resize.names.families import FAMILIES
from lib_resize.names.key_formats import PREFIXES
from lib_resize.plans import LayerPlan, Plan
from lib_resize.recipe.grammar import (
    FILLS,
    LIMITS,
    METHOD_NUMBERS,
    METHODS,
    PRESETS,
    SCORES,
    SELECTIONS,
    parse_recipe,
    parse_recipes,
)
from lib_resize.recipe.scores import BaseFacts, LayerFacts, score

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
}
WORDS = {**SCORES, **SELECTIONS, **LIMITS, **METHODS, **FILLS, **METHOD_NUMBERS, **PRESETS, "rescale": ""}
COMMANDS = ("resize", "merge", "extract", "upsample", "inspect", "library", "demo", "ui")
FOREIGN_OPTIONS = {
    "docs/api.md",
    "docs/coming-from.md",
    "docs/from-other-tools.md",
    "docs/hosts.md",
    "docs/performance.md",
    "docs/webui.md",
}
"""Pages that name options of other programs."""


def section(title: str, text: str = README) -> str:
    """A section of a page, its subsections included."""
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"no section {title!r}"
    return match[2]


def options_of(command: str) -> set[str]:
    """Every spelling of every option of a subcommand, as the parser has it."""
    subparsers = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {option for action in subparsers.choices[command]._actions for option in action.option_strings}


def told_options(text: str) -> set[str]:
    """Options in code spans of table rows."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", " ".join(rows)))


def code_blocks(text: str) -> Iterator[str]:
    yield from re.findall(r"^```[a-z]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Every line of a code block that calls us, with its page."""
    lines = [(page, line) for page, text in PAGES.items() for block in code_blocks(text) for line in block.splitlines()]
    return [(page, line) for page, line in lines if line.startswith(("resize-lora ", "python -m lib_resize "))]


def spans(text: str) -> list[str]:
    """Code spans outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


# Options ----------------------------------------------------------------------------------------------------


def test_every_option_of_resize_is_in_its_table_and_no_other() -> None:
    assert told_options(section("Options of `resize`")) == options_of("resize")


@pytest.mark.parametrize("command", ["merge", "extract"])
def test_every_option_of_merge_and_extract_is_in_its_table_and_no_other(command: str) -> None:
    table = section(f"Options of `{command}`")
    rows = "\n".join(line for line in table.splitlines() if not line.startswith(("| `FILE", "| `TUNED")))
    assert told_options(rows) == options_of(command)


def test_every_option_of_inspect_and_demo_is_in_their_table_and_no_other() -> None:
    table = section("Options of `inspect` and `demo`")
    for command in ("inspect", "demo"):
        rows = "\n".join(line for line in table.splitlines() if f"`{command} " in line)
        assert told_options(rows) | {"-h", "--help"} == options_of(command)


def test_every_option_of_upsample_is_in_its_table_and_no_other() -> None:
    assert told_options(section("Options of `upsample`")) | {"-h", "--help"} == options_of("upsample")


def test_every_option_of_ui_is_in_its_table_and_no_other() -> None:
    assert told_options(section("Options of `ui`")) | {"-h", "--help"} == options_of("ui")


def test_every_option_of_library_is_in_its_table_and_no_other() -> None:
    assert told_options(section("Options of `library`")) | {"-h", "--help"} == options_of("library")


@pytest.mark.parametrize("page", sorted(PAGES.keys() - FOREIGN_OPTIONS))
def test_no_page_names_an_option_that_is_not_there(page: str) -> None:
    known = {"--version", *(option for command in COMMANDS for option in options_of(command))}
    told = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", PAGES[page]))
    assert told - known == set()


def test_the_finder_of_options_finds_one_too_many() -> None:
    assert told_options("| `-o`, `--output_folder` | text with --nothing |\n| `--made-up` | x |") == {
        "-o",
        "--output_folder",
        "--made-up",
    }


# Recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md"])
@pytest.mark.parametrize("word", sorted(WORDS))
def test_every_word_of_recipes_is_explained(page: str, word: str) -> None:
    rows = [line.split("|")[1] for line in PAGES[page].splitlines() if line.startswith("| `")]
    explained = {re.split("[=`]", cell.strip().strip("`"))[0] for cell in rows}
    assert word in explained or (page.endswith("recipes.md") and f"**{word}** " in PAGES[page])


def test_presets_are_told_as_they_are() -> None:
    for page in ("README.md", "docs/recipes.md"):
        for name, items in PRESETS.items():
            assert f"| `{name}` | `{items}` |" in PAGES[page]


def inline_recipes() -> list[tuple[str, str]]:
    found = [(page, span) for page, text in PAGES.items() for span in spans(text)]
    words = "|".join(WORDS)
    return [
        (page, span)
        for page, span in found
        if re.fullmatch(rf"({words})(=[-\d.]+)?([,:]({words})(=[-\d.]+)?)*", span)
        and any(item.split("=")[0] in {*SELECTIONS, *PRESETS} for item in re.split("[,:]", span))
        and ("=" in span or span in PRESETS)
    ]


def test_every_recipe_in_the_text_can_be_read() -> None:
    recipes = inline_recipes()
    assert len(recipes) > 20
    for _, recipe in recipes:
        parse_recipes(recipe)


def test_the_worked_examples_of_scores_are_right() -> None:
    text = " ".join(section("What a score means").split())
    layer = LayerFacts("x", np.array([0.04, 0.02, 0.004]), 2560, base=BaseFacts(fro=25.0))
    own = score(parse_recipe("spn_lora=1,thr=-0.7"), layer)
    base = score(parse_recipe("fro_ckpt=1,thr=-3.5"), layer)
    mixed = score(parse_recipe("fro_ckpt=0.8,params=0.2,thr=-3.5"), layer)
    assert "0, -0.30 and -1" in text
    assert own == pytest.approx([0.0, -0.30, -1.0], abs=0.005)
    assert "-2.80, -3.10 and -3.80" in text
    assert base == pytest.approx([-2.80, -3.10, -3.80], abs=0.005)
    assert "= -3.20" in text
    assert mixed[0] == pytest.approx(-3.20, abs=0.005)
    assert [int((own >= -0.7).sum()), int((base >= -3.5).sum())] == [2, 2]
    assert round(10**0.7) == 5
    assert math.floor(10**3.5) == 3162


# Examples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_example_is_a_command_that_can_be_parsed(page: str, line: str) -> None:
    words = shlex.split(line)
    arguments = words[1:] if words[0] == "resize-lora" else words[3:]
    assert cli.parser().parse_args(arguments).command in COMMANDS


def test_there_are_examples() -> None:
    assert sum(page == "README.md" for page, _ in commands()) >= 8


def test_the_two_commands_for_a_fresh_machine_are_there() -> None:
    told = {line for block in code_blocks(section("Two commands")) for line in block.splitlines() if line}
    assert told == {"python develop.py demo", "python develop.py test"}
    extras = next(
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "develop.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXTRAS"
    )
    assert {line.split()[-1] for line in told} == set(extras) - {"hosts"}  # that one needs a WebUI: docs/hosts.md
    assert "python develop.py hosts http" in PAGES["docs/hosts.md"]


def test_a_wrong_word_for_develop_prints_both_commands_and_fails() -> None:
    done = subprocess.run([sys.executable, "develop.py", "nonsense"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "python develop.py demo" in done.stdout
    assert "python develop.py test" in done.stdout


def test_the_lines_of_verbose_look_as_they_are_told() -> None:
    from lib_resize.cli.report import layer_lines

    told = next(line for block in code_blocks(README) for line in block.splitlines() if line.startswith("dim: "))
    name = told.split(" | ")[0].split()[-1]
    made = Plan(
        *("a", "b", "high", None, 2, 1, 1.0),
        layers=(LayerPlan(name, 32, 12, 0.0772, 0.0004, 0.997, 0.881, 14.2),),
        copied=(),
        dropped=(),
    )
    assert list(layer_lines(made)) == [told]


# Tables -----------------------------------------------------------------------------------------------------


def test_every_key_of_the_report_is_explained() -> None:
    layer = LayerPlan("x", 2, 1, 0.0, None)
    made = Plan("a", "b", "high", None, 2, 1, 1.0, layers=(layer,), copied=(("k", "norm"),), dropped=())
    fields = {"resize_lora": "1", **made.as_json()}
    keys = {
        *fields,
        *made.as_json()["layers"][0],
        *made.as_json()["copied"][0],
        "error",
        "skipped",
        "totals",
        "stopped",
    }
    keys |= Totals().as_json().keys()
    told = set(re.findall(r"`(\w+)`", section("The report")))
    assert keys - told == set()
    rows = [line.split("|")[1] for line in section("The report").splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == {*fields, "skipped"}


def test_every_kind_of_adapter_is_in_both_tables() -> None:
    verdicts = {"refuse": "refused", "copy": "copied", "resize": "resized"}
    kinds = section("Kinds", PAGES["docs/formats.md"])
    for kind in (*KINDS, EMBEDDING, UNKNOWN):
        assert re.search(rf"^\| {re.escape(kind.name)} \| {verdicts[kind.verdict]}", kinds, re.MULTILINE), kind.name
        rows = [line for line in section("What can be resized").splitlines() if kind.name in line]
        assert any(verdicts[kind.verdict] in row for row in rows), kind.name


def test_every_prefix_of_layer_names_is_in_the_table() -> None:
    table = section("Layers and their spellings", PAGES["docs/formats.md"])
    told = {span for line in table.splitlines() if line.startswith("| `") for span in spans(line.split("|")[1])}
    assert told == {prefix.text for prefix in PREFIXES if prefix.text}


def test_every_family_is_in_the_table_with_its_sizes_and_version() -> None:
    rows = [line.split("|")[1:4] for line in section("Families", PAGES["docs/formats.md"]).splitlines()]
    told = {row[0].strip(): (row[1].strip(), spans(row[2])) for row in rows if len(row) == 3}
    for family in FAMILIES:
        sizes, versions = told[family.name]
        assert family.size in sizes
        assert family.base_model_version in {*versions, None}
    assert {name for name in told if name and name != "family" and set(name) != {"-"}} == {f.name for f in FAMILIES}


def test_every_suffix_of_keys_is_in_the_table() -> None:
    table = spans(section("A key: prefix, layer, suffix", PAGES["docs/formats.md"]))
    beginnings = {span.removesuffix("...") for span in table}
    # GLoRA's are told by one example, families such as hada_ by their beginning.
    missing = [s for s in _ROLES if not any(s == b or (s.startswith(b) and b.endswith("_")) for b in beginnings)]
    assert [s for s in missing if not re.fullmatch(r"\.([ab][12]|bm|[pq]_layer)\.weight|\.rescale", s)] == []


# Links ------------------------------------------------------------------------------------------------------


def links() -> list[tuple[str, str]]:
    return [(page, target) for page, text in PAGES.items() for target in re.findall(r"\]\(([^)\s]+)\)", text)]


def anchors(text: str) -> set[str]:
    """As repository hosts make them of headings."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(("page", "target"), [link for link in links() if "://" not in link[1]])
def test_every_link_leads_somewhere(page: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    assert file.exists()
    if anchor:
        assert anchor in anchors(file.read_text("utf-8"))


def test_no_page_names_a_file_of_the_code_that_is_not_there() -> None:
    for page, text in PAGES.items():
        for span in spans(text):
            if re.fullmatch(r"(lib_resize|tests|benchmarks|docs)/[\w./-]+", span):
                assert (ROOT / span).exists(), f"{page}: {span}"

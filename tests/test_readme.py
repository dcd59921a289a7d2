"""README and documentation describe the program: commands, recipes, tables, links, words."""

from __future__ import annotations

import argparse
import ast
import json
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
from lib_resize.cli import reference
from lib_resize.cli.command import Command
from lib_resize.cli.main import commands, parser
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


def options_of(command: Command) -> list[str]:
    made = argparse.ArgumentParser()
    command.add_options(made)
    return [option for action in made._actions for option in action.option_strings]


ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/resize-lora/resize-lora"
PLAIN_TEXTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "RELEASE.md",
    "SECURITY.md",
    ".github/*.md",
    ".github/*/*.yml",
    "benchmarks/README.md",
    "docs/*.md",
    "localizations/*.json",
    "lib_resize/**/*.py",
    "benchmarks/*.py",
    "scripts/*.py",
    "tools/*.py",
    "tests/**/*.py",
    "tests/**/*.js",
    "tests/**/*.mjs",
    "javascript/*.js",
    "*.py",
    "style.css",
    ".ci/run",
)
"""Texts in which the words of `AVOIDED` do not occur, also not in names; of a translation, the English keys."""
QUOTING = ("docs/style.md", "tests/test_readme.py")
"""Of these, the ones that quote the words."""
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in [*ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]
}
README = PAGES["README.md"]
WORDS = {**SCORES, **SELECTIONS, **LIMITS, **METHODS, **FILLS, **METHOD_NUMBERS, **PRESETS, "rescale": ""}
OPTIONS = {command.name: options_of(command) for command in commands()}
"""Subcommand -> every form of every option, as the parser has it."""
FOREIGN_OPTIONS = {
    "benchmarks/README.md",
    "docs/api.md",
    "docs/cluster.md",
    "docs/coming-from.md",
    "docs/fidelity.md",
    "docs/hosts.md",
    "docs/webui.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "RELEASE.md",
}
"""Pages that name options of other programs, or of benchmarks."""


def section(title: str, text: str) -> str:
    """Return a section of a page, its subsections included."""
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"no section {title!r}"
    return match[2]


def code_blocks(text: str) -> Iterator[str]:
    yield from re.findall(r"^```[a-z]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def without_blocks(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """Return the code spans outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def examples() -> list[tuple[str, str]]:
    """Return every example of our command in a code block, with its page."""
    lines = [(page, line) for page, text in PAGES.items() for block in code_blocks(text) for line in block.splitlines()]
    starts = ("resize-lora ", "python -m lib_resize ")
    return [(page, line) for page, line in lines if line.startswith(starts) and "[OPTIONS]" not in line]


# README -----------------------------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 800


def test_the_readme_shows_the_tab_and_the_address_to_paste_first() -> None:
    first_screen = "\n".join(README.splitlines()[:25])
    assert "](docs/images/tab.png)" in first_screen
    assert f"\n{REPOSITORY}\n" in first_screen


def test_the_readme_has_the_commands_of_a_clone() -> None:
    shown = {line for block in code_blocks(section("Try and contribute", README)) for line in block.splitlines()}
    assert shown == {"python develop.py demo", "python develop.py test"}
    extras = next(
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "develop.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXTRAS"
    )
    assert {line.split()[-1] for line in shown} == set(extras) - {"hosts"}  # that one needs a WebUI: docs/hosts.md
    assert "python develop.py hosts http" in PAGES["docs/hosts.md"]


def test_a_wrong_word_for_develop_prints_both_commands_and_fails() -> None:
    done = subprocess.run([sys.executable, "develop.py", "nonsense"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "python develop.py demo" in done.stdout
    assert "python develop.py test" in done.stdout


# Command line -----------------------------------------------------------------------------------------------------


def test_the_reference_is_the_one_that_the_parser_makes() -> None:
    assert reference.markdown() == PAGES["docs/cli.md"], "run python -m lib_resize.cli.reference > docs/cli.md"


@pytest.mark.parametrize(("page", "line"), examples())
def test_every_example_is_a_command_that_can_be_parsed(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    arguments = words[1:] if words[0] == "resize-lora" else words[3:]
    assert parser().parse_args(arguments).command in OPTIONS


def test_there_are_examples() -> None:
    assert sum(page == "README.md" for page, _ in examples()) >= 5
    assert sum(page == "docs/command-line.md" for page, _ in examples()) >= 8


@pytest.mark.parametrize("page", sorted(PAGES.keys() - FOREIGN_OPTIONS))
def test_no_page_names_an_option_that_is_not_there(page: str) -> None:
    known = {"--version"}.union(*OPTIONS.values())
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", PAGES[page]))
    assert named - known == set()


def test_the_lines_of_verbose_are_the_documented_ones() -> None:
    from lib_resize.cli.report import layer_lines

    page = PAGES["docs/report.md"]
    shown = next(line for block in code_blocks(page) for line in block.splitlines() if line.startswith("dim: "))
    name = shown.split(" | ")[0].split()[-1]
    made = Plan(
        *("a", "b", "high", None, 2, 1, 1.0),
        layers=(LayerPlan(name, 32, 12, 0.0772, 0.0004, 0.997, 0.881, 14.2),),
        copied=(),
        dropped=(),
    )
    assert list(layer_lines(made)) == [shown]


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
    text = section("The report", PAGES["docs/report.md"])
    assert keys - set(re.findall(r"`(\w+)`", text)) == set()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == {*fields, "skipped"}


# Recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["docs/recipes.md", "docs/recipe-definitions.md"])
@pytest.mark.parametrize("word", sorted(WORDS))
def test_every_word_of_recipes_is_explained(page: str, word: str) -> None:
    rows = [line.split("|")[1] for line in PAGES[page].splitlines() if line.startswith("| `")]
    explained = {re.split("[=`]", cell.strip().strip("`"))[0] for cell in rows}
    assert word in explained or (page.endswith("definitions.md") and f"**{word}** " in PAGES[page])


def test_presets_are_documented_in_full() -> None:
    for page in ("docs/recipes.md", "docs/recipe-definitions.md"):
        for name, items in PRESETS.items():
            assert f"| `{name}` | `{items}` |" in PAGES[page]


def inline_recipes() -> list[str]:
    words = "|".join(WORDS)
    return [
        span
        for text in PAGES.values()
        for span in spans(text)
        if re.fullmatch(rf"({words})(=[-\d.]+)?([,:]({words})(=[-\d.]+)?)*", span)
        and any(item.split("=")[0] in {*SELECTIONS, *PRESETS} for item in re.split("[,:]", span))
        and ("=" in span or span in PRESETS)
    ]


def test_every_recipe_in_the_text_can_be_read() -> None:
    recipes = inline_recipes()
    assert len(recipes) > 20
    for recipe in recipes:
        parse_recipes(recipe)


def test_the_worked_examples_of_scores_are_right() -> None:
    text = " ".join(section("What a score means", PAGES["docs/recipes.md"]).split())
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


# Tables of formats ------------------------------------------------------------------------------------------------


def test_every_kind_of_adapter_is_in_the_table() -> None:
    verdicts = {"refuse": "refused", "copy": "copied", "resize": "resized"}
    kinds = section("Kinds", PAGES["docs/formats.md"])
    for kind in (*KINDS, EMBEDDING, UNKNOWN):
        assert re.search(rf"^\| {re.escape(kind.name)} \| {verdicts[kind.verdict]}", kinds, re.MULTILINE), kind.name


def test_every_prefix_of_layer_names_is_in_the_table() -> None:
    table = section("Layer names and key formats", PAGES["docs/formats.md"])
    shown = {span for line in table.splitlines() if line.startswith("| `") for span in spans(line.split("|")[1])}
    assert shown == {prefix.text for prefix in PREFIXES if prefix.text}


def test_every_family_is_in_the_table_with_its_sizes_and_version() -> None:
    rows = [line.split("|")[1:4] for line in section("Families", PAGES["docs/formats.md"]).splitlines()]
    shown = {row[0].strip(): (row[1].strip(), spans(row[2])) for row in rows if len(row) == 3}
    for family in FAMILIES:
        sizes, versions = shown[family.name]
        assert family.size in sizes
        assert family.base_model_version in {*versions, None}
    assert {name for name in shown if name and name != "family" and set(name) != {"-"}} == {f.name for f in FAMILIES}


def test_every_suffix_of_keys_is_in_the_table() -> None:
    table = spans(section("A key: prefix, layer, suffix", PAGES["docs/formats.md"]))
    beginnings = {span.removesuffix("...") for span in table}
    # GLoRA's are shown by one example, families such as hada_ by their beginning.
    missing = [s for s in _ROLES if not any(s == b or (s.startswith(b) and b.endswith("_")) for b in beginnings)]
    assert [s for s in missing if not re.fullmatch(r"\.([ab][12]|bm|[pq]_layer)\.weight|\.rescale", s)] == []


# Links ------------------------------------------------------------------------------------------------------------


def links() -> list[tuple[str, str]]:
    """Return each link to a file of this repository, with its page."""
    ours = f"{REPOSITORY}/blob/main/"
    found = [(page, target) for page, text in PAGES.items() for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [link for link in found if "://" not in link[1] or link[1].startswith(ours)]


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.*)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(("page", "target"), links())
def test_every_link_resolves(page: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    inside = path.removeprefix(f"{REPOSITORY}/blob/main/")
    file = ROOT / (page if not path else inside if inside != path else Path(page).parent / path)
    assert file.exists()
    if anchor:
        assert anchor in anchors(file.read_text("utf-8"))


def test_no_page_names_a_file_of_the_code_that_is_not_there() -> None:
    for page in PAGES.keys() - {"CHANGELOG.md"}:
        for span in spans(PAGES[page]):
            if re.fullmatch(r"(lib_resize|tests|tools|benchmarks|docs|localizations)/[\w./-]+", span):
                assert (ROOT / span).exists(), f"{page}: {span}"


# Words ------------------------------------------------------------------------------------------------------------


def avoided() -> list[str]:
    """Return the words of docs/style.md that no text contains."""
    rows = section("Words to avoid", PAGES["docs/style.md"]).splitlines()[2:]
    cells = [line.split("|")[1] for line in rows if line.startswith("| ")]
    return [word.strip() for cell in cells for word in cell.split(",") if set(cell.strip()) != {"-"}][1:]


AVOIDED = re.compile(rf"\b({'|'.join(avoided())})\b", re.IGNORECASE)


def plain_texts() -> list[Path]:
    paths = {path for pattern in PLAIN_TEXTS for path in ROOT.glob(pattern)}
    return sorted(paths - {path for pattern in QUOTING for path in ROOT.glob(pattern)})


def words_of(path: Path) -> str:
    """Return the text that a person reads, without quoted code; names of the code are split into words."""
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        return "\n".join(json.loads(text))
    if path.suffix == ".md":
        text = re.sub(r"`[^`\n]+`", "", without_blocks(text))
    return text.replace("_", " ")


def test_the_words_to_avoid_are_those_of_the_style() -> None:
    assert {"tells", "told", "lies", "stands", "beside", "as it was", "what came of it", "whatever"} == set(avoided())


@pytest.mark.parametrize("path", plain_texts(), ids=lambda path: path.name)
def test_texts_are_plain(path: Path) -> None:
    found = [line.strip() for line in words_of(path).splitlines() if AVOIDED.search(line)]
    assert found == []

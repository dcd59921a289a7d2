"""The size of the code: modules, classes, functions and their complexity, counted with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lib_resize"

MOST_LINES = 400
MOST_METHODS = 20
MOST_COMPLEXITY = 12
MOST_STATEMENT_LINES = 12
"""Nine of ten functions have at most this many lines, without their signature and docstring."""

TABLES = frozenset({"names/transformers.py", "panel/protocol/objects.py"})
"""Modules of data, which may be longer."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
}
CHECKED = list(TREES)


def functions(tree: ast.AST) -> Iterator[Function]:
    """All functions and methods, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions and classes inside of it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Function | ast.ClassDef):
            yield node
            waiting.extend(ast.iter_child_nodes(node))


def complexity(function: Function) -> int:
    """McCabe's cyclomatic complexity: 1, and 1 for each branch."""
    return 1 + sum(branches(node) for node in own_nodes(function))


def branches(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.Match):
        return len(node.cases)
    is_branch = isinstance(
        node, ast.If | ast.IfExp | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.Assert
    )
    return int(is_branch)


def body_lines(function: Function) -> int:
    """Lines of a function without its signature and its docstring."""
    body = function.body
    first = 1 if ast.get_docstring(function, clean=False) is not None else 0
    if len(body) == first:
        return 0
    return (body[-1].end_lineno or 0) - body[first].lineno + 1


def untyped(function: Function) -> list[str]:
    """Names of the parameters without a type, without self and cls."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return [one.arg for one in named if one.annotation is None and one.arg not in ("self", "cls")]


@pytest.mark.parametrize("name", [name for name in CHECKED if name not in TABLES])
def test_modules_are_short(name: str) -> None:
    assert len((PACKAGE / name).read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", CHECKED)
def test_classes_have_few_methods(name: str) -> None:
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ClassDef):
            count = sum(isinstance(child, Function) for child in node.body)
            assert count <= MOST_METHODS, f"{name}: {node.name} has {count} methods"


@pytest.mark.parametrize("name", CHECKED)
def test_functions_are_simple_and_typed(name: str) -> None:
    for function in functions(TREES[name]):
        where = f"{name}:{function.lineno} {function.name}"
        assert complexity(function) <= MOST_COMPLEXITY, f"{where} has complexity {complexity(function)}"
        assert untyped(function) == [], where
        assert function.returns is not None, f"{where} has no return type"


def test_nine_of_ten_functions_are_short() -> None:
    lines = sorted(body_lines(function) for name in CHECKED for function in functions(TREES[name]))
    assert lines[len(lines) * 9 // 10] <= MOST_STATEMENT_LINES


def test_a_class_name_has_one_meaning() -> None:
    homes: dict[str, list[str]] = {}
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_every_table_is_needed() -> None:
    """An exception that nothing needs is removed."""
    assert TREES.keys() >= TABLES
    assert [name for name in TABLES if len((PACKAGE / name).read_text("utf-8").splitlines()) <= MOST_LINES] == []


def test_the_counts_are_right() -> None:
    code = '''
def outer(a, *b, c: int = 0, **d):
    """A docstring."""
    if a and b:
        return [x for x in d if x]
    for _ in b:
        try:
            pass
        except ValueError:
            pass
    def inner(e: int) -> int:
        return 1 if e else 2
    return inner
'''
    (outer, inner) = functions(ast.parse(code))
    assert complexity(outer) == 7
    assert complexity(inner) == 2
    assert body_lines(outer) == 10
    assert untyped(outer) == ["a", "b", "d"]
    assert untyped(inner) == []

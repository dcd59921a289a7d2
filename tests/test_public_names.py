"""The table of public names says the truth, at run time and to type checkers."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import lib_resize

SOURCE = Path(lib_resize.__file__)
NAMES = sorted(lib_resize._HOMES)


def names_for_type_checkers() -> dict[str, str]:
    """Name -> home, as the imports under TYPE_CHECKING tell."""
    block = next(node for node in ast.parse(SOURCE.read_text("utf-8")).body if isinstance(node, ast.If))
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name} is not re-exported: write `as {alias.name}`"
            found[alias.name] = str(node.module)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_what_its_home_defines(name: str) -> None:
    home = importlib.import_module(f"lib_resize.{lib_resize._HOMES[name]}")
    found = getattr(lib_resize, name)
    assert found is getattr(home, name)
    assert found.__module__ == home.__name__, "the table names the module that defines it"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_documented(name: str) -> None:
    documentation = getattr(lib_resize, name).__doc__
    assert documentation
    assert not documentation.startswith(f"{name}("), "this is what dataclass writes by itself"


def test_all_names_the_table_and_the_version() -> None:
    assert sorted(lib_resize.__all__) == sorted([*NAMES, "__version__"])
    assert dir(lib_resize) == sorted(lib_resize.__all__)


def test_a_star_import_works() -> None:
    scope: dict[str, object] = {}
    exec("from lib_resize import *", scope)
    assert set(NAMES) <= scope.keys()


def test_type_checkers_see_the_same_table() -> None:
    assert names_for_type_checkers() == lib_resize._HOMES


def test_every_error_is_public() -> None:
    """Whoever calls the library must be able to catch what it raises."""
    errors = importlib.import_module("lib_resize.errors")
    defined = {
        name for name, one in vars(errors).items() if isinstance(one, type) and one.__module__ == errors.__name__
    }
    assert defined <= set(NAMES)


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="resize_everything"):
        _ = lib_resize.resize_everything


def test_the_package_is_marked_as_typed() -> None:
    assert SOURCE.with_name("py.typed").is_file()

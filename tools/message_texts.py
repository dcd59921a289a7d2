"""Find the texts that the server shows on the page: errors, warnings, notes and their parts, as templates.

A template is a text with places for values. ``{1}`` is a value, such as a path or a number; ``{text2}`` is another
message, such as the reason inside of an error. An f-string, a text for ``str.format`` and a plain text each are one.
Texts are found in all modules that the tab and the hosts use, so that a new message needs no registration.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .message_exceptions import (
    LOCAL_FAULTS,
    LOG_CALLS,
    NOT_ON_THE_PAGE,
    NOT_SHOWN,
    TABLES,
    TEXT_NAMES,
    TEXT_OF_FAULTS,
    VALUE_FIELDS,
    VALUE_FUNCTIONS,
)

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lib_resize"
_PLACE = re.compile(r"\{(?:\d+|text\d+)\}")
_FORMAT = re.compile(r"\{(\w+)\}")
_WRAPPERS = {"join", "str", "format", "rstrip", "strip", "sorted", "shown", "tuple", "list"}


@dataclass(frozen=True)
class Message:
    """A template, and the line of the source that makes it."""

    template: str
    place: str

    @property
    def literal(self) -> str:
        """Return the template without its places."""
        return _PLACE.sub("\0", self.template)


def messages(package: Path = PACKAGE) -> list[Message]:
    """Return all messages that can reach the page, in the order of the source."""
    modules = [Module(path, package) for path in _reachable(package) if _name(path, package) not in NOT_ON_THE_PAGE]
    index = Index(modules)
    return [message for module in modules for message in module.messages(index)]


def templates(found: Sequence[Message]) -> dict[str, str]:
    """Return the templates that need a translation, each with the first line that makes it.

    Where two differ only in which places hold messages, a place of the result holds one if it does in any of them.
    """
    alike: dict[str, Message] = {}
    for one in found:
        if is_translated(one):
            known = alike.get(one.literal)
            alike[one.literal] = one if known is None else Message(_joined(known.template, one.template), known.place)
    return {one.template: one.place for one in alike.values()}


def _joined(one: str, other: str) -> str:
    """Return a template with the places for messages of both."""
    places = iter(_PLACE.findall(other))
    return _PLACE.sub(lambda found: max(found[0], next(places), key=len), one)


def is_translated(message: Message) -> bool:
    """Return whether a text needs a translation.

    With places, it needs words enough to be recognised. A mere joint, such as ``{1}: {text2}``, has none.
    """
    if message.template.replace("{text", "{") in NOT_SHOWN:
        return False
    words = re.findall(r"[A-Za-z]{2,}", message.literal)
    return not _PLACE.search(message.template) or len(words) >= 2 or sum(map(len, words)) >= 5


# Modules ------------------------------------------------------------------------------------------------------


def _name(path: Path, package: Path) -> str:
    return path.relative_to(package).as_posix()


def _reachable(package: Path) -> list[Path]:
    """Return the modules that the tab and the hosts import, directly or not."""
    todo = [*package.glob("panel/**/*.py"), *package.glob("hosts/*.py")]
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _imported(path)
    return sorted(seen)


def _imported(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            places = [base, *(base / alias.name for alias in node.names)]
            yield from (file for place in places if (file := place.with_suffix(".py")).is_file())


class Module:
    """The syntax tree of one module, with the parents of each node."""

    def __init__(self, path: Path, package: Path) -> None:
        self.name = _name(path, package)
        self.tree = ast.parse(path.read_text("utf-8"))
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def messages(self, index: Index) -> Iterator[Message]:
        """Yield the messages in the order of the source."""
        for node in self.texts():
            yield Message(self._template(node, index), f"lib_resize/{self.name}:{node.lineno}")

    def texts(self) -> Iterator[ast.JoinedStr | ast.Constant]:
        """Yield the nodes of the texts that a user can see."""
        for node in ast.walk(self.tree):
            if is_prose(node) and not self._is_inside_of_text(node) and self._is_shown(node):
                assert isinstance(node, (ast.JoinedStr, ast.Constant))
                yield node

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the parents of a node, from the inside."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function_of(self, node: ast.AST) -> ast.FunctionDef | None:
        return next((one for one in self.above(node) if isinstance(one, ast.FunctionDef)), None)

    def _is_inside_of_text(self, node: ast.AST) -> bool:
        parent = self.parents.get(node)
        return isinstance(parent, (ast.JoinedStr, ast.Expr)) or (
            isinstance(parent, ast.FormattedValue) and parent.format_spec is node
        )

    def _is_shown(self, node: ast.AST) -> bool:
        return not any(self._hides(one) for one in self.above(node))

    def _hides(self, node: ast.AST) -> bool:
        """Return whether no user sees the texts below a node: raised for programmers, logged, or a table."""
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = _called(node.exc)
            return name in LOCAL_FAULTS and self.name not in TEXT_OF_FAULTS
        if isinstance(node, ast.Call):
            return _called(node) in LOG_CALLS
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            return any(f"{self.name}:{name}" in TABLES for name in _targets(node))
        return False

    def _template(self, node: ast.JoinedStr | ast.Constant, index: Index) -> str:
        if isinstance(node, ast.Constant):
            numbers = iter(range(1, 100))
            return _FORMAT.sub(lambda _: f"{{{next(numbers)}}}", str(node.value))
        text, number = "", 0
        for part in node.values:
            if isinstance(part, ast.Constant):
                text += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                number += 1
                text += f"{{text{number}}}" if index.is_text(part.value, self) else f"{{{number}}}"
        return text


def is_prose(node: ast.AST) -> bool:
    """Return whether a node is a text with a space and a word in lower case."""
    if isinstance(node, ast.JoinedStr):
        text = "\0".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        text += "\0" * any(isinstance(part, ast.FormattedValue) for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    else:
        return False
    return " " in text.strip() and re.search(r"[a-z]{2,}", text) is not None and "\n" not in text


def _called(call: ast.Call) -> str:
    """Return the last name of what is called."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [one.id for one in targets if isinstance(one, ast.Name)]


# Which places hold messages -------------------------------------------------------------------------------------


@dataclass
class Index:
    """The names of all modules that hold messages: functions, constants, parameters and fields."""

    modules: Sequence[Module]
    functions: set[str] = field(default_factory=set)
    constants: set[str] = field(default_factory=set)
    parameters: set[tuple[str, str]] = field(default_factory=set)
    """Function and parameter."""
    fields: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        signatures = self._signatures()
        for module in self.modules:
            for node in module.texts():
                self._add(module, node, signatures)

    def _signatures(self) -> Mapping[str, list[str]]:
        """Return the names of the parameters of all functions and dataclasses."""
        found: dict[str, list[str]] = {}
        for module in self.modules:
            for node in ast.walk(module.tree):
                if isinstance(node, ast.FunctionDef):
                    names = [one.arg for one in node.args.args]
                    found[node.name] = names[1:] if names[:1] in (["self"], ["cls"]) else names
                elif isinstance(node, ast.ClassDef):
                    rows = [one for one in node.body if isinstance(one, ast.AnnAssign)]
                    found[node.name] = [one.target.id for one in rows if isinstance(one.target, ast.Name)]
        return found

    def _add(self, module: Module, text: ast.AST, signatures: Mapping[str, list[str]]) -> None:
        """Record where a text goes: out of a function, into a constant, or into a call."""
        below = text
        for node in module.above(text):
            if isinstance(node, ast.Call):
                self._add_argument(node, below, signatures)
            elif isinstance(node, (ast.Return, ast.Yield)):
                self._add_result(module.function_of(node))
                return
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and module.function_of(node) is None:
                self.constants.update(name for name in _targets(node) if name.isupper())
                return
            elif isinstance(node, ast.stmt):
                return
            below = node

    def _add_result(self, function: ast.FunctionDef | None) -> None:
        returned = ast.unparse(function.returns) if function and function.returns else ""
        if function and function.name not in VALUE_FUNCTIONS and not returned.endswith(("Error", "Fault", "Json")):
            self.functions.add(function.name)

    def _add_argument(self, call: ast.Call, value: ast.AST, signatures: Mapping[str, list[str]]) -> None:
        name = _called(call)
        keyword = value.arg if isinstance(value, ast.keyword) else None
        if keyword is None and value in call.args:
            known = signatures.get(name, [])
            at = call.args.index(value)
            keyword = known[at] if at < len(known) else None
        if keyword is not None and keyword not in VALUE_FIELDS:
            self.parameters.add((name, keyword))
            if name[:1].isupper() or name.startswith("_kind"):
                self.fields.add(keyword)

    def is_text(self, node: ast.expr, module: Module, depth: int = 0) -> bool:
        """Return whether an expression is a message, or holds some."""
        if depth > 8:
            return False
        if isinstance(node, ast.Name):
            return self._is_text_name(node, module, depth)
        if isinstance(node, ast.Attribute):
            return node.attr in TEXT_NAMES or node.attr in self.fields or node.attr in self.functions
        if isinstance(node, ast.Call):
            return self._is_text_call(node, module, depth)
        if isinstance(node, ast.Subscript):
            key = node.slice
            return self.is_text(node.value, module, depth + 1) or (
                isinstance(key, ast.Constant) and key.value in TEXT_NAMES
            )
        parts = _parts(node)
        return is_prose(node) or any(self.is_text(one, module, depth + 1) for one in parts)

    def _is_text_call(self, call: ast.Call, module: Module, depth: int) -> bool:
        name = _called(call)
        if name in self.functions:
            return True
        inner = [*call.args, *([call.func.value] if isinstance(call.func, ast.Attribute) else [])]
        return name in _WRAPPERS and any(self.is_text(one, module, depth + 1) for one in inner)

    def _is_text_name(self, node: ast.Name, module: Module, depth: int) -> bool:
        if node.id in TEXT_NAMES or node.id in self.constants:
            return True
        function = module.function_of(node)
        if function is None or node.id in VALUE_FIELDS:
            return False
        if (function.name, node.id) in self.parameters:
            return True
        return any(self.is_text(value, module, depth + 1) for value in _assigned(function, node.id))


def _parts(node: ast.expr) -> Sequence[ast.expr]:
    """Return the expressions of which one is the value of another."""
    if isinstance(node, ast.IfExp):
        return (node.body, node.orelse)
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.BinOp):
        return (node.left, node.right)
    if isinstance(node, (ast.List, ast.Tuple)):
        return node.elts
    if isinstance(node, (ast.GeneratorExp, ast.ListComp)):
        return (node.elt,)
    return ()


def _assigned(function: ast.FunctionDef, name: str) -> Iterator[ast.expr]:
    """Yield the values that a function assigns to a name."""
    for node in ast.walk(function):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(one, ast.Name) and one.id == name for one in targets):
                yield node.value

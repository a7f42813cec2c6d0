"""Assertions about a program, taken apart: the process that runs the program makes the calls, another one compares.

`assert f(3) == 9` becomes the call `f(3)`, which the program's process answers with plain data, and the condition
`_0 == 9`, which no program can reach. Plain data are None, booleans, numbers, strings, bytes, and lists, tuples, sets
and dictionaries of them. They travel as JSON, in which {"tuple": [...]} stands for what JSON has no word for.
"""

import ast
import builtins
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_BUILTINS = frozenset(dir(builtins))
_KINDS: dict[str, Callable[[list[Any]], object]] = {
    "tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict, "bytes": bytes, "complex": lambda x: complex(*x),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Assertion:
    """One assert statement.

    Attributes:
        text: The statement.
        calls: The calls of the program in it, from left to right.
        condition: What is asserted, with `_0`, `_1`, ... in place of the calls.
    """

    text: str
    calls: tuple[str, ...]
    condition: str

    def holds(self, values: Sequence[object]) -> bool | None:
        """Whether the first value equals a literal, as nearly all assertions demand; None where more is demanded."""
        match ast.parse(self.condition, mode="eval").body:
            case ast.Compare(left=ast.Name(id="_0"), ops=[ast.Eq()], comparators=[other]):
                try:
                    return bool(values[0] == ast.literal_eval(other))
                except (ValueError, TypeError):
                    return None
        return None

    def statement(self, values: Sequence[object]) -> str:
        """The assertion with these values, as one line of Python that runs alone."""
        modules = _used(ast.parse(self.condition)) & sys.stdlib_module_names
        given = [f"_{number} = {value!r}" for number, value in enumerate(values)]
        return "; ".join(["from math import inf, nan", *(f"import {name}" for name in sorted(modules)), *given,
                          f"assert {self.condition}"])  # fmt: skip


def split(test: str, setup: str = "") -> Assertion:
    """Take one assert statement apart.

    A name is the program's unless it is built in, imported by `setup` or a module of the standard library. Where no
    other is there, one that is built in is taken for the program's too.

    Raises:
        ValueError: It is no single assert statement, or calls the program with a variable of a comprehension.
    """
    try:
        return _split(test.strip(), setup)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"the test {test[:200]!r} or its set-up is no Python: {error}") from error


def _split(test: str, setup: str) -> Assertion:
    statements = ast.parse(test).body
    if len(statements) != 1 or not isinstance(statements[0], ast.Assert):
        raise ValueError(f"a test must be one assert statement, not {test[:200]!r}")
    condition = statements[0].test
    imported = {(name.asname or name.name).split(".")[0] for node in _imports(setup) for name in node.names}
    bound = _bound(condition)
    for outside in (imported | bound | _BUILTINS, imported | bound):
        calls = _Calls(outside)
        condition = calls.visit(condition)
        if calls.found:
            break
    for tree in map(ast.parse, calls.found if bound else ()):
        if _used(tree) & (bound - _bound(tree)):
            raise ValueError(
                f"the test {test[:200]!r} calls the program with a variable of its own: {ast.unparse(tree)}"
            )
    return Assertion(test, tuple(calls.found), ast.unparse(condition))


def imports(source: str) -> str:
    """The import statements of a source."""
    return "\n".join(map(ast.unparse, _imports(source)))


def read(value: Any) -> object:
    """A value from its JSON.

    Raises:
        ValueError, TypeError, OverflowError, RecursionError: It is none.
    """
    if isinstance(value, list):
        return [read(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, items)] = value.items()
    if kind not in _KINDS or not isinstance(items, list):
        raise ValueError(f"{kind!r} is no kind of plain data")
    return _KINDS[kind]([read(item) for item in items])


def _imports(source: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]


def _used(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _bound(tree: ast.AST) -> set[str]:
    """The variables of lambdas and comprehensions."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name | ast.arg)]
    return {
        n.arg if isinstance(n, ast.arg) else n.id for n in nodes if not isinstance(getattr(n, "ctx", None), ast.Load)
    }


class _Calls(ast.NodeTransformer):
    """Puts names in place of what is the program's: calls, and what is done with their results."""

    def __init__(self, outside: set[str]) -> None:
        self._outside = outside
        self.found: list[str] = []

    def visit(self, node: ast.AST) -> Any:
        """One node: replaced where it begins with a name of the program."""
        root, outer = node, node
        while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
            root, outer = root.func if isinstance(root, ast.Call) else root.value, root
        if not isinstance(root, ast.Name) or root.id in self._outside:
            return self.generic_visit(node)
        if root.id in sys.stdlib_module_names and not isinstance(outer, ast.Call):  # modules are not called
            return self.generic_visit(node)
        self.found.append(ast.unparse(node))
        return ast.Name(f"_{len(self.found) - 1}", ast.Load())

"""Python source and documentation of the running interpreter's standard library."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

_SKIPPED_FOLDERS = {
    "test", "tests", "idlelib", "site-packages", "lib2to3", "turtledemo", "__pycache__", "encodings", "pydoc_data",
    "ensurepip", "idle_test", "tkinter", "msilib", "__phello__",
}  # fmt: skip
_LARGEST_FILE = 120_000  # bytes; larger ones are mostly tables


def source_files() -> list[Path]:
    """The library's source files in sorted order, without tests and tables."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: list[Path] = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS.intersection(relative.parts) or relative.parts[0].startswith(("config-", "_sysconfigdata")):
            continue
        if path.name.startswith(("test_", "_pydecimal", "__phello__")) or path.stat().st_size > _LARGEST_FILE:
            continue
        found.append(path)
    return found


def sources() -> Iterator[tuple[str, str]]:
    """(relative path, text) of every source file that is valid UTF-8."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in source_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            yield path.relative_to(root).as_posix(), text.expandtabs(8).strip() + "\n"


def documentation() -> Iterator[tuple[str, str]]:
    """(name, text) of the language reference's topics and of the modules' docstrings."""
    for name in sorted(topics):
        yield f"topic:{name}", topics[name].strip() + "\n"
    for path, text in sources():
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        written = "\n\n".join(_docstrings(tree, module))
        if len(written) > 200:
            yield f"doc:{module}", written + "\n"


def _docstrings(tree: ast.Module, name: str) -> Iterator[str]:
    if doc := ast.get_docstring(tree):
        yield f"{name}\n\n{doc.strip()}"
    yield from _nested(tree.body, name)


def _nested(body: list[ast.stmt], owner: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            arguments = "" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})"
            if doc:
                yield f"{owner}.{node.name}{arguments}\n\n{doc.strip()}"
            if isinstance(node, ast.ClassDef):
                yield from _nested(node.body, f"{owner}.{node.name}")

"""Own parts without touching the package: by an entry point of another package, or as `module:Name`.

A package registers a part under its name in its `pyproject.toml`:

    [project.entry-points."fsgen.routers"]
    surprise = "my_package.routers:Surprise"

and from then on `surprise:0.3` is a router everywhere. What is in a module that Python finds, or in the folder where
the command runs, needs no package: `my_routers:Surprise:0.3`. Groups are `routers`, `fusions`, `tasks` and `backends`.
Naming a part runs its code: name none that you do not trust.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any


@cache
def registered(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by name."""
    return {found.name: found for found in entry_points(group=f"fsgen.{group}")}


def find(group: str, text: str) -> tuple[Any, str, str] | None:
    """The part that a text names, how it is named there, and what stands behind that; None where it names none.

    Args:
        group: routers, fusions, tasks or backends.
        text: `name`, `name:rest`, `module:Name` or `module:Name:rest`.

    Raises:
        ValueError: the part is named, and cannot be imported.
    """
    name, _, rest = text.partition(":")
    if (point := registered(group).get(name)) is not None:
        try:
            return point.load(), name, rest
        except Exception as error:  # whatever the other package raises
            raise ValueError(f"the part {name!r} of {point.value!r} cannot be imported: {error}") from error
    part, _, rest = rest.partition(":")
    if not part.isidentifier() or not all(step.isidentifier() for step in name.split(".")):
        return None
    if (module := _module(name)) is None:
        return None
    if not hasattr(module, part):
        raise ValueError(f"the module {name!r} has no {part!r}")
    return getattr(module, part), f"{name}:{part}", rest


def _module(name: str) -> Any:
    """A module, also of the folder where the command runs; None where there is none of this name."""
    if "" not in sys.path and (here := os.getcwd()) not in sys.path:  # noqa: PTH109
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise ValueError(f"the module {name!r} cannot be imported: {error}") from error
    except Exception as error:  # whatever it raises
        raise ValueError(f"the module {name!r} cannot be imported: {error}") from error


def subclass(found: Any, kind: type, name: str, what: str) -> Any:
    """A part that is a class of the right kind, with nothing left abstract. Raises ValueError for any other."""
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ValueError(f"{what} {name!r} breaks the protocol: it is no subclass of {kind.__module__}.{kind.__name__}")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ValueError(f"{what} {name!r} breaks the protocol: it does not define {', '.join(missing)}")
    return found


@contextmanager
def tried(what: str, name: str) -> Iterator[None]:
    """A part is made and used within it: whatever that raises becomes a ValueError that names the part."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what} {name!r} breaks the protocol: {type(error).__name__}: {error}") from error

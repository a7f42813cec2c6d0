"""What commands print: JSON, tables, and a bar while one waits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_json(record: Any, indent: int | None = None) -> None:
    """A record as JSON on stdout; a number that is not finite is a mistake of ours."""
    print(json.dumps(record, indent=indent, allow_nan=False))


def console(width: int | None = None) -> Console:
    """Where tables are printed: text is shown as it is, brackets included."""
    from rich.console import Console

    return Console(width=width, highlight=False, markup=False)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; gives what advances it."""
    from rich.console import Console
    from rich.progress import Progress

    shown = Console(stderr=True)
    with Progress(console=shown, transient=True, disable=not shown.is_terminal) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda count: progress.advance(bar, count)

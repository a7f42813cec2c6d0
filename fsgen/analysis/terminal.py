"""Tables in a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def plain_table(*columns: str, left: int = 0) -> Table:
    """A table of these columns, so many of which, from the first one on, are aligned to the left."""
    table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    return table


def print_wide(console: Console, shown: Table) -> None:
    """Print a table at its full width: on a narrow terminal lines are cut by it, but no number is lost."""
    wide = Console(file=console.file, width=10_000, force_terminal=console.is_terminal)
    wide.print(shown, width=Measurement.get(wide, wide.options, shown).maximum)

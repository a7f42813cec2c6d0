"""What commands print: JSON, tables, and a bar while one waits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer.core

if TYPE_CHECKING:
    from rich.console import Console

    from fsgen.generation import Generation
    from fsgen.types import Token


class GroupedCommand(typer.core.TyperCommand):
    """A command whose help shows its options in groups (`rich_help_panel`), the ones of no group last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            usual = "Arguments" if param.param_type_name == "argument" else "Options"
            if record is not None:
                groups.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
        groups["Options"] = groups.pop("Options", [])
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def print_json(record: Any, indent: int | None = None) -> None:
    """A record as JSON on stdout; a number that is not finite is a mistake of ours."""
    print(json.dumps(record, indent=indent, allow_nan=False))


def console(width: int | None = None) -> Console:
    """Where tables are printed: text is shown as it is, brackets included."""
    from rich.console import Console

    return Console(width=width, highlight=False, markup=False)


def numbers(option: str, text: str, kind: Any, low: float, high: float) -> list[Any]:
    """The numbers of a list with commas. Raises ValueError for another kind of number, or one out of range."""
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(low <= number <= high for number in found):
        raise ValueError(f"{option} {text!r} is impossible: write numbers of {low} to {high}, as in 1,8")
    return found


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; gives what advances it."""
    from rich.console import Console
    from rich.progress import Progress

    shown = Console(stderr=True)
    with Progress(console=shown, transient=True, disable=not shown.is_terminal) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda count: progress.advance(bar, count)


def finished(tokens: Generator[Token, None, Generation], show: Callable[[Token], None]) -> Generation:
    """The finished generation; each token is shown as it comes."""
    while True:
        try:
            token = next(tokens)
        except StopIteration as end:
            generation: Generation = end.value
            return generation
        show(token)


def show_stream(tokens: Generator[Token, None, Generation]) -> Generation:
    """A text as it is written: on a terminal each token in the style of its source, else plain; then its figures."""
    from fsgen.render import figures, legend, styles

    if not sys.stdout.isatty():
        generation = finished(tokens, lambda token: print(token.text, end="", flush=True))
        print()
        print(figures(generation), file=sys.stderr)
        return generation
    out = console()
    looks = styles(out.no_color)
    generation = finished(tokens, lambda token: out.out(token.text, style=looks[token.source], end="", highlight=False))
    out.print()
    out.print(legend(out.no_color), figures(generation), sep="  ", soft_wrap=True)
    return generation

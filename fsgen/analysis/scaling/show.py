"""The comparison as people read it in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from fsgen.analysis.labels import decimal
from fsgen.analysis.scaling.laws import LAWS
from fsgen.analysis.scaling.results import Parameter, Scaling, findings

LEGEND = (
    "S, L: parameters of draft and target in billions; R = L / S. held-out: root mean squared error for the pairs of a "
    "model that the fit has not seen. In brackets: 95 % bootstrap intervals. ?: not identified."
)


def show(sets: Sequence[Scaling], notes: Iterable[str], console: Console) -> None:
    """Print the comparison of every set; a narrow terminal's lines run on rather than lose numbers."""
    for scaling in sets:
        where = f"{scaling.family} {scaling.method}".strip()
        console.print(f"{where} on {scaling.task}: {scaling.points} pairs", style="bold")
        _print_whole(_table(scaling), console)
        for sentence in findings(scaling):
            console.print(sentence)
        console.print()
    for note in notes:
        console.print(note)
    console.print(LEGEND)


def _print_whole(table: Table, console: Console) -> None:
    terminal = console.width
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    console.width = max(terminal, needed)
    console.print(table)
    console.width = terminal


def _table(scaling: Scaling) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False, pad_edge=False)
    table.add_column("law", no_wrap=True)
    for name in ("R2", "AICc", "held-out"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("parameters", no_wrap=True)
    for one in scaling.laws:
        table.add_row(
            f"{one.law}\n  {LAWS[one.law].formula}",
            decimal(one.r2, 3),
            decimal(one.aicc, 1),
            decimal(one.leave_one_model_out_rmse, 4),
            "\n".join(f"{name} {_shown(parameter)}" for name, parameter in one.parameters.items()),
            style="bold" if one.law == scaling.best else None,
        )
    return table


def _shown(parameter: Parameter) -> str:
    if parameter.value is None:
        return "-  ?"
    low = "-inf" if parameter.low is None else f"{parameter.low:.3g}"
    high = "inf" if parameter.high is None else f"{parameter.high:.3g}"
    return f"{parameter.value:.3g} [{low}, {high}]" + "  ?" * (not parameter.identified)

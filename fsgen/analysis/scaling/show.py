"""The comparison of the laws in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from fsgen.analysis.labels import decimal
from fsgen.analysis.scaling.laws import LAWS
from fsgen.analysis.scaling.results import Scaling, findings
from fsgen.analysis.terminal import plain_table, print_wide

LEGEND = (
    "S, L: parameters of draft and target in billions; R = L / S. held-out: root mean squared error for the pairs of a "
    "model that the fit has not seen. In brackets: 95 % bootstrap intervals. ?: not identified."
)


def show(sets: Sequence[Scaling], notes: Iterable[str], console: Console) -> None:
    """Print the comparison of every set; tables have their full width on a narrow terminal, too."""
    for scaling in sets:
        where = f"{scaling.family} {scaling.method}".strip()
        console.print(f"{where} on {scaling.task}: {scaling.points} pairs", style="bold")
        print_wide(console, _table(scaling))
        for sentence in findings(scaling):
            console.print(sentence)
        console.print()
    for note in notes:
        console.print(note)
    console.print(LEGEND)


def _table(scaling: Scaling) -> Table:
    table = plain_table("law", "R2", "AICc", "held-out", "parameters", left=1)
    table.columns[-1].justify = "left"
    for one in scaling.laws:
        table.add_row(
            f"{one.law}\n  {LAWS[one.law].formula}",
            decimal(one.r2, 3),
            decimal(one.aicc, 1),
            decimal(one.leave_one_model_out_rmse, 4),
            "\n".join(
                f"{name} {parameter}" + "  ?" * (not parameter.identified) for name, parameter in one.parameters.items()
            ),
            style="bold" if one.law == scaling.best else None,
        )
    return table

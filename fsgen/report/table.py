"""The table of all runs: its columns, what they mean, and the cells with what they are sorted by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fsgen.analysis import columns
from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import by_task, decimal, interval, method_label, short_name, task_label, texts_label


@dataclass(frozen=True)
class Entry:
    """A cell: what it shows, and the number or word that it is sorted by; None comes last."""

    shown: str
    key: str | float | None


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, what it means, and its cell of a run, or of another record."""

    title: str
    meaning: str
    entry: Callable[[Any], Entry]
    numeric: bool = True


def entries(rows: Sequence[SummaryRow]) -> list[list[Entry]]:
    """The rows of the table, those of a task together."""
    return [[column.entry(row) for column in COLUMNS] for row in by_task(rows)]


def _word(word: str) -> Entry:
    return Entry(word, word)


def _model(name: str | None, parameters: int | None) -> Entry:
    return Entry(short_name(name), parameters or short_name(name))


def _metric(column: columns.Column) -> Column:
    def entry(row: SummaryRow) -> Entry:
        value = getattr(row, column.metric)
        return Entry(decimal(value, column.digits), value)

    return Column(column.title, column.meaning, entry)


_FREQUENCY, *_METRICS = map(_metric, columns.COLUMNS)
COLUMNS = (
    Column("task", "The benchmark task.", lambda row: _word(task_label(row)), numeric=False),
    Column(
        "draft",
        "System 1, the small model that writes.",
        lambda row: _model(row.draft, row.draft_parameters),
        numeric=False,
    ),
    Column("target", "The large model.", lambda row: _model(row.target, row.target_parameters), numeric=False),
    Column(
        "method",
        "How they wrote together; with its router where that is not always, and k, the most tokens drafted in a round.",
        lambda row: _word(method_label(row)),
        numeric=False,
    ),
    Column(
        "texts",
        "Examples of the task; failed ones are left out of every other column.",
        lambda row: Entry(texts_label(row), row.examples),
    ),
    Column("tokens", "Tokens written, n.", lambda row: Entry(f"{row.tokens:,}", row.tokens)),
    _FREQUENCY,
    Column(
        "95 % interval",
        "Of the frequency, by bootstrap over examples: tokens of one text are not independent.",
        lambda row: Entry(interval(row) or "-", row.ci_low),
    ),
    *_METRICS,
    Column(
        "seconds",
        "Wall clock of the run. Of a replay (see the engine in the run's record) that of the passes.",
        lambda row: Entry(decimal(row.seconds, 1), row.seconds),
    ),
)

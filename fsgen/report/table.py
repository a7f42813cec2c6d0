"""The table of all runs: its columns, what they mean, and the cells with what they are sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import (
    by_task,
    decimal,
    interval,
    method_label,
    short_name,
    task_label,
    texts_label,
)


@dataclass(frozen=True)
class Column:
    """A column of the table: what stands over it, and what it means."""

    title: str
    meaning: str
    numeric: bool = True


COLUMNS = (
    Column("task", "The benchmark task.", numeric=False),
    Column("draft", "System 1, the small model that writes.", numeric=False),
    Column("target", "The large model.", numeric=False),
    Column(
        "method",
        "How they wrote together; with its router where that is not always, and k, the most tokens drafted in a round.",
        numeric=False,
    ),
    Column("texts", "Examples of the task; failed ones are left out of every other column."),
    Column("tokens", "Tokens written, n."),
    Column(
        "frequency",
        "Collaboration frequency: of the positions where the greedy choices of both systems are known, the share where "
        "they differ. With the router always it is what a perfect router would need. When sampling, the mean total "
        "variation of the two distributions, which is the expected rate of rejections.",
    ),
    Column("95 % interval", "Of the frequency, by bootstrap over examples: tokens of one text are not independent."),
    Column("consulted", "Positions at which System 2 was asked, over n."),
    Column("acceptance", "Drafted tokens that stood, over those that System 2 verified."),
    Column("calls / token", "Forward calls of the target, over n."),
    Column("tokens / token", "Tokens run through the target, over n; catching up on trusted tokens is included."),
    Column("draft alone", "Mean score of the draft's own texts: accuracy, or the rating where a judge rates."),
    Column("target alone", "Mean score of the target's own texts."),
    Column("together", "Mean score of the texts that they wrote together."),
    Column("seconds", "Wall clock of the run. Of a replay (see the engine in the run's record) that of the passes."),
)


@dataclass(frozen=True)
class Entry:
    """A cell: what it shows, and the number or word that it is sorted by; None comes last."""

    shown: str
    key: str | float | None


def entries(rows: Sequence[SummaryRow]) -> list[list[Entry]]:
    """The rows of the table, those of a task together."""
    return [_entries(row) for row in by_task(rows)]


def _entries(row: SummaryRow) -> list[Entry]:
    def name(model: str | None, parameters: int | None) -> Entry:
        return Entry(short_name(model), parameters if parameters else short_name(model))

    def number(value: float | None, digits: int) -> Entry:
        return Entry(decimal(value, digits), value)

    return [
        Entry(task_label(row), task_label(row)),
        name(row.draft, row.draft_parameters),
        name(row.target, row.target_parameters),
        Entry(method_label(row), method_label(row)),
        Entry(texts_label(row), row.examples),
        Entry(f"{row.tokens:,}", row.tokens),
        number(row.collaboration_frequency, 3),
        Entry(interval(row) or "-", row.ci_low),
        number(row.consulted_rate, 2),
        number(row.acceptance_rate, 2),
        number(row.target_calls_per_token, 2),
        number(row.target_tokens_per_token, 2),
        number(row.draft_accuracy, 3),
        number(row.target_accuracy, 3),
        number(row.accuracy, 3),
        number(row.seconds, 1),
    ]

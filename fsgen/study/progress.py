"""The progress of a study, and the table that is shown at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import polars as pl
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table

from fsgen.analysis.frequency import SummaryRow, accuracy, total_counts
from fsgen.analysis.labels import decimal, method_label, short_name, task_label
from fsgen.analysis.pairs import measured, oracles
from fsgen.study.remaining import Remaining, Work, spoken


class Reporter:
    """Shows one line a finished run, its remaining time first; on a terminal also a bar.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._id = TaskID(0)
        self._remaining = Remaining({})
        self._texts = self._tokens = self._written = self._finished = self._runs = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            # As wide as the terminal, whatever the label: what is too long of it is cut off.
            label = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            self._bar = Progress(
                TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
                BarColumn(bar_width=12),
                TextColumn("{task.description}", table_column=label),
                TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True)),
                console=self._console,
                transient=True,
                expand=True,
            )
            self._bar.start()
            self._id = self._bar.add_task("checking", total=None, left="", rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, work: Mapping[str, Work], finished: int) -> None:
        """Start: the work by run, and how many other runs were finished before."""
        self._remaining = Remaining(work)
        self._texts = sum(left.texts for left in work.values())
        self._runs = len(work)
        if finished:
            self.note(f"{finished} runs are finished already")
        if self._runs:
            self.note(f"{self._runs} runs, {self._texts:,} texts")
        if self._bar is not None:
            self._bar.update(self._id, total=max(self._texts, 1), left="? left")

    def working(self, label: str) -> None:
        """Show what is run now."""
        if self._bar is not None:
            self._bar.update(self._id, description=escape(label))

    def wrote(self, run: str, texts: int, tokens: int) -> None:
        """Count texts of a run that were stored."""
        self._written += texts
        self._tokens += tokens
        self._remaining.wrote(run, texts)
        if self._bar is not None:
            left = f"{spoken(self._remaining.seconds or 0.0)} left"
            rate = f"{self._tokens / max(self._remaining.elapsed, 1e-9):,.0f} tokens/s"
            self._bar.update(self._id, completed=self._written, left=left, rate=rate)

    def finished(self, label: str, generations: pl.DataFrame, error: str | None) -> None:
        """Show the line of a run that ended."""
        self._finished += 1
        place = f"[{self._finished:>{len(str(self._runs))}}/{self._runs}]"
        seconds = self._remaining.seconds
        if self._bar is None and seconds is not None and self._finished < self._runs:
            place += f" {spoken(seconds)} left,"
        if error is not None:
            self.note(f"{place} {label}: failed, {error}")
            return
        counts = total_counts(generations)
        parts = []
        failed = generations["error"].drop_nulls()
        if len(failed):
            parts.append(f"{len(failed)} texts failed ({failed[0]})")
        if (frequency := counts.collaboration_frequency) is not None:
            parts.append(f"frequency {frequency:.3f}")
        if (score := accuracy(generations)) is not None:
            parts.append(f"accuracy {score:.3f}")
        if counts.draft_calls and counts.target_calls and counts.consulted_rate != 1:
            parts.append(f"consulted {counts.consulted_rate or 0:.2f}")
        parts.append(f"{counts.seconds:.1f} s")
        line = _fitted(f"{place} {label}:", parts, self._console.width, least=len(failed[:1]))
        self.note(line, whole=len(failed) > 0)

    def note(self, line: str, whole: bool = True) -> None:
        """Show a line; one that is not `whole` goes on below where the terminal is too narrow."""
        self._console.print(escape(line), highlight=False, soft_wrap=whole)

    def show(self, content: RenderableType) -> None:
        """Show a table, at the end; it fits the terminal."""
        self._console.print(content)


def _fitted(line: str, parts: Sequence[str], width: int, least: int) -> str:
    """A line with as many of these parts as it has room for, and so many at least."""
    shown: list[str] = []
    for number, part in enumerate(parts):
        tried = f"{line} {', '.join([*shown, part])}"
        if number < least or len(tried) <= width:
            shown.append(part)
    return f"{line} {', '.join(shown)}".removesuffix(": ")


BEST = 2
"""How many drafts, and how many other methods, the table at the end shows of each task."""


def summary_table(rows: Sequence[SummaryRow]) -> Table:
    """The best pairs of each task, as they are shown at the end: within 80 columns; the report has all."""
    table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False, pad_edge=False)
    table.add_column("draft", overflow="fold")
    table.add_column("method", overflow="fold")
    for name in ("frequency, %", "calls", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in dict.fromkeys(map(task_label, rows)):
        chosen = _best([row for row in rows if task_label(row) == task])
        alone = decimal(chosen[0].target_accuracy, 3)
        table.add_row(f"[bold]{escape(task)}[/]", escape(f"by {short_name(chosen[0].target)}"), "", "", alone)
        for row in chosen:
            # A router that skips positions knows those that it chose: that is no frequency of the pair.
            known = row.estimate("collaboration_frequency") if measured([row]) else None
            table.add_row(
                escape(short_name(row.draft)),
                escape(method_label(row)),
                "-" if known is None else known.shown(".1f", 100),
                decimal(row.target_calls_per_token, 2),
                decimal(row.accuracy, 3),
            )
        table.add_section()
    return table


def _best(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """Of a task's largest target the drafts with the lowest frequency, and the methods that call it least often."""
    largest = max(rows, key=lambda row: row.target_parameters or 0).target
    rows = [row for row in rows if row.target == largest]
    pairs = sorted(oracles(rows), key=lambda row: row.collaboration_frequency or 0.0)
    others = [row for row in rows if row not in pairs]
    others.sort(key=lambda row: 1.0 if row.target_calls_per_token is None else row.target_calls_per_token)
    return pairs[:BEST] + others[:BEST]

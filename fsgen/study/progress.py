"""The progress of a study, and the table that is shown at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import polars as pl
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from fsgen.analysis.frequency import SummaryRow, accuracy, total_counts
from fsgen.analysis.labels import by_task, decimal, interval, method_label, short_name, task_label, texts_label


@dataclass(frozen=True)
class Work:
    """What is left of a run.

    Attributes:
        texts: how many are to be written.
        cost: of one of them, in any unit that is the same for all runs.
    """

    texts: int
    cost: float


class Reporter:
    """Shows one line a finished run; on a terminal also a bar with the rate and the remaining time.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._id = TaskID(0)
        self._costs: dict[str, float] = {}
        self._texts = self._tokens = self._written = self._finished = self._runs = 0
        self._work = self._worked = 0.0
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._id = self._bar.add_task("checking", total=None, rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, work: Mapping[str, Work], finished: int) -> None:
        """Start: the work by run, and how many other runs were finished before."""
        self._costs = {run: left.cost for run, left in work.items()}
        self._texts = sum(left.texts for left in work.values())
        self._work = sum(left.texts * left.cost for left in work.values())
        self._runs = len(work)
        self._started = time.perf_counter()
        if finished:
            self.note(f"{finished} runs are finished already")
        if self._runs:
            self.note(f"{self._runs} runs, {self._texts:,} texts")
        if self._bar is not None:
            self._bar.update(self._id, total=max(self._work, 1e-9))

    def working(self, label: str) -> None:
        """Show what is run now."""
        if self._bar is not None:
            self._bar.update(self._id, description=escape(label))

    def wrote(self, run: str, texts: int, tokens: int) -> None:
        """Count texts of a run that were stored."""
        self._written += texts
        self._tokens += tokens
        self._worked += texts * self._costs.get(run, 0.0)
        if self._bar is not None:
            elapsed = time.perf_counter() - self._started
            rate = f"{self._written:,}/{self._texts:,} texts, {self._tokens / max(elapsed, 1e-9):,.0f} tokens/s"
            self._bar.update(self._id, completed=self._worked, rate=rate)

    def finished(self, label: str, generations: pl.DataFrame, error: str | None) -> None:
        """Show the line of a run that ended."""
        self._finished += 1
        place = f"[{self._finished:>{len(str(self._runs))}}/{self._runs}]"
        if error is not None:
            self.note(f"{place} {label}: failed, {error}")
            return
        counts = total_counts(generations)
        parts = []
        if (frequency := counts.collaboration_frequency) is not None:
            parts.append(f"frequency {frequency:.3f}")
        if counts.target_calls and counts.draft_calls:
            parts.append(f"consulted {counts.consulted_rate or 0:.2f}")
        if (score := accuracy(generations)) is not None:
            parts.append(f"accuracy {score:.3f}")
        failed = generations["error"].drop_nulls()
        if len(failed):
            parts.append(f"{len(failed)} texts failed ({failed[0]})")
        parts.append(f"{len(generations)} texts, {counts.tokens:,} tokens, {counts.seconds:.1f} s")
        left = "" if self._bar is not None else self._remaining()
        self.note(f"{place} {label}: {', '.join(parts)}{left}")

    def note(self, line: str) -> None:
        """Show a line."""
        self._console.print(escape(line), highlight=False, soft_wrap=True)

    def show(self, content: RenderableType) -> None:
        """Show a table, at the end; on a narrow terminal its lines wrap rather than lose numbers."""
        file, terminal = self._console.file, self._console.is_terminal
        wide = Console(file=file, width=1000, force_terminal=terminal)
        width = Measurement.get(wide, wide.options, content).maximum
        Console(file=file, width=max(self._console.width, width), force_terminal=terminal).print(content)

    def _remaining(self) -> str:
        if not self._worked or self._finished == self._runs:
            return ""
        left = (time.perf_counter() - self._started) * (self._work - self._worked) / self._worked
        return f"; about {left:.0f} s left" if left < 120 else f"; about {left / 60:.0f} min left"


def summary_table(rows: Sequence[SummaryRow]) -> Table:
    """The summary as it is shown at the end."""
    table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False, pad_edge=False)
    for name in ("draft", "target", "method"):
        table.add_column(name, no_wrap=True)
    published = any(row.published for row in rows)
    for name in ("texts", "frequency [95 %]", *["published"] * published, "consulted", "calls/tok", "tokens/tok"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("draft", "target", "together"):
        table.add_column(f"accuracy\n{name}", justify="right")
    previous = None
    for row in by_task(rows):
        if previous != task_label(row):
            if previous is not None:
                table.add_section()
            table.add_row(f"[bold]{escape(task_label(row))}[/]")
        previous = task_label(row)
        table.add_row(
            short_name(row.draft),
            short_name(row.target),
            method_label(row),
            texts_label(row),
            f"{decimal(row.collaboration_frequency, 3)} {interval(row)}",
            *[decimal(row.published.get("collaboration_frequency"), 3)] * published,
            decimal(row.consulted_rate, 2),
            decimal(row.target_calls_per_token, 2),
            decimal(row.target_tokens_per_token, 2),
            decimal(row.draft_accuracy, 3),
            decimal(row.target_accuracy, 3),
            decimal(row.accuracy, 3),
        )
    return table

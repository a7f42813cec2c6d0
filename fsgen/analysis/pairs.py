"""Which runs measure the collaboration frequency of a pair, and which pair stands for a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import by_task, task_label
from fsgen.models.bundled import DEFAULT_DRAFT, DEFAULT_TARGET

Names: TypeAlias = tuple[str | None, str]
"""The draft and the target."""


def names(row: SummaryRow) -> Names:
    """The pair of a run."""
    return row.draft, row.target


def measured(rows: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Runs whose frequency is over all positions: a router that skips some shows those that it chose."""
    return [row for row in rows if row.collaboration_frequency is not None and row.router == "always"]


def oracles(rows: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Of these the greedy ones of the target alone: the measurement that the laws and profiles are of."""
    return [row for row in measured(rows) if row.sampling == "greedy" and row.method.startswith("oracle")]


def of_target(rows: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Of each task and pair one run that measures the target alone, all greedy, or all of one sampling.

    Where there are no greedy oracles, greedy speculative decoding measures the same: it writes the same text.
    """
    alone = [row for row in measured(rows) if row.draft and row.method.partition(":")[0] in ("oracle", "speculative")]
    alone.sort(key=lambda row: not row.method.startswith("oracle"))  # stable
    chosen = [row for row in alone if row.sampling == "greedy"]
    chosen = chosen or [row for row in alone if row.sampling == alone[0].sampling]
    found: dict[tuple[str, Names], SummaryRow] = {}
    for row in chosen:
        found.setdefault((task_label(row), names(row)), row)
    return by_task(found.values())


def default_pair(of: Sequence[SummaryRow], rows: Sequence[SummaryRow]) -> Names:
    """The pair that is shown where there is room for one.

    It is the default pair of the bundled models where that was run; else the pair with the most runs, of equals that of
    the largest target, with its middle draft.

    Args:
        of: its runs are among these; at least one.
        rows: of the whole study.
    """
    pairs = {names(row) for row in of}
    if (DEFAULT_DRAFT, DEFAULT_TARGET) in pairs:
        return DEFAULT_DRAFT, DEFAULT_TARGET
    counted = Counter(map(names, rows))
    largest = max(row.target_parameters or 0 for row in of)
    drafts = sorted(row.draft_parameters or 0 for row in of if (row.target_parameters or 0) == largest)
    middle = drafts[len(drafts) // 2]

    def rank(row: SummaryRow) -> tuple[int, bool, int]:
        size = row.draft_parameters or 0
        return counted[names(row)], (row.target_parameters or 0) == largest, -abs(size - middle)

    return names(max(of, key=rank))

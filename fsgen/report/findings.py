"""The main results, in a few sentences made from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import decimal, short_name, task_label
from fsgen.report.frequency import oracles

_ROUTED = 3


def findings(rows: Sequence[SummaryRow]) -> list[str]:
    """The range of the collaboration frequency, and how often routers consulted and what they cost."""
    said = []
    greedy = oracles(rows)
    if greedy:
        low = min(greedy, key=lambda row: row.collaboration_frequency or 0.0)
        high = max(greedy, key=lambda row: row.collaboration_frequency or 0.0)
        if low is high:
            said.append(f"The large model would have chosen another token at {_percent(low)} of the positions.")
        else:
            said.append(
                f"The large model would have chosen another token than the small one at {_percent(low)} of the "
                f"positions at the least ({_pair(low)} on {task_label(low)}) and at {_percent(high)} at the most "
                f"({_pair(high)} on {task_label(high)})."
            )
    routed = [row for row in rows if row.method.startswith("route") and row.consulted_rate is not None]
    return said + [_routed(row) for row in routed[:_ROUTED]]


def _routed(row: SummaryRow) -> str:
    scores = ""
    if None not in (row.accuracy, row.draft_accuracy, row.target_accuracy):
        scores = (
            f"; the score is {decimal(row.accuracy, 2)}, of the draft alone {decimal(row.draft_accuracy, 2)}, of the "
            f"target alone {decimal(row.target_accuracy, 2)}"
        )
    return (
        f"On {task_label(row)}, {_pair(row)} with the router {row.router} consulted the large model at "
        f"{100 * (row.consulted_rate or 0.0):.0f} % of the positions, with "
        f"{decimal(row.target_tokens_per_token, 2)} tokens run through it for each token written{scores}."
    )


def _percent(row: SummaryRow) -> str:
    return f"{100 * (row.collaboration_frequency or 0.0):.1f} %"


def _pair(row: SummaryRow) -> str:
    return f"{short_name(row.draft)} drafting for {short_name(row.target)}"

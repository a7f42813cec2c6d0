"""The metrics of a run as columns: what tables call them, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A metric in tables.

    Attributes:
        metric: the attribute of `SummaryRow`.
        title: over the column.
        meaning: in a sentence or two.
        digits: behind the point.
    """

    metric: str
    title: str
    meaning: str
    digits: int = 2


COLUMNS = (
    Column(
        "collaboration_frequency",
        "frequency",
        "Collaboration frequency: of the positions where the greedy choices of both systems are known, the share where "
        "they differ. With the router always it is what a perfect router would need. When sampling, the mean total "
        "variation of the two distributions, which is the expected rate of rejections.",
        digits=3,
    ),
    Column("consulted_rate", "consulted", "Positions at which System 2 was consulted, over n."),
    Column("acceptance_rate", "acceptance", "Drafted tokens that were accepted, over those that System 2 verified."),
    Column("mean_accepted_length", "tokens / call", "Tokens written, over the calls of System 2."),
    Column("target_calls_per_token", "calls / token", "Forward calls of the target, over n."),
    Column(
        "target_tokens_per_token",
        "tokens / token",
        "Tokens run through the target, over n; catching up on trusted tokens is included.",
    ),
    Column(
        "draft_accuracy",
        "draft alone",
        "Mean score of the draft's own texts: accuracy, or the rating where a judge rates.",
        digits=3,
    ),
    Column("target_accuracy", "target alone", "Mean score of the target's own texts.", digits=3),
    Column("accuracy", "together", "Mean score of the texts that they wrote together.", digits=3),
)

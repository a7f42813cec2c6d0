"""What makes the numbers of a task suspect: texts that were cut, that repeat themselves or answer nothing, low scores.

A frequency is counted on every token of a text. Where the text was cut at the length limit, or only says the same again
and again, that tells little of the task; and scores that anybody gets who always gives one answer compare nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.labels import listed, short_name, task_label
from fsgen.types import BY_LIKELIHOOD

FLOOR = 0.05
"""A score whose interval does not lie above this, or above what one answer to everything gets, compares nothing."""
SHARE = 0.1
"""Texts are told of where at least so many of a task's are suspect."""
_REPEATS, _LEAST = 4, 24  # how often a text says the same at its end, and how many characters these are at least


def loops(text: str) -> bool:
    """Whether a text ends by saying the same four times or more, in at least 24 characters."""
    return loop_start(text) is not None


def loop_start(text: str) -> int | None:
    """The character at which a text begins to say the same again until its end; None where `loops` finds none."""
    for period in range(1, len(text) // _REPEATS + 1):
        length = max(_REPEATS, -(-_LEAST // period)) * period
        # A text repeats itself over its end of a length if this end, moved by the period, is the same.
        if length <= len(text) and text[-length + period :] == text[-length:-period]:
            start = len(text) - length
            while start > 0 and text[start - 1] == text[start - 1 + period]:
                start -= 1
            return start + period
    return None


def chance(references: Iterable[str | None]) -> float:
    """What one answer to all questions scores: the share of the others whose answer is the most frequent one."""
    known = [reference for reference in references if reference is not None]
    most = max(map(known.count, set(known)), default=0)
    return (most - 1) / (len(known) - 1) if len(known) > 1 else 0.0


@dataclass(frozen=True)
class Suspect:
    """What is suspect of a task.

    Attributes:
        task: its label.
        texts: the different texts that were analysed; those that only fill the trace of a likelihood task are not.
        scored: whether any text has a score, by a likelihood too.
        cut, looping, unanswered: of these, those that ended at the length limit, that end in a loop, and that were
            scored but give no answer; shares.
        level: the score that a model must lie above.
        low: the models whose own score does not, with it.
        models: how many have a score of their own.
    """

    task: str
    texts: int
    scored: bool
    cut: float
    looping: float
    unanswered: float
    level: float
    low: Mapping[str, Estimate]
    models: int

    def __str__(self) -> str:
        parts = ((self.cut, "cut at the limit"), (self.looping, "in a loop"), (self.unanswered, "without an answer"))
        said = [f"{100 * share:.0f} % {what}" for share, what in parts if share >= SHARE]
        if self.low:
            # Under twice the floor, one answer to everything gets no more than luck does.
            level = f"{'chance' if self.level > 2 * FLOOR else 'the floor'} ({self.level:.2f})"
            models = "no model" if len(self.low) == self.models else f"not {listed(list(self.low))}"
            said.append(f"{models} above {level}")
        return ", ".join(said)


def suspects(
    rows: Sequence[SummaryRow],
    texts: Callable[[str], pl.DataFrame],
    references: Callable[[str], pl.DataFrame | None],
) -> list[Suspect]:
    """What is suspect of each task of a study; tasks of which nothing is are there, too.

    Args:
        rows: its runs.
        texts: the generations of a run.
        references: the right answers of a run's task, column `reference`; None where they are not known.
    """
    found = []
    for task in dict.fromkeys(map(task_label, rows)):
        of_task = [row for row in rows if task_label(row) == task]
        known = references(of_task[0].run)
        level = max(FLOOR, chance(known["reference"] if known is not None else ()))
        whole = _different([texts(row.run) for row in of_task])
        # What was scored is how likely the choices are: the text beside them says nothing of the task.
        different = whole.filter(~pl.col("note").fill_null("").str.starts_with(BY_LIKELIHOOD))
        alone = _alone(of_task)
        scored = different.filter(pl.col("score").is_not_null())
        found.append(
            Suspect(
                task=task,
                texts=len(different),
                scored=bool(whole["score"].is_not_null().any()),
                cut=_share(different["stop_reason"] == "length"),
                looping=_share(different["text"].map_elements(loops, return_dtype=pl.Boolean)),
                unanswered=_share(scored["answer"].is_null()),
                level=level,
                low={name: score for name, score in alone.items() if not above(score, level)},
                models=len(alone),
            )
        )
    return found


def comparable(row: SummaryRow, levels: Mapping[str, float]) -> bool:
    """Whether the target's own score is one that can be lost; a score at the floor is compared with nothing.

    Args:
        row: a run.
        levels: what a score must lie above, by task.
    """
    return above(row.estimate(_target(row)), levels.get(task_label(row), FLOOR))


def above(score: Estimate | None, level: float) -> bool:
    """Whether the whole interval of a score lies above a level."""
    return score is not None and (score.value if score.low is None else score.low) > level


def _different(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    columns = ["example", "turn", "text", "stop_reason", "score", "answer", "note", "error"]
    whole = pl.concat([table.select(columns) for table in tables])
    return whole.filter(pl.col("error").is_null()).unique(["example", "turn", "text"], maintain_order=True)


def _share(marks: pl.Series) -> float:
    return float(marks.cast(pl.Float64).to_numpy().mean()) if len(marks) else 0.0


def _alone(rows: Iterable[SummaryRow]) -> dict[str, Estimate]:
    """What each model scores alone, the smallest first."""
    found = {}
    for row in rows:
        sides = ((row.draft, row.draft_parameters, "draft_accuracy"), (row.target, row.target_parameters, _target(row)))
        for name, size, metric in sides:
            score = row.estimate(metric)
            if name is not None and score is not None:
                found[size or 0, short_name(name)] = score
    return {name: found[size, name] for size, name in sorted(found)}


def _target(row: SummaryRow) -> str:
    """Where a run has the score of its target alone: one of no draft is that itself."""
    return "target_accuracy" if row.draft is not None else "accuracy"

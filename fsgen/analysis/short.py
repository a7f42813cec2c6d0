"""A study in short: five answers, made from its numbers; the report and the terminal show the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.intervals import Estimate, of_draws
from fsgen.analysis.labels import listed, method_label, short_name, task_label
from fsgen.analysis.pairs import default_pair, names, of_target
from fsgen.analysis.scaling import LAWS, Scaling, held_out
from fsgen.analysis.scaling.laws import DRAFT_ONLY
from fsgen.analysis.signs import change_in_words, score_lost
from fsgen.analysis.suspects import Suspect, comparable

LEVEL = 0.2
"""The collaboration frequency that arXiv 2406.12295 finds most pairs to stay below."""

_NO_RUN = (
    "no run compared a draft with the target alone at every position (method oracle or speculative, router always)"
)


@dataclass(frozen=True)
class ShortAnswer:
    """One of the answers.

    Attributes:
        question: in a few words.
        answer: a sentence or two.
        numbers: those that it rests on, by name.
    """

    question: str
    answer: str
    numbers: Mapping[str, Estimate] = field(default_factory=dict)


def in_short(
    rows: Sequence[SummaryRow],
    texts: Callable[[str], pl.DataFrame],
    alone: Mapping[str, str | None],
    suspicious: Sequence[Suspect],
    laws: Sequence[Scaling],
) -> tuple[ShortAnswer, ...]:
    """The five answers of a study; of one without a finished run none.

    Args:
        rows: its runs.
        texts: the generations of a run.
        alone: the run of the target alone, for each run that has one.
        suspicious: what is suspect of each task.
        laws: compared on the pairs of the study.
    """
    if not rows:
        return ()
    return (
        _frequency(of_target(rows), rows),
        _under(of_target(rows)),
        _router(rows, texts, alone, {one.task: one.level for one in suspicious}),
        _law([one for one in laws if one.method.startswith("oracle")] or laws),
        _suspect(suspicious),
    )


def _frequency(measured: Sequence[SummaryRow], rows: Sequence[SummaryRow]) -> ShortAnswer:
    question = "Collaboration frequency"
    if not measured:
        return ShortAnswer(question, f"Not measured: {_NO_RUN}.")
    pair = default_pair(measured, rows)
    found = {
        task_label(row): estimate
        for row in measured
        if names(row) == pair and (estimate := row.estimate("collaboration_frequency")) is not None
    }
    shown = [f"{each.shown('.1f', 100, ' %')} on {task}" for task, each in found.items()]
    said = f"Of the tokens that {short_name(pair[0])} drafts, {short_name(pair[1])} would replace {listed(shown)}"
    return ShortAnswer(question, f"{said}{_sampled(measured)}.", found)


def _sampled(measured: Sequence[SummaryRow]) -> str:
    return "" if measured[0].sampling == "greedy" else f", in texts that were sampled ({measured[0].sampling})"


def _under(measured: Sequence[SummaryRow]) -> ShortAnswer:
    question = f"Under {100 * LEVEL:.0f} %"
    if not measured:
        return ShortAnswer(question, f"Not known: {_NO_RUN}.")
    tasks = list(dict.fromkeys(map(task_label, measured)))
    under = [row for row in measured if (row.collaboration_frequency or 0.0) < LEVEL]
    surely = sum((row.ci_high if row.ci_high is not None else 1.0) < LEVEL for row in under)
    counts = [
        f"{sum(task_label(row) == task for row in under)} of {sum(task_label(row) == task for row in measured)} on "
        f"{task}"
        for task in tasks
    ]
    said = f"The frequency is that low for {len(under)} of {len(measured)} pairs"
    said += f" ({listed(counts)})" if len(tasks) > 1 else f" on {tasks[0]}"
    said += f", for {surely} of them with the whole interval" * bool(under)
    return ShortAnswer(question, f"{said}{_sampled(measured)}.")


def _router(
    rows: Sequence[SummaryRow],
    texts: Callable[[str], pl.DataFrame],
    alone: Mapping[str, str | None],
    levels: Mapping[str, float],
) -> ShortAnswer:
    """The fewest calls of the target, where the target's own score is one that can be lost."""
    question = "Router that saves most"
    routed = [row for row in rows if row.method.startswith("route") and row.target_calls_per_token is not None]
    if not routed:
        return ShortAnswer(question, "Not known: no run has a router that trusts the draft (method route).")
    able = [row for row in routed if comparable(row, levels)]
    if not able:
        said = "No score of the target alone lies above floor or chance, so what a router costs cannot be seen."
        return ShortAnswer(question, said)
    row = min(able, key=lambda row: row.target_calls_per_token or 0.0)
    calls = row.estimate("target_calls_per_token")
    assert calls is not None, "it was chosen by this"
    said = (
        f"{_routing(row)} with {short_name(row.draft)} for {short_name(row.target)} on {task_label(row)}: "
        f"{calls.shown('.3f')} calls of the target for each token"
    )
    run = alone.get(row.run)
    lost = score_lost(texts(row.run), texts(run)) if run else None
    if lost is None:
        return ShortAnswer(question, f"{said}. What this costs in score is not known.", {"calls": calls})
    said += f"; compared to the target alone on the same texts, the score {change_in_words(lost)}"
    if row.draft_accuracy is not None:
        said += f" (together {row.accuracy:.2f}, draft alone {row.draft_accuracy:.2f})"
    return ShortAnswer(question, f"{said}.", {"calls": calls, "score_lost": lost})


def _routing(row: SummaryRow) -> str:
    return method_label(row).removeprefix(row.method).strip() or method_label(row)


def _law(sets: Sequence[Scaling]) -> ShortAnswer:
    question = "Held-out models"
    if not sets:
        return ShortAnswer(question, "Not predicted: no method and task has the pairs that a scaling law needs.")
    drawn = {law.law: [held_out(one, law.law) for one in sets] for law in sets[0].laws}
    errors = {law: 100 * np.mean(found, axis=0) for law, found in drawn.items() if all(len(one) for one in found)}
    if len(errors) < 2 or DRAFT_ONLY.name not in errors:
        return ShortAnswer(question, "Not predicted: there are too few models to hold one out.")
    best, second, *_ = sorted(errors, key=lambda law: (round(float(errors[law][0]), 6), len(LAWS[law].parameters)))
    numbers = {f"error of {law}": of_draws(found) for law, found in errors.items()}
    other = second if best == DRAFT_ONLY.name else DRAFT_ONLY.name
    less = numbers["less"] = of_draws(errors[other] - errors[best])
    said = f"{best} predicts their pairs best, with an error of {of_draws(errors[best]).shown('.1f', 1, ' points')}"
    if best == DRAFT_ONLY.name:
        said += f": no law in both sizes predicts better than the draft's size alone (the next, {second}, "
        said += f"{errors[second][0]:.1f})"
    else:
        clear = "" if less.above(0.0) else "not clearly "
        said += f", {clear}{less.shown('.1f', 1, ' points')} less than by the draft's size alone"
    lost = [f"{listed(keys)} on {one.task}" for one in sets if (keys := one[best].not_identified)]
    if lost:
        said = f"Not identified: {'; '.join(lost)}. As a curve alone, {said}"
    return ShortAnswer(question, f"{said}.", numbers)


def _suspect(found: Sequence[Suspect]) -> ShortAnswer:
    said = [f"{one.task}: {one}" for one in found if str(one)]
    if not said:
        looked = ["end by themselves"] * any(one.texts for one in found)
        looked += ["give answers"] * any(one.scored for one in found)
        looked += ["score above the floor"] * any(one.models for one in found)
        said = [f"Nothing: texts {listed(looked)}"] if looked else ["Nothing is known of the texts"]
    answer = f"{'; '.join(said)}."
    if unscored := [one.task for one in found if not one.scored and not one.models]:
        answer += f" No score is known for {listed(unscored)}."
    if others := [one.task for one in found if one.scored and not one.models]:
        answer += f" No model's own score is known for {listed(others)}."
    return ShortAnswer("Suspect", answer)

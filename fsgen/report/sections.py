"""Which figures the report shows, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fsgen.analysis.answers import read_answers
from fsgen.analysis.study import StudyAnalysis
from fsgen.report import (
    calibration,
    experiments,
    frequency,
    known_values,
    methods,
    position,
    projections,
    published,
    routers,
    scaling,
    uncertainty,
)
from fsgen.report.chart import Figure
from fsgen.report.profiles import profiles

_FOLDED = ("Scaling laws",)  # what it says is among the short answers


@dataclass(frozen=True)
class Group:
    """Figures under one heading.

    Attributes:
        lead: terms and their texts before them.
        opened: the first figure is shown; all others are folded.
    """

    id: str
    title: str
    figures: tuple[Figure, ...]
    lead: tuple[tuple[str, str], ...] = ()
    opened: bool = True


def groups(folder: Path, analysis: StudyAnalysis) -> list[Group]:
    """The answers of experiments, then the figures for which the study has runs."""
    rows, traced = analysis.summary, profiles(analysis)
    levels = {one.task: one.level for one in analysis.suspects}
    made: dict[str, Sequence[Figure | None]] = {
        "Collaboration frequency": (
            frequency.by_draft(rows),
            frequency.by_sizes(rows),
            known_values.beside_published(rows),
        ),
        "Scaling laws": (scaling.laws(analysis.laws, rows),),
        "Where in the text": (position.heatmap(traced), position.along(traced)),
        "What the draft's uncertainty predicts": (
            uncertainty.distributions(traced),
            uncertainty.areas(traced),
            projections.projected(traced),
            calibration.reliability(traced),
            routers.curves(traced),
        ),
        "Methods": (
            methods.accuracy_and_cost(rows, levels),
            published.beside_ours(analysis),
        ),
    }
    found = [
        Group(
            f"experiment-{answer.experiment}",
            answer.title,
            experiments.figures(answer),
            experiments.lead(answer),
            False,
        )
        for answer in read_answers(folder)
    ]
    for title, figures in made.items():
        there = tuple(figure for figure in figures if figure is not None)
        if there:
            found.append(
                Group(title.lower().replace(" ", "-").replace("'", ""), title, there, opened=title not in _FOLDED)
            )
    return found

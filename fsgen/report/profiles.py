"""The runs whose traces the report shows: where their mismatches are, what the draft's uncertainty predicts."""

from __future__ import annotations

from dataclasses import dataclass

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import short_name, task_label
from fsgen.analysis.pairs import default_pair, names, oracles
from fsgen.analysis.position import PositionResult
from fsgen.analysis.projections import ProjectionResult
from fsgen.analysis.routers import RoutersResult
from fsgen.analysis.study import StudyAnalysis
from fsgen.analysis.uncertainty import UncertaintyResult
from fsgen.report.chart import size
from fsgen.report.frequency import tasks_of


@dataclass(frozen=True)
class Profile:
    """A run in which every position was compared, and what its trace says.

    Attributes:
        row: the run.
        main: the pair that is shown where a task has only one.
        largest: its target is the task's largest.
    """

    row: SummaryRow
    main: bool
    largest: bool
    position: PositionResult
    uncertainty: UncertaintyResult
    routers: RoutersResult
    projection: ProjectionResult | None = None

    @property
    def task(self) -> str:
        return task_label(self.row)

    @property
    def pair(self) -> str:
        return pair_label(self.row)

    @property
    def draft(self) -> str:
        return short_name(self.row.draft)

    @property
    def names(self) -> dict[str, str]:
        """The columns that say which profile a row is of."""
        return {"task": self.task, "pair": self.pair}

    def remark(self, sentence: str) -> str:
        """A sentence about this profile."""
        return f"{self.task}, {self.pair}: {sentence}"


def profiles(analysis: StudyAnalysis) -> list[Profile]:
    """The profiles of the greedy runs of the target alone in which every position was compared."""
    traced = {run.run: run for run in analysis.runs}
    chosen = [row for row in oracles(analysis.summary) if row.run in traced]
    found = []
    for task in tasks_of(chosen):
        of_task = [row for row in chosen if task_label(row) == task]
        largest = max(row.target_parameters or 0 for row in of_task)
        main = default_pair(of_task, analysis.summary)
        for row in of_task:
            run = traced[row.run]
            if run.position is not None and run.uncertainty is not None and run.routers is not None:
                found.append(
                    Profile(
                        row=row,
                        main=names(row) == main,
                        largest=(row.target_parameters or 0) == largest,
                        position=run.position,
                        uncertainty=run.uncertainty,
                        routers=run.routers,
                        projection=run.projection,
                    )
                )
    return found


def pair_label(row: SummaryRow) -> str:
    """A pair in short: its sizes, or its names where sizes are not known."""
    if row.draft_parameters and row.target_parameters:
        return f"{size(row.draft_parameters)} → {size(row.target_parameters)}"
    return f"{short_name(row.draft)} → {short_name(row.target)}"

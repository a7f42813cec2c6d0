"""The runs of a study in MLflow or in Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any

from fsgen.types import as_dict

if TYPE_CHECKING:
    from fsgen.analysis.frequency import SummaryRow

SETTINGS = (
    *("task", "shots", "chat", "draft", "target", "base", "method", "router", "draft_tokens", "sampling", "engine"),
    *("draft_parameters", "target_parameters"),
)


def log_runs(rows: Iterable[SummaryRow], tracker: Any, project: str = "fsgen") -> int:
    """Logs each run of a study as a run of the tracker: its settings, and what was measured.

        result = run_study("mine.yaml", "runs/mine")
        log_runs(result.rows, mlflow)

    Args:
        rows: `StudyResult.rows`.
        tracker: the module `mlflow`, or `wandb`, or anything with the same functions.
        project: of Weights & Biases; MLflow logs to the experiment that is set.

    Returns:
        how many runs were logged.

    Raises:
        ValueError: another kind of tracker.
    """
    if not (hasattr(tracker, "log_params") or hasattr(tracker, "init")):
        raise ValueError(f"tracker={tracker!r:.60} is neither mlflow nor wandb")
    count = 0
    for row in rows:
        values = as_dict(row)
        settings = {name: values[name] for name in SETTINGS if values[name] is not None}
        measured = {
            name: float(value)
            for name, value in values.items()
            if name not in SETTINGS and isinstance(value, Real) and not isinstance(value, bool)
        }
        if hasattr(tracker, "log_params"):
            with tracker.start_run(run_name=row.run):
                tracker.log_params(settings)
                tracker.log_metrics(measured)
        else:
            run = tracker.init(project=project, name=row.run, config=settings)
            run.log(measured)
            run.finish()
        count += 1
    return count

"""Runs of a study in MLflow (a local store), and in Weights & Biases (by its interface alone)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fsgen.analysis.frequency import SummaryRow
from fsgen.integrations.tracking import log_runs
from fsgen.study import run_study


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[SummaryRow]:
    study = {
        "tasks": [{"name": "pocket_math", "limit": 2, "max_tokens": 8}],
        "pairs": [{"draft": "pocket-0.25m", "target": "pocket-0.6m"}],
        "methods": ["oracle", "route"],
    }
    return run_study(study, tmp_path_factory.mktemp("study")).rows


def test_mlflow_has_each_run(rows: list[SummaryRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a data base needs all of MLflow, this its smallest part
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    mlflow.set_experiment("fsgen")
    assert log_runs(rows, mlflow) == len(rows)
    stored = {run.info.run_name: run.data for run in mlflow.search_runs(output_format="list")}
    for row in rows:
        found = stored[row.run]
        assert found.params["method"] == row.method
        assert found.params["target"] == row.target
        if row.collaboration_frequency is not None:
            assert found.metrics["collaboration_frequency"] == row.collaboration_frequency


def test_weights_and_biases_is_called_as_it_says(rows: list[SummaryRow]) -> None:
    calls: list[Any] = []

    class Run:
        def log(self, measured: dict[str, float]) -> None:
            calls.append(measured)

        def finish(self) -> None:
            calls.append("finished")

    class Wandb:
        def init(self, project: str, name: str, config: dict[str, Any]) -> Run:
            calls.append((project, name, config))
            return Run()

    assert log_runs(rows[:1], Wandb(), "mine") == 1
    (project, name, config), measured, finished = calls
    assert (project, name, config["task"], finished) == ("mine", rows[0].run, "pocket_math", "finished")
    assert measured["tokens"] == rows[0].tokens
    assert None not in measured.values()


def test_another_tracker_is_refused(rows: list[SummaryRow]) -> None:
    with pytest.raises(ValueError, match="neither mlflow nor wandb"):
        log_runs(rows, print)

"""Fixtures of the experiments' tests: tiny models and questions, as those of studies have them, and quiet runs."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from fsgen.analysis.answers import Answer
from fsgen.experiments import ExperimentConfig, run_experiment
from tests.study.conftest import data, ladder

__all__ = ["Ask", "Run", "ask", "data", "ladder", "quiet", "run"]

Ask = Callable[..., ExperimentConfig]
Run = Callable[..., Answer]


@pytest.fixture
def quiet() -> Console:
    """A console that nobody sees."""
    return Console(file=io.StringIO())


@pytest.fixture
def ask(ladder: dict[str, str], data: str) -> Ask:
    """Configurations of one task of short questions and the oracle; with other values of some keys of the study."""

    def ask(
        experiment: str,
        options: dict[str, Any] | None = None,
        drafts: Sequence[str] = ("small",),
        limit: int = 4,
        max_tokens: int = 8,
        **study: Any,
    ) -> ExperimentConfig:
        usual = {
            "tasks": [{"name": "pocket_math", "limit": limit, "max_tokens": max_tokens, "data": data}],
            "pairs": [{"draft": ladder[draft], "target": ladder["large"]} for draft in drafts],
            "methods": ["oracle"],
        }
        content = {"experiment": experiment, "study": usual | study, "options": options or {}}
        return ExperimentConfig.model_validate(content)

    return ask


@pytest.fixture
def run(tmp_path: Path, quiet: Console) -> Run:
    """Runs a configuration, as a file, in the test's folder; the answer and its charts and tables have their words."""

    def run(config: ExperimentConfig, limit: int | None = None) -> Answer:
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
        answer = run_experiment(config.experiment, file, tmp_path, limit=limit, console=quiet)
        assert answer.title
        assert answer.question
        assert answer.overturn
        assert all(chart.title and chart.x and chart.y for chart in answer.charts)
        assert all(table.title and table.note for table in answer.tables)
        return answer

    return run

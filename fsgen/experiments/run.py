"""Runs an experiment in a folder, and writes its answer there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fsgen.analysis.answers import FOLDER, Answer
from fsgen.analysis.frequency import summarize, write_summary
from fsgen.experiments.base import experiment
from fsgen.experiments.config import ExperimentConfig, configured
from fsgen.experiments.lab import Lab
from fsgen.files import write_json
from fsgen.study.cluster import Cluster
from fsgen.study.plan import make_plan
from fsgen.study.progress import Reporter
from fsgen.study.run import connected
from fsgen.study.store import SCHEMA, Store


def _limited(config: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """A configuration whose tasks have the limit that they were run with."""
    study = config.get("study")
    if limit is not None and study:
        for grid in (study, *(study.get("grids") or ())):
            for task in grid.get("tasks") or ():
                task["limit"] = min(task.get("limit") or limit, limit)
    return config


def run_experiment(
    name: str,
    config: str | Path | ExperimentConfig | None,
    out: str | Path,
    *,
    limit: int | None = None,
    fresh: bool = False,
    console: Console | None = None,
    cluster: Cluster | None = None,
) -> Answer:
    """Run an experiment, or go on with it where it was interrupted.

    Args:
        name: of the experiment.
        config: a YAML file, a configuration, or None for the shipped one.
        out: the folder of its tables. Experiments may share one, and then share the runs that they have in common.
        limit: at most so many examples of each task.
        fresh: remove what studies and experiments wrote there before.
        console: where progress is shown; standard output if None.
        cluster: where the units of its studies are run; what it measures besides, and studies with `repeats`, are
            always run in this process, and all of it is if None.

    Returns:
        the answer, which is also in `answers/<name>.json` of the folder.

    Raises:
        ValueError: it cannot run as it is, or another process is writing the folder, or there is no such cluster.
        RuntimeError: runs of it failed.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} is impossible: at least 1")
    chosen = config if isinstance(config, ExperimentConfig) else configured(name, config)
    known = experiment(name)
    options = known.checked(chosen)
    store = Store(Path(out))
    study = chosen.study
    if study is not None and "name" not in study.model_fields_set:
        study = study.model_copy(update={"name": name})
    plan = make_plan(study, limit) if study is not None and (fresh or cluster is not None) else None
    on_cluster = plan is not None and not plan.config.repeats
    if cluster is not None and plan is not None and on_cluster:
        cluster.check(plan)  # Ray takes long to start
    with connected(cluster) as connection, store.locked():
        if connection is not None and plan is not None and on_cluster:
            connection.check(plan)
        if fresh:  # nothing is removed for an experiment that cannot run
            store.clear()
        if not (store.folder / "study.json").is_file():
            store.write_study({"name": name, "schema": SCHEMA, "config": {}, "rows": []})
        with Reporter(console or Console()) as reporter:
            answer = known.answer(Lab(store, name, study, reporter, limit, connection), options)
        answer = replace(
            answer,
            experiment=name,
            title=chosen.title,
            question=chosen.question,
            config=_limited(chosen.model_dump(mode="json", exclude_unset=True), limit),
        )
        write_json(store.folder / FOLDER / f"{name}.json", answer.as_dict())
        write_summary(store.folder, summarize(store.folder))
    return answer

"""Runs a study: every unit of its plan that is not stored yet, so that a crash costs one unit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from fsgen.analysis.frequency import SummaryRow, summarize, write_summary
from fsgen.backends.identity import vocabulary_digest
from fsgen.backends.vocabulary import vocabulary
from fsgen.generation import as_pandas, finite
from fsgen.study.cluster import Cluster, Connection
from fsgen.study.config import StudyConfig, load_config
from fsgen.study.plan import Plan, make_plan
from fsgen.study.progress import Reporter, summary_table
from fsgen.study.records import vocabulary_rows
from fsgen.study.runner import Runner
from fsgen.study.store import SCHEMA, Store
from fsgen.types import as_dict


@dataclass(frozen=True)
class StudyResult:
    """What became of a study.

    Attributes:
        folder: where its tables are.
        rows: the summary, as in `summary.json`.
        ran, skipped: runs that were made now, and that were finished before.
        failed: what stopped a run, by its key. Started again, the study tries these once more.
        failed_texts: texts that are recorded as failed.
        seconds: wall clock of this call.
    """

    folder: Path
    rows: list[SummaryRow]
    ran: int
    skipped: int
    failed: dict[str, str] = field(default_factory=dict)
    failed_texts: int = 0
    seconds: float = 0.0

    def to_frame(self) -> pl.DataFrame:
        """The summary as a Polars data frame, one row a cell."""
        return pl.DataFrame([as_dict(row) for row in self.rows], infer_schema_length=None)

    def to_pandas(self) -> Any:
        """The same as a pandas data frame. Raises ImportError where pandas is not installed."""
        return as_pandas(self.to_frame())

    def to_json(self) -> str:
        """The same as a JSON list of objects."""
        return json.dumps([finite(as_dict(row)) for row in self.rows], allow_nan=False)


def run_study(
    config: str | Path | Mapping[str, Any] | StudyConfig | None,
    out: str | Path,
    *,
    limit: int | None = None,
    fresh: bool = False,
    console: Console | None = None,
    cluster: Cluster | None = None,
) -> StudyResult:
    """Run a study, or go on with it where it was interrupted.

    Args:
        config: a YAML file, the mapping that such a file holds, a configuration, or None for the bundled study.
        out: the folder of its tables.
        limit: at most so many examples of each task.
        fresh: remove what studies wrote there before.
        console: where progress is shown; standard output if None.
        cluster: where units are run; in this process if None.

    Raises:
        ValueError: the study cannot run as it is, with every fault that was found, before anything has run; or another
            study is writing the folder, or its tables are of another version of fsgen; or there is no such cluster, or
            it starts no worker.
    """
    started = time.perf_counter()
    plan = make_plan(load_config(config), limit)
    store = Store(Path(out))
    if cluster is not None:
        cluster.check(plan)  # Ray takes long to start
    with connected(cluster) as connection, store.locked():
        if connection is not None:
            connection.check(plan)
        if fresh:
            store.clear()
        rows = write_inputs(plan, store)
        settings = plan.config.model_dump(mode="json", exclude_unset=True)
        store.write_study({"name": plan.config.name, "schema": SCHEMA, "config": settings, "rows": rows})
        with Reporter(console or Console()) as reporter:
            runner = connection.runner(plan, store, reporter) if connection else Runner(plan, store, reporter)
            runner.run()
        summary = summarize(store.folder)
        write_summary(store.folder, summary)
    reporter.show(summary_table(summary))
    if len(summary) > 1:
        reporter.note("calls: of the target, for each token; beside a task its largest target's score")
        reporter.note(f"these are the best of {len(summary)} runs; the report has all")
    if runner.failed:
        reporter.note(f"{len(runner.failed)} runs failed; they are tried again when the study is started again")
    return StudyResult(
        folder=store.folder,
        rows=summary,
        ran=runner.ran,
        skipped=runner.skipped,
        failed=runner.failed,
        failed_texts=sum(row.failed for row in summary),
        seconds=time.perf_counter() - started,
    )


@contextmanager
def connected(cluster: Cluster | None) -> Iterator[Connection | None]:
    """Within it, a cluster is at hand, where one is named. Raises ValueError as `Cluster.connected`."""
    if cluster is None:
        yield None
    else:
        with cluster.connected() as connection:
            yield connection


def write_inputs(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Write what the models read and what their tokens mean; returns the plan's rows as `study.json` lists them.

    Raises:
        ValueError: the folder has tables of another version.
    """
    store.check_schema()
    tasks = {row.cell.task.digest: row.cell.task for row in plan.rows}
    for digest, task in tasks.items():
        rows = [{"example": each.id, "prompt": each.prompt, "reference": each.reference} for each in task.examples]
        store.write_examples(digest[:16], rows)
    keys = {}
    for name, model in plan.models.items():
        known = vocabulary(model.tokenizer)
        keys[name] = vocabulary_digest(known)
        store.write_vocabulary(keys[name], vocabulary_rows(known))
    return [
        {
            "run": row.cell.key,
            "draft_alone": row.draft_alone.key if row.draft_alone else None,
            "target_alone": row.target_alone.key if row.target_alone else None,
            "vocabulary": keys[row.cell.members["target"]],
        }
        for row in plan.rows
    ]

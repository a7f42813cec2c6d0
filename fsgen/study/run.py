"""Runs a study: every unit of its plan that is not stored yet, so that a crash costs one unit."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console

from fsgen.analysis.frequency import SummaryRow, summarize, write_summary
from fsgen.backends import Model
from fsgen.backends.identity import vocabulary_digest
from fsgen.backends.vocabulary import vocabulary
from fsgen.files import WriteError
from fsgen.generation import as_pandas, finite
from fsgen.study.cells import Cell
from fsgen.study.config import StudyConfig, load_config
from fsgen.study.models import LoadedModels, bit_exact
from fsgen.study.plan import Plan, make_plan
from fsgen.study.progress import Reporter, Work, summary_table
from fsgen.study.records import (
    StoredText,
    Text,
    generation_table,
    member_record,
    running_record,
    stored_texts,
    trace_table,
    vocabulary_rows,
)
from fsgen.study.store import SCHEMA, Store
from fsgen.study.times import repeat
from fsgen.study.units import Step, Unit, make_steps, make_units, text_cost
from fsgen.study.worker import Scorer, error_text, run_unit
from fsgen.types import as_dict

if TYPE_CHECKING:
    from torch import Tensor

KEPT_LOGITS = 2**29
"""Bytes of the targets' logits that are kept for drafts that replay their texts; beyond, a target reads them again."""


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
) -> StudyResult:
    """Run a study, or go on with it where it was interrupted.

    Args:
        config: a YAML file, the mapping that such a file holds, a configuration, or None for the bundled study.
        out: the folder of its tables.
        limit: at most so many examples of each task.
        fresh: remove what studies wrote there before.
        console: where progress is shown; standard output if None.

    Raises:
        ValueError: the study cannot run as it is, with every fault that was found, before anything has run; or another
            study is writing the folder, or its tables are of another version of fsgen.
    """
    started = time.perf_counter()
    plan = make_plan(load_config(config), limit)
    store = Store(Path(out))
    with store.locked():
        if fresh:
            store.clear()
        rows = write_inputs(plan, store)
        settings = plan.config.model_dump(mode="json", exclude_unset=True)
        store.write_study({"name": plan.config.name, "schema": SCHEMA, "config": settings, "rows": rows})
        with Reporter(console or Console()) as reporter:
            runner = Runner(plan, store, reporter)
            runner.run()
        summary = summarize(store.folder)
        write_summary(store.folder, summary)
    reporter.show(summary_table(summary))
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


class Runner:
    """Runs what of a plan is not stored yet.

    Args:
        plan: of the study.
        store: locked by the caller.
        reporter: shows the progress.
        models: that are loaded already, by name; those that are loaded here are added.
    """

    def __init__(self, plan: Plan, store: Store, reporter: Reporter, models: dict[str, Model] | None = None) -> None:
        self.plan, self.store, self.reporter = plan, store, reporter
        self.ran = self.skipped = 0
        self.failed: dict[str, str] = {}
        self._models = LoadedModels(plan.config.dtype, plan.config.device, models)
        self._done: dict[str, int] = {}
        self._logits = KeptLogits([])
        self._scorer = Scorer()

    def run(self) -> None:
        """Every run once; what fails is in `failed`, and the others go on."""
        self._done = {cell.key: self.store.done(cell.key) for cell in self.plan.cells}
        # By the parts as well as by the record: a folder from which files were taken is completed again.
        left = {cell.key: cell for cell in self.plan.cells if self._examples_left(cell) or not self._finished(cell)}
        steps = [step for each in make_steps(self.plan) if (step := each.only(left)).cells]
        self.skipped = len(self.plan.cells) - len(left)
        self._logits = KeptLogits(step.source.key for step in steps if step.source)
        work = {
            cell.key: Work(self._examples_left(cell), text_cost(self.plan, step, cell))
            for step in steps
            for cell in step.cells
        }
        self.reporter.begin(work, finished=self.skipped)
        for step in steps:
            self._run_step(step)
        repeat(self.plan, self.failed, self.store, self._models, self.reporter)

    def _examples_left(self, cell: Cell) -> int:
        return len(cell.task.examples) - self._done[cell.key]

    def _finished(self, cell: Cell) -> bool:
        record = self.store.record(cell.key)
        return record is not None and record["status"] == "finished"

    def _run_step(self, step: Step) -> None:
        source = step.source.key if step.source else None
        records = []
        for cell in step.cells:
            started = (self.store.record(cell.key) or {}).get("started", _now())
            about = self._member_records(cell), started, self.store.checksums(cell.key)
            records.append(running_record(cell, self.plan.config, source, *about))
            self.store.write_record(cell.key, asdict(records[-1]))
        self.reporter.working(step.cells[0].label)
        error = None
        try:
            self._run_units(step, source)
        except WriteError:
            raise  # no other run could be written either
        except (ValueError, RuntimeError, OSError, MemoryError) as caught:
            error = error_text(caught)
        if source is not None:  # also where it failed, or its logits would stay
            self._logits.release(source)
        for cell, record in zip(step.cells, records, strict=True):
            ended = replace(
                record,
                status="finished" if error is None else "failed",
                error=error,
                members=self._member_records(cell),
                finished=max(record.started, _now()),  # clocks are set back
                files=self.store.checksums(cell.key),
            )
            self.store.write_record(cell.key, asdict(ended))
            if error is not None:
                self.failed[cell.key] = error
            else:
                self.ran += 1
            self.reporter.finished(cell.label, self.store.generations(cell.key), error)

    def _run_units(self, step: Step, source: str | None) -> None:
        sources = None
        if source is not None:
            if source in self.failed:
                raise RuntimeError(f"the target alone failed: {self.failed[source]}")
            stored = stored_texts(self.store.generations(source), self.store.traces(source))
            sources = self._logits.added(source, stored)
        for unit in make_units(self.plan, step, self._done):
            members = self._models.members([cell.members for cell in unit.cells])
            keep = self._logits.wanted(unit.cells[0].key, members[0].target)
            texts = run_unit(unit, members, self._scorer, sources, keep_logits=keep)
            for cell, written in zip(unit.cells, texts, strict=True):
                self._store_part(unit, cell, written)
                self._logits.keep(cell.key, written)

    def _store_part(self, unit: Unit, cell: Cell, texts: Sequence[Text]) -> None:
        self.store.write_part(cell.key, unit.start, unit.stop, trace_table(texts), generation_table(texts))
        tokens = sum(text.generation.stats.tokens for text in texts if text.generation)
        self.reporter.wrote(cell.key, unit.stop - unit.start, tokens)

    def _member_records(self, cell: Cell) -> dict[str, dict[str, Any]]:
        records = {}
        for role, name in cell.members.items():
            model, loaded = self.plan.models[name], self._models.loaded.get(name)
            info = model.info if loaded is None or model.info.parameters else replace(loaded.info, name=model.info.name)
            records[role] = member_record(info, model.digest)
        return records


class KeptLogits:
    """The logits of texts that drafts are still to replay, so that the target need not read these texts again.

    Args:
        readers: the run whose texts it replays, for each step that is still to come.
    """

    def __init__(self, readers: Iterable[str]) -> None:
        self._readers = Counter(readers)
        self._kept: dict[str, dict[tuple[str, int], Tensor]] = {}

    def wanted(self, run: str, target: Model | None) -> bool:
        """Whether those of a run are to be kept.

        Only where reading again gives the same bits: a study that was interrupted ends with the same tables.
        """
        size = sum(logits.nbytes for kept in self._kept.values() for logits in kept.values())
        return self._readers[run] > 0 and bit_exact(target) and size < KEPT_LOGITS

    def keep(self, run: str, texts: Iterable[Text]) -> None:
        """Keep those that these texts have."""
        for text in texts:
            if text.generation is not None and text.generation.logits is not None:
                self._kept.setdefault(run, {})[text.example, text.turn] = text.generation.logits

    def added(self, run: str, texts: Mapping[tuple[str, int], StoredText]) -> dict[tuple[str, int], StoredText]:
        """The stored texts of a run, with the logits that were kept."""
        kept = self._kept.get(run, {})
        return {
            place: replace(text, generation=replace(text.generation, logits=kept[place]))
            if text.generation is not None and place in kept
            else text
            for place, text in texts.items()
        }

    def release(self, run: str) -> None:
        """One step has replayed the texts of a run; after the last one its logits go."""
        self._readers[run] -= 1
        if self._readers[run] == 0:
            self._kept.pop(run, None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

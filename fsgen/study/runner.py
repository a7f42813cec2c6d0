"""Runs what of a plan is not stored yet, a unit at a time, so that a crash costs one unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from fsgen.backends import Model
from fsgen.files import WriteError
from fsgen.study.cells import Cell
from fsgen.study.machine import hardware
from fsgen.study.models import LoadedModels, bit_exact
from fsgen.study.plan import Plan
from fsgen.study.progress import Reporter
from fsgen.study.records import (
    RunRecord,
    StoredText,
    Tables,
    Text,
    generation_table,
    member_record,
    running_record,
    stored_texts,
    trace_table,
)
from fsgen.study.remaining import Work
from fsgen.study.store import Store
from fsgen.study.times import repeat
from fsgen.study.units import Step, Unit, make_steps, make_units, text_cost
from fsgen.study.worker import Scorer, error_text, run_unit
from fsgen.types import ModelInfo

if TYPE_CHECKING:
    from torch import Tensor

KEPT_LOGITS = 2**29
"""Bytes of the targets' logits that are kept for drafts that replay their texts; beyond, a target reads them again."""


class Runner:
    """Runs what of a plan is not stored yet, in this process.

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
        self._done: dict[str, set[int]] = {}
        self._logits = KeptLogits([])
        self._scorer = Scorer()

    def run(self) -> None:
        """Every run once; what fails is in `failed`, and the others go on."""
        self._done = {cell.key: self.store.done(cell.key) for cell in self.plan.cells}
        # By the parts as well as by the record: a folder from which files were taken is completed again.
        left = {cell.key: cell for cell in self.plan.cells if self._examples_left(cell) or not self._finished(cell)}
        steps = [step for each in make_steps(self.plan) if (step := each.only(left)).cells]
        self.skipped = len(self.plan.cells) - len(left)
        work = {
            cell.key: Work(self._examples_left(cell), text_cost(self.plan, step, cell), _kind(step, cell))
            for step in steps
            for cell in step.cells
        }
        self.reporter.begin(work, finished=self.skipped)
        self._run_steps(steps)

    def _run_steps(self, steps: Sequence[Step]) -> None:
        self._logits = KeptLogits(step.source.key for step in steps if step.source)
        for step in steps:
            records = self._begin(step)
            error = None
            try:
                self._run_units(step)
            except WriteError:
                raise  # no other run could be written either
            except (ValueError, RuntimeError, OSError, MemoryError) as caught:
                error = error_text(caught)
            if step.source is not None:  # also where it failed, or its logits would stay
                self._logits.release(step.source.key)
            self._end(step, records, error, hardware())
        repeat(self.plan, self.failed, self.store, self._models, self.reporter)

    def _run_units(self, step: Step) -> None:
        if (reason := self._source_failed(step)) is not None:
            raise RuntimeError(reason)
        for unit in make_units(self.plan, step, self._done):
            members = self._models.members([cell.members for cell in unit.cells])
            keep = self._logits.wanted(unit.cells[0].key, members[0].target)
            sources = None
            if unit.source is not None:
                stored = stored_texts(*self.store.texts(unit.source, unit.start, unit.stop))
                sources = self._logits.added(unit.source, stored)
            texts = run_unit(unit, members, self._scorer, sources, keep_logits=keep)
            self._store_unit(unit, [(trace_table(written), generation_table(written)) for written in texts])
            for cell, written in zip(unit.cells, texts, strict=True):
                self._logits.keep(cell.key, written)

    # ---- what every way of running them shares

    def _begin(self, step: Step) -> list[RunRecord]:
        """Record that the runs of a step are running."""
        records = []
        for cell in step.cells:
            started = (self.store.record(cell.key) or {}).get("started", _now())
            about = self._member_records(cell), started, self.store.checksums(cell.key)
            records.append(running_record(cell, self.plan.config, step.source.key if step.source else None, *about))
            self.store.write_record(cell.key, asdict(records[-1]))
        self.reporter.working(step.cells[0].label)
        return records

    def _source_failed(self, step: Step) -> str | None:
        """Why a step cannot run, where the run whose texts it replays failed."""
        if step.source is None or step.source.key not in self.failed:
            return None
        return f"the target alone failed: {self.failed[step.source.key]}"

    def _store_unit(self, unit: Unit, tables: Sequence[Tables]) -> None:
        """Store the tables of a unit, those of each of its cells."""
        for cell, (traces, generations) in zip(unit.cells, tables, strict=True):
            self.store.write_part(cell.key, unit.start, unit.stop, traces, generations)
            self._done[cell.key].update(range(unit.start, unit.stop))
            self.reporter.wrote(cell.key, unit.stop - unit.start, pc.sum(generations["tokens"]).as_py() or 0)

    def _end(self, step: Step, records: Sequence[RunRecord], error: str | None, machine: dict[str, Any]) -> None:
        """Record what became of the runs of a step, and on what machine."""
        for cell, record in zip(step.cells, records, strict=True):
            ended = replace(
                record,
                status="finished" if error is None else "failed",
                error=error,
                members=self._member_records(cell),
                hardware=machine,
                finished=max(record.started, _now()),  # clocks are set back
                files=self.store.checksums(cell.key),
            )
            self.store.write_record(cell.key, asdict(ended))
            if error is not None:
                self.failed[cell.key] = error
            else:
                self.ran += 1
            self.reporter.finished(cell.label, self.store.generations(cell.key), error)

    def _examples_left(self, cell: Cell) -> int:
        return len(cell.task.examples) - len(self._done[cell.key])

    def _finished(self, cell: Cell) -> bool:
        record = self.store.record(cell.key)
        return record is not None and record["status"] == "finished"

    def _infos(self) -> dict[str, ModelInfo]:
        """What is known of the models that were loaded, by name."""
        return {name: model.info for name, model in self._models.loaded.items()}

    def _member_records(self, cell: Cell) -> dict[str, dict[str, Any]]:
        records, infos = {}, self._infos()
        for role, name in cell.members.items():
            model = self.plan.models[name]
            known = model.info.parameters or name not in infos
            info = model.info if known else replace(infos[name], name=model.info.name)
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


def _kind(step: Step, cell: Cell) -> str:
    """Runs of one kind take as long for as much cost: replays, and what one method decodes."""
    return "replay" if step.source else cell.method.name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

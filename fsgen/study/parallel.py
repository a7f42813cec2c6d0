"""Runs a study's units on several workers at once. Workers come and go; this process alone writes the folder."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from fsgen.study.machine import hardware
from fsgen.study.models import LoadedModels
from fsgen.study.plan import Plan
from fsgen.study.progress import Reporter
from fsgen.study.records import RunRecord, Tables, generation_table, stored_texts, trace_table
from fsgen.study.runner import Runner
from fsgen.study.store import Store
from fsgen.study.units import Step, Unit, make_units
from fsgen.study.worker import Scorer, error_text, run_unit
from fsgen.types import ModelInfo

RAISES = 3
"""Workers on which a unit may raise an error before its runs count as failed."""
LOSSES = 10
"""Workers that may die while they write a unit, before its runs count as failed."""
STARTS = 5
"""Workers in a row that may die before they are up, before the study ends."""

Stored = tuple[pl.DataFrame, pl.DataFrame]
"""Generations and traces of the texts that a unit replays."""


# ---- what a worker does


@dataclass(frozen=True)
class Ready:
    """A worker is up."""


@dataclass(frozen=True)
class Written:
    """What a worker made of a unit.

    Attributes:
        tables: of each of its cells.
        infos: of the models that the worker holds, by name.
        machine: on which it was made, as `fsgen.study.machine.hardware` has it.
    """

    tables: list[Tables]
    infos: dict[str, ModelInfo]
    machine: dict[str, Any]


@dataclass(frozen=True)
class Raised:
    """A unit has raised an error."""

    error: BaseException


@dataclass(frozen=True)
class Lost:
    """A worker is gone: its process, or its machine."""

    reason: str


Outcome = Ready | Written | Raised | Lost


class Writer:
    """Writes units, one after the other; it holds the models that it has loaded."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], LoadedModels] = {}
        self._scorer = Scorer()

    def write(self, unit: Unit, stored: Stored | None) -> Written:
        """Write a unit; `stored` is what is stored of the texts that it replays. Raises whatever goes wrong."""
        models = self._models.setdefault((unit.dtype, unit.device), LoadedModels(unit.dtype, unit.device))
        members = models.members([cell.members for cell in unit.cells])
        sources = None if stored is None else stored_texts(*stored)
        texts = run_unit(unit, members, self._scorer, sources)
        tables = [(trace_table(written), generation_table(written)) for written in texts]
        return Written(tables, {name: model.info for name, model in models.loaded.items()}, hardware())


# ---- who writes what, and when


class Pool(Protocol):
    """Where workers are; they are named by what `start` returns.

    Attributes:
        size: the most workers at a time.
    """

    size: int

    def start(self, gpus: int) -> Any:
        """Ask for a worker that holds so many GPUs; its first outcome is `Ready`, or `Lost`."""
        ...

    def submit(self, worker: Any, unit: Unit, stored: Stored | None) -> None:
        """Have a worker that is idle write a unit."""
        ...

    def stop(self, worker: Any) -> None:
        """End a worker, whatever it does, and give back what it holds."""
        ...

    def wait(self) -> list[tuple[Any, Outcome]]:
        """What has happened since the last call; waits until something has."""
        ...


@dataclass(eq=False)
class Job:
    """A unit that is not stored yet, and how often it has failed."""

    unit: Unit
    raised: int = 0
    lost: int = 0


@dataclass(eq=False)
class Progress:
    """How far a step is.

    Attributes:
        gpus: that a worker needs for it.
        waiting: the jobs that nobody writes.
        running: how many are written at this moment.
        records: of its runs, since the first job began.
        error: what failed.
        machines: on which its units were made, each once.
    """

    step: Step
    gpus: int
    waiting: deque[Job]
    running: int = 0
    records: list[RunRecord] = field(default_factory=list)
    error: str | None = None
    machines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """The models that it needs."""
        return {name for cell in self.step.cells for name in cell.members.values()}


@dataclass(eq=False)
class Employed:
    """A worker, and what it does.

    Attributes:
        gpus: that it holds.
        up: it has said so.
        job: what it writes, and of which step.
        names: the models that it needed last, which it still holds.
    """

    gpus: int
    up: bool = False
    job: tuple[Progress, Job] | None = None
    names: set[str] = field(default_factory=set)


class ParallelRunner(Runner):
    """Runs what of a plan is not stored yet, on the workers of a pool.

    A unit that raises an error is written once more by another process, since the error may have been the GPU's, which
    then fails in all that its process does; a unit whose worker is gone, too. What comes back is stored at once.

    Args:
        plan, store, reporter: as in `Runner`.
        pool: of workers; they are stopped at the end.
        gpus: how many a worker needs for a step.
    """

    def __init__(
        self, plan: Plan, store: Store, reporter: Reporter, pool: Pool, gpus: Callable[[Step], int] = lambda _: 0
    ) -> None:
        super().__init__(plan, store, reporter)
        self._pool, self._gpus = pool, gpus
        self._open: list[Progress] = []
        self._workers: dict[Any, Employed] = {}
        self._known: dict[str, ModelInfo] = {}
        self._failed_starts = 0

    def _infos(self) -> dict[str, ModelInfo]:
        return self._known

    def _run_steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            jobs = deque(Job(unit) for unit in make_units(self.plan, step, self._done))
            self._open.append(Progress(step, self._gpus(step), jobs))
        try:
            self._end_steps()  # of some, the records alone were missing
            while self._open:
                self._assign()
                for worker, outcome in self._pool.wait():
                    if worker in self._workers:
                        self._take(worker, outcome)
                self._end_steps()
        finally:
            for worker in self._workers:
                self._pool.stop(worker)
            self._workers.clear()

    # ---- giving out work

    def _assign(self) -> None:
        """Give every idle worker something to write, and have as many workers as there is work for."""
        for worker, employed in self._workers.items():
            if employed.up and employed.job is None and (found := self._best(employed)) is not None:
                self._submit(worker, employed, found)
        wanted = Counter({each.gpus: 0 for each in self._open})
        for each in self._ready():
            wanted[each.gpus] += len(each.waiting)
        for worker, employed in [*self._workers.items()]:
            # One that has nothing to write makes room for one of another size.
            if employed.job is None and not wanted[employed.gpus] and wanted.total():
                self._drop(worker)
        coming = Counter(employed.gpus for employed in self._workers.values() if not employed.up)
        for gpus, jobs in wanted.items():
            for _ in range(min(jobs - coming[gpus], self._pool.size - len(self._workers))):
                self._workers[self._pool.start(gpus)] = Employed(gpus)

    def _ready(self) -> Iterator[Progress]:
        """The steps whose next unit can be written: the texts that it replays are stored."""
        for each in self._open:
            if each.waiting:
                unit = each.waiting[0].unit
                if unit.source is None or self._done[unit.source].issuperset(range(unit.start, unit.stop)):
                    yield each

    def _best(self, employed: Employed) -> Progress | None:
        """The step that a worker goes on with: one whose models it holds, as many of them as can be; or the first."""
        fitting = [each for each in self._ready() if each.gpus == employed.gpus]
        return min(fitting, key=lambda each: len(each.names - employed.names), default=None)

    def _submit(self, worker: Any, employed: Employed, progress: Progress) -> None:
        if not progress.records:
            progress.records = self._begin(progress.step)
        job = progress.waiting.popleft()
        unit = job.unit
        stored = None if unit.source is None else self.store.texts(unit.source, unit.start, unit.stop)
        progress.running += 1
        employed.job, employed.names = (progress, job), progress.names
        self._pool.submit(worker, unit, stored)

    def _drop(self, worker: Any) -> None:
        del self._workers[worker]
        self._pool.stop(worker)

    # ---- taking what comes back

    def _take(self, worker: Any, outcome: Outcome) -> None:
        employed = self._workers[worker]
        if isinstance(outcome, Raised | Lost):
            self._drop(worker)  # after an error of its GPU, a process makes no more than errors
        if employed.job is None:
            self._take_start(employed, outcome)
            return
        (progress, job), employed.job = employed.job, None
        progress.running -= 1
        if isinstance(outcome, Written):
            self._known |= outcome.infos
            self._store_unit(job.unit, outcome.tables)
            if outcome.machine not in progress.machines:
                progress.machines.append(outcome.machine)
            return
        if isinstance(outcome, Raised):
            job.raised += 1
            if isinstance(outcome.error, ValueError) or job.raised == RAISES:
                self._fail(progress, error_text(outcome.error))
                return
            self.reporter.note(f"{progress.step.cells[0].label}: tried again, {error_text(outcome.error)}")
        elif isinstance(outcome, Lost):
            job.lost += 1
            if job.lost == LOSSES:
                self._fail(progress, f"{LOSSES} workers were lost while they wrote it: {outcome.reason}")
                return
            self.reporter.note(f"a worker is lost, its unit is written again: {outcome.reason}")
        if progress.error is None:
            progress.waiting.appendleft(job)

    def _take_start(self, employed: Employed, outcome: Outcome) -> None:
        """A worker is up, or did not come so far."""
        if isinstance(outcome, Ready):
            employed.up, self._failed_starts = True, 0
        elif isinstance(outcome, Raised):
            raise outcome.error
        elif isinstance(outcome, Lost) and not employed.up:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise ValueError(f"no worker can be started: {outcome.reason}")

    # ---- steps that end

    def _fail(self, progress: Progress, error: str) -> None:
        progress.error = progress.error or error
        progress.waiting.clear()

    def _end_steps(self) -> None:
        """End the steps of which nothing is left; what replays the texts of one that failed, fails."""
        for each in [*self._open]:
            if (reason := self._source_failed(each.step)) is not None and each.waiting:
                self._fail(each, reason)
            if not each.waiting and not each.running:
                self._open.remove(each)
                records = each.records or self._begin(each.step)
                self._end(each.step, records, each.error, _as_one(each.machines))


def _as_one(machines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The machine of a run's record; where it was made on several kinds of machines, the first one and the others."""
    first, *others = machines or [hardware()]
    return {**first, "others": others} if others else first

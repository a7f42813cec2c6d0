"""Runs a study: every cell once, in parts that survive a crash."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fsgen.analysis.frequency import SummaryRow, summarize, write_summary
from fsgen.api import generate
from fsgen.backends import Members, Model, load
from fsgen.backends.identity import vocabulary_digest
from fsgen.backends.vocabulary import vocabulary
from fsgen.engine.generation import Generation
from fsgen.engine.replay import replay, replayable
from fsgen.study.config import StudyConfig, load_config
from fsgen.study.machine import hardware, versions
from fsgen.study.plan import SCHEMA, Cell, Plan, make_plan
from fsgen.study.progress import Reporter, summary_table
from fsgen.study.records import Stored, Text, generation_table, stored_texts, trace_table, vocabulary_rows
from fsgen.study.store import Store
from fsgen.tasks import Score
from fsgen.types import Example

if TYPE_CHECKING:
    from torch import Tensor

SMALL_MODEL = 100_000_000
"""Parameters up to which models stay loaded, and read a target's text together with other drafts."""

KEPT_LOGITS = 2**29
"""Bytes of the targets' logits that are kept for the drafts that read their texts; beyond, a target reads them anew."""


@dataclass(frozen=True)
class StudyResult:
    """What became of a study.

    Attributes:
        folder: where its tables are.
        rows: the summary, as in `summary.json`.
        ran, kept: runs that were made now, and that were there already.
        failed: what stopped a run, by its key. Started again, the study tries these once more.
        failed_texts: texts that are recorded as failed.
        seconds: wall clock of this call.
    """

    folder: Path
    rows: list[SummaryRow]
    ran: int
    kept: int
    failed: dict[str, str] = field(default_factory=dict)
    failed_texts: int = 0
    seconds: float = 0.0


def run_study(
    config: str | Path | StudyConfig | None,
    out: str | Path,
    *,
    limit: int | None = None,
    fresh: bool = False,
    console: Console | None = None,
) -> StudyResult:
    """Run a study, or go on with it where it was interrupted.

    Args:
        config: a YAML file, a configuration, or None for the bundled study.
        out: the folder of its tables.
        limit: at most so many examples of each task.
        fresh: remove what studies wrote there before.
        console: where progress is shown; standard output if None.

    Raises:
        ValueError: the study cannot run as it is, with every fault that was found, before anything has run; or another
            study is writing the folder.
    """
    started = time.perf_counter()
    plan = make_plan(load_config(config), limit)
    store = Store(Path(out))
    with store.locked():
        if fresh:
            store.clear()
        store.write_study(
            {
                "name": plan.config.name,
                "schema": SCHEMA,
                "config": plan.config.model_dump(mode="json", exclude_unset=True),
                "rows": write_asked(plan, store),
            }
        )
        with Reporter(console or Console()) as reporter:
            runner = Runner(plan, store, reporter)
            runner.run()
        rows = summarize(store.folder)
        write_summary(store.folder, rows)
    reporter.show(summary_table(rows))
    if runner.failed:
        reporter.note(f"{len(runner.failed)} runs failed; they are tried again when the study is started again")
    return StudyResult(
        folder=store.folder,
        rows=rows,
        ran=runner.ran,
        kept=runner.kept,
        failed=runner.failed,
        failed_texts=sum(row.failed for row in rows),
        seconds=time.perf_counter() - started,
    )


def write_asked(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Write the prompts of the tasks and the vocabularies of the models; the plan's rows as `study.json` has them."""
    for task in dict.fromkeys(row.cell.task for row in plan.rows):
        rows = [{"example": each.id, "prompt": each.prompt, "reference": each.reference} for each in task.examples]
        store.write_examples(task.digest[:16], rows)
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


@dataclass(frozen=True)
class Step:
    """Cells that are run together: one by the loop, or several that replay the texts of `source`."""

    cells: tuple[Cell, ...]
    source: Cell | None = None

    @property
    def models(self) -> set[str]:
        return {name for cell in self.cells for name in cell.members.values()}


def make_steps(plan: Plan) -> list[Step]:
    """The order of the runs: each target's in a row, so that a large model is loaded once."""
    alone = {row.cell.key: row.target_alone for row in plan.rows}
    singles: list[Step] = []
    groups: dict[tuple[str, str, bool], list[Cell]] = {}
    for cell in plan.cells:
        source = alone.get(cell.key)
        if not (plan.config.replay and source is not None and cell.params(0).greedy and replayable(cell.method)):
            singles.append(Step((cell,)))
            continue
        small = 0 < plan.models[cell.members["draft"]].info.parameters <= SMALL_MODEL
        groups.setdefault((source.key, "" if small else cell.key, small), []).append(cell)
    sources = {cell.key: cell for cell in plan.cells}
    replays = [Step(tuple(cells), sources[source]) for (source, _, _), cells in groups.items()]
    names = list(plan.models)

    def place(step: Step) -> tuple[int, int]:
        # A target alone comes before what reads its texts: no draft, so the first of its own.
        drafts = [names.index(cell.members["draft"]) for cell in step.cells if "draft" in cell.members]
        target = step.cells[0].members["target"]
        return names.index(target), min(drafts, default=-1)

    return sorted([*singles, *replays], key=place)


class Runner:
    """Runs what of a plan is not there yet.

    Args:
        plan: of the study.
        store: locked by the caller.
        reporter: hears what happens.
        models: that are loaded already, by name; those that are loaded here are added.
    """

    def __init__(self, plan: Plan, store: Store, reporter: Reporter, models: dict[str, Model] | None = None) -> None:
        self.plan, self.store, self.reporter = plan, store, reporter
        self.ran = self.kept = 0
        self.failed: dict[str, str] = {}
        self._models: dict[str, Model] = {} if models is None else models
        self._groups: dict[tuple[tuple[str, str], ...], Members] = {}
        self._scores: dict[tuple[int, str, int, str], Score] = {}
        self._readings: Counter[str] = Counter()  # of a cell's texts by drafts, which are still to come
        self._logits: dict[tuple[str, str, int], Tensor] = {}  # of a cell, an example and a turn
        self._scorers = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "score")

    def run(self) -> None:
        """Every cell once; what fails is in `failed`, and the others go on."""
        steps = make_steps(self.plan)
        done = {cell.key: self._done(cell) for cell in self.plan.cells}
        # By the key as well as by the record: a folder from which files were taken is completed again.
        waiting = [
            Step(cells, step.source)
            for step in steps
            if (cells := tuple(cell for cell in step.cells if done[cell.key] < _size(cell) or not self._finished(cell)))
        ]
        self.kept = len(self.plan.cells) - sum(len(step.cells) for step in waiting)
        self._readings = Counter(step.source.key for step in waiting if step.source is not None)
        todo = [(step, cell) for step in waiting for cell in step.cells]
        works = {cell.key: (_size(cell) - done[cell.key], self._work(step, cell)) for step, cell in todo}
        self.reporter.begin(works, kept=self.kept)
        try:
            for step in waiting:
                self._step(step)
        finally:
            self._scorers.shutdown(cancel_futures=True)

    def _done(self, cell: Cell) -> int:
        return self.store.done(cell.key)

    def _finished(self, cell: Cell) -> bool:
        record = self.store.record(cell.key)
        return record is not None and record["status"] == "finished"

    def _work(self, step: Step, cell: Cell) -> float:
        """What a text of a cell takes, roughly, in a unit of its own: only for the remaining time."""
        parts = [1.0 + self.plan.models[name].info.parameters / 2e6 for name in cell.members.values()]
        return sum(parts) * cell.task.max_tokens * (0.03 if step.source else 1.0)

    def _step(self, step: Step) -> None:
        record = {cell.key: self._record(cell, step) for cell in step.cells}
        for cell in step.cells:
            self.store.write_record(cell.key, record[cell.key])
        self.reporter.working(step.cells[0].label)
        error = None
        try:
            if step.source is not None and step.source.key in self.failed:
                raise RuntimeError(f"the target alone failed: {self.failed[step.source.key]}")
            self._keep_only(step.models)
            groups = {cell.key: self._members(cell) for cell in step.cells}
            if step.source is None:
                self._loop(step.cells[0], groups[step.cells[0].key])
            else:
                self._replay(step.cells, step.source, groups)
        except (ValueError, RuntimeError, OSError, MemoryError) as caught:
            error = _named(caught)
        if step.source is not None:  # also where it failed, or its logits would stay
            self._readings[step.source.key] -= 1
            if not self._readings[step.source.key]:
                self._logits = {key: held for key, held in self._logits.items() if key[0] != step.source.key}
        for cell in step.cells:
            status = "finished" if error is None else "failed"
            ended = {"status": status, "error": error, "members": self._shown(cell), "finished": _now()}
            self.store.write_record(cell.key, record[cell.key] | ended)
            if error is not None:
                self.failed[cell.key] = error
            else:
                self.ran += 1
            self.reporter.finished(cell.label, self.store.generations(cell.key), error)

    def _record(self, cell: Cell, step: Step) -> dict[str, Any]:
        task = cell.task
        before = self.store.record(cell.key) or {}
        return {
            "run": cell.key,
            "status": "running",
            "error": None,
            "engine": "loop" if step.source is None else "replay",
            "source": step.source.key if step.source else None,
            "task": {
                **task.config.model_dump(),
                "limit": len(task.examples),
                "shots": task.shots,
                "max_tokens": task.max_tokens,
            },
            "members": self._shown(cell),
            "method": {"name": cell.method.name, **cell.identity["method"]},
            "router": cell.router,
            "sampling": {"name": str(cell.params(0)), **cell.sampling.model_dump()},
            "seed": cell.seed,
            "candidates": self.plan.config.candidates,
            "batch_size": self.plan.config.batch_size,
            "dtype": self.plan.config.dtype,
            "device": self.plan.config.device,
            "identity": cell.identity,
            "versions": versions(),
            "hardware": hardware(),
            "started": before.get("started", _now()),
            "finished": None,
        }

    def _shown(self, cell: Cell) -> dict[str, Any]:
        """The members as records have them. The sizes of a model of the hub are known once it is loaded."""
        shown = {}
        for role, name in cell.members.items():
            unloaded = self.plan.models[name]
            loaded = self._models.get(name)
            info = unloaded.info if loaded is None or unloaded.info.parameters else loaded.info
            shown[role] = {
                "name": name,
                "family": info.family,
                "parameters": info.parameters,
                "non_embedding_parameters": info.non_embedding_parameters,
                "tuned_from": info.tuned_from,
                "digest": unloaded.digest,
            }
        return shown

    # ---- models

    def _keep_only(self, names: set[str]) -> None:
        """Large models that this step does not need make room for those that it does."""
        large = [
            name for name, model in self._models.items() if name not in names and model.info.parameters > SMALL_MODEL
        ]
        for name in large:
            del self._models[name]
        if large:
            self._groups.clear()

    def _members(self, cell: Cell) -> Members:
        key = tuple(sorted(cell.members.items()))
        if key not in self._groups:
            self._groups[key] = Members.of(**{role: self._model(name) for role, name in cell.members.items()})
        return self._groups[key]

    def _model(self, name: str) -> Model:
        if name not in self._models:
            model = load(target=name, dtype=self.plan.config.dtype, device=self.plan.config.device).target
            assert model is not None
            self._models[name] = model
        return self._models[name]

    # ---- by the loop

    def _loop(self, cell: Cell, members: Members) -> None:
        examples = _ordered(cell, members)
        start = self._done(cell)
        while start < len(examples):
            stop = min(start + self.plan.config.batch_size, len(examples))
            texts = self._write(cell, members, examples[start:stop])
            self._save(cell, start, stop, texts)
            for text in texts:
                if text.generation is not None and text.generation.logits is not None:
                    self._logits[cell.key, text.example, text.turn] = text.generation.logits
            start = stop

    def _write(self, cell: Cell, members: Members, examples: Sequence[Example]) -> list[Text]:
        """All turns of some examples; what a turn shares with the one before is not computed again."""
        with members.keeping():
            return self._turns(cell, members, examples)

    def _turns(self, cell: Cell, members: Members, examples: Sequence[Example]) -> list[Text]:
        asked = [(example.id, example) for example in examples]
        every: list[Text] = []
        turn = 1
        while asked:
            prompts = [cell.task.prompt(example, members.tokenizer) for _, example in asked]

            def attempt(chosen: Sequence[int], turn: int = turn, asked: Any = asked, prompts: Any = prompts) -> Any:
                sampling = [cell.params(cell.text_seed(asked[i][0], turn)) for i in chosen]
                return generate(
                    members,
                    [prompts[i].ids for i in chosen],
                    cell.method,
                    sampling=sampling,
                    batch_size=len(chosen),
                    candidates=self.plan.config.candidates,
                    keep_logits=self._keeps_logits(cell, members),
                )

            written = _each(attempt, len(asked))
            texts = self._scored(cell, turn, asked, prompts, written)
            every += texts
            asked = _follow_ups(cell, asked, [text.generation for text in texts])
            turn += 1
        return _by_example(examples, every)

    def _keeps_logits(self, cell: Cell, members: Members) -> bool:
        """Only where reading again would give the same bits: a study that was interrupted ends with the same tables."""
        held = sum(logits.nbytes for logits in self._logits.values())
        repeats = members.target is not None and members.target.capabilities.bit_exact
        return self._readings[cell.key] > 0 and repeats and held < KEPT_LOGITS

    # ---- by replay

    def _replay(self, cells: Sequence[Cell], source: Cell, groups: dict[str, Members]) -> None:
        stored = stored_texts(self.store.generations(source.key), self.store.traces(source.key))
        examples = _ordered(source, groups[cells[0].key])
        done = {cell.key: self._done(cell) for cell in cells}
        while (start := min(done.values())) < len(examples):
            stop = min(start + self.plan.config.batch_size, len(examples))
            now = [cell for cell in cells if done[cell.key] == start]
            found = self._read(now, source, groups, examples[start:stop], stored)
            for cell in now:
                self._save(cell, start, stop, found[cell.key])
                done[cell.key] = stop

    def _read(
        self,
        cells: Sequence[Cell],
        source: Cell,
        groups: dict[str, Members],
        examples: Sequence[Example],
        stored: dict[tuple[str, int], Stored],
    ) -> dict[str, list[Text]]:
        """All turns of some examples, for each of the cells."""
        lead = cells[0]
        asked = [(example.id, example) for example in examples]
        every: dict[str, list[Text]] = {cell.key: [] for cell in cells}
        turn = 1
        while asked:
            prompts = [lead.task.prompt(example, groups[lead.key].tokenizer) for _, example in asked]
            given = [self._with_logits(source, name, turn, stored[name, turn]) for name, _ in asked]
            good = [i for i, text in enumerate(given) if text.generation is not None]

            def attempt(chosen: Sequence[int], given: Any = given, good: Any = good, prompts: Any = prompts) -> Any:
                places = [good[i] for i in chosen]
                each = replay(
                    [groups[cell.key] for cell in cells],
                    [prompts[i].ids for i in places],
                    [given[i].generation for i in places],
                    lead.method,
                    candidates=self.plan.config.candidates,
                    batch_size=len(places),
                )
                return list(zip(*each, strict=True))

            read = dict(zip(good, _each(attempt, len(good)), strict=True))
            for (name, _), text in zip(asked, given, strict=True):
                if text.generation is not None and text.error is None:
                    self._scores[id(lead.task), name, turn, text.generation.text] = text.score
            for number, cell in enumerate(cells):
                written = [
                    f"the target alone failed: {given[i].error}"
                    if i not in read
                    else result
                    if isinstance(result := read[i], str)
                    else result[number]
                    for i in range(len(asked))
                ]
                texts = self._scored(cell, turn, asked, prompts, written)
                every[cell.key] += texts
            # Every cell has the target's texts, and so the same second turns.
            asked = _follow_ups(lead, asked, [text.generation for text in given])
            turn += 1
        return {key: _by_example(examples, texts) for key, texts in every.items()}

    def _with_logits(self, source: Cell, example: str, turn: int, text: Stored) -> Stored:
        logits = self._logits.get((source.key, example, turn))
        if logits is None or text.generation is None:
            return text
        return replace(text, generation=replace(text.generation, logits=logits))

    # ---- both

    def _scored(
        self,
        cell: Cell,
        turn: int,
        asked: Sequence[tuple[str, Example]],
        prompts: Sequence[Any],
        written: Sequence[Generation | str],
    ) -> list[Text]:
        def one(index: int) -> Text:
            (name, example), prompt, result = asked[index], prompts[index], written[index]
            if isinstance(result, str):
                return Text(name, turn, prompt, None, None, result)
            key = (id(cell.task), name, turn, result.text)
            try:
                if key not in self._scores:
                    self._scores[key] = cell.task.task.score(example, result.text)
            except Exception as error:  # whatever went wrong, there is no score
                return Text(name, turn, prompt, result, None, f"not scored: {_named(error)}")
            return Text(name, turn, prompt, result, self._scores[key])

        return list(self._scorers.map(one, range(len(asked))))

    def _save(self, cell: Cell, start: int, stop: int, texts: Sequence[Text]) -> None:
        self.store.write_part(cell.key, start, stop, trace_table(texts), generation_table(texts))
        tokens = sum(text.generation.stats.tokens for text in texts if text.generation)
        self.reporter.wrote(cell.key, stop - start, tokens)


def _each(attempt: Callable[[Sequence[int]], list[Any]], count: int) -> list[Any]:
    """The result of each of `count` samples together; where that fails, of each alone, a failed one as its error."""
    if not count:
        return []
    try:
        return attempt(range(count))
    except Exception as error:
        if count == 1:
            return [_named(error)]
    results = []
    for index in range(count):
        try:
            results += attempt([index])
        except Exception as error:  # whatever it is, it is recorded, and the other samples go on
            results.append(_named(error))
    return results


def _ordered(cell: Cell, members: Members) -> list[Example]:
    """The examples by the length of their prompts: those of a part are alike, which wastes less of a batch."""
    lengths = {example.id: len(cell.task.prompt(example, members.tokenizer).ids) for example in cell.task.examples}
    return sorted(cell.task.examples, key=lambda example: lengths[example.id])


def _follow_ups(
    cell: Cell, asked: Sequence[tuple[str, Example]], written: Iterable[Generation | None]
) -> list[tuple[str, Example]]:
    """The next turns, by the id of the first one; a text that failed has none."""
    result = []
    for (name, example), generation in zip(asked, written, strict=True):
        more = None if generation is None else cell.task.task.follow_up(example, generation.text)
        if more is not None:
            result.append((name, more))
    return result


def _by_example(examples: Sequence[Example], texts: Iterable[Text]) -> list[Text]:
    place = {example.id: i for i, example in enumerate(examples)}
    return sorted(texts, key=lambda text: (place[text.example], text.turn))


def _size(cell: Cell) -> int:
    return len(cell.task.examples)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

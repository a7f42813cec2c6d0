"""A plan as units of work: plain values, which can be pickled and run in another process or on another machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from fsgen.replay import replayable
from fsgen.study.cells import Cell, LoadedTask
from fsgen.study.plan import Plan

REPLAY_COST = 0.03
"""What a replayed text takes of the time of a decoded one, roughly."""


@dataclass(frozen=True)
class Unit:
    """Some examples of a run, or of several runs that replay the same texts: what is written and stored at once.

    It has names and settings only, and the examples themselves; no models, files or store.

    Attributes:
        cells: the runs, all of one task, which has the examples of this unit alone.
        start, stop: which of the run's examples these are, in the order of `Plan.examples`.
        source: the run whose stored texts are replayed; None where texts are decoded.
        candidates: how many of the most likely tokens of p and q a trace has.
        dtype, device: of the members, as in `fsgen.load`.
    """

    cells: tuple[Cell, ...]
    start: int
    stop: int
    source: str | None
    candidates: int
    dtype: str
    device: str

    @property
    def task(self) -> LoadedTask:
        return self.cells[0].task

    def first(self) -> Unit:
        """Its first example alone."""
        task = replace(self.task, examples=self.task.examples[:1])
        return replace(self, cells=tuple(replace(cell, task=task) for cell in self.cells), stop=self.start + 1)


@dataclass(frozen=True)
class Step:
    """Runs that are written together: one that is decoded, or several that replay the texts of `source`."""

    cells: tuple[Cell, ...]
    source: Cell | None = None

    def only(self, keys: Iterable[str]) -> Step:
        """The step with these of its runs."""
        wanted = set(keys)
        return replace(self, cells=tuple(cell for cell in self.cells if cell.key in wanted))


def make_steps(plan: Plan) -> list[Step]:
    """The order of the runs: those of one target in a row, so that a large model is loaded once."""
    baselines = {row.cell.key: row.target_alone for row in plan.rows}
    decoded: list[Step] = []
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.cells:
        source = baselines.get(cell.key)
        same = replayable(cell.method) and cell.key not in plan.unlike
        if plan.config.replay and source is not None and cell.params(0).greedy and same:
            # Small drafts replay a target's texts together, a large one by itself.
            alone = "" if plan.models[cell.members["draft"]].small else cell.key
            groups.setdefault((source.key, alone), []).append(cell)
        else:
            decoded.append(Step((cell,)))
    sources = {cell.key: cell for cell in plan.cells}
    replays = [Step(tuple(cells), sources[source]) for (source, _), cells in groups.items()]
    names = list(plan.models)

    def place(step: Step) -> tuple[int, int]:
        # A target alone comes before what replays its texts: it has no draft.
        drafts = [names.index(cell.members["draft"]) for cell in step.cells if "draft" in cell.members]
        return names.index(step.cells[0].members["target"]), min(drafts, default=-1)

    return sorted([*decoded, *replays], key=place)


def make_units(plan: Plan, step: Step, done: Mapping[str, AbstractSet[int]]) -> Iterator[Unit]:
    """What is left of a step.

    Args:
        done: for each run which of its examples are stored, by their places. Runs that lack other ones have units of
            their own for these.
    """
    examples = plan.examples(step.cells[0])
    config = plan.config
    lacking = [{cell.key for cell in step.cells if place not in done[cell.key]} for place in range(len(examples))]
    source = step.source.key if step.source else None
    start = 0
    while start < len(examples):
        stop = start + 1
        while stop < min(start + config.batch_size, len(examples)) and lacking[stop] == lacking[start]:
            stop += 1
        if lacking[start]:
            task = replace(step.cells[0].task, examples=tuple(examples[start:stop]))
            cells = tuple(replace(cell, task=task) for cell in step.cells if cell.key in lacking[start])
            yield Unit(cells, start, stop, source, config.candidates, config.dtype, config.device)
        start = stop


def text_cost(plan: Plan, step: Step, cell: Cell) -> float:
    """What a text of a run takes, roughly, in a unit of its own: only for the remaining time that is shown."""
    parts = [1.0 + plan.models[name].info.parameters / 2e6 for name in cell.members.values()]
    return sum(parts) * cell.task.max_tokens * (REPLAY_COST if step.source else 1.0)

"""All runs of a study. Everything that can be refused is refused here, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from fsgen.backends import Members
from fsgen.methods.check import check, require_all_tokens
from fsgen.methods.method import PRESETS, Method
from fsgen.study.cells import Cell, LoadedTask, Prompt, make_cell
from fsgen.study.config import PairConfig, SamplingConfig, StudyConfig
from fsgen.study.models import UnloadedModel, check_device, resolve_dtype
from fsgen.study.resolve import Faults, resolve
from fsgen.types import Example


@dataclass(frozen=True)
class Row:
    """A cell of the grid with the runs that its accuracy is compared to, where it has them."""

    cell: Cell
    draft_alone: Cell | None
    target_alone: Cell | None


@dataclass(frozen=True)
class Plan:
    """All that a study runs, checked.

    Attributes:
        rows: the cells of the grid, in its order.
        models: of all members, by name.
        unlike: keys of the runs whose draft has another tokenizer than the target: these are never replayed.
    """

    config: StudyConfig
    rows: tuple[Row, ...]
    models: dict[str, UnloadedModel]
    unlike: frozenset[str] = frozenset()

    @property
    def cells(self) -> list[Cell]:
        """Every run once, baselines before what is compared to them."""
        every: dict[str, Cell] = {}
        for row in self.rows:
            for cell in (row.target_alone, row.draft_alone, row.cell):
                if cell is not None:
                    every.setdefault(cell.key, cell)
        return list(every.values())

    def examples(self, cell: Cell) -> list[Example]:
        """The examples of a run as it goes through them: by the length of their prompts, which wastes less padding."""
        tokenizer = self.models[cell.members["target"]].tokenizer
        return sorted(cell.task.examples, key=lambda example: len(cell.task.prompt(example, tokenizer).ids))


def make_plan(config: StudyConfig, limit: int | None = None) -> Plan:
    """Check a study as a whole and lay out its cells.

    Args:
        config: of the study.
        limit: at most so many examples of each task, whatever the configuration says.

    Raises:
        ValueError: anything of it cannot run; the message lists every fault that was found.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} is impossible: at least 1")
    faults = Faults()
    dtype = ""
    with faults.collected("the study"):
        check_device(config.device)
    with faults.collected("the study"):
        dtype = resolve_dtype(config.dtype, config.device)
    grids, models = resolve(config, limit, faults)
    planner = _Planner(config, dtype, models, faults)
    rows: dict[str, Row] = {}
    for grid in grids:
        for task, pair, method, sampling in product(grid.tasks, grid.pairs, grid.methods, grid.sampling):
            row = planner.row(task, pair, method, sampling)
            if row is not None:
                rows.setdefault(row.cell.key, row)
    faults.raise_all(config.name)
    if not rows:
        raise ValueError(f"study {config.name!r} has no cells")
    return Plan(config, tuple(rows.values()), models, frozenset(planner.unlike))


class _Planner:
    """Makes the rows of a plan, and checks each cell as a run would."""

    def __init__(self, config: StudyConfig, dtype: str, models: dict[str, UnloadedModel], faults: Faults) -> None:
        self._config, self._dtype, self._models, self._faults = config, dtype, models, faults
        self._cells: dict[str, Cell] = {}
        self._prompts: dict[tuple[int, str], list[Prompt] | None] = {}
        self._members: dict[tuple[tuple[str, str], ...], Members | ValueError] = {}
        self.unlike: set[str] = set()  # see `Plan`

    def row(self, task: LoadedTask | None, pair: PairConfig, method: Method, sampling: SamplingConfig) -> Row | None:
        """A cell with its baselines; None where it has a fault."""
        names = pair.names
        try:
            method.require(names)
        except ValueError as error:
            place = f"{' -> '.join(name for role, name in names.items() if role != 'base')}, {method.name}"
            self._faults.add(place, str(error).split("; give ")[0])
            return None
        roles = {"target", *method.roles}
        cell = self._cell(task, {role: name for role, name in names.items() if role in roles}, method, sampling)
        if cell is None:
            return None
        plain = PRESETS["plain"]
        target_alone = self._cell(task, {"target": pair.target}, plain, sampling)
        draft = cell.members.get("draft")
        draft_alone = None if draft is None else self._cell(task, {"target": draft}, plain, sampling)
        return Row(cell, draft_alone, target_alone)

    def _cell(
        self, task: LoadedTask | None, names: dict[str, str], method: Method, sampling: SamplingConfig
    ) -> Cell | None:
        models = {role: self._models[name] for role, name in names.items() if name in self._models}
        if len(models) < len(names) or task is None:
            return None  # the fault is known already
        cell = make_cell(task, models, method, sampling, self._config, self._dtype)
        if cell.key not in self._cells:
            with self._faults.collected(cell.label):
                self._check(cell, models)
            self._cells[cell.key] = cell
        return self._cells[cell.key]

    def _check(self, cell: Cell, models: dict[str, UnloadedModel]) -> None:
        members = self._compatible(models)
        if members.difference is not None:
            self.unlike.add(cell.key)
        cell.method.verifier_for(cell.params(0))
        if any(cell.task.task.choices(example) for example in cell.task.examples):
            require_all_tokens(members, cell.method)
        prompts = self._encoded(cell, members)
        if prompts is None:
            return
        room = members.context - cell.task.max_tokens
        long = [(len(prompt.ids), i) for i, prompt in enumerate(prompts) if len(prompt.ids) > room]
        if long:
            length, index = max(long)
            raise ValueError(
                f"{len(long)} of {len(prompts)} prompts do not fit: that of {cell.task.examples[index].id} has "
                f"{length} tokens, which with max_tokens={cell.task.max_tokens} exceeds the context window of "
                f"{members.context}"
            )
        check(members, cell.method, [prompt.ids for prompt in prompts], [cell.params(0)] * len(prompts))

    def _compatible(self, models: dict[str, UnloadedModel]) -> Members:
        """The members together, compared once: with large vocabularies that takes a while."""
        key = tuple((role, model.info.name) for role, model in models.items())
        if key not in self._members:
            try:
                self._members[key] = Members.of(**models)
            except ValueError as error:
                self._members[key] = error
        members = self._members[key]
        if isinstance(members, ValueError):
            raise members
        return members

    def _encoded(self, cell: Cell, members: Members) -> list[Prompt] | None:
        """The prompts of a cell, made once for each task and target; None where that failed before."""
        place = (id(cell.task), cell.members["target"])
        if place not in self._prompts:
            self._prompts[place] = None
            if cell.task.config.chat and not getattr(members.tokenizer, "chat_template", None):
                raise ValueError(f"chat: the tokenizer of {cell.members['target']} has no chat template")
            self._prompts[place] = [cell.task.prompt(example, members.tokenizer) for example in cell.task.examples]
        return self._prompts[place]

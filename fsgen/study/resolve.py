"""From the names in a configuration to tasks with examples, pairs, methods, and models without weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain, combinations, permutations, product
from typing import Any

from fsgen import tasks
from fsgen.analysis.labels import task_name
from fsgen.backends.remote.address import with_tokenizer
from fsgen.methods.method import Method, parse
from fsgen.models.bundled import ladder as bundled_ladder
from fsgen.models.bundled import seeds_of
from fsgen.study.cells import LoadedTask, canonical_hash
from fsgen.study.config import Grid, LadderConfig, PairConfig, SamplingConfig, StudyConfig, TaskConfig
from fsgen.study.models import UnloadedModel, open_model


class Faults:
    """What is wrong with a study: each fault once, with the first place where it was found, and how often."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, place: str, message: str) -> None:
        self._places.setdefault(message, []).append(place)

    @contextmanager
    def collected(self, place: str) -> Iterator[None]:
        """A ValueError that is raised inside becomes a fault of this place."""
        try:
            yield
        except ValueError as error:
            self.add(place, str(error))

    def raise_all(self, name: str) -> None:
        """Raises ValueError with every fault, where there are any."""
        if not self._places:
            return
        lines = []
        for message, places in self._places.items():
            also = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
            lines.append(f"- {places[0]}{also}: {message}")
        raise ValueError(f"study {name!r} cannot run:\n" + "\n".join(lines))


@dataclass(frozen=True)
class ResolvedGrid:
    """One grid; a task is None where it has a fault."""

    tasks: list[LoadedTask | None]
    pairs: list[PairConfig]
    methods: list[Method]
    sampling: tuple[SamplingConfig, ...]


def resolve(
    config: StudyConfig, limit: int | None, faults: Faults
) -> tuple[list[ResolvedGrid], dict[str, UnloadedModel]]:
    """The grids of a study, and its models by name; those with a fault are left out.

    Args:
        limit: at most so many examples of each task, whatever the configuration says.
    """
    loaded: dict[TaskConfig, LoadedTask | None] = {}
    models: dict[str, UnloadedModel | None] = {}
    grids = []
    for grid in config.blocks():
        for task in grid.tasks:
            if task not in loaded:
                loaded[task] = None
                with faults.collected(f"task {task.name}"):
                    loaded[task] = _load_task(task, limit)
        pairs = [_with_tokenizers(pair) for pair in _pairs(grid, faults)]
        for name in (name for pair in pairs for name in pair.names.values()):
            if name not in models:
                models[name] = None
                with faults.collected(f"model {name}"):
                    models[name] = open_model(name, config)
        methods = list(_methods(grid, faults))
        grids.append(ResolvedGrid([loaded[task] for task in grid.tasks], pairs, methods, grid.sampling))
    _refuse_one_name([task for task in loaded.values() if task is not None], faults)
    return grids, {name: model for name, model in models.items() if model is not None}


def _refuse_one_name(loaded: Sequence[LoadedTask], faults: Faults) -> None:
    """Tables and the report tell tasks apart by their names: two of one name would be one task there.

    Another limit or order of the same data selects other examples of one task.
    """
    for one, other in combinations(loaded, 2):
        name, same = (task_name(task.task.name, task.shots, task.config.chat) for task in (one, other))
        sources = [{"name": t.config.name, "data": t.config.data, **t.config.own} for t in (one, other)]
        if name == same and one.digest != other.digest and sources[0] != sources[1]:
            said = f"{_unlike(*sources)} and {_unlike(*reversed(sources))}"
            faults.add(f"task {name}", f"{said} are two tasks of one name: rename a file of data, or make two studies")


def _unlike(source: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """A task of a configuration by its name, and what another one has otherwise."""
    keys = [key for key in source if key == "name" or source[key] != other.get(key)]
    return f"{{{', '.join(f'{key}: {source[key]}' for key in keys)}}}"


def _load_task(config: TaskConfig, limit: int | None) -> LoadedTask:
    task = tasks.get(config.name, **config.own)
    task.check(config.limit, config.shots)
    try:
        task.ready()
        examples = task.load(config.limit, shots=config.shots, data=config.data, seed=config.order)[:limit]
    except RuntimeError as error:  # no sandbox for the programs of a task
        raise ValueError(str(error)) from error
    if config.chat and not all(example.messages for example in examples):
        raise ValueError("it has no conversations: leave out chat")
    return LoadedTask(
        config=config,
        examples=tuple(examples),
        shots=task.default_shots if config.shots is None else config.shots,
        max_tokens=config.max_tokens or task.max_tokens,
        digest=canonical_hash([[getattr(example, f.name) for f in fields(example)] for example in examples]),
    )


def _pairs(grid: Grid, faults: Faults) -> Iterator[PairConfig]:
    for entry in grid.pairs:
        if isinstance(entry, PairConfig):
            yield entry
        else:
            with faults.collected("ladder pocket" if entry.ladder == "pocket" else "ladder"):
                yield from _ladder_pairs(entry)


def _with_tokenizers(pair: PairConfig) -> PairConfig:
    """A pair whose model behind a server has the tokenizer of the other one, where it names none."""
    others = {"draft": pair.target, "target": pair.draft, "base": pair.draft}
    return pair.model_copy(update={role: with_tokenizer(name, others[role]) for role, name in pair.names.items()})


def _ladder_pairs(entry: LadderConfig) -> list[PairConfig]:
    if entry.trainings and entry.ladder != "pocket":
        raise ValueError("trainings are those of the bundled ladder: list all models of another one")
    sizes = [[name] for name in (entry.ladder if isinstance(entry.ladder, tuple) else bundled_ladder())]
    if entry.trainings:
        sizes = [seeds_of(name) for (name,) in sizes]
    models = list(chain.from_iterable(sizes))
    if len(models) < 2:
        raise ValueError("this installation has no bundled models")
    usable = models if entry.every else models[len(sizes[0]) :]
    if entry.target is not None and entry.target not in usable:
        raise ValueError(f"target {entry.target!r} has no smaller model in the ladder {', '.join(models)}")
    smaller = (pair for small, large in combinations(sizes, 2) for pair in product(small, large))
    pairs = permutations(models, 2) if entry.every else smaller
    return [PairConfig(draft=draft, target=target) for draft, target in pairs if entry.target in (None, target)]


def _methods(grid: Grid, faults: Faults) -> Iterator[Method]:
    for wanted, router in product(grid.methods, grid.routers):
        own = router == "default"
        with faults.collected(f"method {wanted.name}" + ("" if own else f", router {router}")):
            yield parse(wanted.name, None if own else router, wanted.draft_tokens).fixed()

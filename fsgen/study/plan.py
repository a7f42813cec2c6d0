"""From a configuration to cells: everything that can be refused is refused here, before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import combinations, product
from typing import Any

import torch

from fsgen import tasks
from fsgen.analysis.labels import short_name
from fsgen.backends import Members, ModelInfo
from fsgen.backends.identity import folder_digest
from fsgen.backends.protocol import Capabilities, Session
from fsgen.engine.engine import check
from fsgen.methods.method import PRESETS, Method, parse
from fsgen.methods.routers import Random
from fsgen.models.bundled import ladder as bundled_ladder
from fsgen.models.bundled import model_info
from fsgen.study.config import LadderConfig, PairConfig, SamplingConfig, StudyConfig, TaskConfig
from fsgen.tasks import Task
from fsgen.types import Example, SamplingParams

SCHEMA = 1
"""Of the tables. Part of every run's key: where the tables change, what is stored is measured again."""

ROLES = ("draft", "target", "base")


def canonical_hash(content: Any) -> str:
    """SHA-256 of the canonical JSON of some content, in hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Prompt:
    """What the models read of one example: token ids, and the text that they stand for."""

    text: str
    ids: tuple[int, ...]

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class LoadedTask:
    """A task with its examples and all settings resolved."""

    config: TaskConfig
    task: Task
    examples: tuple[Example, ...]
    shots: int
    max_tokens: int
    digest: str

    @property
    def stop(self) -> tuple[str, ...]:
        # The plain prompts' stop strings would cut the answers of a model that chats.
        return () if self.config.chat else self.task.stop

    def prompt(self, example: Example, tokenizer: Any) -> Prompt:
        """The prompt of an example, as plain text or by the tokenizer's chat template."""
        if not self.config.chat:
            return Prompt(example.prompt, tuple(tokenizer.encode(example.prompt)))
        messages = [{"role": role, "content": content} for role, content in example.messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return Prompt(text, tuple(tokenizer.encode(text, add_special_tokens=False)))


@dataclass(eq=False)
class Unloaded:
    """A model of which only configuration and tokenizer are read: enough to check a cell, not to run it."""

    info: ModelInfo
    digest: str
    tokenizer: Any
    vocab_size: int
    context: int
    eos_ids: frozenset[int] = frozenset()
    capabilities: Capabilities = field(default_factory=Capabilities)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def session(self, batch_size: int) -> Session:
        raise NotImplementedError(f"the weights of {self.info.name} are not loaded")

    def cache_bytes(self, tokens: int) -> int:
        raise NotImplementedError(f"the weights of {self.info.name} are not loaded")


@dataclass(frozen=True, eq=False)
class Cell:
    """One run: a task, the members that write it, a method, a sampling.

    Attributes:
        members: names by role, of the roles that the method uses (the target always).
        key: names the run; a hash of all that changes what is written, and of nothing else.
        identity: what is hashed.
    """

    task: LoadedTask
    members: dict[str, str]
    method: Method
    sampling: SamplingConfig
    seed: int
    key: str
    identity: dict[str, Any]

    @property
    def router(self) -> str:
        return str(self.method.router)

    @property
    def label(self) -> str:
        names = [short_name(self.members[role]) for role in ("draft", "target") if role in self.members]
        router = f" {self.router}" if self.method.drafts and self.router != "always" else ""
        shown = self.params(0)
        sampling = "" if shown.greedy else f" {shown}"
        return f"{self.task.task.name} {self.method.name}{router}{sampling} {' -> '.join(names)}"

    def params(self, seed: int) -> SamplingParams:
        """The sampling parameters of one text."""
        return SamplingParams(
            max_tokens=self.task.max_tokens, stop=self.task.stop, seed=seed, **self.sampling.model_dump()
        )

    def text_seed(self, example: str, turn: int) -> int:
        """Of one text: the same in every cell of the study, however it is cut into chunks."""
        digest = hashlib.sha256(f"{self.seed}/{turn}/{example}".encode()).digest()
        return int.from_bytes(digest[:8], "big")


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
    """

    config: StudyConfig
    rows: tuple[Row, ...]
    models: dict[str, Unloaded]

    @property
    def cells(self) -> list[Cell]:
        """Every run once, baselines before what is compared to them."""
        every: dict[str, Cell] = {}
        for row in self.rows:
            for cell in (row.target_alone, row.draft_alone, row.cell):
                if cell is not None:
                    every.setdefault(cell.key, cell)
        return list(every.values())


class _Faults:
    """What is wrong, each fault once, with where it was met first and how often."""

    def __init__(self) -> None:
        self._met: dict[str, list[str]] = {}

    def add(self, where: str, message: object) -> None:
        self._met.setdefault(str(message), []).append(where)

    def __bool__(self) -> bool:
        return bool(self._met)

    def raise_all(self, name: str) -> None:
        if not self._met:
            return
        lines = []
        for message, places in self._met.items():
            also = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
            lines.append(f"- {places[0]}{also}: {message}")
        raise ValueError(f"study {name!r} cannot run:\n" + "\n".join(lines))


def make_plan(config: StudyConfig, limit: int | None = None) -> Plan:
    """Check a study as a whole and lay out its cells.

    Args:
        config: what is asked for.
        limit: at most so many examples of each task, whatever the configuration says.

    Raises:
        ValueError: anything of it cannot run; the message lists every fault that was found.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} is impossible: at least 1")
    faults = _Faults()
    dtype = _dtype(config, faults)
    loaded: dict[TaskConfig, LoadedTask | None] = {}
    models: dict[str, Unloaded | None] = {}
    grids = []
    for grid in config.blocks():
        for task in grid.tasks:
            if task not in loaded:
                loaded[task] = _task(task, limit, faults)
        pairs = list(_pairs(grid.pairs, faults))
        for pair in pairs:
            for name in (pair.draft, pair.target, pair.base):
                if name is not None and name not in models:
                    models[name] = _model(name, config, faults)
        methods: list[Method] = []
        for asked, router in product(grid.methods, grid.routers):
            try:
                method = parse(asked.name, None if router == "default" else router, asked.draft_tokens).fixed()
            except ValueError as error:
                faults.add(f"method {asked.name}" + (f", router {router}" if router != "default" else ""), error)
            else:
                methods.append(method)
        grids.append(([loaded[task] for task in grid.tasks], pairs, methods, grid.sampling))

    maker = _Maker(config, dtype, models, faults)
    rows: dict[str, Row] = {}
    for loaded_tasks, pairs, methods, samplings in grids:
        for task_, pair, method, sampling in product(loaded_tasks, pairs, methods, samplings):
            row = maker.row(task_, pair, method, sampling)
            if row is not None:
                rows.setdefault(row.cell.key, row)
    faults.raise_all(config.name)
    if not rows:
        raise ValueError(f"study {config.name!r} has no cells")
    return Plan(config, tuple(rows.values()), {name: model for name, model in models.items() if model is not None})


def _dtype(config: StudyConfig, faults: _Faults) -> str:
    from fsgen.backends.transformers import checkpoint as checkpoints

    for checked, value in ((checkpoints.check_dtype, config.dtype), (checkpoints.check_device, config.device)):
        try:
            checked(value)
        except ValueError as error:
            faults.add("the study", error)
    if config.dtype != "auto":
        return config.dtype
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    return "float32" if on_cpu else "checkpoint"


def _task(config: TaskConfig, limit: int | None, faults: _Faults) -> LoadedTask | None:
    where = f"task {config.name}"
    try:
        task = tasks.get(config.name)
        task.check(config.limit, config.shots)
        task.ready()
        examples = task.load(config.limit, shots=config.shots, data=config.data, seed=config.order)[:limit]
    except (ValueError, RuntimeError) as error:  # of the second kind: no sandbox for the programs of a task
        faults.add(where, error)
        return None
    return LoadedTask(
        config=config,
        task=task,
        examples=tuple(examples),
        shots=task.default_shots if config.shots is None else config.shots,
        max_tokens=config.max_tokens or task.max_tokens,
        digest=canonical_hash([[getattr(example, f.name) for f in fields(example)] for example in examples]),
    )


def _pairs(entries: Iterable[PairConfig | LadderConfig], faults: _Faults) -> Iterator[PairConfig]:
    for entry in entries:
        if isinstance(entry, PairConfig):
            yield entry
            continue
        if isinstance(entry.ladder, tuple):
            ladder = list(entry.ladder)
        else:
            ladder = bundled_ladder()
            if len(ladder) < 2:
                faults.add("ladder pocket", "this installation has no bundled models")
                continue
        if entry.target is not None and entry.target not in ladder[1:]:
            faults.add("ladder", f"target {entry.target!r} has no smaller model in the ladder {', '.join(ladder)}")
        for draft, target in combinations(ladder, 2):
            if entry.target in (None, target):
                yield PairConfig(draft=draft, target=target)


def _model(name: str, config: StudyConfig, faults: _Faults) -> Unloaded | None:
    from fsgen.backends.transformers import (
        checkpoint as checkpoints,  # here, because it imports transformers, which takes seconds
    )

    try:
        checkpoint = checkpoints.open_checkpoint(name)
        checkpoints.place(checkpoint, config.device, config.dtype)
    except ValueError as error:
        faults.add(f"model {name}", error)
        return None
    if checkpoint.local is not None:
        digest = folder_digest(checkpoint.local)
        info = replace(model_info(checkpoint.local), name=name)
    else:
        digest = str(getattr(checkpoint.config, "_commit_hash", None))
        info = ModelInfo(name, name, str(checkpoint.config.model_type), 0, 0)
    return Unloaded(
        info=info,
        digest=digest,
        tokenizer=checkpoint.tokenizer,
        vocab_size=checkpoint.vocab_size,
        context=checkpoint.context,
    )


class _Maker:
    """Makes the rows of a plan, checking each cell by what a run would check."""

    def __init__(self, config: StudyConfig, dtype: str, models: dict[str, Unloaded | None], faults: _Faults) -> None:
        self._config, self._dtype, self._models, self._faults = config, dtype, models, faults
        self._cells: dict[str, Cell] = {}
        self._prompts: dict[tuple[int, str], list[Prompt] | None] = {}
        self._groups: dict[tuple[str | None, ...], Members | ValueError] = {}

    def row(self, task: LoadedTask | None, pair: PairConfig, method: Method, sampling: SamplingConfig) -> Row | None:
        given = {role: name for role in ROLES if (name := getattr(pair, role)) is not None}
        where = f"{' -> '.join(given[role] for role in ('draft', 'target') if role in given)}, {method.name}"
        try:
            method.require(given)
        except ValueError as error:
            self._faults.add(where, str(error).split("; give --")[0])
            return None
        roles = {"target", *method.roles}
        cell = self._cell(task, {role: name for role, name in given.items() if role in roles}, method, sampling)
        if cell is None:
            return None
        plain = PRESETS["plain"]
        target_alone = self._cell(task, {"target": pair.target}, plain, sampling)
        draft = cell.members.get("draft")
        draft_alone = None if draft is None else self._cell(task, {"target": draft}, plain, sampling)
        return Row(cell, draft_alone, target_alone)

    def _cell(
        self, task: LoadedTask | None, members: dict[str, str], method: Method, sampling: SamplingConfig
    ) -> Cell | None:
        models = {role: model for role, name in members.items() if (model := self._models[name]) is not None}
        if len(models) < len(members) or task is None:
            return None  # the fault is known already
        seeded = sampling.temperature > 0 or isinstance(method.router, Random)
        identity = {
            "schema": SCHEMA,
            "task": {
                "name": task.task.name,
                "chat": task.config.chat,
                "max_tokens": task.max_tokens,
                "stop": list(task.stop),
                "examples": task.digest,
            },
            "members": {role: {"name": model.info.name, "digest": model.digest} for role, model in models.items()},
            "method": canonical_method(method),
            "sampling": sampling.model_dump() if sampling.temperature > 0 else "greedy",
            "seed": self._config.seed if seeded else None,
            "candidates": self._config.candidates,
            "dtype": self._dtype,
        }
        digest = canonical_hash(identity)
        key = f"{task.task.name}-{method.name.partition(':')[0]}-{digest[:16]}"
        if key not in self._cells:
            cell = Cell(task, members, method, sampling, self._config.seed, key, identity)
            try:
                self._check(cell, models)
            except ValueError as error:
                self._faults.add(cell.label, error)
            self._cells[key] = cell
        return self._cells[key]

    def _group(self, models: dict[str, Unloaded]) -> Members:
        """The members together, compared once: with large vocabularies that takes a while."""
        key = tuple(models[role].info.name if role in models else None for role in ROLES)
        if key not in self._groups:
            try:
                self._groups[key] = Members.of(**models)
            except ValueError as error:
                self._groups[key] = error
        group = self._groups[key]
        if isinstance(group, ValueError):
            raise group
        return group

    def _check(self, cell: Cell, models: dict[str, Unloaded]) -> None:
        members = self._group(models)
        cell.method.verifier_for(cell.params(0))
        lead = cell.members["target"]
        place = (id(cell.task), lead)
        if place not in self._prompts:
            self._prompts[place] = None
            if cell.task.config.chat and not getattr(members.tokenizer, "chat_template", None):
                raise ValueError(f"chat: the tokenizer of {lead} has no chat template")
            self._prompts[place] = [cell.task.prompt(example, members.tokenizer) for example in cell.task.examples]
        prompts = self._prompts[place]
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


def canonical_method(method: Method) -> dict[str, Any]:
    """All that a method does, whatever it is called: `contrastive` and `contrastive:beta=0.5` are one."""
    fusion: Any = method.fusion
    return {
        "fusion": {"name": method.fusion.name, **asdict(fusion)},
        "router": method.router.identity if method.drafts else None,
        "trusting": method.skips_verification,
        **{key: getattr(method, key) for key in ("draft_tokens", "bonus", "rollback", "verifier")},
    }

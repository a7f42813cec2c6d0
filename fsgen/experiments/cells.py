"""The runs that experiments read: which a study may have, halves of their examples, and texts that routers write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from fsgen.analysis.labels import short_name
from fsgen.api import generate
from fsgen.experiments.lab import Lab
from fsgen.methods.method import PRESETS, parse_router
from fsgen.methods.routers import Router
from fsgen.study.cells import Cell
from fsgen.study.plan import Plan
from fsgen.types import Example, SamplingParams

_COUNTS = ("tokens", "consulted", "seconds")


def oracle_cells(plan: Plan, least: int = 1, sampled: bool = False) -> list[Cell]:
    """The cells of a study that has the oracle alone.

    Args:
        plan: of the study.
        least: examples of a task that are needed, to choose on some and to judge on others.
        sampled: whether its texts may be sampled.

    Raises:
        ValueError: another method, sampled texts where all are to be greedy, or too few examples.
    """
    cells = [row.cell for row in plan.rows]
    for cell in cells:
        if cell.method.name != "oracle" or (cell.sampling.temperature > 0 and not sampled):
            raise ValueError(
                f"{cell.label}: this experiment has the method oracle alone" + ", and greedy texts" * (not sampled)
            )
        if len(cell.task.examples) < least:
            raise ValueError(f"{cell.label}: {len(cell.task.examples)} examples are too few to choose on and to judge")
    return cells


def check_tasks(cells: Sequence[Cell], wanted: Sequence[str]) -> None:
    """Refuse `on_policy` tasks of which the study has none. Raises ValueError."""
    tasks = {cell.task.task.name for cell in cells}
    if not tasks & set(wanted):
        raise ValueError(f"on_policy: none of {', '.join(wanted)} is a task of the study ({', '.join(tasks)})")


def pair_label(cell: Cell) -> str:
    """The task, draft and target of a run."""
    return f"{cell.task.task.name}, {short_name(cell.members['draft'])} → {short_name(cell.members['target'])}"


def names(cell: Cell) -> dict[str, pl.Expr]:
    """The same as columns of a table."""
    models = {role: pl.lit(short_name(cell.members[role])) for role in ("draft", "target")}
    return {"task": pl.lit(cell.task.task.name), **models}


def halves(cell: Cell, judged: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The examples that choose, and those that judge: the last `judged` ones, but not more than half."""
    examples = cell.task.examples
    cut = len(examples) - min(judged, len(examples) // 2)
    return examples[:cut], examples[cut:]


def routed(lab: Lab, cell: Cell, examples: Sequence[Example], router: str) -> pl.DataFrame:
    """Texts written by `route` with a router, as `write` gives them, made once.

    Args:
        cell: whose models, task and budget of tokens they have.
        examples: of its task.
        router: as on the command line.
    """
    chosen = parse_router(router)
    key: dict[str, Any] = {"run": cell.key, "examples": [example.id for example in examples]}
    seeds = [cell.params(cell.text_seed(example.id, 1)) for example in examples]
    return lab.table("routed", key | {"router": chosen.identity}, lambda: write(lab, cell, examples, chosen, seeds))


def write(
    lab: Lab, cell: Cell, examples: Sequence[Example], router: Router, sampling: Sequence[SamplingParams]
) -> pl.DataFrame:
    """Texts written by `route`: a row each, `example`, `score`, `tokens`, `consulted`, `seconds`."""
    members = lab.members(**cell.members)
    assert lab.config is not None
    texts = generate(
        members,
        [cell.task.prompt(example, members.tokenizer).ids for example in examples],
        replace(PRESETS["route"], router=router),
        sampling=sampling,
        batch_size=lab.config.batch_size,
    )
    scores = [cell.task.task.score(example, text.text).value for example, text in zip(examples, texts, strict=True)]
    rows = {"example": [example.id for example in examples], "score": scores}
    counts = {name: [getattr(text.stats, name) for text in texts] for name in _COUNTS}
    types = {"score": pl.Float64, "tokens": pl.Int64, "consulted": pl.Int64, "seconds": pl.Float64}
    return pl.DataFrame(rows | counts, schema_overrides=types)

"""The runs that experiments read: which a study may have, halves of their examples, and texts that routers write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from fsgen.analysis.labels import short_name
from fsgen.api import generate
from fsgen.experiments.lab import Lab, Study
from fsgen.methods.method import PRESETS, parse_router
from fsgen.methods.routers import Router
from fsgen.study.cells import Cell
from fsgen.study.plan import Plan
from fsgen.types import Example, SamplingParams

DRAFT, TARGET = "draft alone", "target alone"
_COUNTS = {"tokens": pl.Int64, "consulted": pl.Int64}
_TEXT = pl.Schema({"example": pl.String, "score": pl.Float64, **_COUNTS})


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
    check_written([cell for cell in cells if cell.task.task.name in wanted])
    tasks = {cell.task.task.name for cell in cells}
    if not tasks & set(wanted):
        raise ValueError(f"on_policy: none of {', '.join(wanted)} is a task of the study ({', '.join(tasks)})")


def check_written(cells: Sequence[Cell]) -> None:
    """Refuse tasks whose score is no matter of what is written. Raises ValueError."""
    for cell in cells:
        if cell.task.task.choices(cell.task.examples[0]):
            raise ValueError(f"{cell.label}: this experiment writes texts, and the task is scored by likelihoods")


def names(cell: Cell) -> dict[str, str]:
    """The task, draft and target of a run."""
    return {"task": cell.task.task.name, **{role: short_name(cell.members[role]) for role in ("draft", "target")}}


def pair_label(cell: Cell) -> str:
    """The same in words."""
    return "{task}, {draft} → {target}".format(**names(cell))


def labelled(table: pl.DataFrame, **values: object) -> pl.DataFrame:
    """A table with columns of one value each."""
    return table.with_columns(pl.lit(value).alias(column) for column, value in values.items())


def halves(cell: Cell, judged: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The examples that choose, and those that judge: the last `judged` ones, but not more than half."""
    examples = cell.task.examples
    cut = len(examples) - min(judged, len(examples) // 2)
    return examples[:cut], examples[cut:]


def alone(study: Study, cell: Cell) -> dict[str, pl.DataFrame]:
    """The texts that draft and target wrote alone, as `write` gives them."""
    draft, target = (study.texts(study.alone[cell.key][role]) for role in ("draft", "target"))
    texts = {DRAFT: draft.with_columns(consulted=pl.lit(0)), TARGET: target.with_columns(consulted="tokens")}
    return {name: one.select(*_TEXT).cast(_TEXT) for name, one in texts.items()}


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
    table = lab.table("routed", key | {"router": chosen.identity}, lambda: write(lab, cell, examples, chosen, seeds))
    return table.select(*_TEXT)  # former versions stored more


def write(
    lab: Lab, cell: Cell, examples: Sequence[Example], router: Router, sampling: Sequence[SamplingParams]
) -> pl.DataFrame:
    """Texts written by `route`: a row each, `example`, `score`, `tokens`, `consulted`."""
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
    counts = {name: [getattr(text.stats, name) for text in texts] for name in _COUNTS}
    return pl.DataFrame({"example": [example.id for example in examples], "score": scores, **counts}, schema=_TEXT)

"""What experiments on routers share: examples that choose apart from those that judge, and texts that routers write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from fsgen.api import generate
from fsgen.experiments.lab import Lab
from fsgen.methods.method import PRESETS, parse_router
from fsgen.study.cells import Cell
from fsgen.study.plan import Plan
from fsgen.types import Example

LEAST = 4


def check(plan: Plan) -> None:
    """Refuse a study that has other runs than greedy ones of the oracle, or too few examples. Raises ValueError."""
    for row in plan.rows:
        cell = row.cell
        if cell.method.name != "oracle" or cell.sampling.temperature > 0:
            raise ValueError(f"{cell.label}: this experiment has the method oracle, and greedy texts")
        if len(cell.task.examples) < LEAST:
            raise ValueError(f"{cell.label}: {len(cell.task.examples)} examples are too few to choose on and to judge")


def halves(cell: Cell, judged: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The examples that choose, and those that judge: the last `judged` ones, but not more than half."""
    examples = cell.task.examples
    cut = len(examples) - min(judged, len(examples) // 2)
    return examples[:cut], examples[cut:]


def written(lab: Lab, cell: Cell, examples: Sequence[Example], router: str) -> pl.DataFrame:
    """Texts written by `route` with a router: a row each, `example`, `score`, `tokens`, `consulted`, `seconds`.

    Args:
        cell: whose models, task and budget of tokens they have.
        examples: of its task.
        router: as on the command line.
    """
    chosen = parse_router(router)
    key = {"run": cell.key, "examples": [example.id for example in examples], "router": chosen.identity}

    def make() -> pl.DataFrame:
        members = lab.members(**cell.members)
        assert lab.config is not None
        texts = generate(
            members,
            [cell.task.prompt(example, members.tokenizer).ids for example in examples],
            replace(PRESETS["route"], router=chosen),
            sampling=[cell.params(cell.text_seed(example.id, 1)) for example in examples],
            batch_size=lab.config.batch_size,
        )
        scores = [cell.task.task.score(e, text.text).value for e, text in zip(examples, texts, strict=True)]
        return pl.DataFrame(
            {
                "example": [example.id for example in examples],
                "score": scores,
                **{name: [getattr(text.stats, name) for text in texts] for name in ("tokens", "consulted", "seconds")},
            },
            schema_overrides={"score": pl.Float64, "tokens": pl.Int64, "consulted": pl.Int64, "seconds": pl.Float64},
        )

    return lab.table("routed", key, make)

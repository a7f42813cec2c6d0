"""Traces whose every answer is known, and the folders of studies that have them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fsgen.metrics import Counts

Floats = NDArray[np.float64]


def places(examples: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The example and the position of each token of texts of one length."""
    return np.repeat(np.arange(examples), length), np.tile(np.arange(length), examples)


def trace(
    prob: Floats,
    differs: NDArray[np.bool_],
    length: int,
    *,
    consulted: NDArray[np.bool_] | None = None,
    second: Floats | None = None,
    entropy: Floats | None = None,
    **columns: Any,
) -> pl.DataFrame:
    """A trace of texts of one length.

    Args:
        prob: the draft's largest probability, [examples x length].
        differs: System 2 takes another token.
        length: of each text.
        consulted: System 2 was consulted; everywhere if None.
        second: the draft's second probability; half of what is left if None.
        entropy: of the draft, in nats; a falling function of `prob` if None.
        columns: others, or instead of these.
    """
    count = len(prob)
    example, position = places(count // length, length)
    second = (1 - prob) / 2 if second is None else second
    chosen = np.where(differs, 8, 7)
    known = np.ones(count) if consulted is None else consulted
    target = [int(token) if is_known else None for token, is_known in zip(chosen, known, strict=True)]
    values: dict[str, Any] = {
        "example": [f"e{i:04d}" for i in example],
        "turn": [1] * count,
        "position": position,
        "token": chosen,
        "source": ["accepted"] * count,
        "draft_token": [7] * count,
        "target_token": target,
        "draft_prob": prob,
        "draft_margin": prob - second,
        "draft_entropy": -np.log(prob) * 2 if entropy is None else entropy,
        "total_variation": differs * 0.5,
        "draft_top_ids": [[7, 8, 9]] * count,
        "draft_top_probs": np.column_stack([prob, second, (1 - prob - second) / 2]).tolist(),
    }
    types = {
        "example": pl.String,
        "turn": pl.UInt8,
        "position": pl.UInt32,
        "token": pl.UInt32,
        "source": pl.String,
        "draft_token": pl.UInt32,
        "target_token": pl.UInt32,
        "draft_prob": pl.Float32,
        "draft_margin": pl.Float32,
        "draft_entropy": pl.Float32,
        "total_variation": pl.Float32,
        "draft_top_ids": pl.List(pl.UInt32),
        "draft_top_probs": pl.List(pl.Float32),
    }
    values |= columns
    return pl.DataFrame(
        {name: pl.Series(name, values[name]).cast(kind) for name, kind in types.items() if values[name] is not None}  # type: ignore[arg-type]
    )


def drawn(examples: int, length: int, seed: int = 0) -> tuple[np.random.Generator, Floats]:
    """A generator, and probabilities from 0.05 to 0.98, each rounded to three digits."""
    draw = np.random.default_rng(seed)
    return draw, draw.uniform(0.05, 0.98, examples * length).round(3)


_COUNTS = {field.name: field.default for field in fields(Counts) if field.name != "sampled"}


def generations(examples: int, **columns: Any) -> pl.DataFrame:
    """The texts of a run, one an example; counts are 0 and scores missing where they are not given.

    Args:
        examples: how many.
        columns: a value for all texts, or one for each.
    """
    values: dict[str, Any] = {"example": [f"e{i:04d}" for i in range(examples)], "turn": 1, "text": ""}
    values |= {"sampled": False, "error": None, "score": None, **_COUNTS}
    types: dict[str, Any] = {"turn": pl.Int64, "error": pl.String, "score": pl.Float64}
    types |= {name: pl.Float64 if isinstance(zero, float) else pl.Int64 for name, zero in _COUNTS.items()}
    return pl.DataFrame(values | columns, schema_overrides=types)


def save_run(folder: Path, run: str, texts: pl.DataFrame, tokens: pl.DataFrame | None = None, **record: Any) -> None:
    """Write a run into the folder of a study, and plan it there.

    Args:
        folder: of the study, made where it does not exist.
        run: its key.
        texts, tokens: its generations, and its trace where it has one.
        record: what differs from a finished oracle of two models on GSM8K.
    """
    for table, content in (("generations", texts), ("traces", tokens)):
        if content is not None:
            (folder / table / f"run={run}").mkdir(parents=True)
            content.write_parquet(folder / table / f"run={run}" / "part-000000-000999.parquet")
    whole: dict[str, Any] = {
        "run": run,
        "status": "finished",
        "engine": "loop",
        "task": {"name": "gsm8k", "shots": 0, "chat": False},
        "members": {
            "draft": {"name": "small", "digest": "d" * 64, "parameters": 10},
            "target": {"name": "large", "digest": "t" * 64, "parameters": 100},
        },
        "method": {"name": "oracle", "router": "always", "draft_tokens": 1, "fusion": {"name": "target"}},
        "sampling": {"name": "greedy"},
    }
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "runs" / f"{run}.json").write_text(json.dumps(whole | record), encoding="utf-8")
    plan = folder / "study.json"
    study: dict[str, Any] = {"name": "made up", "config": {}, "rows": []}
    if plan.exists():
        study = json.loads(plan.read_text(encoding="utf-8"))
    study["rows"].append({"run": run, "draft_alone": None, "target_alone": None, "vocabulary": "v" * 16})
    plan.write_text(json.dumps(study), encoding="utf-8")

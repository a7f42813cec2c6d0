"""What a study stores: the record of each run, and the rows of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from fsgen.backends.vocabulary import Vocabulary
from fsgen.generation import Generation
from fsgen.methods.learned.features import rounded
from fsgen.metrics import Counts
from fsgen.study.cells import Cell, Prompt
from fsgen.study.config import StudyConfig
from fsgen.study.machine import hardware, versions
from fsgen.study.store import BOUNDS, GENERATION_SCHEMA, TRACE_SCHEMA, columns
from fsgen.tasks import Score
from fsgen.types import Candidates, ModelInfo, Token, as_dict

Tables = tuple[pa.Table, pa.Table]
"""Traces and generations of some texts."""


@dataclass(frozen=True)
class RunRecord:
    """`runs/<run>.json`: the whole configuration of a run, and what became of it.

    Attributes:
        error: what stopped the run, None where nothing did.
        engine: whether its texts were decoded or replayed.
        source: the run whose texts were replayed.
        members: by role, as `member_record` gives them.
        identity: what its key is a hash of.
        files: the checksums of its parts.
        started, finished: times in ISO format.
    """

    run: str
    status: Literal["running", "finished", "failed"]
    error: str | None
    engine: Literal["loop", "replay"]
    source: str | None
    task: dict[str, Any]
    members: dict[str, dict[str, Any]]
    method: dict[str, Any]
    router: str
    sampling: dict[str, Any]
    seed: int
    candidates: int
    batch_size: int
    dtype: str
    device: str
    identity: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    started: str
    finished: str | None
    files: dict[str, str]


def running_record(
    cell: Cell,
    config: StudyConfig,
    source: str | None,
    members: dict[str, dict[str, Any]],
    started: str,
    files: dict[str, str],
) -> RunRecord:
    """The record of a run that begins."""
    task = cell.task
    settings = {"limit": len(task.examples), "shots": task.shots, "max_tokens": task.max_tokens}
    return RunRecord(
        run=cell.key,
        status="running",
        error=None,
        engine="loop" if source is None else "replay",
        source=source,
        task=task.config.model_dump() | {"name": task.task.name} | settings,
        members=members,
        method={"name": cell.method.name, **cell.identity["method"]},
        router=cell.router,
        sampling={"name": str(cell.params(0)), **cell.sampling.model_dump()},
        seed=cell.seed,
        candidates=config.candidates,
        batch_size=config.batch_size,
        dtype=config.dtype,
        device=config.device,
        identity=cell.identity,
        versions=versions(),
        hardware=hardware(),
        started=started,
        finished=None,
        files=files,
    )


def member_record(info: ModelInfo, digest: str) -> dict[str, Any]:
    """A member as the record of a run has it; the sizes of a model of the hub are 0 until it is loaded."""
    return {name: value for name, value in as_dict(info).items() if name != "path"} | {"digest": digest}


@dataclass(frozen=True)
class Text:
    """One text of a run.

    Attributes:
        example: the id of the example; all turns of a dialogue have that of the first.
        turn: 1, or more in a dialogue.
        generation: None where it failed.
        error: what failed, None where nothing did.
    """

    example: str
    turn: int
    prompt: Prompt
    generation: Generation | None
    score: Score | None
    error: str | None = None


def generation_table(texts: Sequence[Text]) -> pa.Table:
    """One row a text."""
    return columns([_generation_row(text) for text in texts], GENERATION_SCHEMA)


def _generation_row(text: Text) -> dict[str, Any]:
    written, score = text.generation, text.score
    return {
        "example": text.example,
        "turn": text.turn,
        "prompt_hash": text.prompt.hash,
        "prompt_tokens": len(text.prompt.ids),
        "text": written.text if written else None,
        "stop_reason": written.stop_reason if written else None,
        "score": score.value if score else None,
        "answer": score.answer if score else None,
        "note": score.note if score else None,
        "error": text.error,
        **as_dict(written.stats if written else Counts()),
    }


def trace_table(texts: Sequence[Text]) -> pa.Table:
    """One row a token."""
    written = [(text, token) for text in texts if text.generation for token in text.generation.tokens]
    tokens = [token for _, token in written]
    made: dict[str, pa.Array] = {
        "example": pa.array([text.example for text, _ in written], pa.string()),
        "turn": pa.array([text.turn for text, _ in written], pa.uint8()),
        "token": pa.array([token.id for token in tokens], pa.uint32()),
    }
    for side in ("draft", "target"):
        tops: list[Candidates] = [getattr(token, f"{side}_top") for token in tokens]
        offsets = pa.array(np.cumsum([0, *map(len, tops)]), pa.int32())
        unknown = pa.array([not top for top in tops], pa.bool_())
        ids = pa.array([i for top in tops for i, _ in top], pa.uint32())
        probs = pa.array(rounded(np.array([p for top in tops for _, p in top], dtype=np.float32)), pa.float32())
        made[f"{side}_top_ids"] = pa.ListArray.from_arrays(offsets, ids, mask=unknown)
        made[f"{side}_top_probs"] = pa.ListArray.from_arrays(offsets, probs, mask=unknown)
    for name in TRACE_SCHEMA.names:
        if name not in made:
            made[name] = pa.array([getattr(token, name) for token in tokens], TRACE_SCHEMA.field(name).type)
    bounds = {name: [getattr(token, name) for token in tokens] for name in BOUNDS}
    if any(found is not None for column in bounds.values() for found in column):
        made |= {name: pa.array(column, pa.list_(pa.float32())) for name, column in bounds.items()}
    return pa.table({name: made[name] for name in (*TRACE_SCHEMA.names, *BOUNDS) if name in made})


def vocabulary_rows(known: Vocabulary) -> list[dict[str, Any]]:
    """One row a token of a vocabulary."""
    entries = enumerate(zip(known.texts, known.special, strict=True))
    return [{"token": token, "text": text, "special": special} for token, (text, special) in entries]


@dataclass(frozen=True)
class StoredText:
    """A text as the tables have it: what replay and scoring need of it."""

    generation: Generation | None
    score: Score
    error: str | None


def stored_texts(generations: pl.DataFrame, traces: pl.DataFrame) -> dict[tuple[str, int], StoredText]:
    """The texts of a run, by example and turn."""
    tokens = {
        (str(key[0]), int(key[1])): group["token"].to_list()
        for key, group in traces.select("example", "turn", "token").group_by("example", "turn", maintain_order=True)
    }
    found = {}
    for row in generations.iter_rows(named=True):
        ids = tokens.get((row["example"], row["turn"]), [])
        generation = None
        if row["text"] is not None:
            generation = Generation(
                text=row["text"],
                token_ids=ids,
                tokens=[Token(position=j, id=i, text="", source="bonus", round=j) for j, i in enumerate(ids)],
                stats=Counts(sampled=row["sampled"], tokens=len(ids)),
                stop_reason=row["stop_reason"],
                prompt_tokens=row["prompt_tokens"],
            )
        score = Score(row["score"], row["answer"], row["note"] or "")
        found[row["example"], row["turn"]] = StoredText(generation, score, row["error"])
    return found

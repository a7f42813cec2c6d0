"""The trace of the `oracle` method without its loop.

Greedy output of the target alone does not depend on a draft. So the target writes a text once, and every draft then
reads it in one parallel pass: the same records and counts as the loop gives, for a fraction of the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fsgen.generation import Generation, Prompt, encode
from fsgen.methods import PRESETS, Method, parse
from fsgen.metrics import count
from fsgen.probs import left_aligned
from fsgen.trace import Trace, TraceBuffer
from fsgen.types import Source, Token

if TYPE_CHECKING:
    from torch import Tensor

    from fsgen.models import Members, Model


def replayable(method: Method) -> bool:
    """Whether `replay` can stand in for the loop: one drafted token a round, all decided by the target alone.

    With more draft tokens the counts would depend on what the draft went on to write after a rejected one.
    """
    return replace(method, name="oracle") == PRESETS["oracle"]


def replay(
    members: Sequence[Members],
    prompts: Sequence[Prompt],
    written: Sequence[Generation],
    method: str | Method = PRESETS["oracle"],
    candidates: int = 0,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[list[Generation]]:
    """What `generate(..., method="oracle")` would give for each draft, from texts that the target wrote alone.

    Args:
        members: one for each draft; all have the same target.
        prompts: as given to `generate`.
        written: what `generate(..., method="plain")` gave for them, greedy.
        method: one for which `replayable` holds.
        candidates: how many of the most likely tokens of p and q each record keeps.
        batch_size: texts in a pass.
        progress: called with the number of texts that one draft has just read.

    Returns:
        for each of the members, a `Generation` for each prompt. Their seconds are those of the passes, not of a loop.

    Raises:
        ValueError: a method that cannot be replayed, several targets, or texts that were sampled.
    """
    method = parse(method)
    if not replayable(method):
        raise ValueError(f"method {method.name!r} with {method.draft_tokens} draft tokens cannot be replayed; run it")
    if any(group.target is not members[0].target for group in members):
        raise ValueError("replay reads the texts of one target, but the members have several")
    if any(text.stats.sampled for text in written):
        raise ValueError("sampled texts cannot be replayed: what the loop draws depends on the draft")
    ids = [encode(members[0], prompt) for prompt in prompts]
    result: list[list[Generation]] = [[] for _ in members]
    for start in range(0, len(ids), batch_size):
        texts = written[start : start + batch_size]
        sequences = [[*i, *text.token_ids[:-1]] for i, text in zip(ids[start : start + batch_size], texts, strict=True)]
        lengths = [len(text.token_ids) for text in texts]
        q, q_seconds = _read(members[0].target, sequences, lengths)
        for number, group in enumerate(members):
            p, p_seconds = _read(group.draft, sequences, lengths)
            vocab = group.vocab_size
            result[number] += _generations(texts, p[..., :vocab], q[..., :vocab], candidates, p_seconds, q_seconds)
            if progress is not None:
                progress(len(texts))
    return result


def _read(model: Model | None, sequences: list[list[int]], lengths: list[int]) -> tuple[Tensor, float]:
    """Left-aligned logits [rows, longest, vocab] at the completions' positions, and the seconds they took."""
    if model is None:
        raise ValueError("replay needs a draft and a target model")
    started = time.perf_counter()
    with torch.inference_mode():
        logits = left_aligned(model.session(len(sequences)).score(sequences, lengths), lengths)
    return logits, time.perf_counter() - started


def _generations(
    texts: Sequence[Generation], p: Tensor, q: Tensor, top: int, p_seconds: float, q_seconds: float
) -> list[Generation]:
    p = p.to(q.device)
    buffer = TraceBuffer(top)
    traces: list[list[Trace]] = []
    for row, text in enumerate(texts):
        traces.append([{} for _ in text.tokens])
        for j, trace in enumerate(traces[row]):
            buffer.draft(trace, p[row, j])
            buffer.target(trace, q[row, j])
            buffer.compare(trace, p[row, j], q[row, j])
    buffer.settle()
    total = sum(len(text.tokens) for text in texts)
    result = []
    for row, text in enumerate(texts):
        tokens = []
        for j, old in enumerate(text.tokens):
            # What the target wrote is its greedy choice, whatever rounding says in this other call.
            trace = traces[row][j] | {"target_token": old.id}
            stands = trace["draft_token"] == old.id
            source: Source = "accepted" if stands else "recovered"
            tokens.append(Token(position=j, id=old.id, text=old.text, source=source, round=j, **trace))
        n, share = len(tokens), len(tokens) / total
        stats = count(
            tokens,
            sampled=False,
            draft_calls=n,
            draft_tokens=n,
            target_calls=n,
            target_tokens=n,
            draft_seconds=p_seconds * share,
            system2_seconds=q_seconds * share,
            seconds=(p_seconds + q_seconds) * share,
        )
        result.append(
            Generation(
                text=text.text,
                token_ids=text.token_ids,
                tokens=tokens,
                stats=stats,
                stop_reason=text.stop_reason,
                prompt_tokens=text.prompt_tokens,
            )
        )
    return result

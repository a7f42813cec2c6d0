"""The trace of the `oracle` method without its loop.

Greedy output of the target alone does not depend on a draft. So the target writes a text once, and every draft then
reads it in one parallel pass: the same records and counts as the loop gives, for a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fsgen.backends.reader import Reader
from fsgen.engine.trace import Trace, TraceBuffer
from fsgen.generation import Generation
from fsgen.methods.method import PRESETS, Method, parse
from fsgen.metrics import count
from fsgen.prompts import Prompts, encode, separate
from fsgen.types import Source, Token

if TYPE_CHECKING:
    from fsgen.backends import Members


def replayable(method: Method) -> bool:
    """Whether `replay` can stand in for the loop: one drafted token a round, all decided by the target alone.

    With more draft tokens the counts would depend on what the draft went on to write after a rejected one.
    """
    return replace(method, name="oracle") == PRESETS["oracle"]


def replay(
    members: Sequence[Members],
    prompts: Prompts,
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
        written: what `generate(..., method="plain")` gave for them, greedy, without penalties and biases. With
            `keep_logits=True` the target need not read its texts again; of a model that `repeats`, the records are the
            same to the last bit.
        method: one for which `replayable` holds.
        candidates: how many of the most likely tokens of p and q each record keeps.
        batch_size: texts in a pass.
        progress: called with the number of texts that one draft has just read.

    Returns:
        for each of the members, a `Generation` for each prompt. Their seconds are those of the passes, not of a loop.

    Raises:
        ValueError: a method that cannot be replayed, several targets, a draft with another tokenizer, or texts that
            were sampled.
    """
    method = parse(method)
    if not replayable(method):
        raise ValueError(f"method {method.name!r} with {method.draft_tokens} draft tokens cannot be replayed; run it")
    if any(group.target is not members[0].target for group in members):
        raise ValueError("replay reads the texts of one target, but the members have several")
    if other := next((group.difference for group in members if group.difference is not None), None):
        raise ValueError(f"one pass of the draft is not what the loop asks it where tokenizers differ; run it: {other}")
    if any(text.stats.sampled for text in written):
        raise ValueError("sampled texts cannot be replayed: what the loop draws depends on the draft")
    if not written:
        return [[] for _ in members]
    vocab = min(group.vocab_size for group in members)
    ids = [encode(members[0], prompt) for prompt in separate(prompts)]
    sequences = [[*i, *text.token_ids[:-1]] for i, text in zip(ids, written, strict=True)]
    lengths = [len(text.token_ids) for text in written]
    reads_q, *reads_p = (
        Reader(model, sequences, lengths, vocab) for model in (members[0].target, *(group.draft for group in members))
    )
    order = sorted(range(len(ids)), key=lambda i: len(sequences[i]))  # texts of like length are read together
    found: list[dict[int, Generation]] = [{} for _ in members]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        texts = [written[i] for i in batch]
        kept = [text.logits for text in texts if text.logits is not None]
        if len(kept) == len(texts):  # what the target said when it wrote them
            q, q_seconds = torch.cat(kept)[:, :vocab], 0.0
        else:
            q, q_seconds = reads_q.read(batch)
        targets = _records(q, "target", candidates, members[0].partial)
        for reader, mine, partial in zip(reads_p, found, (group.partial for group in members), strict=True):
            p, p_seconds = reader.read(batch)
            drafts = _records(p.to(q.device), "draft", candidates, partial, q)
            traces = (draft | target for draft, target in zip(drafts, targets, strict=True))
            mine |= zip(batch, _generations(texts, traces, p_seconds, q_seconds), strict=True)
            if progress is not None:
                progress(len(batch))
    return [[mine[i] for i in range(len(ids))] for mine in found]


def _records(
    logits: Tensor, side: str, candidates: int, partial: frozenset[str], other: Tensor | None = None
) -> list[Trace]:
    """What a trace keeps of each position of [n, vocab] logits; with the other's, the total variation too."""
    buffer, traces = TraceBuffer(partial=partial), [Trace() for _ in range(len(logits))]
    for place, trace in enumerate(traces):
        buffer.add(trace, side, logits, place, (candidates, None))
        if other is not None:
            buffer.compare(trace, logits, place, other, place)
    buffer.settle()
    return traces


def _generations(
    texts: Sequence[Generation], traces: Iterator[Trace], p_seconds: float, q_seconds: float
) -> Iterator[Generation]:
    """The texts with their new records; each has its share of the seconds of its batch."""
    total = sum(len(text.tokens) for text in texts)
    for text in texts:
        tokens, n = [], len(text.tokens)
        for old, trace in zip(text.tokens, traces, strict=False):
            # What the target wrote is its greedy choice, whatever rounding says in this other call.
            source: Source = "accepted" if trace["draft_token"] == old.id else "recovered"
            tokens.append(
                Token(old.position, old.id, old.text, source, old.position, **trace | {"target_token": old.id})
            )
        costs = {"draft_calls": n, "draft_tokens": n, "target_calls": n, "target_tokens": n}
        p_share, q_share = p_seconds * n / total, q_seconds * n / total
        stats = count(
            tokens, sampled=False, draft_seconds=p_share, system2_seconds=q_share, seconds=p_share + q_share, **costs
        )
        yield replace(text, tokens=tokens, stats=stats, logits=None)

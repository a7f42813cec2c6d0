"""Plain generation and streaming: two consumers of the decode loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fsgen.decode import Decoding, check
from fsgen.methods import Method, parse
from fsgen.metrics import Counts, count
from fsgen.types import SamplingParams, StopReason, Token, as_dict

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from fsgen.models import Members, Plan
    from fsgen.routers import Router

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Generation:
    """One written text.

    Attributes:
        text: without its stop string.
        token_ids: of the completion, with the tokens of the stop string or the end-of-text token.
        tokens: the trace, one record a token; their texts joined are `text`.
        stats: counts and metrics (`stats.collaboration_frequency`, ...).
        stop_reason: `eos`, `stop` (a stop string) or `length` (the budget is spent).
        prompt_tokens: how many tokens the prompt has.
        logits: q's at each token [tokens, vocab], float32, where they were asked for; as they are before any transform.
    """

    text: str
    token_ids: list[int]
    tokens: list[Token]
    stats: Counts
    stop_reason: StopReason
    prompt_tokens: int
    logits: Tensor | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """What a notebook shows: the text, each token coloured by its source."""
        from fsgen.render import html

        return html(self)

    def to_frame(self) -> pl.DataFrame:
        """The trace as a Polars data frame, one row a token."""
        import polars as pl

        rows = []
        for token in self.tokens:
            row = as_dict(token)
            for side in ("draft", "target"):
                top = row.pop(f"{side}_top")
                row |= {f"{side}_top_ids": [i for i, _ in top], f"{side}_top_probs": [p for _, p in top]}
            rows.append(row)
        return pl.DataFrame(rows, infer_schema_length=None)


def generate(
    members: Members,
    prompts: Sequence[Prompt],
    method: str | Method = "speculative",
    router: str | Router | None = None,
    draft_tokens: int | str | None = None,
    sampling: SamplingParams | Sequence[SamplingParams] = SamplingParams(),  # noqa: B008 - frozen
    batch_size: int = 16,
    candidates: int = 0,
    progress: Callable[[int], None] | None = None,
    cache_bytes: int | None = None,
    keep_logits: bool = False,
) -> list[Generation]:
    """Write a completion for every prompt.

    Args:
        members: the models (`fsgen.load`).
        prompts: texts, or sequences of token ids.
        method: a preset, with parameters behind a colon (`contrastive:beta=0.3`), or a `Method`.
        router: instead of the method's own: `max-prob:0.5`, `entropy:1`, ...
        draft_tokens: instead of the method's own: a number, or `auto` for as many as prove best (`fsgen.pace`).
        sampling: for all prompts, or one each.
        batch_size: how many are written at a time, at the most; it changes the speed, not the texts.
        candidates: how many of the most likely tokens of p and q each record keeps.
        progress: called with the number of texts that were finished since the last call.
        cache_bytes: what the keys and values of all models may take together; fewer texts are written at a time where
            it needs that. A share of the free memory if None (`fsgen.models.budget`).
        keep_logits: keep q's logits with each text, of a method that asks System 2 everywhere.

    Returns:
        a `Generation` for each prompt, in order.

    Raises:
        ValueError: unknown method, router or parameter, a member that is missing, a prompt that with its budget exceeds
            the context window, keys and values of one text beyond `cache_bytes`. All prompts are checked before the
            first token is written.
    """
    chosen = parse(method, router, draft_tokens)
    ids = [encode(members, prompt) for prompt in prompts]
    rows = [sampling] * len(ids) if isinstance(sampling, SamplingParams) else list(sampling)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is impossible: at least 1")
    check(members, chosen, ids, rows)
    done: dict[int, Generation] = {}
    if not ids:
        return []
    longest = max(len(prompt) + params.max_tokens for prompt, params in zip(ids, rows, strict=True))
    width = members.rows_within(chosen.roles, longest, min(batch_size, len(ids)), cache_bytes)
    # Prompts of like length are read together: less padding, and no effect on what is written. Where all are written
    # at a time they keep their places, in which a kept session may hold their beginnings.
    order = list(range(len(ids)))
    if width < len(ids):
        order.sort(key=lambda i: len(ids[i]))
    decoding = Decoding(
        members,
        chosen,
        [ids[i] for i in order],
        [rows[i] for i in order],
        top=candidates,
        rows=width,
        prompt_traces=False,
        keep_logits=keep_logits,
    )
    tokens: list[list[Token]] = [[] for _ in order]
    for number, token in decoding:
        tokens[number].append(token)
        if decoding.ended(number, len(tokens[number])):
            done[order[number]] = finished(decoding, number, tokens[number])
            if progress is not None:
                progress(1)
    return [done[i] for i in range(len(ids))]


def stream(
    members: Members,
    prompt: Prompt,
    method: str | Method = "speculative",
    router: str | Router | None = None,
    draft_tokens: int | str | None = None,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008 - frozen
    candidates: int = 0,
) -> Generator[Token, None, Generation]:
    """The records of one completion as they are written; arguments and errors as in `generate`.

    The generator returns the finished `Generation` (the value of `yield from`).
    """
    decoding = Decoding(
        members, parse(method, router, draft_tokens), [encode(members, prompt)], [sampling], top=candidates
    )
    return _stream(decoding)


def _stream(decoding: Decoding) -> Generator[Token, None, Generation]:
    tokens = []
    for _, token in decoding:
        tokens.append(token)
        yield token
    return finished(decoding, 0, tokens)


def encode(members: Members | Plan, prompt: Prompt) -> list[int]:
    """Token ids of a prompt; those of a text by the members' tokenizer, with whatever special tokens it adds."""
    if isinstance(prompt, str):
        return list(members.tokenizer.encode(prompt))
    return [int(token) for token in prompt]


def finished(decoding: Decoding, row: int, tokens: list[Token]) -> Generation:
    """The `Generation` of a row of a decoding that has ended."""
    state = decoding.rows[row]
    assert state.stop_reason is not None
    draft_calls, draft_tokens = decoding.usage(row, "draft")
    target_calls, target_tokens = decoding.usage(row, "target")
    costs: dict[str, Any] = {
        "draft_calls": draft_calls,
        "draft_tokens": draft_tokens,
        "target_calls": target_calls,
        "target_tokens": target_tokens,
        "draft_seconds": state.draft_seconds,
        "system2_seconds": state.system2_seconds,
        "seconds": state.seconds,
    }
    return Generation(
        text=state.text.text,
        token_ids=state.ids[state.prompt :],
        tokens=tokens,
        stats=count(tokens, sampled=not state.params.greedy, **costs),
        stop_reason=state.stop_reason,
        prompt_tokens=state.prompt,
        logits=torch.stack(state.logits) if state.logits else None,
    )

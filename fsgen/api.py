"""Plain generation and streaming: two consumers of the engine."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from fsgen.engine.engine import Decoding, check
from fsgen.engine.generation import Generation, Prompt, encode, finished
from fsgen.methods.method import Method, parse
from fsgen.types import SamplingParams, Token

if TYPE_CHECKING:
    from fsgen.backends import Members
    from fsgen.methods.routers import Router


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
        draft_tokens: instead of the method's own: a number, or `auto`: chosen adaptively (`engine.draft_length`).
        sampling: for all prompts, or one each.
        batch_size: how many are written at a time, at the most; it changes the speed, not the texts.
        candidates: how many of the most likely tokens of p and q each record keeps.
        progress: called with the number of texts that were finished since the last call.
        cache_bytes: what the keys and values of all models may take together; fewer texts are written at a time where
            it needs that. A share of the free memory if None (`fsgen.backends.budget`).
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

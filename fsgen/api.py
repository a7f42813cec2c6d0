"""Generation and streaming: thin consumers of the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from collections.abc import Sequence as List
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import torch

from fsgen.backends.protocol import Usage
from fsgen.engine import Engine, Sequence
from fsgen.generation import Generation
from fsgen.methods.check import check
from fsgen.methods.fusions import SharedTokens
from fsgen.methods.method import Method, parse
from fsgen.metrics import count
from fsgen.probs import choice_seed
from fsgen.prompts import Prompt, Prompts, encode, separate
from fsgen.types import SamplingParams, Token

if TYPE_CHECKING:
    from fsgen.backends import Members, Plan
    from fsgen.methods.routers import Router

_log = logging.getLogger(__name__)


def method_for(
    members: Members | Plan,
    method: str | Method,
    router: str | Router | None = None,
    draft_tokens: int | str | None = None,
) -> Method:
    """The method from its strings; where n-grams draft instead of a model (`draft="ngram:3"`), by these."""
    chosen = parse(method, router, draft_tokens)
    if members.ngram and members.draft is None and chosen.drafts and not chosen.ngram:
        chosen = replace(chosen, ngram=members.ngram)
    if members.difference is not None and chosen.fusion.reads_draft and not isinstance(chosen.fusion, SharedTokens):
        chosen = replace(chosen, fusion=SharedTokens(chosen.fusion))
    return chosen


def mixable(members: Members, method: Method, prompts: List[List[int]]) -> Members:
    """The members; where their tokenizers differ and their probabilities are mixed, as that needs them."""
    if not isinstance(method.fusion, SharedTokens):
        return members
    from fsgen.backends import overlap  # here, for few need it

    return overlap.mixable(members, method.missing, prompts)


def finished(sequence: Sequence, tokens: list[Token]) -> Generation:
    """The `Generation` of a text that has ended; `tokens` are all its records."""
    assert sequence.stop_reason is not None
    draft, target = (sequence.usage.get(role, Usage()) for role in ("draft", "target"))
    stats = count(
        tokens,
        sampled=not sequence.sampling.greedy,
        draft_calls=draft.calls,
        draft_tokens=draft.tokens,
        target_calls=target.calls,
        target_tokens=target.tokens,
        draft_seconds=sequence.draft_seconds,
        system2_seconds=sequence.system2_seconds,
        seconds=sequence.seconds,
    )
    return Generation(
        text=sequence.text.text,
        token_ids=sequence.ids[sequence.prompt_length :],
        tokens=tokens,
        stats=stats,
        stop_reason=sequence.stop_reason,
        prompt_tokens=sequence.prompt_length,
        logits=torch.stack(sequence.logits) if sequence.logits else None,
    )


def generate(
    members: Members,
    prompts: Prompts,
    method: str | Method = "speculative",
    router: str | Router | None = None,
    draft_tokens: int | str | None = None,
    sampling: SamplingParams | List[SamplingParams] = SamplingParams(),  # noqa: B008 - frozen
    batch_size: int = 16,
    candidates: int = 0,
    progress: Callable[[int], None] | None = None,
    cache_bytes: int | None = None,
    keep_logits: bool = False,
) -> list[Generation]:
    """Write a completion for every prompt.

    A list comes back whatever is given, as from vLLM: of one text, `generate(members, "Hello")[0]` is its completion.

    Args:
        members: the models (`fsgen.load`).
        prompts: one, or several: a text, token ids, or a conversation, a list of messages such as
            `{"role": "user", "content": "Hi"}`, by the model's chat template (`fsgen.prompts`).
        method: a preset, with parameters behind a colon (`contrastive:beta=0.3`), or a `Method`.
        router: instead of the method's own: `max-prob:0.5`, `entropy:1`, ...
        draft_tokens: instead of the method's own: a number, or `auto`: chosen adaptively (`engine.draft_length`).
        sampling: for all prompts, or one each.
        batch_size: how many are written at a time, at most; it changes the speed, not the texts.
        candidates: how many of the most likely tokens of p and q each record keeps.
        progress: called with the number of texts that were finished since the last call.
        cache_bytes: what the keys and values of all models may take together; fewer texts are written at a time where
            it needs that. A share of the free memory if None (`fsgen.backends.budget`).
        keep_logits: keep q's logits with each text, of a method that consults System 2 everywhere.

    Returns:
        a `Generation` for each prompt, in order, or as many as its `sampling.n` says; none where there is no prompt.

    Raises:
        ValueError: unknown method, router or parameter, a member that is missing, what is no prompt, messages for
            models without a chat template, a prompt that with its budget exceeds the context window, keys and values
            of one text beyond `cache_bytes`. All prompts are checked before the first token is written.
    """
    chosen = method_for(members, method, router, draft_tokens)
    ids = [encode(members, prompt) for prompt in separate(prompts)]
    each = [sampling] * len(ids) if isinstance(sampling, SamplingParams) else list(sampling)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is impossible: at least 1")
    check(members, chosen, ids, [replace(params, n=1) for params in each], measured_later=True)
    texts = [(prompt, one) for prompt, params in zip(ids, each, strict=True) for one in choices(params)]
    if not texts:
        return []
    members = mixable(members, chosen, ids)
    if not chosen.drafts:
        members.write_ahead([prompt for prompt, _ in texts], [params for _, params in texts])
    engine = Engine(members, min(batch_size, len(texts)), every_round=False, cache_bytes=cache_bytes)
    # Prompts of like length are read together: less padding, and no effect on what is written. Where all are written
    # at a time they keep their rows, in which a kept session may hold their beginnings.
    order = list(range(len(texts)))
    if batch_size < len(texts):
        order.sort(key=lambda i: len(texts[i][0]))
    sequences = (Sequence(texts[i][0], chosen, texts[i][1], candidates, keep_logits) for i in order)
    done: dict[int, Generation] = {}
    for place, generation in completed(engine, sequences, len(texts)):
        done[order[place]] = generation
        if progress is not None:
            progress(1)
    counts = [done[i].stats for i in range(len(texts))]
    tokens, seconds = sum(each.tokens for each in counts), sum(each.seconds for each in counts)
    _log.info("wrote %d texts of %d tokens with %s in %.1f s", len(texts), tokens, chosen.name, seconds)
    return [done[i] for i in range(len(texts))]


def choices(sampling: SamplingParams) -> list[SamplingParams]:
    """The settings of each of the `n` texts of a prompt: the same, with a random seed of its own."""
    return [replace(sampling, n=1, seed=choice_seed(sampling.seed, choice)) for choice in range(sampling.n)]


def completed(engine: Engine, sequences: Iterable[Sequence], ahead: int) -> Iterator[tuple[int, Generation]]:
    """Each text with its place among `sequences` as soon as it has ended; the engine is closed at the end.

    Args:
        engine: that is idle.
        sequences: texts to be written, taken in their order.
        ahead: how many of them are handed to the engine at a time, at most.
    """
    coming = enumerate(sequences)
    open_texts: dict[int, tuple[int, Sequence, list[Token]]] = {}
    try:
        while True:
            for place, sequence in islice(coming, ahead - len(open_texts)):
                open_texts[engine.add(sequence)] = place, sequence, []
            if not open_texts:
                return
            for number, token in engine.step():
                place, sequence, tokens = open_texts[number]
                tokens.append(token)
                if sequence.finished and len(tokens) == sequence.written:
                    del open_texts[number]
                    yield place, finished(sequence, tokens)
    finally:
        engine.close()


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
    chosen, ids = method_for(members, method, router, draft_tokens), encode(members, prompt)
    check(members, chosen, [ids], [sampling], measured_later=True)
    if not chosen.drafts:
        members.write_ahead([ids], [sampling])
    engine = Engine(mixable(members, chosen, [ids]), 1)
    sequence = Sequence(ids, chosen, sampling, candidates)
    engine.add(sequence)
    return _stream(engine, sequence)


def _stream(engine: Engine, sequence: Sequence) -> Generator[Token, None, Generation]:
    tokens: list[Token] = []
    try:
        while not engine.idle:
            for _, token in engine.step():
                tokens.append(token)
                yield token
    finally:
        engine.close()
    return finished(sequence, tokens)

"""How likely a method's q finds given texts: one pass of each model, nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fsgen.api import method_for
from fsgen.backends.reader import Reader
from fsgen.methods.check import require_all_tokens, roles_of_q
from fsgen.methods.method import Method

if TYPE_CHECKING:
    from fsgen.backends import Members

TokenIds = Sequence[int]


class Likelihood(NamedTuple):
    """Of a continuation: its log-probability in nats, and whether greedy decoding would write it."""

    logprob: float
    greedy: bool


def log_likelihoods(
    members: Members,
    pairs: Sequence[tuple[TokenIds, TokenIds]],
    method: str | Method = "plain",
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[Likelihood]:
    """The log-likelihood of each continuation after its context, by q at temperature 1.

    Args:
        members: the models (`fsgen.load`).
        pairs: token ids of contexts and of their continuations, neither of them empty.
        method: whose q it is: `plain` and `speculative` have that of the target.
        batch_size: texts in a pass. What is the same for several pairs is read once.
        progress: called with the number of pairs that were read since the last call.

    Raises:
        ValueError: as `require_q`; an empty context or continuation, a token id outside the vocabulary, a pair that is
            longer than the context window.
    """
    chosen = method if isinstance(method, Method) else method_for(members, method)
    require_q(members, chosen)
    for number, (context, continuation) in enumerate(pairs):
        _check(members, number, context, continuation)
    # The choices of a question are often one token each: then they share all that is read.
    same: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for number, (context, continuation) in enumerate(pairs):
        same.setdefault(((*context, *continuation[:-1]), len(continuation)), []).append(number)
    texts = sorted(same, key=lambda text: (len(text[0]), text))  # of like length, and those of one context, together
    read = _readers(members, chosen, texts)
    found: dict[int, Likelihood] = {}
    for start in range(0, len(texts), batch_size):
        batch = list(range(start, min(start + batch_size, len(texts))))
        before = len(found)
        rows = torch.split(read(batch), [texts[i][1] for i in batch])
        for i, logits in zip(batch, rows, strict=True):
            logprobs, best = logits.log_softmax(-1), logits.argmax(-1).tolist()
            for number in same[texts[i]]:
                continuation = list(pairs[number][1])
                each = logprobs[range(len(continuation)), continuation].double()
                found[number] = Likelihood(float(each.sum()), best == continuation)
        if progress is not None:
            progress(len(found) - before)
    return [found[number] for number in range(len(pairs))]


def require_q(members: Members, method: Method) -> None:
    """Refuses a method whose q is not known of a given text.

    Raises:
        ValueError: it trusts tokens unverified, and so has no q at every position; a member is missing; it mixes
            probabilities of models with different tokenizers; a model that q reads tells those of its most likely
            tokens only.
    """
    if method.skips_verification:
        raise ValueError(f"method {method.name!r} trusts tokens that System 2 never sees: it gives no likelihoods")
    method.require(role for role, _ in members)
    if members.difference is not None and method.fusion.reads_draft:
        raise ValueError(f"method {method.name!r} gives no likelihoods where tokenizers differ: {members.difference}")
    require_all_tokens(members, method)


def prefix_token(members: Members) -> int:
    """What comes before a text that has nothing before it: the beginning-of-text token, or else an end-of-text one."""
    begin = getattr(members.tokenizer, "bos_token_id", None)
    return min(members.eos_ids) if begin is None else int(begin)


def encode_pair(
    members: Members, context: str, continuation: str, encode: Callable[[str], Sequence[int]] | None = None
) -> tuple[list[int], list[int]]:
    """Token ids of a context and of what continues it, as lm-evaluation-harness cuts them.

    White space at the end of the context goes over to the continuation: tokens begin with it. Both are encoded
    together, and the continuation is what comes after as many tokens as the context has alone.

    Args:
        members: their tokenizer, and the token that stands for an empty context.
        context, continuation: two texts.
        encode: instead of the tokenizer's own.
    """
    encode = encode or members.tokenizer.encode
    bare = context.rstrip()
    first = list(encode(bare))
    rest = list(encode(context + continuation))[len(first) :]
    return first or [prefix_token(members)], rest


def within(members: Members, pair: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    """The pair without the beginning of its context where both are too long, as lm-evaluation-harness cuts them."""
    context, continuation = pair
    return context[-max(1, members.context + 1 - len(continuation)) :], continuation


def _check(members: Members, number: int, context: TokenIds, continuation: TokenIds) -> None:
    if not len(context) or not len(continuation):
        empty = "continuation" if len(context) else "context"
        raise ValueError(f"pair {number} has an empty {empty}; at least one token is needed")
    if not all(0 <= token < members.vocab_size for token in (*context, *continuation)):
        raise ValueError(f"pair {number} has a token id outside the vocabulary of {members.vocab_size}")
    if len(context) + len(continuation) - 1 > members.context:
        length = len(context) + len(continuation)
        raise ValueError(f"pair {number} has {length} tokens, and the context window is {members.context}")


def _readers(
    members: Members, method: Method, texts: Sequence[tuple[tuple[int, ...], int]]
) -> Callable[[list[int]], Tensor]:
    """What gives the logits of q [positions, vocab] of some of the texts, one after the other."""
    fusion, vocab = method.fusion, members.vocab_size
    sequences, lengths = [list(ids) for ids, _ in texts], [length for _, length in texts]
    readers = {role: Reader(getattr(members, role), sequences, lengths, vocab) for role in roles_of_q(method)}

    def read(batch: list[int]) -> Tensor:
        logits = {role: reader.read(batch)[0] for role, reader in readers.items()}
        target = logits["target"]
        others = {role: z.to(target.device) for role, z in logits.items()}
        return fusion(target, others.get("draft"), others.get("base"))

    return read

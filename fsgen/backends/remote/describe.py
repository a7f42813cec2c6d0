"""What a model behind a server can be used for, in words."""

from __future__ import annotations

from collections.abc import Iterator

from fsgen.backends.checkpoint import Checkpoint
from fsgen.backends.remote.checkpoint import RemoteCheckpoint
from fsgen.backends.remote.server import Server


def describe(opened: Checkpoint) -> Iterator[tuple[str, str]]:
    """What was found out when it was connected to, and which roles and methods are possible therefore.

    Args:
        opened: by `open_checkpoint`.

    Raises:
        ValueError: it is no model behind a server.
    """
    if not isinstance(opened, RemoteCheckpoint) or not isinstance(opened.model.source, Server):
        raise ValueError(f"{opened.name!r} is no model behind a server")
    can, vocab = opened.model.source.abilities, opened.vocab_size
    full = opened.capabilities.full_logits
    yield "tokens", "by their ids" if can.token_ids else "by their texts"
    yield "log-probabilities", f"all {vocab:,} tokens" if full else f"the {can.top} most likely of {vocab:,} tokens"
    yield "longest text", f"{opened.context:,} tokens" if can.context else "it does not say"
    yield "same answer twice", "yes" if can.repeats else "no: near ties may fall either way"
    yield "whole texts", "written and scored, many at a time: studies with 'oracle', 'plain'"
    rounds = "each round reads the whole context: slow" if can.rereads else "possible"
    yield "round by round", f"{rounds}; greedy, as the target of 'oracle', 'speculative' and 'route'"
    if not full:
        yield (
            "refused",
            (
                "sampling, penalties and fusions: they need the probabilities of all tokens; entropies and total "
                "variations are bounds"
            ),
        )

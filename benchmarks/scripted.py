"""A draft of any acceptance at its real cost; and the calls of its rounds, made again with llama.cpp."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fsgen import Members, SamplingParams, generate
from fsgen.backends.protocol import Model, Session

Call = tuple[str, list[list[int] | None], list[int]]  # which model, its texts, how many last positions of each


class Recorded:
    """A model whose calls are recorded, and whose most likely token may be told.

    Args:
        model: that runs.
        role: by which its calls are recorded.
        calls: to which they are added.
        script: the token that it prefers at a position of the text; None where that is its own.
    """

    def __init__(self, model: Model, role: str, calls: list[Call], script: Callable[[int], int | None]) -> None:
        self._model, self.role, self.calls, self.script = model, role, calls, script

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def session(self, batch_size: int) -> Session:
        return _RecordedSession(self._model.session(batch_size), self)


class _RecordedSession:
    def __init__(self, session: Session, model: Recorded) -> None:
        self._session, self._model, self.usage = session, model, session.usage

    def begin(self, row: int, prompt: int, longest: int) -> None:
        self._session.begin(row, prompt, longest)

    @torch.inference_mode()
    def score(self, sequences: Sequence[Any], last: int | Sequence[int]) -> torch.Tensor:
        lasts = [last] * len(sequences) if isinstance(last, int) else list(last)
        texts = [None if text is None else list(text) for text in sequences]
        self._model.calls.append((self._model.role, texts, lasts))
        logits = self._session.score(sequences, last)
        for row, text in enumerate(texts):
            for back in range(1, lasts[row] + 1) if text is not None else ():
                assert text is not None
                token = self._model.script(len(text) - back + 1)
                if token is not None:
                    logits[row, -back, token] = 1e4
        return logits


def rounds(
    draft: Model, target: Model, acceptance: float, prompt: list[int], tokens: int
) -> tuple[float, float, list[Call]]:
    """Seconds a token of the target alone, and with drafts of which a share is accepted; and the calls of the latter.

    Args:
        draft, target: the models.
        acceptance: the probability that a drafted token is the target's, independent of all others.
        prompt: token ids.
        tokens: to be written.
    """
    sampling, none = SamplingParams(tokens, ignore_eos=True), [prompt]
    started = time.perf_counter()
    (plain,) = generate(Members.of(target=target), none, "plain", sampling=sampling)
    plain_seconds = time.perf_counter() - started
    text, rng = [*prompt, *plain.token_ids], random.Random(0)
    # Beyond the text the draft is asked too, for a token that is never verified.
    wanted = [token if rng.random() < acceptance else (token + 1) % draft.vocab_size for token in text]
    calls: list[Call] = []
    drafting = Recorded(draft, "draft", calls, lambda at: wanted[at] if at < len(wanted) else None)
    members = Members.of(draft=drafting, target=Recorded(target, "target", calls, lambda _: None))
    for _ in range(2):  # draft lengths are chosen by times, which have to be learned first
        calls.clear()
        started = time.perf_counter()
        (drafted,) = generate(members, none, "speculative", draft_tokens="auto", sampling=sampling)
        seconds = time.perf_counter() - started
    assert drafted.token_ids == plain.token_ids
    return plain_seconds / tokens, seconds / tokens, calls


def by_llama_calls(draft: Path, target: Path, calls: list[Call], longest: int) -> float:
    """Seconds of the same calls, made of llama.cpp's."""
    from benchmarks.llama_calls import LlamaModel

    sessions = {"draft": LlamaModel(draft).session(1), "target": LlamaModel(target).session(1)}
    for session in sessions.values():
        session.begin(0, 1, longest)
        session.score([[1, 2, 3]], 1)  # pages of the file are read now
    started = time.perf_counter()
    for role, texts, last in calls:
        sessions[role].score(texts, last)
    return time.perf_counter() - started

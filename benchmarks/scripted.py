"""A draft of any acceptance at its real cost; and the calls of its rounds, made again with llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fsgen import Members, SamplingParams, generate
from fsgen.backends.protocol import Model, Session
from fsgen.bench.scripted import ScriptedModel

Call = tuple[str, list[list[int] | None], list[int]]  # which model, its texts, how many last positions of each


class Recorded:
    """A model whose calls are recorded.

    Args:
        model: that runs.
        role: by which its calls are recorded.
        calls: to which they are added.
    """

    def __init__(self, model: Model, role: str, calls: list[Call]) -> None:
        self._model, self.role, self.calls = model, role, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def session(self, batch_size: int) -> Session:
        return _RecordedSession(self._model.session(batch_size), self)


class _RecordedSession:
    def __init__(self, session: Session, model: Recorded) -> None:
        self._session, self._model, self.usage = session, model, session.usage

    def begin(self, row: int, prompt: int, longest: int) -> None:
        self._session.begin(row, prompt, longest)

    def score(self, sequences: Sequence[Any], last: int | Sequence[int]) -> torch.Tensor:
        lasts = [last] * len(sequences) if isinstance(last, int) else list(last)
        texts = [None if text is None else list(text) for text in sequences]
        self._model.calls.append((self._model.role, texts, lasts))
        return self._session.score(sequences, last)


def rounds(
    draft: Model, target: Model, acceptance: float, prompt: list[int], tokens: int, draft_tokens: int | str = "auto"
) -> tuple[float, float, list[Call]]:
    """Seconds a token of the target alone, and with drafts of which a share is accepted; and the calls of the latter.

    Args:
        draft, target: the models.
        acceptance: the probability that a drafted token is the target's, independent of all others.
        prompt: token ids.
        tokens: to be written.
        draft_tokens: as in `fsgen.generate`.
    """
    sampling, none = SamplingParams(tokens, ignore_eos=True), [prompt]
    started = time.perf_counter()
    (plain,) = generate(Members.of(target=target), none, "plain", sampling=sampling)
    plain_seconds = time.perf_counter() - started
    calls: list[Call] = []
    scripted = ScriptedModel(draft, {tuple(prompt): [*prompt, *plain.token_ids]}, acceptance)
    members = Members.of(draft=Recorded(scripted, "draft", calls), target=Recorded(target, "target", calls))
    for _ in range(2):  # draft lengths are chosen by times, which have to be learned first
        calls.clear()
        started = time.perf_counter()
        (drafted,) = generate(members, none, "speculative", draft_tokens=draft_tokens, sampling=sampling)
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

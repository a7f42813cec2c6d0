"""What a generation takes it gives back: no session, no cache, no logits are left when it is over."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from fsgen import Members, SamplingParams, generate, stream
from fsgen.backends.transformers.model import TransformersModel
from tests.tiny import tiny_model, tiny_tokenizer

SAMPLING = SamplingParams(max_tokens=8)
PROMPTS = [[1 + (3 * i + j) % 90 for j in range(4 + i % 29)] for i in range(20)]


@pytest.fixture(scope="module", params=["llama", "gpt2"], ids=["compiled", "transformers"])
def members(request: pytest.FixtureRequest) -> Members:
    models = [TransformersModel(tiny_model(request.param, seed), tiny_tokenizer()) for seed in range(3)]
    return Members.of(draft=models[0], target=models[1], base=models[2])


def tensors() -> int:
    """How many tensors are alive."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def watched(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Of every session that is made from now on, and of what computes for it."""
    sessions: list[weakref.ref[Any]] = []
    make = TransformersModel.session

    def session(self: TransformersModel, batch_size: int) -> Any:
        made = make(self, batch_size)
        sessions.extend((weakref.ref(made), weakref.ref(made._forward)))
        return made

    monkeypatch.setattr(TransformersModel, "session", session)
    return sessions


@pytest.mark.parametrize("method", ["plain", "speculative", "proxy", "route"])
def test_nothing_is_left_of_a_generation(members: Members, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(times: int) -> int:
        for turn in range(times):
            texts = generate(members, PROMPTS[turn : turn + 9], method, sampling=SAMPLING, batch_size=1 + turn % 4)
            assert all(text.token_ids for text in texts)
        return tensors()

    write(12)  # tables that a model keeps for all its sessions are made when they are first needed
    sessions = watched(monkeypatch)
    before = write(12)
    assert sessions
    assert not any(session() for session in sessions)
    assert write(12) == before


def test_nothing_is_left_of_a_stream_that_is_not_read_to_its_end(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(times: int) -> int:
        for turn in range(times):
            tokens = stream(members, PROMPTS[turn], sampling=SAMPLING)
            next(tokens)
            tokens.close()
        del tokens
        return tensors()

    read(12)
    sessions = watched(monkeypatch)
    before = read(12)
    assert sessions
    assert not any(session() for session in sessions)
    assert read(12) == before


def test_nothing_is_left_of_a_generation_that_failed(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = watched(monkeypatch)
    count = 0

    def interrupted(finished: int) -> None:
        nonlocal count
        count += finished
        if count > 3:
            raise KeyboardInterrupt

    for _ in range(3):
        count = 0
        with pytest.raises(KeyboardInterrupt):
            generate(members, PROMPTS, sampling=SAMPLING, batch_size=2, progress=interrupted)
    tensors()
    assert sessions
    assert not any(session() for session in sessions)

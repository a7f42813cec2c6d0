"""What sessions hold: from one turn of a chat to the next, and how much of it there may be."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from fsgen import Members, SamplingParams, generate
from fsgen.backends import budget
from fsgen.backends.session import CachedSession
from fsgen.backends.transformers.model import TransformersModel
from tests.doubles import trio
from tests.tiny import tiny_model, tiny_tokenizer

SAMPLING = SamplingParams(max_tokens=6)
KINDS = {"llama": {}, "qwen2": {"num_key_value_heads": 2}, "gpt2": {}, "gemma2": {}}


@pytest.fixture(scope="module", params=["llama", "gpt2"], ids=["compiled", "transformers"])
def members(request: pytest.FixtureRequest) -> Members:
    models = [TransformersModel(tiny_model(request.param, seed), tiny_tokenizer()) for seed in range(2)]
    return Members.of(draft=models[0], target=models[1])


def chat(members: Members, method: str, turns: int = 3) -> list[list[int]]:
    """Texts of two chats of different lengths; each turn goes on from all that was said."""
    said = [[1 + j % 90 for j in range(30)], [5 + j % 80 for j in range(44)]]
    written = []
    for turn in range(turns):
        k = None if method == "plain" else 2
        for text, ids in zip(generate(members, said, method, None, k, SAMPLING), said, strict=True):
            ids += [*text.token_ids, 7 + turn]
            written.append(text.token_ids)
    return written


def tokens_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward pass runs from now on."""
    seen: list[int] = []
    run = CachedSession._run

    def counted(self: CachedSession, work: Any, keep: int) -> Any:
        seen.append(sum(item.new for item in work))
        return run(self, work, keep)

    monkeypatch.setattr(CachedSession, "_run", counted)
    return seen


@pytest.mark.parametrize("method", ["plain", "speculative"])
def test_the_turns_of_a_chat_are_read_once(members: Members, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = chat(members, method)
    seen = tokens_run(monkeypatch)
    assert chat(members, method) == expected
    without = sum(seen)
    seen.clear()
    with members.keeping():
        assert chat(members, method) == expected
    # Of the second and third turn only what is new is read, by each model that writes.
    saved = without - sum(seen)
    assert saved >= (1 if method == "plain" else 2) * 2 * (30 + 44)


def test_what_is_kept_goes_with_the_block(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[weakref.ref[Any]] = []
    make = TransformersModel.session

    def session(self: TransformersModel, batch_size: int) -> Any:
        made = make(self, batch_size)
        sessions.append(weakref.ref(made))
        return made

    monkeypatch.setattr(TransformersModel, "session", session)
    with members.keeping():
        chat(members, "speculative")
        with members.keeping():
            chat(members, "speculative")
        gc.collect()
        assert sum(one() is not None for one in sessions) == 2  # the draft's and the target's, for two texts
    gc.collect()
    assert not any(one() for one in sessions)


def test_a_kept_session_has_one_user_at_a_time() -> None:
    members = trio(8, seed=1)
    with members.keeping():
        first = members.session("target", 1)
        members.give_back("target", 1, first)
        assert members.session("target", 2) is not first
        assert members.session("target", 1) is first
        assert members.session("target", 1) is not first
    members.give_back("target", 1, first)
    assert members.session("target", 1) is not first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [5, 100, 300])
def test_the_bytes_of_a_row_are_those_that_a_session_takes(kind: str, tokens: int) -> None:
    model = TransformersModel(tiny_model(kind, 0, **KINDS[kind]), tiny_tokenizer())
    tokens = min(tokens, model.context)
    rows = 3
    before = {id(thing) for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)}
    session = model.session(rows)
    for row in range(rows):
        session.begin(row, 4, tokens)
    session.score([[1, 2, 3, 4]] * rows, 1)
    gc.collect()
    made = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor) and id(thing) not in before]
    # Keys and values, [rows, heads, slots, width] or of all layers; nothing else that lives on has so many dimensions.
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in made if t.dim() >= 4}
    assert sum(held.values()) == rows * model.cache_bytes(tokens)


def test_a_budget_limits_the_rows_and_not_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    members = trio(8, seed=2)
    prompts = [[1, 2, 3], [4, 5], [6], [7, 1], [2, 2]]
    expected = generate(members, prompts, sampling=SAMPLING)
    widths: list[int] = []
    session = Members.session

    def watched(self: Members, role: str, rows: int) -> Any:
        widths.append(rows)
        return session(self, role, rows)

    monkeypatch.setattr(Members, "session", watched)
    # A row of 9 tokens takes 9,000 bytes in the draft and as many in the target.
    for room, rows in ((18_000, 1), (53_999, 2), (54_000, 3), (10**9, 5)):
        widths.clear()
        limited = generate(members, prompts, sampling=SAMPLING, cache_bytes=room)
        assert set(widths) == {rows}
        assert [text.token_ids for text in limited] == [text.token_ids for text in expected]
    with pytest.raises(ValueError, match=r"one text of 9 tokens take 0\.0 MiB, more than the budget of 0\.0 MiB"):
        generate(members, prompts, sampling=SAMPLING, cache_bytes=17_999)


def test_without_a_budget_what_is_free_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    members = trio(8, seed=2)
    monkeypatch.setattr(budget, "free_bytes", lambda device: 100_000)
    assert members.rows_within(("draft", "target"), 10, 16) == 3
    assert members.rows_within(("target",), 10, 16) == 6
    assert members.rows_within(("target",), 1, 16) == 16
    monkeypatch.setattr(budget, "free_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match="what cpu has free, of which 60% is"):
        members.rows_within(("target",), 10, 16)
    monkeypatch.setattr(budget, "free_bytes", lambda device: None)
    assert members.rows_within(("target",), 10**9, 16) == 16


def test_free_memory_is_read(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (budget.free_bytes(torch.device("cpu")) or 1) > 0
    assert budget.free_bytes(torch.device("meta")) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  7 kB\n", encoding="ascii")
    monkeypatch.setattr(budget, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(budget, "_CGROUP", tmp_path)
    assert budget.free_bytes(torch.device("cpu")) == 7168
    (tmp_path / "memory.current").write_text("1000\n", encoding="ascii")
    for limit, free in (("max\n", 7168), ("5000\n", 4000), ("900\n", 0)):
        (tmp_path / "memory.max").write_text(limit, encoding="ascii")
        assert budget.free_bytes(torch.device("cpu")) == free
    monkeypatch.setattr(budget, "_MEMINFO", tmp_path / "nothing")
    (tmp_path / "memory.max").unlink()
    assert budget.free_bytes(torch.device("cpu")) is None

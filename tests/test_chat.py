"""Conversations: what is said, what is kept between turns, and `fsgen chat` on a terminal and in a pipe."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fsgen
from fsgen.generation import Generation
from fsgen.models.bundled import bundled
from tests.doubles import trio
from tests.tiny import save_tiny, tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PARAMS = fsgen.SamplingParams(max_tokens=8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root, tokenizer = tmp_path_factory.mktemp("models"), tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    found = [
        save_tiny(root / name, seed=i, tokenizer=tokenizer, max_position_embeddings=512)
        for i, name in enumerate(("target", "draft"))
    ]
    return ["--target", str(found[0]), "--draft", str(found[1]), "--max-tokens", "8"]


@pytest.fixture(scope="module")
def members(pair: list[str]) -> fsgen.Members:
    return fsgen.load(draft=pair[3], target=pair[1])


def test_each_turn_sees_those_before(members: fsgen.Members) -> None:
    with fsgen.chat(members, system="be brief", sampling=PARAMS) as talk:
        answers = [talk("hi"), talk("and then?")]
        streamed = talk.stream("well")
        tokens = []
        while True:
            try:
                tokens.append(next(streamed))
            except StopIteration as end:
                answers.append(end.value)
                break
    assert "".join(token.text for token in tokens) == answers[2].text
    said = [{"role": "system", "content": "be brief"}]
    for text, answer in zip(("hi", "and then?", "well"), answers, strict=True):
        said.append({"role": "user", "content": text})
        assert answer.token_ids == fsgen.generate(members, said, sampling=PARAMS)[0].token_ids
        said.append({"role": "assistant", "content": answer.text})
    assert talk.messages == said
    assert talk.stats.tokens == sum(len(answer.token_ids) for answer in answers)
    talk.reset()
    assert talk.messages == said[:1]
    assert talk.generations == []


def test_earlier_turns_are_not_computed_again(members: fsgen.Members, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    kind: Any = type(members.target)
    real = kind.session

    def session(self: Any, rows: int) -> Any:
        made.append(rows)
        return real(self, rows)

    monkeypatch.setattr(kind, "session", session)
    with fsgen.chat(members, method="plain", sampling=PARAMS) as talk:
        for text in ("a first and longer thing to say", "b", "c"):
            talk(text)
        assert made == [1]
    talk("d")
    assert made == [1, 1]


def test_what_fails_or_is_abandoned_was_never_said(members: fsgen.Members) -> None:
    with fsgen.chat(members, sampling=PARAMS) as talk:
        talk("hi")
        before = list(talk.messages)
        with pytest.raises(ValueError, match="exceeds the context window of 512"):
            talk("x" * 600)
        abandoned = talk.stream("more")
        next(abandoned)
        abandoned.close()
        assert talk.messages == before
        assert isinstance(talk("again"), Generation)
        with pytest.raises(ValueError, match="needs a base"):
            talk.use("proxy")
        talk.use("route", "entropy:1")
        assert {token.source for token in talk("go").tokens} <= {"trusted", "recovered", "accepted"}


def test_models_without_a_template_are_refused_with_what_to_do(run: Any, no_weights: None) -> None:
    with pytest.raises(ValueError, match=r"has none .* give a text, or a target that was tuned to chat"):
        fsgen.chat(trio())
    assert bundled()
    answer = run("chat")
    assert answer.status == 2
    assert answer.err.startswith("error: messages need a chat template, and the model ")
    assert "Qwen/Qwen2.5-7B-Instruct" in answer.err
    assert answer.err.count("\n") == 1


def test_a_chat_through_a_pipe(
    run: Any, pair: list[str], monkeypatch: pytest.MonkeyPatch, members: fsgen.Members
) -> None:
    typed = "hi\n\n/method plain\nthen\n/method guess\n/nothing\n/stats\n/help\n/reset\nhi\n/quit\nnever\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    answer = run("chat", *pair, "--system", "be brief")
    assert answer.status == 0
    system = [{"role": "system", "content": "be brief"}]
    first = fsgen.generate(members, [*system, {"role": "user", "content": "hi"}], sampling=PARAMS)[0].text
    assert answer.out.startswith(first + "\nmethod plain, router always\n")
    assert answer.out.endswith(first + "\n")
    assert "2 answers; 16 tokens in " in answer.out
    assert "/method NAME [ROUTER]" in answer.out
    assert "error: unknown method 'guess'" in answer.err
    assert "error: '/nothing' is no command" in answer.err
    assert answer.err.count("ended by length") == 3


def test_a_chat_on_a_terminal(pair: list[str]) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "NO_COLOR": "1"}
    started = subprocess.Popen(
        [sys.executable, "-m", "fsgen", "chat", *pair], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = b""

    def wait_for(text: bytes, times: int = 1) -> None:
        nonlocal seen
        deadline = time.monotonic() + 120
        while seen.count(text) < times:
            assert time.monotonic() < deadline, seen
            seen += os.read(ours, 4096)

    wait_for(b"> ")
    os.write(ours, b"hi\n")
    wait_for(b"ended by length")
    wait_for(b"> ", 2)
    os.write(ours, b"\x04")
    assert started.wait(60) == 0
    os.close(ours)
    assert b"/help lists the commands" in seen
    assert b"\x1b[3" not in seen  # no colours
    assert b"\x1b[1m" in seen or b"\x1b[4m" in seen  # bold and underlines


def test_sources_differ_without_colours() -> None:
    from fsgen.render import legend, styles

    assert len(set(styles(no_color=True).values())) == 4
    assert {span.style for span in legend(no_color=True).spans} == set(styles(no_color=True).values())


def test_a_path_is_no_conversation(tmp_path: Path, run: Any) -> None:
    assert run("chat", "--target", str(tmp_path)).status == 2

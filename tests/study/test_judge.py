"""MT-Bench texts judged by a server that was made for it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fsgen import tasks
from fsgen.cli import main
from fsgen.study import run_study
from fsgen.study.judge import Judge, compare, judged_runs, mean, rate
from fsgen.tasks import mt_bench
from tests.servers import Answers, TestServer


class Chat(Answers):
    """A judge: rates by what it reads, and in pairs prefers one answer, or always the first."""

    def __init__(self, prefers: str = "longer") -> None:
        self.kind, self.name, self.prefers, self.heard = "chat", "judge", prefers, list[dict[str, Any]]()

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        assert path == "/v1/chat/completions"
        self.heard.append(body)
        system, question = (message["content"] for message in body["messages"])
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        words = self.compared(question) if '"[[A]]"' in system else self.rated(question)
        message = {"role": "assistant", "content": words}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return 200, {"object": "chat.completion", "model": "judge", "choices": [choice]}

    def rated(self, question: str) -> str:
        if "Hawaii" in question:
            return "I would rather not say. Rating: ten"
        return f"With a reference: {'Reference' in question}. Rating: [[{3 + 4 * ('Reference' in question)}]]"

    def compared(self, question: str) -> str:
        if self.prefers == "first":
            return "The first one. [[A]]"
        answers = [
            re.search(rf"Assistant {name}'s Answer\]\n(.*?)\n\[The End", question, re.S)
            or re.search(rf"### Assistant {name}:\n.*### Assistant {name}:\n(.*?)\n\n<\|The End", question, re.S)
            for name in "AB"
        ]
        lengths = [len(found[1]) for found in answers if found]
        return f"By length. [[{'AB'[lengths[0] < lengths[1]] if lengths[0] != lengths[1] else 'C'}]]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chats") / "study"
    config = {
        "name": "chats",
        "tasks": [{"name": "mt_bench", "limit": 12, "max_tokens": 8}, {"name": "gsm8k", "limit": 1, "max_tokens": 2}],
        "pairs": [{"draft": "pocket-0.25m", "target": "pocket-0.6m"}],
        "methods": ["oracle"],
    }
    assert not run_study(config, out, console=Console(file=io.StringIO())).failed
    return out


def test_ratings_of_both_turns_with_references_and_the_judges_words(folder: Path) -> None:
    runs = judged_runs(folder)
    assert len(runs) == 3
    chat = Chat()
    with TestServer(chat) as server:
        ratings = rate(folder, Judge(f"openai:{server.url}#judge", folder), runs)
        asked = server.asked
        again = rate(folder, Judge(f"openai:{server.url}#judge", folder), runs)
        assert server.asked == asked  # what it said is kept
    assert again == ratings
    assert len(ratings) == 3 * 12 * 2
    assert {one.turn for one in ratings} == {1, 2}
    examples = {each.id: each for each in tasks.get("mt_bench").load(12)}
    for one in ratings:
        references = examples[one.example].metadata["references"]
        graded = one.category in ("math", "reasoning", "coding") and len(references) >= one.turn
        if "Rating: ten" in one.words:
            assert one.rating is None
        else:
            assert one.rating == (7 if graded else 3), one
            assert one.words.startswith(f"With a reference: {graded}")
    # Target alone and oracle have the same texts, so the judge read each of them once.
    assert asked == len({json.dumps(body["messages"]) for body in chat.heard}) < len(ratings)


def test_pairs_are_judged_in_both_orders(folder: Path) -> None:
    one, two, *_ = judged_runs(folder)
    draft = next(run for run in judged_runs(folder) if run not in (one, two))
    for prefers, expected in (("longer", {0, 1, 2}), ("first", {0})):
        chat = Chat(prefers)
        chat.name = prefers
        with TestServer(chat) as server:
            judge = Judge(f"openai:{server.url}#{prefers}", folder)
            forward, backward = compare(folder, judge, one, draft), compare(folder, judge, draft, one)
        assert {each.winner for each in forward} <= expected
        mirrored = {0: 0, 1: 2, 2: 1}
        assert [mirrored[each.winner or 0] for each in forward] == [each.winner for each in backward]
        assert len(forward) == 24
    assert all(each.words == ("The first one. [[A]]",) * 2 for each in forward)


@pytest.mark.parametrize(
    ("words", "choice"), [("[[A]]", "A"), ("[[A]] no, [[B]]", "B"), ("[[C]]", "C"), ("A", None), ("[[D]]", None)]
)
def test_choices(words: str, choice: str | None) -> None:
    assert mt_bench.choice(words) == choice


def test_a_verdict_that_cannot_be_read_is_none(folder: Path) -> None:
    class Silent(Chat):
        def compared(self, question: str) -> str:
            return "Both are fine."

    one, two, *_ = judged_runs(folder)
    with TestServer(Silent()) as server:
        found = compare(folder, Judge(f"openai:{server.url}#silent", folder), one, two)
    assert all(each.winner is None and each.words == ("Both are fine.",) * 2 for each in found)
    assert mean([None, None]) is None
    assert mean([None, 4.0, 6.0]) == 5.0


def test_what_was_said_before_a_fault_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fsgen.backends.remote.http.FIRST_WAIT", 0.01)
    asked = [("system", f"question {i}") for i in range(8)]
    with TestServer(Chat(), lambda number, path: ("status", (400, {})) if number == 5 else None) as server:
        judge = Judge(f"openai:{server.url}#judge", tmp_path)
        with pytest.raises(ValueError, match="refuses it"):
            judge.verdicts(asked)
        file = next((tmp_path / "measured" / "judged").iterdir())
        file.write_text(file.read_text() + '{"judge": "judge", "ask')  # a crash in the middle of a line
        before = server.asked
        assert len(Judge(f"openai:{server.url}#judge", tmp_path).verdicts(asked)) == 8
        assert server.asked == before + 1
        assert len(Judge(f"openai:{server.url}#judge", tmp_path).verdicts(asked)) == 8
        assert server.asked == before + 1


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = judged_runs(folder)
    with TestServer(Chat()) as server:
        name = f"openai:{server.url}#judge"
        for more, words in (
            ([], "not readable"),
            (["--json"], '"words"'),
            (["--pair", *runs[:2]], "neither"),
            (["--pair", runs[0], "nothing"], "no judged run 'nothing'"),
        ):
            with pytest.raises(SystemExit) as end:
                main(["judge", str(folder), "--by", name, *more])
            shown = capsys.readouterr()
            assert words in shown.out + shown.err
            assert end.value.code == (2 if "nothing" in more else 0)
        with pytest.raises(SystemExit):
            main(["judge", str(folder), "--by", f"vllm:{server.url}#judge"])
        assert "is no judge: write openai:URL#MODEL" in capsys.readouterr().err

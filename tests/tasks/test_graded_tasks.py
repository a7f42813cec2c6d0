"""The graded tasks: prompts, extraction and scores."""

import pytest

from fsgen import tasks
from fsgen.tasks import chains, facts, lookup

STEPS = [("+", 25), ("*", 6), ("-", 8)]
WORKED = "47+25=72\n72*6=420+12=432\n432-8=424\n#### 424"


@pytest.mark.parametrize("name", ["chains", "facts", "lookup", "tiny_python"])
def test_data(name: str) -> None:
    task = tasks.get(name)
    examples = task.load()
    assert len(examples) == len({example.id for example in examples}) == len({e.prompt for e in examples}) == 500
    assert task.load(limit=9) == examples[:9]
    assert all(example.messages[-1][0] == "user" for example in examples)
    assert all(task.score(example, "").value == 0.0 for example in examples[:20])
    assert all(task.score(example, "").answer is None for example in examples[:20])


def test_a_chain_is_written_line_by_line() -> None:
    assert chains.prompt(47, STEPS) == "Start with 47, add 25, multiply by 6, subtract 8.\n"
    assert chains.worked(47, STEPS) == WORKED
    assert chains.line(7, ("*", 2)) == "7*2=14"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (WORKED, [True, True, True]),
        ("47+25=73\n73*6=420+18=438\n438-8=430\n#### 430", [False, True, True]),  # a wrong line spoils no other
        ("47+25=72\n70*6=420\n420-8=412\n#### 412", [True, False, True]),
        ("47+25=72\n72*6=420+12=431", [True, False, False]),
        ("so what", [False, False, False]),
    ],
)
def test_each_line_of_a_chain_is_scored(text: str, right: list[bool]) -> None:
    assert chains.right_lines(47, STEPS, text) == right


def test_a_chain_scores_its_answer_and_notes_its_lines() -> None:
    task = tasks.get("chains")
    for example in task.load():
        steps = example.metadata["steps"]
        worked = chains.worked(example.metadata["start"], steps)
        assert task.score(example, worked) == tasks.Score(
            1.0, example.reference, "right lines: " + ", ".join(map(str, range(1, len(steps) + 1)))
        )
        assert 0 <= example.metadata["hard"] < len(steps)
    assert task.extract("1+1=2\n#### 2\n\nStart with 5") == "2"
    assert task.extract("1+1=2") is None
    assert task.score(example, "4").note == "no answer; right lines: none"


def test_facts_are_read_as_words_and_letters() -> None:
    task = tasks.get("facts")
    assert facts.prompt("Who?") == "Question: Who?\nAnswer:"
    assert facts.prompt("Who?", ["a", "b", "c", "d"]) == "Question: Who?\n(A) a (B) b (C) c (D) d\nAnswer:"
    for example in task.load(limit=60):
        choice = example.metadata["kind"] == "choice"
        answer = f" word, so ({example.reference})." if choice else f" {example.reference}."
        assert task.score(example, answer).value == 1.0
        assert task.score(example, " word").value == 0.0
        if choice:
            assert task.score(example, f" {example.reference}").answer is None  # a letter alone is no choice
    with pytest.raises(ValueError, match="must hold the answer"):
        task.example({"question": "?", "choices": ["a"], "answer": "b", "attribute": "pet", "rank": 1}, 0, 0)


def test_lookup_follows_its_arrows() -> None:
    pairs = [["fox", "oak"], ["ant", "red"], ["oak", "pen"], ["bed", "red"]]
    assert lookup.prompt(pairs, "fox", 2) == "Map: fox > oak, ant > red, oak > pen, bed > red.\n2 steps: fox >"
    assert lookup.path(pairs, "fox", 2) == ["oak", "pen"]
    task = tasks.get("lookup")
    for example in task.load():
        row_steps = example.metadata["steps"]
        assert example.prompt.count(" > ") == example.metadata["pairs"]
        assert 1 <= row_steps <= 4
        assert task.score(example, f" {example.reference}\nMap: more").value == 1.0
    assert task.extract(" oak > pen\n2 steps") == "pen"


def test_tiny_python_is_judged_by_hidden_inputs() -> None:
    task = tasks.get("tiny_python")
    for example in task.load(limit=12):
        assert not any(test in example.prompt for test in example.metadata["tests"])
        assert task.score(example, f"{example.reference}\n[DONE]").value == 1.0
        assert task.score(example, "def f(x):\n    return None\n[DONE]").value == 0.0

"""Your own data as a task: prompts from fields, few-shot examples, metrics, and faults by their row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fsgen import tasks
from fsgen.study import run_study
from fsgen.study.config import load_config
from fsgen.study.plan import make_plan
from fsgen.tasks import sandbox
from tests.tiny import save_tiny, tiny_tokenizer

ROWS = [
    {"country": "France", "capital": "Paris", "people": "2,100,000"},
    {"country": "Norway", "capital": "Oslo", "people": 700000},
]
PROMPT = "Question: {country}?\nAnswer:"


def written(folder: Path, rows: list[Any], name: str = "my capitals.jsonl") -> str:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def made(folder: Path, rows: list[Any] = ROWS, **settings: Any) -> tasks.Task:
    usual = {"data": written(folder, rows), "prompt": PROMPT, "answer": "capital", "metric": "contains"}
    return tasks.get("jsonl", **usual | settings)


def load(task: tasks.Task, folder: Path, **options: Any) -> list[Any]:
    return sorted(task.load(data=str(folder / "my capitals.jsonl"), **options), key=lambda example: example.id)


def test_prompts_are_filled_from_the_fields_of_a_row(tmp_path: Path) -> None:
    task = made(tmp_path, prompt="{country} {{x}} {country}: {people}", system="be brief")
    first, _ = load(task, tmp_path)
    assert (task.name, first.id) == ("jsonl-my-capitals", "jsonl-my-capitals/0")
    assert first.prompt == "France {x} France: 2,100,000"
    assert first.messages == (("system", "be brief"), ("user", first.prompt))
    assert first.reference == "Paris"


def test_few_shot_examples(tmp_path: Path) -> None:
    shots = written(
        tmp_path, [{"country": "Peru", "capital": "Lima"}, {"country": "Chad", "capital": "N'Djamena"}], "s.jsonl"
    )
    task = made(tmp_path, examples=shots)
    assert load(task, tmp_path)[0].prompt == (
        "Question: Peru?\nAnswer: Lima\n\nQuestion: Chad?\nAnswer: N'Djamena\n\nQuestion: France?\nAnswer:"
    )
    one = load(task, tmp_path, shots=1)[0]
    assert one.prompt.startswith("Question: Peru?\nAnswer: Lima\n\nQuestion: France")
    assert [role for role, _ in one.messages] == ["user", "assistant", "user"]
    with pytest.raises(ValueError, match="takes 0 to 2 shots"):
        task.load(shots=3)


@pytest.mark.parametrize(
    ("metric", "answer", "text", "value"),
    [
        ("contains", "Paris", " It is paris, of course.", 1.0),
        ("contains", "Paris", " Rome", 0.0),
        ("contains", "Paris", "  ", 0.0),
        ("exact", "Paris", " Paris \n", 1.0),
        ("exact", "Paris", " Paris.", 0.0),
        ("exact", "Paris", "Paris\nQuestion: Rome", 1.0),
        ("number", "2,100,000", "So 21 hundred thousand: the answer is 2100000.", 1.0),
        ("number", "$18.00", "#### 18", 1.0),
        ("number", 5, "-5", 0.0),
        ("number", 5, "none", 0.0),
        ("choice", "C", "The answer is (C).", 1.0),
        ("choice", "C", "C", 1.0),
        ("choice", "C", "The answer is (A) or (C)", 0.0),
    ],
)
def test_metrics(tmp_path: Path, metric: str, answer: Any, text: str, value: float) -> None:
    task = made(tmp_path, [{"country": "x", "capital": answer}], metric=metric, stop=("\nQuestion:",))
    assert task.score(load(task, tmp_path)[0], text).value == value


def test_programs_run_in_the_sandbox(tmp_path: Path) -> None:
    try:
        sandbox.isolation()
    except RuntimeError as error:
        pytest.skip(str(error))
    rows = [{"country": "double", "capital": ["assert double(2) == 4", "assert double(0) == 0"]}]
    task = made(tmp_path, rows, metric="code")
    task.ready()
    (example,) = load(task, tmp_path)
    assert task.score(example, "```python\ndef double(x):\n    return 2 * x\n```").value == 1.0
    assert task.score(example, "def double(x):\n    return x").value == 0.0


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([*ROWS, {"country": "Peru"}], {}, "row 3: field 'capital' is missing"),
        ([{"capital": "x"}], {}, "row 1: field 'country' is missing"),
        ([*ROWS, 5], {}, "row 3: an object with named fields"),
        (ROWS, {"metric": "number"}, "row 1: field 'capital' must be a number, not 'Paris'"),
        ([{"country": "x", "capital": "E"}], {"metric": "choice"}, "must be a letter from A to D, not 'E'"),
        ([{"country": "x", "capital": "assert f() == 1"}], {"metric": "code"}, "must list at least one assert"),
        ([{"country": "x", "capital": " "}], {}, "row 1: field 'capital' is empty"),
        ([{"capital": "y", "t": []}], {"prompt": None, "messages": "t"}, "row 1: messages must be a list"),
        ([], {}, "has no rows"),
    ],
)
def test_what_is_wrong_is_named_with_its_row(tmp_path: Path, rows: list[Any], settings: Any, message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - compared below
        load(made(tmp_path, rows, **settings), tmp_path)
    assert message in str(refused.value)


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    for settings, message in (
        ({"metric": "bleu"}, "metric='bleu' is unknown; there are number, choice, exact, contains, code"),
        ({"messages": "talk"}, "one of the two"),
        ({"prompt": None}, "one of the two"),
        ({"prompt": None, "messages": "m", "system": "x"}, "messages have their own beginning"),
        ({"examples": str(tmp_path / "none.jsonl")}, "does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            made(tmp_path, **settings)
    with pytest.raises(ValueError, match="it needs data, prompt, answer and metric"):
        tasks.get("jsonl")
    (tmp_path / "odd.jsonl").write_text('{"country": "a", "capital": "b"}\n{"country": \n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        made(tmp_path).load(data=str(tmp_path / "odd.jsonl"))


def test_a_study_of_your_own_data(tmp_path: Path) -> None:
    own = {"name": "jsonl", "data": written(tmp_path, ROWS), "prompt": PROMPT, "answer": "capital", "metric": "exact"}
    study = {
        "tasks": [own | {"max_tokens": 6, "stop": ["\n"]}, {"name": "pocket_math", "limit": 1, "max_tokens": 6}],
        "pairs": [{"draft": "pocket-0.25m", "target": "pocket-0.6m"}],
        "methods": ["oracle"],
    }
    result = run_study(study, tmp_path / "out")
    assert not result.failed
    assert {row.task for row in result.rows} == {"jsonl-my-capitals", "pocket_math"}
    assert json.loads(result.to_json())[0]["task"] in ("jsonl-my-capitals", "pocket_math")
    assert result.to_frame().height == len(result.rows)
    assert run_study(study, tmp_path / "out").ran == 0
    other = [run.name for run in (tmp_path / "out" / "runs").glob("jsonl-*.json")]
    study["tasks"][0]["metric"] = "contains"  # type: ignore[index]
    run_study(study, tmp_path / "out")
    assert len(list((tmp_path / "out" / "runs").glob("jsonl-*.json"))) == 2 * len(other)


def test_conversations_of_your_own_data(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    model = str(save_tiny(tmp_path / "model", tokenizer=tokenizer))
    data = written(tmp_path, [{"talk": [{"role": "user", "content": "hi"}], "right": "ho"}])
    own = {"name": "jsonl", "data": data, "messages": "talk", "answer": "right", "metric": "contains", "max_tokens": 4}
    study: dict[str, Any] = {"pairs": [{"target": model}], "methods": ["plain"]}
    plan = make_plan(load_config(study | {"tasks": [own | {"chat": True, "stop": ["x"]}]}))
    (cell,) = plan.cells
    assert cell.task.prompt(cell.task.examples[0], plan.models[model].tokenizer).text == "<user>hi<assistant>"
    assert cell.task.stop == ("x",)
    for wrong, message in (
        (own, "set chat: true"),
        (own | {"metric": "bleu", "chat": True}, "tasks.0.metric: input should be 'number'"),
        (own | {"colour": 1, "chat": True}, "tasks.0.colour: unknown key"),
        ({"name": "gsm8k", "metric": "number"}, "tasks.0.metric: unknown key"),
        ({"name": "jsonl", "data": data}, "tasks.0.answer: missing"),
    ):
        with pytest.raises(ValueError, match=message):
            load_config(study | {"tasks": [wrong]})

"""Texts from files: our own results, logs of an OpenAI-compatible API, studies; what is none of them is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsgen.backends import Plan, plan
from fsgen.planner.sources import study_texts, task_prompts
from fsgen.planner.texts import Written, read_texts
from fsgen.prompts import encode, fits
from fsgen.tasks import get
from fsgen.types import Example
from tests.conftest import Finished

PROMPT, TEXT = "Question: 2 + 2?", "\nAnswer: 4"


@pytest.fixture(scope="module")
def draft() -> Plan:
    return plan(draft="pocket-0.25m")


def ids(draft: Plan, text: str) -> tuple[int, ...]:
    return tuple(draft.tokenizer.encode(text))


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def texts(draft: Plan, path: Path, prompts: Path | None = None) -> list[Written]:
    return read_texts(path, draft, draft.vocab_size, prompts)


def test_prompts_with_completions(draft: Plan, tmp_path: Path) -> None:
    tokens = list(ids(draft, TEXT))
    path = written(
        tmp_path / "a.jsonl",
        {"prompt": PROMPT, "completion": TEXT},
        {"prompt": PROMPT, "completion": TEXT, "token_ids": tokens, "finish_reason": "length"},
        {"prompt": list(ids(draft, PROMPT)), "completion": TEXT, "temperature": 0.7},
        {"prompt": PROMPT, "token_ids": tokens, "temperature": 1.0, "logprobs": [-0.5] * len(tokens)},
        {"prompt": PROMPT, "completion": TEXT, "sampling": {"temperature": 1.0, "top_p": 0.9}},
    )
    found = texts(draft, path)
    assert all(one.prompt == ids(draft, PROMPT) and one.tokens == tuple(tokens) for one in found)
    assert [one.retokenized for one in found] == [True, False, True, False, True]
    assert [one.cut for one in found] == [False, True, False, False, False]
    assert [one.greedy for one in found] == [True, True, False, False, False]
    assert [one.exact for one in found] == [True, True, False, True, False]
    assert found[4].filtered


def test_logged_requests(draft: Plan, tmp_path: Path) -> None:
    tokens = list(ids(draft, TEXT))
    words = [draft.tokenizer.decode([token]) for token in tokens]
    request = {"model": "m", "prompt": PROMPT, "temperature": 0}
    path = written(
        tmp_path / "logs.jsonl",
        {"request": request, "response": {"choices": [{"text": TEXT, "finish_reason": "length"}]}},
        {
            "request": request | {"temperature": 1},
            "response": {"choices": [{"text": TEXT, "logprobs": {
                "tokens": words, "token_logprobs": [-1.0] * len(words),
            }}]},
        },
        {"request": {"prompt": PROMPT}, "response": {"status_code": 200, "body": {"choices": [{"text": TEXT}]}}},
        {
            "request": {"body": request},
            "response": {"choices": [{"text": "?", "logprobs": {
                "tokens": [f"token_id:{token}" for token in tokens], "token_logprobs": [-0.1] * len(tokens),
            }}]},
        },
        {"request": request, "response": {"choices": [{"text": ""}]}},
    )  # fmt: skip
    found = texts(draft, path)
    assert [one.tokens for one in found] == [tuple(tokens)] * 4
    assert [one.temperature for one in found] == [0, 1, 1, 0]  # the API's own where a request says nothing
    assert [one.exact for one in found] == [True, True, False, True]
    assert [one.cut for one in found] == [True, False, False, False]


def test_results_of_generate(run: Callable[..., Finished], draft: Plan, tmp_path: Path) -> None:
    prompts = written(
        tmp_path / "prompts.jsonl", PROMPT, {"prompt": PROMPT, "sampling": {"temperature": 1.0, "seed": 1}}
    )
    out = tmp_path / "out.jsonl"
    arguments = ["--method", "plain", "--target", "pocket-0.6m", "--max-tokens", "12", "--logprobs", "0", "--json"]
    assert run("generate", "--input", str(prompts), "--output", str(out), *arguments).status == 0
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    found = texts(draft, out, prompts)
    assert [one.tokens for one in found] == [tuple(token["id"] for token in record["tokens"]) for record in records]
    assert [one.greedy for one in found] == [True, False]
    assert all(one.exact for one in found)
    given = found[1].logprobs
    assert given is not None
    assert given[0] == pytest.approx(records[1]["tokens"][0]["target_logprobs"][0][1])
    with pytest.raises(ValueError, match="--prompts"):
        texts(draft, out)


def test_results_of_other_methods_are_refused(run: Callable[..., Finished], draft: Plan, tmp_path: Path) -> None:
    prompts = written(tmp_path / "prompts.jsonl", PROMPT)
    pair = ["--draft", "pocket-0.25m", "--target", "pocket-0.6m", "--max-tokens", "6"]

    def result(name: str, *method: str) -> Path:
        out = tmp_path / name
        assert run("generate", "--input", str(prompts), "--output", str(out), *pair, *method).status == 0
        return out

    drafted = result("drafted.jsonl", "--method", "speculative")
    (record,) = [json.loads(line) for line in drafted.read_text(encoding="utf-8").splitlines()]
    assert record["method"] == "speculative"
    assert len(texts(draft, drafted, prompts)) == 1
    del record["method"]  # as results were before
    assert len(texts(draft, written(tmp_path / "former.jsonl", record), prompts)) == 1
    routed = result("routed.jsonl", "--method", "route", "--router", "never")
    with pytest.raises(ValueError, match=r"line 1 .* written by the method 'route'"):
        texts(draft, routed, prompts)
    (record,) = [json.loads(line) for line in routed.read_text(encoding="utf-8").splitlines()]
    del record["method"]
    with pytest.raises(ValueError, match="of its 6 tokens the target has seen 0"):
        texts(draft, written(tmp_path / "former.jsonl", record), prompts)


@pytest.mark.parametrize("method", ["route", "contrastive:beta=0.3", "os:System", 3])
def test_responses_of_other_methods_are_refused(draft: Plan, tmp_path: Path, method: Any) -> None:
    request = {"prompt": PROMPT, "temperature": 0}
    response: dict[str, Any] = {"choices": [{"text": TEXT}], "fsgen": {"method": "speculative"}}
    line = {"request": request, "response": response}
    assert len(texts(draft, written(tmp_path / "log.jsonl", line))) == 1
    response["fsgen"] = {"method": method}
    with pytest.raises(ValueError, match="is not the target's own text"):
        texts(draft, written(tmp_path / "log.jsonl", line))


def test_no_more_documents_are_made_than_are_wanted(draft: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    task, asked = get("gsm8k"), list[int | None]()
    load = task.load

    def noted(limit: int | None = None, **options: Any) -> list[Example]:
        asked.append(limit)
        return load(limit, **options)

    monkeypatch.setattr("fsgen.planner.sources.get", lambda name: type("Noted", (), {"load": staticmethod(noted)}))
    found = task_prompts("gsm8k", draft, 3, 8)
    fitting = [each for each in load() if fits(draft, each.prompt, 8)]
    assert found == [encode(draft, each.prompt) for each in fitting[:3]]
    assert asked == [3]
    every = len(load())
    assert len(task_prompts("gsm8k", draft, every + 5, 8)) == len(fitting)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("", "holds no text"),
        ("no JSON", "line 1 .* is not JSON"),
        ("[1, 2]", "no object"),
        ('{"question": "a", "answer": "b"}', 'no "prompt" with a "completion"'),
        ('{"prompt": "a", "completion": "b", "temperature": -1}', "temperature=-1 is impossible"),
        ('{"prompt": "a", "token_ids": [99999]}', "99999 is of another tokenizer"),
        ('{"prompt": [99999], "completion": "b"}', "99999 is of another tokenizer"),
        ('{"prompt": "a", "completion": "hello", "token_ids": [5, 6, 7]}', "of another tokenizer"),
        ('{"prompt": "a", "token_ids": [5, 6], "logprobs": [0.5, 0.5]}', "log-probabilities are above 0"),
        ('{"request": {"model": "m"}, "response": {"choices": [{"text": "a"}]}}', "neither a prompt nor messages"),
        ('{"request": {"prompt": "m"}, "response": {"error": "x"}}', "no text of a known form"),
        ('{"request": {"messages": [{"role": "user", "content": "a"}]}, "response": {"choices": [{"text": "a"}]}}',
         "chat template"),
    ],
)  # fmt: skip
def test_what_is_no_log_is_refused(draft: Plan, tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "foreign.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=fault):
        texts(draft, path)


def test_a_file_that_is_no_text_is_refused(draft: Plan, tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        texts(draft, path)


def test_a_text_beyond_the_window_is_refused(draft: Plan, tmp_path: Path) -> None:
    path = written(tmp_path / "long.jsonl", {"prompt": PROMPT, "token_ids": [5] * draft.context})
    with pytest.raises(ValueError, match="context window"):
        texts(draft, path)


def test_texts_of_a_study(run: Callable[..., Finished], draft: Plan, tmp_path: Path) -> None:
    config = tmp_path / "study.yaml"
    config.write_text(
        "tasks: [{name: gsm8k, limit: 3, max_tokens: 8}]\npairs: [{draft: pocket-0.25m, target: pocket-0.6m}]\n"
        "methods: [oracle]\n",
        encoding="utf-8",
    )
    folder = tmp_path / "study"
    assert run("study", str(config), "--out", str(folder)).status == 0
    found = study_texts(folder, "pocket-0.6m", draft)
    assert len(found) == 3
    assert all(one.greedy and 0 < len(one.tokens) <= 8 for one in found)
    with pytest.raises(ValueError, match=r"no greedy texts that 'pocket-4m' wrote; its targets: pocket-0\.6m"):
        study_texts(folder, "pocket-4m", draft)
    for file in (folder / "traces").glob("*/*.parquet"):
        file.unlink()
    refused = run("plan", "--target", "pocket-0.6m", "--draft", "pocket-0.25m", "--study", str(folder))
    assert (refused.status, refused.out) == (2, "")
    assert "is a study without traces" in refused.err
    with pytest.raises(ValueError, match="has no study"):
        study_texts(tmp_path, "pocket-0.6m", draft)


def test_log_probabilities_are_finite_or_minus_infinity(draft: Plan, tmp_path: Path) -> None:
    path = tmp_path / "inf.jsonl"
    path.write_text('{"prompt": "a", "token_ids": [5, 6], "temperature": 1, "logprobs": [-Infinity, -1]}\n')
    assert texts(draft, path)[0].logprobs == (-math.inf, -1.0)

"""Outputs of runs elsewhere as the target of a study: its tables are those of the local study."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fsgen import tasks
from fsgen.api import generate
from fsgen.backends import Members, load
from fsgen.cli import main
from fsgen.imports import import_outputs
from fsgen.types import SamplingParams
from tests.servers import Answers, answers
from tests.study.test_remote import run, same, study

SAMPLING = SamplingParams(max_tokens=6)


@pytest.fixture(scope="module")
def said(ladder: dict[str, str]) -> Answers:
    return answers("vllm", ladder["large"], most=258)


@pytest.fixture(scope="module")
def prompts(data: str, said: Answers) -> list[list[int]]:
    task = tasks.get("pocket_math")
    return [list(said.tokenizer.encode(each.prompt)) for each in task.load(8, data=data)]


def request_output(said: Answers, prompt: list[int], top: int, more: int = 0) -> dict[str, Any]:
    """A `RequestOutput` of vLLM as examples/vllm_outputs.py writes it."""
    stop = tasks.get("pocket_math").stop
    tokens, found, reason = said.written(prompt, 6, stop, sorted(said.model.eos_ids))
    logprobs = [{str(i): {"logprob": z} for i, z in reversed(said.top(each, top))} for each in found]
    text = {"token_ids": tokens, "finish_reason": reason, "logprobs": logprobs if top else None}
    return {"prompt_token_ids": prompt, "outputs": [text] * (1 + more)}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def local(ladder: dict[str, str], data: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = run(study(ladder, data, ladder["large"]), tmp_path_factory.mktemp("local"))
    return {
        (draft, method, "big" if target == "large" else target): it for (draft, method, target), it in found.items()
    }


def test_vllms_outputs(
    said: Answers, prompts: list[list[int]], ladder: dict[str, str], data: str, tmp_path: Path, local: Any
) -> None:
    file = write_lines(tmp_path / "outputs.jsonl", [request_output(said, prompt, 5) for prompt in prompts])
    found = import_outputs("vllm-outputs", file, tmp_path / "big", "big", ladder["small"])
    assert (found.texts, found.retokenized, found.without_probabilities) == (8, 0, 0)
    remote = run(study(ladder, data, f"recorded:{tmp_path / 'big'}"), tmp_path / "study")
    same(local, remote, full=False)


def test_without_log_probabilities_frequencies_are_known(
    said: Answers, prompts: list[list[int]], ladder: dict[str, str], data: str, tmp_path: Path, local: Any
) -> None:
    file = write_lines(tmp_path / "outputs.jsonl", [request_output(said, prompt, 0) for prompt in prompts])
    found = import_outputs("vllm-outputs", file, tmp_path / "big", "big", ladder["small"])
    assert found.without_probabilities == 8
    remote = run(study(ladder, data, f"recorded:{tmp_path / 'big'}"), tmp_path / "study")
    for key, (texts, traces, _) in local.items():
        if key[1] == "oracle":
            there, traced, _ = remote[key]
            assert texts["differing"].to_list() == there["differing"].to_list()
            assert traces["draft_token"].to_list() == traced["draft_token"].to_list()
            assert traced["target_prob"].is_null().all()
            assert traced["target_entropy_bounds"][0].to_list() == pytest.approx([0.0, math.log(258)])
            assert traced["total_variation_bounds"][0].to_list() == [0.0, 1.0]


@pytest.fixture(scope="module")
def pair() -> Members:
    return load("pocket-0.25m", "pocket-0.6m", dtype="float32", device="cpu")


def logged(pair: Members, prompt: str, logprobs: bool, chat: bool = False) -> dict[str, Any]:
    """A request to an OpenAI-compatible server with its answer."""
    text = generate(pair, prompt, "plain", sampling=SAMPLING, candidates=3)[0]
    choice: dict[str, Any] = {"index": 0, "text": text.text, "finish_reason": "length"}
    shown = [pair.tokenizer.decode([token]) for token in text.token_ids]
    if logprobs:
        tops = [{pair.tokenizer.decode([i]): math.log(p) for i, p in token.target_top} for token in text.tokens]
        choice["logprobs"] = {"tokens": shown, "token_logprobs": [0.0] * len(shown), "top_logprobs": tops}
    return {
        "request": {"model": "big", "prompt": prompt, "max_tokens": 6, "temperature": 0},
        "response": {"model": "big", "choices": [choice]},
    }


@pytest.mark.parametrize("logprobs", [True, False])
def test_openais_logs(logprobs: bool, pair: Members, tmp_path: Path) -> None:
    texts = ["The cat sat on the", "Question: What is 2 + 2?\nAnswer:"]
    file = write_lines(tmp_path / "log.jsonl", [logged(pair, text, logprobs) for text in texts])
    found = import_outputs("openai-logs", file, tmp_path / "big", "big", "pocket-0.6m")
    assert found.retokenized + (2 if logprobs else 0) == 2
    recorded = load("pocket-0.25m", f"recorded:{tmp_path / 'big'}", device="cpu")
    for a, b in zip(*(generate(m, texts, "plain", sampling=SAMPLING) for m in (pair, recorded)), strict=True):
        assert a.text == b.text
        if logprobs:
            assert [t.target_prob for t in a.tokens] == pytest.approx([t.target_prob for t in b.tokens], abs=1e-5)


def test_openais_batches(pair: Members, tmp_path: Path) -> None:
    """Requests and answers in a file each, joined by `custom_id`."""
    one = logged(pair, "The cat", True)
    asked = write_lines(tmp_path / "in.jsonl", [{"custom_id": "a", "method": "POST", "body": one["request"]}])
    row = {"custom_id": "a", "response": {"status_code": 200, "body": one["response"]}}
    file = write_lines(tmp_path / "out.jsonl", [row])
    assert import_outputs("openai-logs", file, tmp_path / "big", "big", "pocket-0.6m", requests=asked).texts == 1


def test_a_recorded_model_writes_nothing_else(pair: Members, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "log.jsonl", [logged(pair, "The cat", True)])
    import_outputs("openai-logs", file, tmp_path / "big", "big", "pocket-0.6m")
    recorded = load("pocket-0.25m", f"recorded:{tmp_path / 'big'}", device="cpu")
    with pytest.raises(ValueError, match="recorded:big has no text for a prompt"):
        generate(recorded, "The dog", "plain", sampling=SAMPLING)
    with pytest.raises(ValueError, match="was cut at 6 tokens, and 9 are asked for"):
        generate(recorded, "The cat", "plain", sampling=SamplingParams(max_tokens=9))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"request": {"prompt": "a"}}, "temperature=1: only greedy"),
        ({"request": {"prompt": "a", "temperature": 0.7}}, "temperature=0.7: only greedy"),
        ({"response": {"choices": []}}, "no output of openai-logs"),
        ({"response": {"choices": [{"text": "", "finish_reason": "stop"}]}}, "without tokens"),
        ({"response": {"choices": [{"text": "a", "finish_reason": "content_filter"}]}}, "content_filter"),
        ({"response": None}, "TypeError|AttributeError"),
    ],
)
def test_lines_that_are_no_outputs(change: dict[str, Any], reason: str, pair: Members, tmp_path: Path) -> None:
    good = {
        "request": {"prompt": "a", "temperature": 0},
        "response": {"choices": [{"text": "b", "finish_reason": "stop"}]},
    }
    file = write_lines(tmp_path / "log.jsonl", [good, good | change])
    with pytest.raises(ValueError, match=rf"line 2: no output of openai-logs: .*({reason})|{reason}"):
        import_outputs("openai-logs", file, tmp_path / "big", "big", "pocket-0.6m")
    assert not (tmp_path / "big").exists()


def test_the_command(
    said: Answers, prompts: list[list[int]], ladder: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines(tmp_path / "outputs.jsonl", [request_output(said, prompt, 3) for prompt in prompts])
    command = ["import", "vllm-outputs", str(file), "--out", str(tmp_path / "big"), "--tokenizer", ladder["small"]]
    for status, words in ((0, f"recorded:{tmp_path / 'big'}"), (2, "exists already")):
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == status
        shown = capsys.readouterr()
        assert words in (shown.err if status else shown.out)
    for kind, more, words in (
        ("other", [], "vllm-outputs, openai-logs"),
        ("vllm-outputs", ["--requests", "x"], "are for"),
    ):
        with pytest.raises(SystemExit):
            main(["import", kind, str(file), "--out", str(tmp_path / "new"), "--tokenizer", ladder["small"], *more])
        assert words in capsys.readouterr().err
    several = write_lines(tmp_path / "several.jsonl", [request_output(said, prompts[0], 3, more=1)])
    with pytest.raises(ValueError, match="2 texts of one prompt"):
        import_outputs("vllm-outputs", several, tmp_path / "new", "big", ladder["small"])

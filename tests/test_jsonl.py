"""Prompts from a file and results into one: what lines may be, and that nothing is repeated or lost."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fsgen
from fsgen.api import method_for
from fsgen.jsonl import appending, as_line, read_requests, results
from fsgen.methods.method import parse
from fsgen.types import SamplingParams
from tests.doubles import trio
from tests.servers import TestServer, answers
from tests.tiny import save_tiny, tiny_tokenizer

INPUT = [
    "the cat",
    [5, 9, 12],
    {"prompt": "an end", "method": "plain", "sampling": {"temperature": 0.9, "n": 3, "seed": 4, "max_tokens": 7}},
    {"prompt": [7, 7], "sampling": {"logit_bias": {"5": -100.0}, "logprobs": 1}},
]


def lines(values: list[Any]) -> str:
    return "\n".join(map(json.dumps, values)) + "\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("models")
    found = [str(save_tiny(root / name, seed=seed)) for seed, name in enumerate(("target", "draft"))]
    return ["--target", found[0], "--draft", found[1], "--max-tokens", "12"]


def shown(text: str) -> list[dict[str, Any]]:
    """The results without what a clock decides."""
    return [{k: v for k, v in json.loads(line).items() if k != "stats"} for line in text.splitlines()]


def test_lines_are_prompts_with_settings_of_their_own(run: Any, pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n" + lines(INPUT) + "\n\n")
    answer = run("generate", "--input", str(tmp_path / "in.jsonl"), *pair)
    assert answer.status == 0
    found = shown(answer.out)
    assert [(one["line"], one["choice"]) for one in found] == [(2, 0), (3, 0), (4, 0), (4, 1), (4, 2), (5, 0)]
    members = fsgen.load(draft=pair[3], target=pair[1])
    usual = {"sampling": fsgen.SamplingParams(max_tokens=12)}
    drawn = fsgen.SamplingParams(max_tokens=7, temperature=0.9, n=3, seed=4)
    expected = [
        *fsgen.generate(members, ["the cat", [5, 9, 12]], **usual),  # type: ignore[arg-type]
        *fsgen.generate(members, "an end", "plain", sampling=drawn),
        *fsgen.generate(members, [7, 7], sampling=fsgen.SamplingParams(12, logit_bias={5: -100.0}, logprobs=1)),
    ]
    assert [one["text"] for one in found] == [text.text for text in expected]
    assert [len(one.get("logprobs", [])) for one in found] == [0] * 5 + [12]
    assert json.loads(answer.out.splitlines()[0])["stats"]["tokens"] == len(expected[0].token_ids)
    assert "6 texts of" in answer.err
    whole = run("generate", "--input", str(tmp_path / "in.jsonl"), *pair, "--json", "--candidates", "2")
    assert len(json.loads(whole.out.splitlines()[0])["tokens"][0]["target_top"]) == 2


def test_conversations_are_lines(run: Any, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    model = str(save_tiny(tmp_path / "m", tokenizer=tokenizer))
    hi = [{"role": "user", "content": "hi"}]
    (tmp_path / "in").write_text(lines([hi, {"prompt": hi}, {"role": "user", "content": "hi"}]))
    options = ["--target", model, "--method", "plain", "--max-tokens", "4"]
    refused = run("generate", "--input", str(tmp_path / "in"), *options)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith("error: line 3 of the input: a message stands in a list")
    (tmp_path / "in").write_text(lines([hi, {"prompt": hi}, "hi:"]))
    texts = [one["text"] for one in shown(run("generate", "--input", str(tmp_path / "in"), *options).out)]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", "it is not JSON"),
        ('{"prompt": "a", "metod": "plain"}', "unknown key 'metod'; there are prompt, method, sampling"),
        ('{"method": "plain"}', "it has no prompt"),
        ('{"prompt": "a", "method": 3}', "method=3 is no text"),
        ('{"prompt": "a", "method": "guess"}', "unknown method 'guess'"),
        ('{"prompt": "a", "method": "proxy"}', "needs a base"),
        ('{"prompt": "a", "sampling": 3}', "sampling=3 is no object"),
        ('{"prompt": "a", "sampling": {"heat": 3}}', "sampling has no parameter 'heat'"),
        ('{"prompt": "a", "sampling": {"max_tokens": "3"}}', "max_tokens='3' is impossible"),
        ('{"prompt": "a", "sampling": {"max_tokens": 5000}}', "exceeds the context window"),
        ('""', "its prompt has no tokens"),
        ("[]", "its prompt has no tokens"),
        ('["a", 5]', "a list holds a text and a token id"),
        ("null", "None is no prompt"),
        ("[5000]", "outside the vocabulary"),
        ("[" * 100_000, "it is not JSON|recursion"),
    ],
    ids=lambda text: text[:30],
)
def test_a_wrong_line_is_named_before_weights_load(
    run: Any, pair: list[str], tmp_path: Path, line: str, message: str, no_weights: None
) -> None:
    (tmp_path / "in").write_text('"good"\n\n' + line + "\n")
    answer = run("generate", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *pair)
    assert answer.status == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert "error: line 3 of the input: " in answer.err
    assert re.search(message, answer.err)
    assert not (tmp_path / "out").exists()


def test_what_is_given_together(run: Any, pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").write_text("\n\n")
    for words, message in (
        ([], "give one of these: a prompt, or --input"),
        (["a", "--input", "b"], "give one of these"),
        (["a", "--output", "b"], "--output is for the prompts of --input"),
        (["--input", str(tmp_path / "none")], "No such file"),
        (["--input", str(tmp_path / "in")], "the input has no prompt"),
        (["--input", str(tmp_path / "in"), "--output", str(tmp_path)], "it is a folder"),
    ):
        answer = run("generate", *words, *pair)
        assert answer.status == 2
        assert message in answer.err


def test_every_beginning_of_an_output_is_gone_on_with(tmp_path: Path) -> None:
    """Cut off after any byte, as by a kill: the file ends with the same bytes."""
    members, method = trio(27), parse("plain")
    requests = read_requests(lines(["ab", "c", "dad"]), members, method, SamplingParams(max_tokens=5))
    written = [as_line({k: v for k, v in one.items() if k != "stats"}) for one in results(members, requests)]
    whole = "".join(line + "\n" for line in written).encode()
    file = tmp_path / "out.jsonl"
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        with appending(file, requests) as (done, add):
            assert done == whole[:cut].count(b"\n")
            for line in written[done:]:
                add(line)
        assert file.read_bytes() == whole


def test_an_output_of_something_else_is_left_alone(tmp_path: Path) -> None:
    members, method = trio(27), parse("plain")

    def requests(texts: list[Any], **options: Any) -> Any:
        return read_requests(lines(texts), members, method, SamplingParams(max_tokens=5, **options))

    first = requests(["ab", "c"])
    file = tmp_path / "out.jsonl"
    with appending(file, first) as (_, add):
        for one in results(members, first):
            add(as_line(one))
        with pytest.raises(ValueError, match="another process"), appending(file, first):
            pass
    kept = file.read_bytes()
    others = [requests(["ab"]), requests(["ab", "d"]), requests(["ab", "c"], seed=1), requests(["c", "ab"])]
    others.append(read_requests(lines(["ab", "c"]), trio(27, seed=5), method, SamplingParams(max_tokens=5)))
    others.append(
        read_requests(lines(["ab", "c"]), members, method_for(members, "oracle"), SamplingParams(max_tokens=5))
    )
    for other in others:
        with pytest.raises(ValueError, match="was written for another prompt"), appending(file, other):
            pass
        assert file.read_bytes() == kept
    with appending(file, requests(["ab", "c", "more"])) as (done, _):
        assert done == 2
    for foreign in (b"my notes\n", b"my notes", b'{"text": 1}\n', b"[1]\n"):
        file.write_bytes(foreign)
        with pytest.raises(ValueError, match="of fsgen: give another file"), appending(file, first):
            pass
        assert file.read_bytes() == foreign


def test_a_killed_run_is_gone_on_with(pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").write_text(lines([f"text {i}" for i in range(200)]))
    command = [sys.executable, "-m", "fsgen", "generate", "--input", str(tmp_path / "in"), "--batch-size", "2", *pair]
    command[command.index("--max-tokens") + 1] = "60"
    out = tmp_path / "out"
    started = subprocess.Popen([*command, "--output", str(out)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while (not out.exists() or out.stat().st_size < 4000) and time.monotonic() < deadline and started.poll() is None:
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert 0 < out.read_bytes().count(b"\n") < 200
    again = subprocess.run([*command, "--output", str(out)], capture_output=True, text=True, check=True)
    assert "were there" in again.stderr
    straight = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown(out.read_text()) == shown(straight)
    assert len(shown(straight)) == 200


def test_prompts_come_from_a_pipe(pair: list[str]) -> None:
    command = [sys.executable, "-m", "fsgen", "generate", "--input", "-", *pair]
    piped = subprocess.run(command, input=lines(["a", "b"]), capture_output=True, text=True, check=True)
    assert [one["line"] for one in shown(piped.stdout)] == [1, 2]


def test_several_texts_of_one_prompt(run: Any, pair: list[str]) -> None:
    answer = run("generate", "the", *pair, "--n", "3", "--temperature", "1.2", "--json")
    texts = [json.loads(line)["text"] for line in answer.out.splitlines()]
    members = fsgen.load(draft=pair[3], target=pair[1])
    params = fsgen.SamplingParams(max_tokens=12, temperature=1.2, n=3)
    assert texts == [one.text for one in fsgen.generate(members, "the", sampling=params)]
    assert len(set(texts)) > 1


def test_a_server_writes_each_plain_text_in_one_request() -> None:
    method, sampling = parse("plain"), SamplingParams(max_tokens=8)
    text = lines([f"{number} cats" for number in range(11)])
    local = fsgen.load("pocket-0.25m", "pocket-0.6m", dtype="float32", device="cpu")
    here = list(results(local, read_requests(text, local, method, sampling), 2))
    with TestServer(answers("vllm", "pocket-0.6m")) as server:
        remote = fsgen.load("pocket-0.25m", f"vllm:{server.url}#big", device="cpu")
        requests, asked = read_requests(text, remote, method, sampling), server.asked
        there = list(results(remote, requests, 2))
        assert server.asked == asked + 11
    assert [each["text"] for each in there] == [each["text"] for each in here]

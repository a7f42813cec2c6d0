"""Drafts with another tokenizer where other parts meet them: files, penalties, conversations, commands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import fsgen
from fsgen import Members, SamplingParams
from fsgen.backends import load

DRAFT, TARGET = "made-0.1m", "pocket-0.6m"  # of different tokenizers
PAIR = ("--draft", DRAFT, "--target", TARGET)
MIXING = "ensemble:missing=1"


@pytest.fixture(scope="module")
def members() -> Members:
    return load(draft=DRAFT, target=TARGET)


def test_a_file_of_prompts_that_the_draft_alone_answers(run: Any, tmp_path: Path) -> None:
    lines = tmp_path / "in.jsonl"
    lines.write_text('"Once upon a time"\n', encoding="utf-8")
    words = ("--method", "route", "--router", "never", "--max-tokens", "8")
    status, out, err = run("generate", "--input", str(lines), *PAIR, *words)
    assert (status, "error" in err) == (0, False)
    members = load(draft=DRAFT, target=TARGET)
    sampling = SamplingParams(max_tokens=8)
    expected = fsgen.generate(members, "Once upon a time", "route", "never", sampling=sampling)[0]
    assert json.loads(out)["text"] == expected.text


def test_a_file_may_mix_methods_and_tokenizers(run: Any, tmp_path: Path, members: Members) -> None:
    lines, prompt = tmp_path / "in.jsonl", "Tom has 3 apples."
    methods = ["speculative", MIXING, "plain", MIXING]
    lines.write_text("\n".join(json.dumps({"prompt": prompt, "method": method}) for method in methods))
    status, out, err = run("generate", "--input", str(lines), *PAIR, "--max-tokens", "8")
    assert status == 0, err
    sampling = SamplingParams(max_tokens=8)
    expected = [fsgen.generate(members, prompt, method, sampling=sampling)[0].text for method in methods]
    assert [json.loads(line)["text"] for line in out.splitlines()] == expected


@pytest.mark.parametrize("router", ["max-prob:0.5", "never"])
def test_a_forbidden_token_is_never_written(members: Members, router: str) -> None:
    prompt = "Question: Tom has 3 boxes of 12 pens. baba"
    sampling = SamplingParams(max_tokens=24, ignore_eos=True)
    free = fsgen.generate(members, prompt, "route", router, sampling=sampling)[0]
    forbidden = max(set(free.token_ids), key=free.token_ids.count)
    for more in ({"logit_bias": {forbidden: -math.inf}}, {"stop_token_ids": (forbidden,), "min_tokens": 20}):
        bound = SamplingParams(max_tokens=20, ignore_eos=True, **more)
        assert forbidden not in fsgen.generate(members, prompt, "route", router, sampling=bound)[0].token_ids


def test_a_prompt_that_is_far_too_long_is_left_out(run: Any, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Tom has 3 apples.\n" + "word " * 60_000 + "\n")
    status, out, _ = run("pair", DRAFT, TARGET, "--prompts", str(prompts), "--json")
    assert status == 0
    assert json.loads(out)["draft_mass"]["positions"] < 100


def test_weights_of_four_bits_are_verified(run: Any) -> None:
    status, out, err = run("verify", "--weights", "int4", "--prompts", "2", "--max-tokens", "8", "--json")
    assert status == 0, err
    assert json.loads(out)["faults"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--draft", "ngram:3", "--target", TARGET), "is no model"),
        (("--target", TARGET, "--acceptance", "0.5"), "--acceptance is for a draft"),
        ((*PAIR, "--transformers"), "--transformers needs models"),
    ],
)
def test_what_bench_cannot_measure(run: Any, words: tuple[str, ...], message: str) -> None:
    status, _, err = run("bench", *words)
    assert status == 2
    assert message in err

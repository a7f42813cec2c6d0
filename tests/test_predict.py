"""`fsgen predict`: what it says of a pair, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.servers import TestServer, answers
from tests.study.conftest import ladder

__all__ = ["ladder"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("What is 1 + 1?\nWhat is 2 + 3?\nHow many?\n")
    return path


def test_the_command(run: Any, ladder: dict[str, str], prompts: Path, tmp_path: Path) -> None:
    pair = ["--target", ladder["large"], "--draft", ladder["small"], "--draft", ladder["middle"]]
    words = ["predict", *pair, "--prompts", str(prompts), "--max-tokens", "12"]
    found = json.loads(run(*words, "--json").out)
    first = found["predictions"][0]
    assert [len(first[name]) for name in ("accepted", "mean_accepted_length")] == [8, 8]
    assert 0 < first["frequency"] < 1
    assert first["accepted"][0] == pytest.approx(1 - first["frequency"])
    assert first["mean_accepted_length"][0] == pytest.approx(2 - first["frequency"])
    assert first["accepted"] == sorted(first["accepted"], reverse=True)
    assert first["known"] is False
    assert first["tokens"] <= 36
    shown = run(*words).out
    assert "extrapolation" in shown
    for wrong, error in (
        (["--target", ladder["large"]], "at least one --draft"),
        ([*pair, "--fit", str(tmp_path)], "--fit DIR and --out FILE go together"),
        ([*pair, "--predictor", str(prompts)], "prompts.txt"),
        (["--target", ladder["large"], "--draft", "ngram"], "is no model"),
    ):
        answer = run("predict", *wrong)
        assert answer.status == 2
        assert error in answer.err


def test_a_target_behind_a_server(
    run: Any, ladder: dict[str, str], prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the draft's tokenizer, and what is not known of it is said before the first text."""
    with TestServer(answers("vllm", ladder["large"], most=258)) as server:
        name, few = f"vllm:{server.url}#big?top=258", ["--prompts", str(prompts), "--max-tokens", "6"]
        words = ["predict", "--draft", ladder["small"], *few, "--target"]
        there = json.loads(run(*words, f"{name}&parameters=1000000", "--json").out)["predictions"][0]
        here = json.loads(run(*words, ladder["large"], "--json").out)["predictions"][0]
        assert there["tokens"] == here["tokens"]
        monkeypatch.setattr("fsgen.predict.own_texts", lambda *_: pytest.fail("a text was written"))
        for target, error in (
            (name, "the size of 'vllm:big' is not known"),
            (f"vllm:{server.url}#big?top=5&parameters=9", "predictions read its entropy"),
        ):
            answer = run(*words, target)
            assert answer.status == 2
            assert error in answer.err

"""A bundled target with a draft of another tokenizer: its own greedy texts, and what the commands say of the pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fsgen import Members, SamplingParams, generate, load
from fsgen.backends.translated import TranslatedModel
from fsgen.tasks.prompts import from_tasks
from tests.second import second_draft

TARGET = "pocket-4m"
PROMPT = "Question: Tom has 3 boxes of 12 pens. How many pens are there?\nAnswer:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return second_draft(tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="module")
def members(folder: Path) -> Members:
    return load(draft=folder, target=TARGET)


def test_greedy_texts_of_200_prompts_are_the_targets_own(members: Members) -> None:
    assert isinstance(members.draft, TranslatedModel)
    prompts = from_tasks("gsm8k", 200, lambda text: len(members.tokenizer.encode(text)) < members.context - 32).texts
    sampling = SamplingParams(32)
    ours, theirs = (
        generate(members, prompts, method, sampling=sampling, batch_size=32)
        for method in ("speculative:draft_tokens=4", "plain")
    )
    assert [text.token_ids for text in ours] == [text.token_ids for text in theirs]
    assert [text.text for text in ours] == [text.text for text in theirs]
    accepted, verified = (sum(getattr(t.stats, name) for t in ours) for name in ("accepted", "recovered"))
    assert accepted > 0.35 * (accepted + verified)  # of a draft that was never trained on these tokens


def test_generate(run: Any, folder: Path) -> None:
    pair = ["--draft", str(folder), "--target", TARGET, "--max-tokens", "24"]
    answer, alone = run("generate", PROMPT, *pair), run("generate", PROMPT, *pair, "--method", "plain")
    assert (answer.status, answer.out) == (0, alone.out)
    assert "accepted" in answer.err
    found = json.loads(run("generate", PROMPT, *pair, "--json").out)
    assert sum(token["source"] == "accepted" for token in found["tokens"]) == found["stats"]["accepted"] > 0
    assert 0 < found["stats"]["collaboration_frequency"] < 1
    refused = run("generate", PROMPT, *pair, "--method", "contrastive:missing=0.01")
    assert (refused.status, refused.out) == (2, "")
    assert "share too few tokens to be mixed" in refused.err
    mixed = run("generate", PROMPT, *pair, "--method", "contrastive:missing=0.5")
    assert mixed.status == 0


def test_verify(run: Any, folder: Path) -> None:
    arguments = ["--draft", str(folder), "--target", TARGET, "--max-tokens", "16", "--prompts", "8"]
    answer = run("verify", *arguments, "--json")
    assert answer.status == 0
    assert json.loads(answer.out)["equal"] == 8
    refused = run("verify", *arguments, "--method", "ensemble")
    assert refused.status == 2
    assert "only runs in sessions" in refused.err


def test_pair(run: Any, folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The nation of 12 pens\n" + json.dumps(PROMPT) + "\n", encoding="utf-8")
    found = json.loads(run("pair", str(folder), TARGET, "--prompts", str(prompts), "--json").out)
    assert (found["tokenizer"], found["draft_tokens"], found["target_tokens"]) == ("different", 1024, 2048)
    assert 512 < found["shared_tokens"] < 1024
    mass = found["target_mass"]
    assert 0 < mass["lowest"] < mass["mean"] < 1
    possible = {one["method"]: one["possible"] for one in found["methods"]}
    assert possible["speculative"]
    assert possible["route"]
    assert not possible["contrastive"]
    shown = run("pair", str(folder), TARGET, "--prompts", str(prompts))
    assert shown.status == 0
    assert "contrastive, proxy, ensemble, mixture" in shown.out
    same = json.loads(run("pair", "pocket-0.25m", TARGET, "--count", "1", "--json").out)
    assert (same["tokenizer"], same["difference"], same["draft_mass"]) == ("same", None, None)
    assert all(one["possible"] for one in same["methods"])
    assert "no model" in run("pair", "ngram:2", TARGET).err

"""Distilling: the loss is the divergence, the teacher's texts are its own, and the draft comes nearer to it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ladder import distill, mix, stream, tokenizer, train
from ladder.corpus import Document
from ladder.files import read_jsonl
from ladder.graded.__main__ import TEST_SEED
from ladder.sizes import Size

_TEACHER = Size("pocket-teacher", hidden=64, layers=2, heads=2, ffn=64)
_DRAFT = Size("pocket-draft", hidden=32, layers=1, heads=2, ffn=48)


def _rows(*shape: int) -> torch.Tensor:
    return torch.randint(1, 200, shape, generator=torch.Generator().manual_seed(3))


def test_a_model_does_not_diverge_from_itself() -> None:
    teacher, ids = train.new_model(_TEACHER), _rows(2, 16)
    with torch.no_grad():
        assert float(distill.divergence(teacher)(teacher, ids, ids)) == pytest.approx(0.0, abs=1e-3)


def test_the_loss_is_the_divergence_over_the_labels_that_count() -> None:
    teacher, draft, ids = train.new_model(_TEACHER, seed=1), train.new_model(_DRAFT, seed=2), _rows(2, 16)
    labels = ids.clone()
    labels[:, :6] = stream.IGNORED
    with torch.no_grad():
        ours = float(distill.divergence(teacher)(draft, ids, labels))
        p, q = (
            torch.distributions.Categorical(logits=model(input_ids=ids).logits[:, 5:-1]) for model in (teacher, draft)
        )
        expected = float(torch.distributions.kl_divergence(p, q).sum())
    assert expected > 0.1
    assert ours == pytest.approx(expected, rel=0.05)  # ours runs in bfloat16, as training does


def test_only_the_draft_learns() -> None:
    teacher, draft, ids = train.new_model(_TEACHER), train.new_model(_DRAFT), _rows(1, 8)
    torch.autograd.backward(distill.divergence(teacher)(draft, ids, ids))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in draft.parameters())


def _load_teacher(attention: str) -> Any:
    model = train.new_model(_TEACHER, seed=0, attention=attention)
    model.model.norm.weight.data *= 20  # confident; and it would repeat its last token, were its layers as fresh
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data *= 200
    return model.eval()


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """Prompts by domain, in a world with a small tokenizer and short rows."""
    monkeypatch.setattr(tokenizer, "FOLDER", tmp_path / "tokenizer")
    asked = [f"Question: {number} + 1?\nAnswer:" for number in range(60)]
    tokenizer.save(tokenizer.train_tokenizer(asked, vocab_size=300), tmp_path / "tokenizer")
    monkeypatch.setattr(distill, "_BRIEF", replace(distill._BRIEF, max_tokens=12))
    monkeypatch.setattr(stream, "SHORT", 128)
    mix.encoder.cache_clear()
    yield {"chains": asked[:20], "gsm8k": asked[20:30]}
    mix.encoder.cache_clear()


def test_the_texts_are_what_the_teacher_writes(tmp_path: Path, prompts: dict[str, list[str]]) -> None:
    items = distill.write_texts(_load_teacher, prompts, tmp_path / "written")
    rows = [row for domain in prompts for row in read_jsonl(tmp_path / "written" / f"{domain}.jsonl.gz")]
    assert len(items) == len(rows) == 30
    teacher = _load_teacher("sdpa")
    for row, (ids, labels) in list(zip(rows, items, strict=True))[:3]:
        given, written = row["given"], row["written"]
        assert ids == given + written
        assert labels == [stream.IGNORED] * len(given) + written
        with torch.no_grad():
            choices = teacher(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
        assert choices[len(given) - 1 : -1] == written

    def refuse(attention: str) -> Any:
        raise AssertionError("the texts are there")

    assert distill.write_texts(refuse, prompts, tmp_path / "written") == items


def test_every_draft_reads_the_same_steps(tmp_path: Path, prompts: dict[str, list[str]]) -> None:
    written = distill.write_texts(_load_teacher, prompts, tmp_path / "written")
    whole = torch.ones(4, 128, dtype=torch.int16)
    first, second = (distill.among(written, [(whole, whole)], 512) for _ in range(2))
    assert len(first) == len(second) > 4
    assert all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )
    counted = [bool((labels[:, 0] != stream.IGNORED).all()) for _, labels in first]
    assert sum(counted) == 1  # in the teacher's texts the prompts do not count


def test_a_distilled_draft_agrees_more_often(
    tmp_path: Path, prompts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "WRITTEN_PASSES", 30)
    monkeypatch.setattr(distill, "SCHEDULE", train.Schedule())
    watched = {"gsm8k": [f"Question: {number} + 1?\nAnswer:" for number in range(4)]}
    watch, draft = distill.watch_frequency(_load_teacher("sdpa"), watched), train.new_model(_DRAFT, seed=1)
    before = watch(draft)["frequency_gsm8k"]
    steps = distill.among(distill.write_texts(_load_teacher, prompts, tmp_path / "written"), [], 512)
    distill.train(draft, _load_teacher, steps, watched, tmp_path / "draft", compiled=False)
    after = watch(draft)["frequency_gsm8k"]
    assert after < before
    logged = [json.loads(line) for line in (tmp_path / "draft" / "log.jsonl").read_text().splitlines()]
    assert logged[-1]["frequency_gsm8k"] == after


def test_prompts_are_different_ones_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    collected = [Document(domain, f"{domain} {n}", " so") for domain in _COLLECTED for n in range(40)]
    monkeypatch.setattr(mix, "read_documents", lambda part: collected)
    monkeypatch.setattr(distill, "PROMPTS", dict.fromkeys(distill.PROMPTS, 30))
    mix._collected.cache_clear()
    chosen = distill.training_prompts()
    mix._collected.cache_clear()
    assert {domain: len(set(prompts)) for domain, prompts in chosen.items()} == distill.PROMPTS
    for domain in mix.GRADED:
        tests = {made.prompt for made in itertools.islice(mix.GRADED[domain].problems("test", TEST_SEED), 500)}
        assert not tests & set(chosen[domain])


_COLLECTED = ("word_problems", "gsm8k", "mbpp", "multiple_choice")

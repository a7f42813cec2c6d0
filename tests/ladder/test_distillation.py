"""Distilling: the loss is the divergence, the teacher's texts are its own, and the draft comes nearer to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ladder import corpus, distill, stream, tokenizer, train
from ladder.files import read_jsonl, write_jsonl
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


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small world of the recipe: a corpus, its tokenizer and stream, and two models that are "trained"."""
    for module in (corpus, distill, stream):
        monkeypatch.setattr(module, "WORK", tmp_path)
    monkeypatch.setattr(stream, "STREAM", tmp_path / "stream.safetensors")
    monkeypatch.setattr(tokenizer, "FOLDER", tmp_path / "tokenizer")
    documents = [
        {
            "domain": "gsm8k",
            "prompt": f"Question: {number} + 1?\nAnswer:",
            "completion": f" {number} + 1 = {number + 1}",
        }
        for number in range(60)
    ]
    for part in ("train", "held_out"):
        write_jsonl(tmp_path / "corpus" / f"{part}.jsonl.gz", documents)
    texts = [document["prompt"] + document["completion"] for document in documents]
    tokenizer.save(tokenizer.train_tokenizer(texts, vocab_size=300), tmp_path / "tokenizer")
    monkeypatch.setattr(distill, "TEACHER", _TEACHER)
    for seed, size in enumerate((_TEACHER, _DRAFT)):
        (tmp_path / "runs" / size.name).mkdir(parents=True)
        model = train.new_model(size, seed=seed)
        if size is _TEACHER:  # sure of itself; and it would repeat its last token, were its layers as fresh as they are
            model.model.norm.weight.data *= 20
            for layer in model.model.layers:
                layer.mlp.down_proj.weight.data *= 200
        torch.save({"model": model.state_dict()}, tmp_path / "runs" / size.name / "final.pt")
    monkeypatch.setattr(distill, "PROMPTS", {"gsm8k": 30})
    monkeypatch.setattr(distill, "HELD_OUT_PROMPTS", {"gsm8k": 4})
    monkeypatch.setattr(distill, "_BRIEF", replace(distill._BRIEF, max_tokens=12))
    monkeypatch.setattr(stream, "STEP_TOKENS", 512)
    monkeypatch.setattr(stream, "SHORT", 128)
    monkeypatch.setattr(stream, "LONG", 128)
    monkeypatch.setattr(distill, "WRITTEN_PASSES", 4)
    monkeypatch.setattr(distill, "STREAM_STEPS", 1)
    stream.build()
    return tmp_path


def test_the_texts_are_what_the_teacher_writes(work: Path) -> None:
    items = distill.write_texts()
    rows = read_jsonl(work / "teacher" / "gsm8k.jsonl.gz")
    assert len(items) == len(rows) == 30
    teacher = distill.load_teacher(attention="sdpa")
    for row, (ids, labels) in list(zip(rows, items, strict=True))[:3]:
        given, written = row["given"], row["written"]
        assert ids == given + written
        assert labels == [stream.IGNORED] * len(given) + written
        with torch.no_grad():
            choices = teacher(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
        assert choices[len(given) - 1 : -1] == written
    before = (work / "teacher" / "gsm8k.jsonl.gz").stat().st_mtime_ns
    distill.write_texts()
    assert (work / "teacher" / "gsm8k.jsonl.gz").stat().st_mtime_ns == before


def test_every_run_reads_the_same_batches(work: Path) -> None:
    first, second = distill.batches(), distill.batches()
    assert len(first) == len(second) > 4
    assert all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )
    counted = [bool((labels[:, 0] != stream.IGNORED).all()) for _, labels in first]
    assert sum(counted) == distill.STREAM_STEPS  # in the teacher's texts the prompts do not count


def test_a_distilled_draft_agrees_more_often(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "WRITTEN_PASSES", 30)
    monkeypatch.setattr(distill, "SCHEDULE", train.Schedule())
    watch = distill.watch_frequency()
    draft = train.new_model(_DRAFT)
    draft.load_state_dict(torch.load(work / "runs" / _DRAFT.name / "final.pt", weights_only=True)["model"])
    before = watch(draft)["frequency_gsm8k"]
    distill.distill(_DRAFT, compiled=False)
    folder = work / "runs" / (_DRAFT.name + distill.SUFFIX)
    state: dict[str, Any] = torch.load(folder / "final.pt", weights_only=True)
    draft.load_state_dict(state["model"])
    assert watch(draft)["frequency_gsm8k"] < before
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert logged[-1]["frequency_gsm8k"] == watch(draft)["frequency_gsm8k"]

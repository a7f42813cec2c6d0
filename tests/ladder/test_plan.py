"""The queue of the graded ladder: its order, its locks, and longer trainings that go on from shorter ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM

from ladder import gates, mix, plan, score, tokenizer
from ladder.corpus import Document
from ladder.plan import Job
from ladder.sizes import Size
from ladder.train import Trapezoid, new_model

_TINY = Size("pocket-test", hidden=32, layers=1, heads=2, ffn=48, vocab_size=300)
_SMALL = Size("pocket-tiny", hidden=32, layers=1, heads=2, ffn=32, vocab_size=300)


class _Rows:
    """Steps of random rows that depend on seed and number alone."""

    def __init__(self, seed: int, steps: int) -> None:
        self._seed, self._steps = seed, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(self._seed * 1000 + step)
        ids = torch.randint(1, 50, (2, 32), generator=generator).to(torch.int16)
        return ids, ids.clone()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plan, "FOLDER", tmp_path)
    monkeypatch.setattr(plan, "SIZES", (_SMALL, _TINY))
    monkeypatch.setattr(plan, "FAMILIES", ())
    monkeypatch.setattr(plan, "first_stage", lambda job, compiled: new_model(job.size, job.seed))
    monkeypatch.setattr(plan, "TRAINED", tmp_path / "trained")
    monkeypatch.setattr(mix, "STEP_TOKENS", 100_000)  # ten steps a million
    monkeypatch.setattr(mix, "Batches", _Rows)
    return tmp_path


def _weights(job: Job, millions: int) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(job.folder(millions) / "final.pt", weights_only=True)["model"]
    return weights


def test_seeds_come_one_after_the_other() -> None:
    names = [job.name for job in plan.jobs()]
    assert names[:4] == ["pocket-4m", "pocket-1.5m", "pocket-0.6m", "pocket-0.25m"]
    assert names[4:7] == ["pocket-1.5m-s1", "pocket-0.6m-s1", "pocket-0.25m-s1"]
    assert names[10:12] == ["pocket-mamba2-0.6m", "pocket-mamba2-0.25m"]
    assert len(names) == len(set(names)) == 14


def test_the_first_stage_is_what_ships_or_what_was_trained_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "WORK", tmp_path)
    monkeypatch.setattr(plan, "PACKAGE", tmp_path / "package")
    job, taught = Job(_TINY, seed=0), new_model(_TINY, seed=9)
    folder = tmp_path / "package" / _TINY.name
    taught.save_pretrained(folder)
    (folder / "pocket.json").write_text('{"recipe_version": 1}', encoding="utf-8")
    started = plan.first_stage(job).state_dict()
    assert all(torch.equal(value, started[name]) for name, value in taught.state_dict().items())
    trained = new_model(_TINY, seed=8)
    (tmp_path / "runs" / _TINY.name).mkdir(parents=True)
    torch.save({"model": trained.state_dict()}, tmp_path / "runs" / _TINY.name / "final.pt")
    started = plan.first_stage(job).state_dict()
    assert all(torch.equal(value, started[name]) for name, value in trained.state_dict().items())


def test_a_longer_training_goes_on_from_a_shorter_one(work: Path) -> None:
    job = Job(_TINY, seed=1)
    plan.train(job, 4, compiled=False)
    plan.train(job, 2, compiled=False)
    whole = _weights(job, 4)
    (job.folder(4) / "final.pt").unlink()
    (job.folder(4) / "trunk.pt").unlink()
    plan.train(job, 4, compiled=False)  # now from the trunk of 2
    assert all(torch.equal(whole[name], value) for name, value in _weights(job, 4).items())
    assert not all(torch.equal(whole[name], value) for name, value in _weights(job, 2).items())
    assert torch.load(job.folder(2) / "trunk.pt", weights_only=True)["step"] == 15


def test_what_the_repository_keeps_can_go_on(work: Path) -> None:
    job = Job(_TINY, seed=0)
    plan.train(job, 2, compiled=False)
    plan.ship(job, 2)
    loaded = AutoModelForCausalLM.from_pretrained(work / "trained" / job.name).state_dict()
    assert all(torch.equal(value.bfloat16(), loaded[name].bfloat16()) for name, value in _weights(job, 2).items())
    trunk = torch.load(job.folder(2) / "trunk.pt", weights_only=True)["model"]
    shutil.rmtree(job.folder(2))
    job.folder(4).mkdir(parents=True, exist_ok=True)
    plan._begin(job, 4, Trapezoid(), 30)
    begun = torch.load(job.folder(4) / "checkpoint.pt", weights_only=True)
    assert begun["step"] == 15
    assert all(torch.equal(value.bfloat16().float(), begun["model"][name]) for name, value in trunk.items())
    plan.train(job, 4, compiled=False)
    assert job.done(4)


def test_done_and_locked_trainings_are_left_alone(work: Path) -> None:
    plan.train(Job(_TINY, 0), 1, compiled=False)
    with FileLock(work / f"{_SMALL.name}.lock"):
        waiting = [job.name for job in plan.waiting(1)]
    assert waiting == ["pocket-tiny-s1", "pocket-tiny-s2"]
    assert next(plan.waiting(1)).name == _SMALL.name


def test_the_rate_is_constant_and_then_falls() -> None:
    schedule = Trapezoid(warmup_steps=10, cooldown=25)
    factors = [schedule.factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert set(factors[9:75]) == {1.0}
    assert factors[75:] == sorted(factors[75:], reverse=True)
    assert 0 < factors[-1] < 0.05


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    def documents(domain: str, seed: int, number: int) -> Iterator[Document]:
        for number in range(10_000):
            yield Document(domain, f"{seed} + {number} =", f" {seed + number}")

    monkeypatch.setattr(mix, "FOLDER", tmp_path)
    monkeypatch.setattr(tokenizer, "FOLDER", tmp_path / "tokenizer")
    monkeypatch.setattr(mix, "documents", documents)
    monkeypatch.setattr(mix, "FIRST_SHARES", {"chains": 0.5, "facts": 0.5})
    monkeypatch.setattr(mix, "SHARD_TOKENS", 20_480)
    monkeypatch.setattr(mix.Batches, "PER_SHARD", 5)
    tokenizer.save(tokenizer.train_tokenizer(["1 + 2 = 3"], 300), tmp_path / "tokenizer")
    mix.encoder.cache_clear()
    mix.shard.cache_clear()
    yield tmp_path
    mix.encoder.cache_clear()
    mix.shard.cache_clear()


def test_a_stream_is_the_same_each_time_and_counts_completions(stream: Path) -> None:
    first = [mix.Batches(0, 7)[step] for step in range(7)]
    mix.shard.cache_clear()
    for file in stream.glob("seed0/*"):
        file.unlink()
    again = [mix.Batches(0, 7)[step] for step in range(7)]
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert not torch.equal(first[0][0], first[5][0])
    assert not torch.equal(first[0][0], mix.Batches(1, 7)[0][0])
    ids, labels = first[0]
    counted = labels != -100
    assert 0.2 < float(counted.float().mean()) < 0.8
    assert torch.equal(ids[counted], labels[counted])


def test_shares_are_whole() -> None:
    assert set(mix.SHARES) == set(mix.FIRST_SHARES)
    for shares in (mix.SHARES, mix.FIRST_SHARES):
        assert sum(shares.values()) == pytest.approx(1.0)


def test_collected_texts_count_whole(stream: Path) -> None:
    document = Document("gsm8k", "1 + 1 =", " 2")
    ids, labels = mix.encode(document)
    assert ids == labels
    ids, labels = mix.encode(Document("chains", document.prompt, document.completion))
    assert labels[0] == -100
    assert labels[-1] == ids[-1] == 0


def _measured(size: str, parameters: int, seed: int, right: list[int], loss: float) -> dict[str, Any]:
    task = {"accuracy": sum(right) / len(right), "right": "".join(map(str, right)), "no_answer": 0.0, "cut": 0.0}
    return {
        "name": f"{size}-s{seed}",
        "size": size,
        "family": "pocket",
        "parameters": parameters,
        "held_out_loss": {"chains": loss},
        "tasks": {"chains": task | {"loops": 0.03 * (size == "a")}},
    }


def test_gates() -> None:
    counts = {"a": 10, "b": 40, "c": 70, "d": 90}
    models = [
        _measured(name, number, seed, [1] * count + [0] * (100 - count), 2.0 - 0.1 * number + 0.15 * seed)
        for seed in (0, 1)
        for number, (name, count) in enumerate(counts.items())
    ]
    sizes = gates._by_size(models)
    gate = gates.task_gate(sizes, "chains")
    assert gate["accuracy"] == [0.1, 0.4, 0.7, 0.9]
    assert gate["rise"] == pytest.approx(0.8)
    assert (gate["rises"], gate["apart"], gate["open"], gate["clean"]) == (True, True, True, False)
    assert gates.difference(sizes[1], sizes[2], "chains")[0] == pytest.approx(0.3)
    assert gates.loss_gate(sizes) == {"chains": True}
    models[0]["held_out_loss"]["chains"] = 0.1
    assert gates.loss_gate(gates._by_size(models)) == {"chains": False}
    assert any("not: clean" in line for line in gates.lines(models))


@pytest.mark.parametrize(("text", "loops"), [("so " * 9, True), ("#### 2222", False), ("1 2 3 4 5 6 7", False)])
def test_loops_are_seen(text: str, loops: bool) -> None:
    assert bool(score._LOOP.search(text)) == loops

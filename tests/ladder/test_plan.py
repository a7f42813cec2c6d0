"""The queue of the graded ladder: its order, its locks, and longer trainings that go on from shorter ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM

from ladder import distill, families, first_stage, mix, package, plan, queue, second_tokenizer, tokenizer, tune
from ladder.plan import Job
from ladder.sizes import Size
from ladder.train import Trapezoid, new_model

_TINY = Size("pocket-test", hidden=32, layers=1, heads=2, ffn=48, vocab_size=300)
_SMALL = Size("pocket-tiny", hidden=32, layers=1, heads=2, ffn=32, vocab_size=300)


class _Rows:
    """Steps of random rows that depend on seed and number alone."""

    def __init__(self, seed: int, steps: int, vocab_size: int) -> None:
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
    for kind in ("DRAFTS", "TUNED", "SECOND", "FAMILIES"):
        monkeypatch.setattr(plan, kind, ())
    monkeypatch.setattr(queue, "start", lambda job, compiled: new_model(job.size, job.seed))
    monkeypatch.setattr(queue, "TRAINED", tmp_path / "trained")
    monkeypatch.setattr(package, "TRAINED", tmp_path / "trained")
    monkeypatch.setattr(tokenizer, "FOLDER", tmp_path / "tokenizer")
    monkeypatch.setattr(second_tokenizer, "build", lambda: None)  # it would read the corpus
    tokenizer.save(tokenizer.train_tokenizer(["1 + 2 = 3"], 300), tokenizer.made_folder(300))
    monkeypatch.setattr(mix, "STEP_TOKENS", 100_000)  # ten steps a million
    monkeypatch.setattr(mix, "Batches", _Rows)
    return tmp_path


def _weights(job: Job, millions: int) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(job.folder(millions) / "final.pt", weights_only=True)["model"]
    return weights


def test_the_order_of_the_queue() -> None:
    names = [job.name for job in plan.jobs()]
    assert names[:4] == ["pocket-4m", "pocket-1.5m", "pocket-0.6m", "pocket-0.25m"]
    assert names[4:9] == [
        "pocket-4m-tuned", "pocket-0.6m-tuned", "pocket-0.25m-tuned", "pocket-0.6m-distilled", "pocket-0.25m-distilled",
    ]  # fmt: skip
    assert names[9:13] == ["pocket-0.6m-vocab1024", "pocket-0.25m-vocab1024", "pocket-neox-0.6m", "pocket-neox-0.25m"]
    assert names[13:16] == ["pocket-1.5m-s1", "pocket-0.6m-s1", "pocket-0.25m-s1"]
    assert names[19:21] == ["pocket-mamba2-0.6m", "pocket-mamba2-0.25m"]
    assert names[-1] == "pocket-4m-s1"
    assert len(names) == len(set(names)) == 22
    assert {job.name for job in plan.left_out_first()} <= set(names)


@pytest.mark.parametrize("place", ["PACKAGE", "SHIPPED_BEFORE"])
def test_the_first_stage_is_what_ships_or_what_was_trained_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for name in ("WORK", "PACKAGE", "SHIPPED_BEFORE"):
        monkeypatch.setattr(first_stage, name, tmp_path / name)
    taught = new_model(_TINY, seed=9)
    folder = tmp_path / place / _TINY.name
    taught.save_pretrained(folder)
    (folder / "pocket.json").write_text('{"recipe_version": 1}', encoding="utf-8")
    started = first_stage.load(_TINY).state_dict()
    assert all(torch.equal(value, started[name]) for name, value in taught.state_dict().items())
    trained = new_model(_TINY, seed=8)
    (tmp_path / "WORK" / "runs" / _TINY.name).mkdir(parents=True)
    torch.save({"model": trained.state_dict()}, tmp_path / "WORK" / "runs" / _TINY.name / "final.pt")
    started = first_stage.load(_TINY).state_dict()
    assert all(torch.equal(value, started[name]) for name, value in trained.state_dict().items())


def test_a_longer_training_goes_on_from_a_shorter_one(work: Path) -> None:
    job = Job(_TINY, seed=1)
    queue.train(job, 4, compiled=False)
    queue.train(job, 2, compiled=False)
    whole = _weights(job, 4)
    (job.folder(4) / "final.pt").unlink()
    (job.folder(4) / "trunk.pt").unlink()
    queue.train(job, 4, compiled=False)  # now from the trunk of 2
    assert all(torch.equal(whole[name], value) for name, value in _weights(job, 4).items())
    assert not all(torch.equal(whole[name], value) for name, value in _weights(job, 2).items())
    assert torch.load(job.folder(2) / "trunk.pt", weights_only=True)["step"] == 15


def test_what_the_repository_keeps_can_go_on(work: Path) -> None:
    job = Job(_TINY, seed=0)
    queue.train(job, 2, compiled=False)
    package.ship(job, 2)
    loaded = AutoModelForCausalLM.from_pretrained(work / "trained" / job.name).state_dict()
    assert all(torch.equal(value.bfloat16(), loaded[name].bfloat16()) for name, value in _weights(job, 2).items())
    trunk = torch.load(job.folder(2) / "trunk.pt", weights_only=True)["model"]
    shutil.rmtree(job.folder(2))
    job.folder(4).mkdir(parents=True, exist_ok=True)
    queue._begin(job, 4, Trapezoid(), 30)
    begun = torch.load(job.folder(4) / "checkpoint.pt", weights_only=True)
    assert begun["step"] == 15
    assert all(torch.equal(value.bfloat16().float(), begun["model"][name]) for name, value in trunk.items())
    queue.train(job, 4, compiled=False)
    assert job.done(4)


def test_done_and_locked_trainings_are_left_alone(work: Path) -> None:
    queue.train(Job(_TINY, 0), 1, compiled=False)
    with FileLock(work / f"{_SMALL.name}.lock"):
        waiting = [job.name for job in queue.waiting(1)]
    assert waiting == ["pocket-tiny-s1", "pocket-tiny-s2", "pocket-test-s1"]
    assert next(queue.waiting(1)).name == _SMALL.name


def _finish(job: Job, millions: int, seed: int = 0) -> None:
    job.folder(millions).mkdir(parents=True, exist_ok=True)
    state = {"model": families.new_model(job.size, seed).state_dict(), "step": 9, "tokens": 8, "seconds": 7.0}
    torch.save(state, job.folder(millions) / "final.pt")


def test_what_needs_another_waits_for_it(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "DRAFTS", (_SMALL,))
    monkeypatch.setattr(plan, "TUNED", (_TINY,))
    monkeypatch.setattr(plan, "SEEDS", 1)
    monkeypatch.setattr(plan, "jobs", lambda jobs=plan.jobs: jobs()[:-1])
    with FileLock(work / f"{_TINY.name}.lock"):  # another process has the largest
        assert [job.name for job in queue.waiting(1)] == ["pocket-tiny"]
    done = []
    for job in queue.waiting(1):
        done.append(job.name)
        _finish(job, 1)
    assert done == ["pocket-test", "pocket-tiny", "pocket-test-tuned", "pocket-tiny-distilled"]


def test_a_tuned_and_a_distilled_model_begin_with_their_size(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _finish(Job(_TINY), 1, seed=3)
    _finish(Job(_SMALL), 1, seed=4)
    begun: dict[str, Any] = {}
    monkeypatch.setattr(tune, "tune", lambda model, folder, compiled: begun.update(tuned=(model, folder)))
    queue.train(Job(_TINY, kind="tuned"), 1)
    monkeypatch.setattr(distill, "training_prompts", dict)
    monkeypatch.setattr(distill, "held_out_prompts", dict)
    monkeypatch.setattr(distill, "stream_steps", lambda millions: [])
    monkeypatch.setattr(distill, "among", lambda written, steps: [])
    monkeypatch.setattr(
        distill, "train", lambda model, teacher, steps, watched, folder, compiled: begun.update(
            distilled=(model, folder), teacher=(teacher("sdpa"), None)
        )
    )  # fmt: skip
    queue.train(Job(_SMALL, kind="distilled"), 1)
    for kind, size, seed in (("tuned", _TINY, 3), ("distilled", _SMALL, 4)):
        model, folder = begun[kind]
        assert folder == work / "1m" / f"{size.name}-{kind}"
        wanted = new_model(size, seed).state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    rounded = new_model(_TINY, 3).state_dict()["lm_head.weight"].bfloat16().float()
    assert torch.equal(begun["teacher"][0].state_dict()["lm_head.weight"], rounded)


def test_the_rate_is_constant_and_then_falls() -> None:
    schedule = Trapezoid(warmup_steps=10, cooldown=25)
    factors = [schedule.factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert set(factors[9:75]) == {1.0}
    assert factors[75:] == sorted(factors[75:], reverse=True)
    assert 0 < factors[-1] < 0.05

"""The queue of the second stage: trains what is waiting, and goes on where a shorter training ended.

The state before the cool-down stays as `trunk.pt`, and a training of the same model with more tokens goes on from
there. Where only `ladder/trained/` is left, it goes on from the trunk's weights in bfloat16 with fresh optimizers.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ladder import distill, first_stage, mix, plan, second_tokenizer, tokenizer, tune
from ladder.files import TRAINED
from ladder.plan import Job
from ladder.scan import fast_scan
from ladder.sizes import FAMILY, VOCAB_SIZE, Size
from ladder.train import Trapezoid, fit, optimizers

COOLDOWN = 0.25  # of the tokens
MATRIX_RATE, OTHER_RATE = 0.01, 0.004  # peaks of Muon and of AdamW: half of the first stage's, or less
_HEADS = ("lm_head.weight", "embed_out.weight")  # tied to the embedding, so they are not stored


def work(millions: int) -> None:
    """Train what is waiting, one model after the other, with one thread; start it twice for two cores."""
    torch.set_num_threads(1)
    for job in waiting(millions):
        print(f"queue: {job.name}, {millions} million tokens", flush=True)
        train(job, millions)


def waiting(millions: int) -> Iterator[Job]:
    """The first training that can begin and that no other process runs, locked while it is worked on; then the next.

    After each the order is gone through again: what needed it can begin.
    """
    plan.FOLDER.mkdir(parents=True, exist_ok=True)
    left = plan.jobs()
    while found := next(((job, lock) for job in left if (lock := _lock(job, millions))), None):
        job, lock = found
        try:
            yield job
        finally:
            lock.release()
        left.remove(job)


def _lock(job: Job, millions: int) -> FileLock | None:
    """The lock of a training that can begin; None where it cannot, or is done, or another process has it."""
    lock = FileLock(plan.FOLDER / f"{job.name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    if job.ready(millions) and not job.done(millions):
        return lock
    lock.release()
    return None


def train(job: Job, millions: int, compiled: bool = True) -> None:
    """Train one model, with so many million tokens, prompts included; continue where it was interrupted."""
    folder = job.folder(millions)
    folder.mkdir(parents=True, exist_ok=True)
    if job.base is None:
        _second_stage(job, millions, compiled)
        return
    model = job.new_model()
    model.load_state_dict(job.base.state(millions)["model"])
    if job.teacher is None:
        tune.tune(model, folder, compiled)
        return
    teacher = partial(job.teacher.trained, millions)
    written = distill.write_texts(teacher, distill.training_prompts(), job.teacher.folder(millions) / "written")
    steps = distill.among(written, distill.stream_steps(millions))
    distill.train(model, teacher, steps, distill.held_out_prompts(), folder, compiled)


def _second_stage(job: Job, millions: int, compiled: bool) -> None:
    folder, steps = job.folder(millions), millions * 1_000_000 // mix.STEP_TOKENS
    cooldown = int(steps * COOLDOWN)
    schedule = Trapezoid(matrix_rate=MATRIX_RATE, other_rate=OTHER_RATE, cooldown=cooldown)
    if job.size.vocab_size != VOCAB_SIZE:
        second_tokenizer.build()
    if not any((folder / name).exists() for name in ("checkpoint.pt", "final.pt")):
        _begin(job, millions, schedule, steps - cooldown)
    model = job.new_model() if (folder / "checkpoint.pt").exists() else start(job, compiled)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    batches = mix.Batches(job.seed, steps, job.size.vocab_size)
    with fast_scan():
        fit(model, batches, folder, schedule, compiled=compiled, keep_at=steps - cooldown)


def start(job: Job, compiled: bool = True) -> Any:
    """The model as the first stage leaves it; with the second tokenizer, one whose body is that of its shape."""
    if job.size.vocab_size == VOCAB_SIZE or not isinstance(job.size, Size):
        return first_stage.load(job.size, job.seed, compiled)
    name = job.size.name.removesuffix(f"-vocab{job.size.vocab_size}")
    former = replace(job.size, name=name, vocab_size=VOCAB_SIZE, family=FAMILY)
    model = job.new_model()
    body = first_stage.load(former, job.seed, compiled)
    second_tokenizer.translate(body, model, tokenizer.load(), tokenizer.load(job.size.vocab_size))
    return model


def _begin(job: Job, millions: int, schedule: Trapezoid, most: int) -> None:
    """Begin with the trunk of a shorter training, or with one that was kept, of at most `most` steps."""
    begun = job.folder(millions) / "checkpoint.tmp"
    if trunk := _shorter_trunk(job, millions):
        shutil.copy(trunk, begun)
    else:
        kept = kept_checkpoint(job, schedule)
        if kept is None or kept["step"] > most:
            return
        torch.save(kept, begun)
    begun.replace(begun.with_suffix(".pt"))


def _shorter_trunk(job: Job, millions: int) -> Path | None:
    """The trunk of the longest training of the same model with fewer tokens."""
    budgets = sorted(
        int(found[1])
        for folder in plan.FOLDER.glob("*m")
        if (found := re.fullmatch(r"(\d+)m", folder.name)) and int(found[1]) < millions
    )
    trunks = [job.folder(budget) / "trunk.pt" for budget in budgets]
    return next((trunk for trunk in reversed(trunks) if trunk.exists()), None)


def _kept_trunk(job: Job) -> Path:
    return TRAINED / "trunk" / f"{job.name}.safetensors"


def keep_trunk(job: Job, millions: int) -> None:
    """Keep the weights of a trunk in bfloat16, where the training has one."""
    path = job.folder(millions) / "trunk.pt"
    if not path.exists():
        return
    trunk = torch.load(path, weights_only=True, map_location="cpu")
    weights = {key: value.bfloat16().contiguous() for key, value in trunk["model"].items() if key not in _HEADS}
    _kept_trunk(job).parent.mkdir(parents=True, exist_ok=True)
    counts = {key: str(trunk[key]) for key in ("step", "tokens", "seconds")}
    save_file(weights, _kept_trunk(job), metadata=counts)


def kept_checkpoint(job: Job, schedule: Trapezoid) -> dict[str, Any] | None:
    """A checkpoint made of the trunk that was kept; None where there is none."""
    path, model = _kept_trunk(job), job.new_model()
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as opened:
        counts = opened.metadata()
    model.load_state_dict(load_file(path), strict=False)  # all but the tied head
    return {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers(model, schedule)],
        "step": int(counts["step"]),
        "tokens": int(counts["tokens"]),
        "seconds": float(counts["seconds"]),
    }

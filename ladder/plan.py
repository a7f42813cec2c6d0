"""The second stage of the ladder: its sizes and seeds, and the queue of their trainings.

The first stage (`ladder/train.py`) teaches the corpus; here each model goes on with the stream of `ladder/mix.py`. A
training is a warm-up, a constant rate and a cool-down to zero. Its state before the cool-down stays as `trunk.pt`, and
a training of the same model with more tokens goes on from there.

`keep` writes what is done into `ladder/trained/<name>`, in the format of the package. Beside it, not in git, are the
trunk's weights in bfloat16, from which a longer training can go on with fresh optimizers.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ladder import export, families, mix, stream, tokenizer, tune
from ladder.families import FamilySize
from ladder.files import PACKAGE, TRAINED, WORK
from ladder.scan import fast_scan
from ladder.sizes import FAMILY, Size, size_named
from ladder.train import Schedule, Trapezoid, fit, new_model, optimizers

FOLDER = WORK / "graded"
COOLDOWN = 0.25  # of the tokens
RECIPE_VERSION = 2
_HEADS = ("lm_head.weight", "embed_out.weight")  # tied to the embedding, so they are not stored

SIZES: tuple[Size, ...] = tuple(size_named(f"pocket-{number}m") for number in ("0.25", "0.6", "1.5", "4"))
MATRIX_RATE, OTHER_RATE = 0.01, 0.004  # peaks of Muon and of AdamW: half of the first stage's, or less

TUNED = (SIZES[0], SIZES[1], SIZES[-1])
# Of the other families two sizes each.
FAMILIES = tuple(size for size in families.SIZES if size.name.endswith(("-0.25m", "-0.6m")))


@dataclass(frozen=True)
class Job:
    """The training of one size with one seed, of its first weights and of its texts alike."""

    size: Size | FamilySize
    seed: int = 0

    def new_model(self, attention: str = "ladder_blocks") -> Any:
        """The model before any training."""
        if isinstance(self.size, Size):
            return new_model(self.size, self.seed, attention)
        return self.size.new_model(self.seed, attention)

    @property
    def name(self) -> str:
        """The name of the model."""
        return f"{self.size.name}-s{self.seed}" if self.seed else self.size.name

    def folder(self, millions: int) -> Path:
        """Where the training with so many tokens is kept."""
        return FOLDER / f"{millions}m" / self.name

    def done(self, millions: int) -> bool:
        """Whether the training has ended."""
        return (self.folder(millions) / "final.pt").exists()


def jobs() -> list[Job]:
    """All trainings in their order: seed by seed, the largest size first and with one seed alone; then the families."""
    llamas = [Job(size, seed) for seed in range(3) for size in reversed(SIZES) if seed == 0 or size is not SIZES[-1]]
    return llamas + [Job(size) for size in reversed(FAMILIES)]


def _shorter_trunk(job: Job, millions: int) -> Path | None:
    """The trunk of the longest training of the same model with fewer tokens."""
    budgets = sorted(
        int(found[1])
        for folder in FOLDER.glob("*m")
        if (found := re.fullmatch(r"(\d+)m", folder.name)) and int(found[1]) < millions
    )
    trunks = [job.folder(budget) / "trunk.pt" for budget in budgets]
    return next((trunk for trunk in reversed(trunks) if trunk.exists()), None)


def first_stage(job: Job, compiled: bool = True) -> Any:
    """The model as the first stage leaves it: as it was trained here, as it ships, or trained now."""
    model = job.new_model()
    final, shipped = WORK / "runs" / job.name / "final.pt", PACKAGE / job.name
    if not final.exists() and _is_first_stage(shipped):
        model.load_state_dict(AutoModelForCausalLM.from_pretrained(shipped, dtype=torch.float32).state_dict())
        return model
    if not final.exists():
        stream.build()
        fit(model, stream.batches(stream.STREAM), final.parent, Schedule(), compiled=compiled)
    model.load_state_dict(torch.load(final, weights_only=True, map_location="cpu")["model"])
    return model


def _is_first_stage(folder: Path) -> bool:
    facts = folder / "pocket.json"
    return facts.exists() and json.loads(facts.read_text(encoding="utf-8"))["recipe_version"] == 1


def train(job: Job, millions: int, compiled: bool = True) -> None:
    """Train one model with so many million tokens, prompts included; continue where it was interrupted."""
    folder = job.folder(millions)
    folder.mkdir(parents=True, exist_ok=True)
    steps = millions * 1_000_000 // mix.STEP_TOKENS
    cooldown = int(steps * COOLDOWN)
    schedule = Trapezoid(matrix_rate=MATRIX_RATE, other_rate=OTHER_RATE, cooldown=cooldown)
    if not any((folder / name).exists() for name in ("checkpoint.pt", "final.pt")):
        _begin(job, millions, schedule, steps - cooldown)
    model = first_stage(job, compiled).to("cuda" if torch.cuda.is_available() else "cpu")
    with fast_scan():
        fit(model, mix.Batches(job.seed, steps), folder, schedule, compiled=compiled, keep_at=steps - cooldown)


def _begin(job: Job, millions: int, schedule: Trapezoid, most: int) -> None:
    """Begin with the trunk of a shorter training, or with one that was kept, of at most `most` steps."""
    begun = job.folder(millions) / "checkpoint.tmp"
    if trunk := _shorter_trunk(job, millions):
        shutil.copy(trunk, begun)
    else:
        kept = kept_checkpoint(job.name, job.new_model(), schedule)
        if kept is None or kept["step"] > most:
            return
        torch.save(kept, begun)
    begun.replace(begun.with_suffix(".pt"))


def waiting(millions: int) -> Iterator[Job]:
    """The trainings that are not done and that no other process runs, each locked while it is worked on."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for job in jobs():
        lock = FileLock(FOLDER / f"{job.name}.lock", timeout=0)
        try:
            with lock:
                if not job.done(millions):
                    yield job
        except Timeout:
            continue


def work(millions: int) -> None:
    """Train what is waiting, one model after the other, with one thread; start it twice for two cores."""
    torch.set_num_threads(1)
    for job in waiting(millions):
        print(f"queue: {job.name}, {millions} million tokens", flush=True)
        train(job, millions)
    for size in TUNED:
        job = Job(size)
        if job.done(millions):
            folder = job.folder(millions)
            tune.tune(size, folder / "final.pt", folder.with_name(job.name + tune.SUFFIX))


def ship(job: Job, millions: int) -> None:
    """Write the model and the trunk of one training that is done."""
    name, size, folder = job.name, job.size, job.folder(millions)
    state = torch.load(folder / "final.pt", weights_only=True, map_location="cpu")
    model = job.new_model(attention="sdpa")
    model.load_state_dict(state["model"])
    facts: dict[str, Any] = {
        "name": name,
        "family": getattr(size, "family", FAMILY),
        "parameters": size.parameters,
        "non_embedding_parameters": size.non_embedding_parameters,
        "training_tokens": state["tokens"],
        "training_seconds": round(state["seconds"]),
        "tuned_from": None,
        "seed": job.seed,
        "second_stage_tokens": millions * 1_000_000,
        "recipe_version": RECIPE_VERSION,
    }
    TRAINED.mkdir(parents=True, exist_ok=True)
    export.write_model(model, TRAINED / name, facts, tokenizer.SHIPPED)
    trunk = torch.load(folder / "trunk.pt", weights_only=True, map_location="cpu")
    weights = {key: value.bfloat16().contiguous() for key, value in trunk["model"].items() if key not in _HEADS}
    (TRAINED / "trunk").mkdir(exist_ok=True)
    counts = {key: str(trunk[key]) for key in ("step", "tokens", "seconds")}
    save_file(weights, TRAINED / "trunk" / f"{name}.safetensors", metadata=counts)


def kept_checkpoint(name: str, model: Any, schedule: Any) -> dict[str, Any] | None:
    """A checkpoint made of the trunk that was kept; None where there is none."""
    path = TRAINED / "trunk" / f"{name}.safetensors"
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


def keep(millions: int) -> None:
    """Write every model that is trained, and its trunk, into the repository."""
    for job in jobs():
        if job.done(millions):
            ship(job, millions)
            print(f"keep: {job.name}")

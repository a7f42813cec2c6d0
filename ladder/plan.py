"""The second stage of the ladder: which models it trains, in which order.

The first stage teaches the corpus; here each model goes on with the stream of `ladder/mix.py`. A training is a warm-up,
a constant rate and a cool-down to zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ladder import families, sizes
from ladder.families import FamilySize, Mamba2Size
from ladder.files import WORK
from ladder.first_stage import run_name
from ladder.sizes import SECOND_VOCAB_SIZE, Size

FOLDER = WORK / "graded"

SIZES = sizes.SIZES
SEEDS = 3  # of each size; of the largest two
DRAFTS = SIZES[:2]  # that are distilled, and have a second tokenizer
TUNED = (*DRAFTS, SIZES[-1])
SECOND = tuple(
    replace(size, name=f"{size.name}-vocab{SECOND_VOCAB_SIZE}", vocab_size=SECOND_VOCAB_SIZE,
            family=f"{size.family}-vocab{SECOND_VOCAB_SIZE}")
    for size in DRAFTS
)  # fmt: skip
FAMILIES = families.SIZES


@dataclass(frozen=True)
class Job:
    """The training of one size with one seed, of its first weights and of its texts alike; or what follows it."""

    size: Size | FamilySize
    seed: int = 0
    kind: Literal["", "tuned", "distilled"] = ""

    def new_model(self, attention: str = "ladder_blocks") -> Any:
        """The model before any training."""
        return families.new_model(self.size, self.seed, attention)

    @property
    def name(self) -> str:
        """The name of the model."""
        return run_name(self.size, self.seed) + (f"-{self.kind}" if self.kind else "")

    @property
    def base(self) -> Job | None:
        """What a tuned or a distilled model continues from."""
        return replace(self, kind="") if self.kind else None

    @property
    def teacher(self) -> Job | None:
        """Whose distributions a distilled model learns: the largest."""
        return Job(SIZES[-1]) if self.kind == "distilled" else None

    def folder(self, millions: int) -> Path:
        """Where the training with so many million tokens is kept."""
        return FOLDER / f"{millions}m" / self.name

    def done(self, millions: int) -> bool:
        """Whether the training has ended."""
        return (self.folder(millions) / "final.pt").exists()

    def ready(self, millions: int) -> bool:
        """Whether what it needs is trained."""
        return all(job.done(millions) for job in (self.base, self.teacher) if job)

    def state(self, millions: int) -> dict[str, Any]:
        """What the training left: `model`, its weights, and the counts `step`, `tokens` and `seconds`."""
        path = self.folder(millions) / "final.pt"
        found: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        return found

    def trained(self, millions: int, attention: str = "sdpa") -> Any:
        """The trained model in float32, its weights rounded as they ship."""
        model = self.new_model(attention)
        model.load_state_dict({name: value.bfloat16() for name, value in self.state(millions)["model"].items()})
        return model.eval()


def jobs() -> list[Job]:
    """All trainings in their order, of each kind the largest first.

    Sizes, tuned and distilled ones, those with the second tokenizer, other families and seeds; the largest again.
    """
    sizes = [Job(size) for size in reversed(SIZES)]
    seeds = [Job(size, seed) for seed in range(1, SEEDS) for size in reversed(SIZES[:-1])]
    tuned = [Job(size, kind="tuned") for size in reversed(TUNED)]
    distilled = [Job(size, kind="distilled") for size in reversed(DRAFTS)]
    second = [Job(size) for size in reversed(SECOND)]
    others = [Job(size) for size in reversed(FAMILIES)]
    slow = [job for job in others if isinstance(job.size, Mamba2Size)]  # five times as slow as others of its size
    return [*sizes, *tuned, *distilled, *second, *(job for job in others if job not in slow), *seeds, *slow,
            Job(SIZES[-1], seed=1)]  # fmt: skip


def left_out_first() -> list[Job]:
    """What does not ship where all together would be too large, in this order."""
    return [Job(SIZES[-1], seed=1), Job(SIZES[-1], kind="tuned")]

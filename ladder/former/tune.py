"""The tuned models of the former ladder."""

from __future__ import annotations

from ladder import first_stage, tune
from ladder.files import WORK
from ladder.sizes import SIZES, Size

# Proxy tuning needs a tuned and an untuned small model; the largest is the reference that it tries to reach.
TUNED = (SIZES[1], SIZES[2], SIZES[-1])
SUFFIX = "-tuned"


def train(size: Size) -> None:
    """Continue training one size on the tuned style."""
    tune.tune(first_stage.load(size), WORK / "runs" / (size.name + SUFFIX))

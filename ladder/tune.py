"""Tuned models: the same prompts, answered step by step and ended with `The answer is N.`"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ladder import stream
from ladder.corpus import Document, read_documents
from ladder.files import WORK
from ladder.sizes import SIZES, Size
from ladder.train import Schedule, fit, new_model

# Proxy tuning needs a tuned and an untuned small model; the largest is the reference that it tries to reach.
TUNED = (SIZES[1], SIZES[2], SIZES[-1])
SUFFIX = "-tuned"
SCHEDULE = Schedule(matrix_rate=0.004, other_rate=1e-3)
_ENDING = re.compile(r"\n#### (-?[\d,.]+)\s*$")


def tuned_answer(answer: str) -> str:
    """A worked answer with its last line `#### N` rewritten to `The answer is N.`"""
    rewritten, count = _ENDING.subn(r"\nThe answer is \1.", answer)
    if not count:
        raise ValueError(f"no '#### N' at the end of {answer!r}")
    return rewritten


def documents() -> list[Document]:
    """Word problems of GSM8K train and of our generator, in the tuned style."""
    return [
        Document(document.domain, document.prompt, tuned_answer(document.completion))
        for document in read_documents("tuning")
    ]


def tune(size: Size, start: Path | None = None, folder: Path | None = None) -> None:
    """Continue training one size on the tuned style; the loss is on the completions only.

    Args:
        size: what is tuned.
        start: its state; where None, that of the first stage.
        folder: where the tuned model goes; where None, beside it.
    """
    start = start or WORK / "runs" / size.name / "final.pt"
    stream.build_tuning(documents())
    model = new_model(size)
    model.load_state_dict(torch.load(start, weights_only=True, map_location="cpu")["model"])
    fit(model, stream.batches(stream.TUNING_STREAM), folder or start.parent.with_name(size.name + SUFFIX), SCHEDULE)

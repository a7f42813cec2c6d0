"""Tuned models: the same prompts, answered step by step and ended with `The answer is N.`"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ladder import stream
from ladder.corpus import Document, read_documents
from ladder.train import Schedule, fit

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


def tune(model: Any, folder: Path, compiled: bool = True) -> None:
    """Continue training a model on the tuned style; the loss is on the completions only."""
    stream.build_tuning(documents())
    fit(model, stream.batches(stream.TUNING_STREAM), folder, SCHEDULE, compiled=compiled)

"""The distilled drafts of the former ladder: towards its largest model, on prompts and steps of the first stage."""

from __future__ import annotations

import random
from typing import Any

from ladder import distill, first_stage, stream
from ladder.corpus import read_documents
from ladder.files import WORK
from ladder.score import inference_copy
from ladder.sizes import SIZES, Size

TEACHER = SIZES[-1]
DISTILLED = (SIZES[1], SIZES[2])
SUFFIX = "-distilled"
# Prompts that the teacher answers, by domain. Fewer where its answers are nearly always those of the stream.
PROMPTS = {"gsm8k": 2_000, "multiple_choice": 700, "mbpp": 311, "word_problems": 500, "arithmetic": 300}
HELD_OUT_PROMPTS = {"gsm8k": 48, "multiple_choice": 48, "mbpp": 32, "word_problems": 32}
STREAM_STEPS = 280


def prompts_of(part: str, counts: dict[str, int]) -> dict[str, list[str]]:
    """By domain, a sample of the prompts of one part of the corpus."""
    documents = read_documents(part)
    chosen = {}
    for domain, count in counts.items():
        prompts = [document.prompt for document in documents if document.domain == domain and document.prompt]
        chosen[domain] = random.Random(distill.SEED).sample(prompts, min(count, len(prompts)))
    return chosen


def load_teacher(attention: str = "sdpa") -> Any:
    """The largest model in float32, with its weights rounded as they ship."""
    return inference_copy(first_stage.load(TEACHER).bfloat16().float(), attention)


def train(size: Size, compiled: bool = True) -> None:
    """Continue training one size towards the teacher's distributions."""
    written = distill.write_texts(load_teacher, prompts_of("train", PROMPTS), WORK / "teacher")
    steps = random.Random(distill.SEED).sample(stream.batches(stream.STREAM), STREAM_STEPS)
    distill.train(
        first_stage.load(size), load_teacher, distill.among(written, steps, stream.STEP_TOKENS),
        prompts_of("held_out", HELD_OUT_PROMPTS), WORK / "runs" / (size.name + SUFFIX), compiled,
    )  # fmt: skip

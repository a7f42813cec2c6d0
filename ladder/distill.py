"""Distilled drafts: a small model learns what the largest one would say next (DistillSpec, arXiv 2310.08461).

The loss is KL(teacher || draft) over the whole vocabulary, on texts of the training stream and on what the teacher
itself wrote for training prompts: such texts are what a draft has to continue.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoTokenizer

import fsgen
from fsgen import SamplingParams
from fsgen.backends.transformers.model import TransformersModel
from fsgen.metrics import Counts
from fsgen.replay import replay
from ladder import stream, tokenizer
from ladder.corpus import read_documents
from ladder.evaluate import inference_copy
from ladder.files import WORK, read_jsonl, write_jsonl
from ladder.sizes import SIZES, Size
from ladder.train import Loss, Schedule, fit, new_model

TEACHER = SIZES[-1]
DISTILLED = (SIZES[1], SIZES[2])
SUFFIX = "-distilled"
SCHEDULE = Schedule(matrix_rate=0.01, other_rate=3e-3)
# Prompts that the teacher answers, by domain. Fewer where its answers are nearly always those of the stream.
PROMPTS = {"gsm8k": 2_000, "multiple_choice": 700, "mbpp": 311, "word_problems": 500, "arithmetic": 300}
HELD_OUT_PROMPTS = {"gsm8k": 48, "multiple_choice": 48, "mbpp": 32, "word_problems": 32}
WRITTEN_PASSES = 5  # how often the teacher's texts are read
STREAM_STEPS = 280  # steps on the training stream beside them
_BRIEF = SamplingParams(max_tokens=200)
_BATCH = 32
_SEED = 11


def prompts_of(part: str, counts: dict[str, int]) -> dict[str, list[list[int]]]:
    """By domain, token ids of a sample of the prompts of one part of the corpus."""
    encoder, documents = tokenizer.load(), read_documents(part)
    chosen = {}
    for domain, count in counts.items():
        prompts = [document.prompt for document in documents if document.domain == domain and document.prompt]
        sample = random.Random(_SEED).sample(prompts, min(count, len(prompts)))
        chosen[domain] = [encoder.encode(prompt).ids for prompt in sample]
    return chosen


def member(model: Any) -> TransformersModel:
    """A model of the ladder as `fsgen` takes it."""
    return TransformersModel(model, AutoTokenizer.from_pretrained(tokenizer.FOLDER), "ladder")


def load_teacher(attention: str = "ladder_blocks") -> Any:
    """The largest model in float32, with its weights rounded as they ship."""
    model = new_model(TEACHER, attention=attention)
    state = torch.load(WORK / "runs" / TEACHER.name / "final.pt", weights_only=True)["model"]
    model.load_state_dict({name: value.bfloat16() for name, value in state.items()})
    return model.eval()


def write_texts() -> list[stream.Encoded]:
    """(ids, labels) of what the teacher writes greedily for training prompts; only what it wrote counts.

    Each domain is kept in a file when it is done.
    """
    items: list[stream.Encoded] = []
    for domain, prompts in prompts_of("train", PROMPTS).items():
        path = WORK / "teacher" / f"{domain}.jsonl.gz"
        if not path.exists():
            alone = fsgen.Members.of(target=member(load_teacher(attention="sdpa")))
            texts = fsgen.generate(alone, prompts, "plain", sampling=_BRIEF, batch_size=_BATCH)
            rows = zip(prompts, texts, strict=True)
            write_jsonl(path, ({"given": given, "written": text.token_ids} for given, text in rows))
            print(f"distill: the teacher wrote {len(texts)} texts, {domain}", flush=True)
        for row in read_jsonl(path):
            given, written = row["given"], row["written"]
            items.append((given + written, [stream.IGNORED] * len(given) + written))
    return items


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, labels) of every step: the teacher's texts among those of the training stream."""
    items = write_texts()
    order = random.Random(_SEED)
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    for _ in range(WRITTEN_PASSES):
        order.shuffle(items)
        steps += stream.in_steps(*stream.pack(items, stream.SHORT))
    steps += order.sample(stream.batches(stream.STREAM), STREAM_STEPS)
    order.shuffle(steps)
    return steps


def divergence(teacher: Any) -> Loss:
    """The loss KL(teacher || draft) in nats, summed over the labels of rows [b, t] that count."""

    def loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                wanted = teacher(input_ids=ids, use_cache=False).logits
            given = model(input_ids=ids, use_cache=False).logits
        log_p = wanted[:, :-1].float().log_softmax(-1)
        log_q = given[:, :-1].float().log_softmax(-1)
        each = (log_p.exp() * (log_p - log_q)).sum(-1)  # [b, t - 1]
        total: torch.Tensor = (each * (labels[:, 1:] != stream.IGNORED)).sum()
        return total

    return loss


def watch_frequency() -> Callable[[Any], dict[str, float]]:
    """Measures, for the training log, the collaboration frequency of a draft on held-out training prompts."""
    target = member(load_teacher(attention="sdpa"))
    alone = fsgen.Members.of(target=target)
    prompts = prompts_of("held_out", HELD_OUT_PROMPTS)
    texts = {
        domain: fsgen.generate(alone, ids, "plain", sampling=_BRIEF, batch_size=_BATCH)
        for domain, ids in prompts.items()
    }

    def watch(model: Any) -> dict[str, float]:
        members = fsgen.Members.of(draft=member(inference_copy(model)), target=target)
        found: dict[str, float] = {}
        for domain, ids in prompts.items():
            [read] = replay([members], ids, texts[domain])
            frequency = Counts.total(text.stats for text in read).collaboration_frequency
            if frequency is not None:
                found[f"frequency_{domain}"] = round(frequency, 4)
        return found

    return watch


def distill(size: Size, compiled: bool = True) -> None:
    """Continue training one size towards the teacher's distributions."""
    model = new_model(size)
    state = torch.load(WORK / "runs" / size.name / "final.pt", weights_only=True)
    model.load_state_dict(state["model"])
    folder = WORK / "runs" / (size.name + SUFFIX)
    loss, watch = divergence(load_teacher()), watch_frequency()
    fit(model, batches(), folder, SCHEDULE, loss=loss, compiled=compiled, watch=watch)

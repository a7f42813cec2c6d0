"""Distilled drafts: a small model learns what the largest one would say next (DistillSpec, arXiv 2310.08461).

The loss is KL(teacher || draft) over the whole vocabulary, on steps of the training stream and on what the teacher
itself wrote for training prompts: such texts are what a draft has to continue.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoTokenizer

import fsgen
from fsgen import SamplingParams
from fsgen.backends.transformers.model import TransformersModel
from fsgen.metrics import Counts
from fsgen.replay import replay
from ladder import mix, stream, tokenizer
from ladder.files import read_jsonl, write_jsonl
from ladder.score import inference_copy
from ladder.train import Loss, Schedule, fit

SCHEDULE = Schedule(matrix_rate=0.01, other_rate=3e-3)
# Prompts that the teacher answers, by domain. Fewer where its answers are nearly always those of the stream.
PROMPTS = {
    "chains": 1_000, "facts": 1_200, "lookup": 700, "tiny_python": 1_000, "word_problems": 500, "gsm8k": 1_000,
    "mbpp": 311, "multiple_choice": 500,
}  # fmt: skip
HELD_OUT_PROMPTS = 24  # of each of these domains
PROMPT_SHARD = 900  # of seed 0: beyond those that are trained on
WRITTEN_PASSES = 5  # how often the teacher's texts are read
STREAM_STEPS = 560  # steps on the training stream beside them
SEED = 11
_BRIEF = SamplingParams(max_tokens=200)
_BATCH = 32

Step = tuple[torch.Tensor, torch.Tensor]
Loader = Callable[[str], Any]  # of a model in float32 with the attention of this name
Prompts = Mapping[str, Sequence[str]]  # by domain


def training_prompts() -> dict[str, list[str]]:
    """Different prompts of the training split of the mix, by domain."""
    chosen = {}
    for domain, count in PROMPTS.items():
        documents = itertools.islice(mix.documents(domain, 0, PROMPT_SHARD), 4 * count)  # some come more than once
        chosen[domain] = list(dict.fromkeys(document.prompt for document in documents if document.prompt))[:count]
    return chosen


def held_out_prompts() -> dict[str, list[str]]:
    """Prompts of the held-out documents of the same domains."""
    documents = mix.held_out()
    return {domain: [document.prompt for document in documents[domain][:HELD_OUT_PROMPTS]] for domain in PROMPTS}


def stream_steps(millions: int) -> list[Step]:
    """Steps at random of the first so many million tokens of the mix, in their order."""
    batches = mix.Batches(0, millions * 1_000_000 // mix.STEP_TOKENS)
    chosen = random.Random(SEED).sample(range(len(batches)), min(STREAM_STEPS, len(batches)))
    return [batches[step] for step in sorted(chosen)]


def member(model: Any) -> TransformersModel:
    """A model of the ladder as `fsgen` takes it."""
    return TransformersModel(model, AutoTokenizer.from_pretrained(tokenizer.home()), "ladder")


def write_texts(load_teacher: Loader, prompts: Prompts, folder: Path) -> list[stream.Encoded]:
    """(ids, labels) of what the teacher writes greedily for the prompts; only what it wrote counts.

    Each domain is kept in a file of the folder when it is done; of several processes one writes it.
    """
    items: list[stream.Encoded] = []
    folder.mkdir(parents=True, exist_ok=True)
    for domain, given in prompts.items():
        path = folder / f"{domain}.jsonl.gz"
        with FileLock(folder / f"{domain}.lock"):
            if not path.exists():
                _write(path, load_teacher("sdpa"), given)
        rows = [(row["given"], row["written"]) for row in read_jsonl(path)]
        items += [(asked + written, [stream.IGNORED] * len(asked) + written) for asked, written in rows]
    return items


def _write(path: Path, teacher: Any, prompts: Sequence[str]) -> None:
    encoder = mix.encoder()
    ids = [encoder.encode(prompt).ids for prompt in prompts]
    alone = fsgen.Members.of(target=member(teacher))
    texts = fsgen.generate(alone, ids, "plain", sampling=_BRIEF, batch_size=_BATCH)
    rows = zip(ids, texts, strict=True)
    write_jsonl(path, ({"given": given, "written": text.token_ids} for given, text in rows))
    print(f"distill: the teacher wrote {len(texts)} texts, {path.name}", flush=True)


def among(written: Sequence[stream.Encoded], steps: Sequence[Step], step_tokens: int = mix.STEP_TOKENS) -> list[Step]:
    """(ids, labels) of every step: the teacher's texts, several times, among the steps of the training stream."""
    order, items, found = random.Random(SEED), list(written), list(steps)
    for _ in range(WRITTEN_PASSES):
        order.shuffle(items)
        found += stream.in_steps(*stream.pack(items, stream.SHORT), step_tokens)
    order.shuffle(found)
    return found


def divergence(teacher: Any) -> Loss:
    """The loss KL(teacher || draft) in nats, summed over the labels of rows [b, t] that count."""

    def loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(ids.device.type, dtype=torch.bfloat16):
            with torch.no_grad():
                wanted = teacher(input_ids=ids, use_cache=False).logits
            given = model(input_ids=ids, use_cache=False).logits
        log_p = wanted[:, :-1].float().log_softmax(-1)
        log_q = given[:, :-1].float().log_softmax(-1)
        each = (log_p.exp() * (log_p - log_q)).sum(-1)  # [b, t - 1]
        total: torch.Tensor = (each * (labels[:, 1:] != stream.IGNORED)).sum()
        return total

    return loss


def watch_frequency(teacher: Any, prompts: Prompts) -> Callable[[Any], dict[str, float]]:
    """Measures, for the training log, the collaboration frequency of a draft on these prompts."""
    target, encoder = member(teacher), mix.encoder()
    alone = fsgen.Members.of(target=target)
    ids = {domain: [encoder.encode(prompt).ids for prompt in given] for domain, given in prompts.items()}
    texts = {
        domain: fsgen.generate(alone, given, "plain", sampling=_BRIEF, batch_size=_BATCH)
        for domain, given in ids.items()
    }

    def watch(model: Any) -> dict[str, float]:
        members = fsgen.Members.of(draft=member(inference_copy(model)), target=target)
        found: dict[str, float] = {}
        for domain, given in ids.items():
            [read] = replay([members], given, texts[domain])
            frequency = Counts.total(text.stats for text in read).collaboration_frequency
            if frequency is not None:
                found[f"frequency_{domain}"] = round(frequency, 4)
        return found

    return watch


def train(
    model: Any, load_teacher: Loader, steps: Sequence[Step], watched: Prompts, folder: Path, compiled: bool = True
) -> None:
    """Continue training a model towards the teacher's distributions, watching how often they differ."""
    loss = divergence(load_teacher("ladder_blocks"))
    watch = watch_frequency(load_teacher("sdpa"), watched)
    fit(model, steps, folder, SCHEDULE, loss=loss, compiled=compiled, watch=watch)

"""Accuracy of a model on the tasks, by greedy decoding, and the signs of texts that went wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from fsgen import tasks
from fsgen.analysis.suspects import loops
from fsgen.types import Example
from ladder import mix
from ladder.corpus import Document
from ladder.sizes import END_OF_TEXT_ID, VOCAB_SIZE
from ladder.stream import IGNORED

GRADED = tuple(mix.GRADED)
LEVELS = {"chains": "steps", "facts": "rank", "lookup": "pairs", "tiny_python": "operations"}
_BATCH_TOKENS = 12_000


@dataclass(frozen=True)
class Text:
    """A completion, and whether it came to an end before the limit."""

    text: str
    ended: bool


@torch.inference_mode()
def write(model: Any, prompts: Sequence[str], max_tokens: int, stop: Sequence[str] = ()) -> list[Text]:
    """Greedy completions, each up to the end of text or the first stop string."""
    encoder = mix.encoder(model.config.vocab_size)
    encoded = [encoder.encode(prompt).ids for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    texts: dict[int, Text] = {}
    while order:
        size = max(1, _BATCH_TOKENS // (len(encoded[order[-1]]) + max_tokens))
        chosen, order = order[-size:], order[:-size]
        width = len(encoded[chosen[-1]])
        ids = torch.tensor([[END_OF_TEXT_ID] * (width - len(encoded[i])) + encoded[i] for i in chosen])
        mask = torch.tensor([[0] * (width - len(encoded[i])) + [1] * len(encoded[i]) for i in chosen])
        output = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=max_tokens,
            eos_token_id=END_OF_TEXT_ID, pad_token_id=END_OF_TEXT_ID,
        )  # fmt: skip
        for index, row in zip(chosen, output[:, width:].tolist(), strict=True):
            ended = END_OF_TEXT_ID in row
            text = encoder.decode(row[: row.index(END_OF_TEXT_ID)] if ended else row)
            at = min((text.find(mark) for mark in stop if mark in text), default=-1)
            texts[index] = Text(text[:at] if at >= 0 else text, ended or at >= 0)
    return [texts[index] for index in range(len(prompts))]


def level(task: str, example: Example) -> int:
    """How hard a problem is by construction, from 0 to 4."""
    found = example.metadata
    if task == "chains":
        return int((len(found["steps"]) - 1) // 2)
    if task == "facts":
        return sum(found["rank"] > rank for rank in (30, 90, 210, 390))
    if task == "lookup":
        return sum((found["pairs"], found["steps"]) > low for low in ((3, 9), (4, 1), (8, 1), (12, 9)))
    return int(found.get("operations", 1)) - 1


def score_texts(name: str, examples: Sequence[Example], texts: Sequence[Text]) -> dict[str, Any]:
    """Accuracy in all and by level, and the shares of texts without an answer, cut at the limit, and in loops."""
    task = tasks.get(name)
    scores = [task.score(example, written.text) for example, written in zip(examples, texts, strict=True)]
    right = [int(score.value or 0) for score in scores]
    found: dict[str, Any] = {
        "problems": len(examples),
        "accuracy": sum(right) / len(right),
        "right": "".join(map(str, right)),  # in the order of the task
        "no_answer": sum(score.answer is None for score in scores) / len(scores),
        "cut": sum(not written.ended for written in texts) / len(texts),
        "loops": sum(loops(written.text) for written in texts) / len(texts),
    }
    if name in GRADED:
        by_level: dict[int, list[int]] = {}
        for example, value in zip(examples, right, strict=True):
            by_level.setdefault(level(name, example), []).append(value)
        found["by_level"] = {str(key): sum(by_level[key]) / len(by_level[key]) for key in sorted(by_level)}
    return found


def measure_task(model: Any, name: str, limit: int | None = None) -> tuple[dict[str, Any], list[Text]]:
    """Score and texts of a model on one task."""
    task = tasks.get(name)
    examples = task.load(limit)
    texts = write(model, [example.prompt for example in examples], task.max_tokens, task.stop)
    return score_texts(name, examples, texts), texts


def _windows(
    document: Document, vocab_size: int, whole: Collection[str], context: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and the labels of the tokens that follow them, up to a whole context each."""
    ids, labels = mix.encode(document, vocab_size, whole)
    for start in range(0, len(ids) - 1, context):
        if following := labels[start + 1 : start + context]:
            yield ids[start : start + context], following


@torch.inference_mode()
def held_out_loss(
    model: Any, documents: Sequence[Document], whole: Collection[str] = mix.WHOLE, context: int = 1024
) -> float:
    """Mean cross-entropy (nats) of what training counts, the prompts too in the domains of `whole`.

    It is per token of the ladder's tokenizer, whatever that of the model, so that models of two can be compared.
    """
    total, count = 0.0, 0
    for document in documents:
        for window, following in _windows(document, model.config.vocab_size, whole, context):
            labels = torch.tensor(following)
            logits = model(input_ids=torch.tensor([window]), use_cache=False).logits[0, : len(labels)].float()
            total += float(F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED))
        for _, following in _windows(document, VOCAB_SIZE, whole, context):
            count += sum(label != IGNORED for label in following)
    return total / count


def inference_copy(model: Any, attention: str = "sdpa") -> Any:
    """A float32 copy of a model in training that decodes with the standard attention, or another."""
    config = type(model.config).from_dict(model.config.to_dict())
    if model._supports_sdpa:
        config._attn_implementation = attention
    copy = type(model)(config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()

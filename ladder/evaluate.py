"""Held-out loss of each domain, and accuracy by greedy decoding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ladder import tokenizer
from ladder.corpus import Document, read_documents
from ladder.sizes import CONTEXT, END_OF_TEXT_ID

_HASHES = re.compile(r"#### (-?[\d,]+)")
_SAID = re.compile(r"The answer is (-?[\d,]+)")


def answer_of(text: str) -> str | None:
    """The final number of a worked answer, in either ending; None where there is none."""
    found = _HASHES.search(text) or _SAID.search(text)
    return found.group(1).replace(",", "") if found else None


@torch.inference_mode()
def greedy(model: Any, prompts: Sequence[str], max_new_tokens: int = 200, batch: int = 64) -> list[str]:
    """Greedy completions of the prompts, up to the end of text."""
    encoder = tokenizer.load()
    texts: dict[int, str] = {}
    encoded = [encoder.encode(prompt).ids for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(len(encoded[index]) for index in chosen)
        ids = torch.tensor([[END_OF_TEXT_ID] * (width - len(encoded[i])) + encoded[i] for i in chosen])
        mask = torch.tensor([[0] * (width - len(encoded[i])) + [1] * len(encoded[i]) for i in chosen])
        output = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens,
            eos_token_id=END_OF_TEXT_ID, pad_token_id=END_OF_TEXT_ID,
        )  # fmt: skip
        for index, row in zip(chosen, output[:, width:].tolist(), strict=True):
            end = row.index(END_OF_TEXT_ID) if END_OF_TEXT_ID in row else len(row)
            texts[index] = encoder.decode(row[:end])
    return [texts[index] for index in range(len(prompts))]


def completions_right(completions: Sequence[str], documents: Sequence[Document]) -> int:
    """How many completions end in the number of their document; one without an ending is wrong."""
    return sum(
        answer_of(completion) == answer_of(document.completion)
        for completion, document in zip(completions, documents, strict=True)
    )


@torch.inference_mode()
def held_out_loss(model: Any, documents: Sequence[Document]) -> float:
    """Mean cross-entropy a token (nats), over windows of the whole context."""
    encoder = tokenizer.load()
    total, count = 0.0, 0
    for document in documents:
        ids = [*encoder.encode(document.text).ids, END_OF_TEXT_ID]
        for start in range(0, len(ids), CONTEXT):
            window = torch.tensor([ids[start : start + CONTEXT]])
            if window.shape[1] < 2:
                continue
            logits = model(input_ids=window, use_cache=False).logits[0, :-1].float()
            total += float(F.cross_entropy(logits, window[0, 1:], reduction="sum"))
            count += window.shape[1] - 1
    return total / count


def inference_copy(model: Any) -> Any:
    """A float32 copy of a model in training that decodes with the standard attention."""
    config = type(model.config).from_dict(model.config.to_dict())
    if model._supports_sdpa:
        config._attn_implementation = "sdpa"
    copy = type(model)(config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def watch_dev(model: Any, count: int = 100) -> dict[str, float]:
    """Accuracy on a few development word problems, for the training log."""
    documents = read_documents("dev")[:count]
    completions = greedy(inference_copy(model), [document.prompt for document in documents])
    return {"dev_accuracy": completions_right(completions, documents) / len(documents)}

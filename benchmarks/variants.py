"""Ways of doing the same thing, timed alternately in one run: figures of different runs cannot be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import DynamicCache

import fsgen
from fsgen import Generation, SamplingParams
from fsgen.backends import Members
from fsgen.methods.method import Method, parse
from fsgen.metrics import Counts

Texts = list[list[int]]


@dataclass
class Variant:
    """One way of writing the same texts.

    Attributes:
        write: gives the texts; ours as generations, which hold counts too.
        seconds: of each repetition.
        tokens: written in one repetition.
        note: tokens a call of the target.
        overhead: of each repetition, the wall clock over the time inside forward calls.
        equal: the share of its texts that are those of the group's first variant.
    """

    name: str
    write: Callable[[], Sequence[Generation] | Texts]
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    note: str = ""
    overhead: list[float] = field(default_factory=list)
    equal: float = 1.0

    def repeat(self) -> Texts:
        """Write the texts once, timed."""
        started = time.perf_counter()
        written = self.write()
        elapsed = time.perf_counter() - started
        self.seconds.append(elapsed)
        if written and isinstance(written[0], Generation):
            counts = Counts.total(text.stats for text in written)  # type: ignore[union-attr]
            self.overhead.append(elapsed / (counts.draft_seconds + counts.system2_seconds))
            length = counts.mean_accepted_length
            self.note = f"{length:.2f} tokens a call" if length and counts.draft_calls else ""
            texts = [text.token_ids for text in written]  # type: ignore[union-attr]
        else:
            texts = written  # type: ignore[assignment]
        self.tokens = sum(map(len, texts))
        return texts


@dataclass
class Group:
    """Variants that are compared; the first is what the others are measured by.

    `exact`: all must write the very same texts (float32).
    """

    title: str
    variants: list[Variant]
    exact: bool = True

    def run(self, repetitions: int) -> None:
        """Warm every variant up, then run them alternately."""
        expected = self.variants[0].repeat()
        for variant in self.variants[1:]:
            texts = variant.repeat()
            equal = sum(a == b for a, b in zip(texts, expected, strict=True))
            if self.exact and equal < len(texts):
                raise AssertionError(f"{self.title}: {variant.name} wrote {len(texts) - equal} other texts")
            variant.equal = equal / len(texts)
        for variant in self.variants:
            variant.seconds.clear()
            variant.overhead.clear()
        for _ in range(repetitions):
            for variant in self.variants:
                variant.repeat()

    def figures(self) -> list[dict[str, Any]]:
        """One record a variant; a ratio is the median over the repetitions."""
        first = self.variants[0]
        records = []
        for variant in self.variants:
            pairs = zip(first.seconds, variant.seconds, strict=True)
            scale = variant.tokens / first.tokens
            records.append(
                {
                    "group": self.title,
                    "name": variant.name,
                    "rate": variant.tokens / statistics.median(variant.seconds),
                    "ratio": statistics.median(scale * a / b for a, b in pairs),
                    "overhead": statistics.median(variant.overhead) if variant.overhead else None,
                    "equal": variant.equal,
                    "note": variant.note,
                }
            )
        return records

    def show(self, console: Console) -> None:
        table = Table(title=self.title, title_justify="left")
        for column in ("", "tokens/s", "ratio", "wall / forward", ""):
            table.add_column(column, justify="right" if column else "left")
        for record in self.figures():
            overhead = f"{record['overhead']:.2f}" if record["overhead"] else ""
            table.add_row(record["name"], f"{record['rate']:.0f}", f"{record['ratio']:.2f}", overhead, record["note"])
        console.print(table)


def ours(
    members: Members,
    prompts: list[str],
    sampling: SamplingParams,
    method: str,
    k: int | str | None = None,
    batch: int = 1,
    name: str = "",
) -> Variant:
    """A method of ours. `k`: draft tokens, or `auto`."""

    def write() -> list[Generation]:
        return fsgen.generate(members, prompts, method, None, k, sampling, batch)

    parts = [method, name, "" if k is None else "auto" if k == "auto" else f"k={k}"]
    return Variant(", ".join(filter(None, parts)), write)


def transformers_own(members: Members, prompts: list[str], max_tokens: int, assisted: int | None) -> Variant:
    """`transformers`' own greedy generation; `assisted`: draft tokens of its assisted one (0: its own choice)."""
    assert members.target is not None
    assert members.draft is not None
    target, draft = members.target.module, members.draft.module  # type: ignore[attr-defined]
    ids = [torch.tensor([members.tokenizer.encode(prompt)]) for prompt in prompts]
    options = {} if assisted is None else {"assistant_model": draft}

    def write() -> Texts:
        if assisted:
            draft.generation_config.num_assistant_tokens = assisted
            draft.generation_config.num_assistant_tokens_schedule = "constant"
            draft.generation_config.assistant_confidence_threshold = 0.0
        elif assisted == 0:
            draft.generation_config.num_assistant_tokens_schedule = "heuristic"
            draft.generation_config.assistant_confidence_threshold = 0.4
        texts = []
        with torch.inference_mode():
            for prompt in ids:
                out = target.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    **options,
                )
                texts.append(out[0, prompt.shape[1] :].tolist())
        return texts

    name = {None: "transformers, plain", 0: "transformers, assisted, its own schedule"}.get(
        assisted, f"transformers, assisted, {assisted} tokens"
    )
    return Variant(name, write)


def transformers_batches(members: Members, prompts: list[str], max_tokens: int, batch: int) -> Variant:
    """`transformers`' own greedy generation of prompts of like length together, padded on the left."""
    assert members.target is not None
    target, end = members.target.module, min(members.target.eos_ids)  # type: ignore[attr-defined]
    ids = [members.tokenizer.encode(prompt) for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))

    def write() -> Texts:
        texts: Texts = [[] for _ in ids]
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            width = max(len(ids[i]) for i in chosen)
            padded = torch.tensor([[end] * (width - len(ids[i])) + ids[i] for i in chosen])
            mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in chosen])
            with torch.inference_mode():
                out = target.generate(
                    padded, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False, pad_token_id=end
                )
            for i, row in zip(chosen, out[:, width:].tolist(), strict=True):
                texts[i] = row[: row.index(end) + 1] if end in row else row
        return texts

    return Variant("transformers, plain", write)


@torch.inference_mode()
def _token_by_token(members: Members, ids: list[int], max_tokens: int, method: Method) -> list[int]:
    models = {role: getattr(members, role).module for role in method.roles}
    caches = {role: DynamicCache() for role in models}
    fresh = torch.tensor([ids])
    written: list[int] = []
    while len(written) < max_tokens:
        z = {
            role: model(fresh, past_key_values=caches[role], logits_to_keep=1).logits[0, -1].float()
            for role, model in models.items()
        }
        written.append(int(method.fusion(z["target"], z.get("draft"), z.get("base")).argmax()))
        if written[-1] in members.eos_ids:
            break
        fresh = torch.tensor([[written[-1]]])
    return written


def transformers_fused(members: Members, prompts: list[str], max_tokens: int, name: str) -> Variant:
    """The loop that calls `transformers`' models for every token, with their caches, and combines their logits."""
    method, ids = parse(name), [members.tokenizer.encode(prompt) for prompt in prompts]

    def write() -> Texts:
        return [_token_by_token(members, prompt, max_tokens, method) for prompt in ids]

    return Variant("transformers, token by token", write)

"""Models that are tables: every distribution is known, so that every result can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fsgen.backends import Members, Model, ModelInfo, Usage
from fsgen.backends.protocol import Capabilities, TokenIds


class Letters:
    """A tokenizer of one character a token: token 0 is the end of text, the others are letters of `alphabet`."""

    def __init__(self, alphabet: str = "abcdefghijklmnopqrstuvwxyz") -> None:
        self.alphabet = alphabet

    def encode(self, text: str) -> list[int]:
        return [self.alphabet.index(letter) + 1 for letter in text]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        end = "" if skip_special_tokens else "<end>"
        return "".join(self.alphabet[i - 1] if i else end for i in ids)


class Table:
    """A model whose logits depend on the last `order` tokens, through a seeded table of `vocab` columns.

    `logits` may be given instead: [vocab] for every context alike.
    """

    capabilities = Capabilities()
    device = torch.device("cpu")

    def __init__(
        self,
        vocab: int = 8,
        order: int = 3,
        seed: int = 0,
        scale: float = 2.0,
        context: int = 512,
        logits: Tensor | None = None,
        tokenizer: Any = None,
        near: Table | None = None,
        noise: float = 1.0,
    ) -> None:
        self.vocab_size = vocab
        self.context = context
        self.eos_ids = frozenset({0})
        self.tokenizer = tokenizer or Letters()
        self.info = ModelInfo(f"table-{seed}", "", "table", vocab, vocab)
        self._order, self._seed, self._scale, self._logits = order, seed, scale, logits
        self._near, self._noise = near, noise

    def logits(self, context: TokenIds) -> Tensor:
        """Logits of the token after `context`, [vocab]; a seeded function of its last tokens, cache or not."""
        if self._logits is not None:
            return self._logits
        key = [self._seed, *context[-self._order :]]
        z = torch.from_numpy(np.random.default_rng(key).normal(size=self.vocab_size) * self._scale).float()
        return z * self._noise + self._near.logits(context) if self._near is not None else z

    def session(self, batch_size: int) -> TableSession:
        return TableSession(self, batch_size)

    def cache_bytes(self, tokens: int) -> int:
        return 1000 * tokens


class TableSession:
    """Counts what a real session would have run: what lies behind the longest common prefix."""

    def __init__(self, model: Table, rows: int) -> None:
        self.model = model
        self.usage = [Usage() for _ in range(rows)]
        self.calls = 0
        self._known: list[list[int]] = [[] for _ in range(rows)]
        self._counted = [0] * rows

    def begin(self, row: int, prompt: int, longest: int) -> None:
        self.usage[row] = Usage()
        self._counted[row] = prompt - 1

    def score(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> Tensor:
        wanted = [last] * len(sequences) if isinstance(last, int) else list(last)
        width = max(n for n, sequence in zip(wanted, sequences, strict=True) if sequence is not None)
        out = torch.full((len(sequences), width, self.model.vocab_size), float("nan"))
        self.calls += 1
        for row, (sequence, n) in enumerate(zip(sequences, wanted, strict=True)):
            if sequence is None:
                continue
            assert 1 <= n <= len(sequence) <= self.model.context
            known, common = self._known[row], 0
            while common < min(len(known), len(sequence) - n) and known[common] == sequence[common]:
                common += 1
            self.usage[row].calls += 1
            self.usage[row].tokens += len(sequence) - max(common, self._counted[row])
            self._known[row] = list(sequence)
            for j in range(n):
                out[row, width - n + j] = self.model.logits(sequence[: len(sequence) - n + 1 + j])
        return out


def group(draft: Model | None = None, target: Model | None = None, base: Model | None = None) -> Members:
    lead = target or draft
    assert lead is not None
    models = [model for model in (draft, target, base) if model is not None]
    return Members(
        draft=draft,
        target=target,
        base=base,
        tokenizer=lead.tokenizer,
        vocab_size=min(model.vocab_size for model in models),
        context=min(model.context for model in models),
        eos_ids=lead.eos_ids,
    )


def trio(vocab: int = 8, seed: int = 0, noise: float = 0.6, **options: Any) -> Members:
    """A target, a draft that resembles it (the less, the larger `noise`), and a base."""
    target = Table(vocab, seed=seed, **options)
    draft = Table(vocab, seed=seed + 1000, near=target, noise=noise, **options)
    base = Table(vocab, seed=seed + 2000, near=target, noise=noise, **options)
    return group(draft, target, base)


class Markov(Table):
    """A model whose logits depend on the last token alone, `table` [vocab, vocab]: quick in wide batches."""

    def __init__(self, table: Tensor, seed: int = 0) -> None:
        super().__init__(vocab=table.shape[1], seed=seed)
        self.table = table

    def logits(self, context: TokenIds) -> Tensor:
        return self.table[context[-1]]

    def session(self, batch_size: int) -> TableSession:
        return _MarkovSession(self, batch_size)


class _MarkovSession(TableSession):
    model: Markov

    def score(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> Tensor:
        wanted = [last] * len(sequences) if isinstance(last, int) else list(last)
        width = max(wanted)
        ends = [[0] * width if sequence is None else ([0] * width + list(sequence))[-width:] for sequence in sequences]
        return self.model.table[torch.tensor(ends)]

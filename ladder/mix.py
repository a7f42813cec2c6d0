"""The training stream of the graded ladder: shards of a million tokens, made when they are needed and kept.

A shard depends on its seed and number alone, so a longer training goes on where a shorter one ended. All sizes of one
seed read the same shards in the same order. A model with the second tokenizer reads the same documents as ids of that
one: they make as many tokens to a few percent, so all models take the same steps.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ladder import stream, tokenizer
from ladder.corpus import Document, read_documents
from ladder.files import WORK
from ladder.graded import Made, Split, chains, facts, lookup, tiny_python
from ladder.sizes import VOCAB_SIZE

FOLDER = WORK / "mix"
SHARD_TOKENS = 1_000_000
STEP_TOKENS = 4_096
WIDTHS = (512, 512, 512, 512, 1024)  # of the rows, shard by shard
GRADED = {"chains": chains, "facts": facts, "lookup": lookup, "tiny_python": tiny_python}
# Shares of the tokens, prompts included: of the first shards, and of the later ones.
FIRST_SHARDS = 3
FEW_PEOPLE_SHARDS = 4  # that tell of the first people of the made world alone
FIRST_SHARES = {
    "chains": 0.20, "facts": 0.20, "tiny_python": 0.17, "lookup": 0.13, "word_problems": 0.12, "gsm8k": 0.08,
    "python": 0.04, "multiple_choice": 0.03, "mbpp": 0.02, "arithmetic": 0.01,
}  # fmt: skip
SHARES = {
    "chains": 0.18, "facts": 0.22, "tiny_python": 0.12, "lookup": 0.07, "word_problems": 0.18, "gsm8k": 0.12,
    "python": 0.06, "multiple_choice": 0.03, "mbpp": 0.015, "arithmetic": 0.005,
}  # fmt: skip
WHOLE = ("gsm8k", "python", "mbpp")  # people's texts, which are read whole; of the others the completions count
HELD_OUT = 200  # documents of each graded task


def graded(domain: str, split: Split, seed: int) -> Iterator[Document]:
    """Documents of one graded task."""
    return _documents(domain, GRADED[domain].problems(split, seed))


def _documents(domain: str, problems: Iterator[Made]) -> Iterator[Document]:
    return (Document(domain, made.prompt, made.completion) for made in problems)


@cache
def _collected() -> dict[str, list[Document]]:
    found: dict[str, list[Document]] = {}
    for document in read_documents("train"):
        found.setdefault(document.domain, []).append(document)
    return found


def documents(domain: str, seed: int, number: int) -> Iterator[Document]:
    """Endless training documents of one domain for a shard; collected ones begin again in another order."""
    seed = seed * 1000 + number
    if domain == "facts" and number < FEW_PEOPLE_SHARDS:
        yield from _documents(domain, facts.problems("train", seed, facts.FIRST_PEOPLE))
    if domain in GRADED:
        yield from graded(domain, "train", seed)
    rng = random.Random(f"{domain}/{seed}")
    while True:
        yield from rng.sample(_collected()[domain], len(_collected()[domain]))


@cache
def encoder(vocab_size: int = VOCAB_SIZE) -> Any:
    """The tokenizer of so many entries."""
    return tokenizer.load(vocab_size)


def encode(document: Document, vocab_size: int = VOCAB_SIZE, whole: Collection[str] = WHOLE) -> stream.Encoded:
    """Ids and labels of a document with its end of text; of the domains in `whole` the prompts count too."""
    return stream.encode(encoder(vocab_size), document, document.domain in whole)


def shard_documents(seed: int, number: int) -> list[tuple[Document, stream.Encoded]]:
    """The documents of a shard in their order, with their ids in the ladder's tokenizer."""
    items: list[tuple[Document, stream.Encoded]] = []
    for domain, share in (FIRST_SHARES if number < FIRST_SHARDS else SHARES).items():
        room = int(share * SHARD_TOKENS * 1.01)  # so that padding leaves enough whole rows
        source = documents(domain, seed, number)
        if domain == "python":  # modules are long: parts of them, as many as fit
            source = _parts(source)
        while room > 0:
            document = next(source)
            encoded = encode(document)
            items.append((document, encoded))
            room -= len(encoded[0])
    random.Random(f"shard/{seed}/{number}").shuffle(items)
    return items


def _parts(source: Iterator[Document], characters: int = 4_000) -> Iterator[Document]:
    """One part at a random place of each document."""
    for document in source:
        text = document.completion
        start = random.Random(text[:100]).randrange(max(1, len(text) - characters))
        yield Document(document.domain, "", text[start : start + characters])


@lru_cache(maxsize=1)
def shard(seed: int, number: int, vocab_size: int = VOCAB_SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids and labels, [n, width] both."""
    folder = f"seed{seed}" if vocab_size == VOCAB_SIZE else f"seed{seed}-vocab{vocab_size}"
    path: Path = FOLDER / folder / f"{number:04}.safetensors"
    if not path.exists():
        items = (
            encoded if vocab_size == VOCAB_SIZE else encode(document, vocab_size)
            for document, encoded in shard_documents(seed, number)
        )
        ids, labels = stream.pack(items, WIDTHS[number % len(WIDTHS)])
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".tmp{random.random()}")
        save_file({"ids": ids, "labels": labels}, temporary)
        temporary.replace(path)
    tensors = load_file(path)
    return tensors["ids"], tensors["labels"]


class Batches:
    """The steps of a stream, made on demand; as a list, it has a length and is read by number."""

    PER_SHARD = SHARD_TOKENS // STEP_TOKENS  # whole steps; what is left over of a shard is not read

    def __init__(self, seed: int, steps: int, vocab_size: int = VOCAB_SIZE) -> None:
        self._seed, self._steps, self._vocab_size = seed, steps, vocab_size

    def __len__(self) -> int:
        """The number of steps."""
        return self._steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, labels) of one step."""
        number, place = divmod(step, self.PER_SHARD)
        ids, labels = shard(self._seed, number, self._vocab_size)
        rows = STEP_TOKENS // ids.shape[1]
        # A shard of the second tokenizer may be short by a few steps: then it begins again.
        chosen = torch.arange(place * rows, (place + 1) * rows) % len(ids)
        return ids[chosen], labels[chosen]


def held_out() -> dict[str, list[Document]]:
    """Held-out documents of every domain."""
    found = {domain: list(itertools.islice(graded(domain, "held_out", 0), HELD_OUT)) for domain in GRADED}
    for document in read_documents("held_out"):
        if document.domain in SHARES:
            found.setdefault(document.domain, []).append(document)
    return {domain: found[domain] for domain in SHARES}

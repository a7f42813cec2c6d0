"""The stream of the second stage: the same each time, and with either tokenizer the same documents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ladder import mix, score, second_tokenizer, tokenizer
from ladder.corpus import Document
from ladder.sizes import VOCAB_SIZE, Size
from ladder.train import new_model

_TINY = Size("pocket-test", hidden=32, layers=1, heads=2, ffn=48, vocab_size=300)


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    def documents(domain: str, seed: int, number: int) -> Iterator[Document]:
        for number in range(10_000):
            yield Document(domain, f"{seed} + {number} =", f" {seed + number}")

    monkeypatch.setattr(mix, "FOLDER", tmp_path)
    monkeypatch.setattr(tokenizer, "FOLDER", tmp_path / "tokenizer")
    monkeypatch.setattr(tokenizer, "PACKAGE", tmp_path)
    monkeypatch.setattr(mix, "documents", documents)
    monkeypatch.setattr(mix, "FIRST_SHARES", {"chains": 0.5, "facts": 0.5})
    monkeypatch.setattr(mix, "SHARD_TOKENS", 20_480)
    monkeypatch.setattr(mix.Batches, "PER_SHARD", 5)
    tokenizer.save(tokenizer.train_tokenizer(["1 + 2 = 3"], 300), tmp_path / "tokenizer")
    mix.encoder.cache_clear()
    mix.shard.cache_clear()
    yield tmp_path
    mix.encoder.cache_clear()
    mix.shard.cache_clear()


def test_a_stream_is_the_same_each_time_and_counts_completions(stream: Path) -> None:
    first = [mix.Batches(0, 7)[step] for step in range(7)]
    mix.shard.cache_clear()
    for file in stream.glob("seed0/*"):
        file.unlink()
    again = [mix.Batches(0, 7)[step] for step in range(7)]
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert not torch.equal(first[0][0], first[5][0])
    assert not torch.equal(first[0][0], mix.Batches(1, 7)[0][0])
    ids, labels = first[0]
    counted = labels != -100
    assert 0.2 < float(counted.float().mean()) < 0.8
    assert torch.equal(ids[counted], labels[counted])


def test_the_second_tokenizer_reads_the_same_documents(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_tokenizer, "_SAMPLE_SHARDS", (0,))
    monkeypatch.setattr(second_tokenizer, "SECOND_VOCAB_SIZE", 280)
    second_tokenizer.build()
    texts = []
    for vocab_size in (VOCAB_SIZE, 280):
        ids, labels = mix.shard(0, 1, vocab_size)
        encoder = mix.encoder(vocab_size)
        texts.append(sorted(text for row in ids.tolist() for text in _texts_of(row, encoder)))
        counted = labels != -100
        assert torch.equal(ids[counted], labels[counted])
    assert texts[0] == texts[1]
    assert (stream / "seed0-vocab280" / "0001.safetensors").exists()
    short = mix.shard(0, 1, 280)[0][:33]
    with monkeypatch.context() as patch:
        patch.setattr(mix, "shard", lambda seed, number, vocab_size: (short, short))
        steps = [mix.Batches(0, 10, 280)[step][0] for step in range(5, 10)]  # 40 rows of 33: it begins again
    assert torch.equal(torch.cat(steps), torch.cat([short, short[:7]]))


def _texts_of(row: list[int], encoder: Any) -> list[str]:
    documents: list[list[int]] = [[]]
    for token in row:
        if token == 0:
            documents.append([])
        else:
            documents[-1].append(token)
    return [encoder.decode(ids) for ids in documents if ids]


def test_a_model_begins_with_the_second_tokenizer() -> None:
    first, second = (
        tokenizer.train_tokenizer([text], 300) for text in ("so so many many apples €", "apples are so € so €")
    )
    old, new = new_model(_TINY), new_model(replace(_TINY, vocab_size=second.get_vocab_size()), seed=1)
    second_tokenizer.translate(old, new, first, second)
    weights, found = old.state_dict(), new.state_dict()
    embedding = weights["model.embed_tokens.weight"]
    assert torch.equal(found["model.embed_tokens.weight"][0], embedding[0])
    for number in range(1, second.get_vocab_size()):
        text = second.decode([number])
        if "\ufffd" not in text:
            pieces = first.encode(text).ids
            assert torch.equal(found["lm_head.weight"][number], embedding[pieces].mean(0))
    assert all(torch.equal(value, found[name]) for name, value in weights.items() if "layers" in name)


def test_losses_of_two_tokenizers_are_per_token_of_the_first(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.save(tokenizer.train_tokenizer(["1"], 257), tokenizer.made_folder(257))
    documents = [Document("chains", "1 + 1 =", " 222222 = 222222")]
    sizes = [replace(_TINY, vocab_size=VOCAB_SIZE), replace(_TINY, vocab_size=257)]
    losses = []
    for size in sizes:
        model = new_model(size)
        for parameter in model.parameters():
            parameter.data.zero_()  # each token costs the logarithm of the vocabulary
        losses.append(score.held_out_loss(model, documents))
    counts = [sum(label != -100 for label in mix.encode(documents[0], size.vocab_size)[1]) for size in sizes]
    assert losses[0] == pytest.approx(math.log(VOCAB_SIZE))
    assert losses[1] == pytest.approx(math.log(257) * counts[1] / counts[0])


def test_shares_are_whole() -> None:
    assert set(mix.SHARES) == set(mix.FIRST_SHARES)
    for shares in (mix.SHARES, mix.FIRST_SHARES):
        assert sum(shares.values()) == pytest.approx(1.0)


def test_collected_texts_count_whole(stream: Path) -> None:
    document = Document("gsm8k", "1 + 1 =", " 2")
    ids, labels = mix.encode(document)
    assert ids == labels
    ids, labels = mix.encode(Document("chains", document.prompt, document.completion))
    assert labels[0] == -100
    assert labels[-1] == ids[-1] == 0

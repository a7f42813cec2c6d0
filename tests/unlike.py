"""Tokenizers of many kinds, and models that are tables behind them: pairs of which neither reads the other's ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from fsgen.backends import ModelInfo
from fsgen.backends.codec import codec
from tests.doubles import Table, TableSession

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 12,345.67 km away, isn't it?",
    "  two  spaces\n\n\ttab\r\nline; def f(x):\n    return x ** 2  # naïve façade",
    "価格は¥3,000です。 Привет, мир! 🙂👍🏽 e\u0301 a\u0308 क्षि \u200d👩\u200d🚀 ﬁ Å \u0130",
    "The international nationalization of the nation: thethethe there then them",
    "ALLCAPS camelCase snake_case 1e-10 <tag/> \\frac{1}{2} </s> <s> [UNK] <|endoftext|>",
]


def _wrap(backend: Tokenizer, begin: str = "<s>", end: str = "</s>", unknown: str | None = None) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        unk_token=unknown,
        clean_up_tokenization_spaces=False,
    )


def _trained(
    size: int, digits: bool = False, prefix_space: bool = False, special: tuple[str, str] = ("<s>", "</s>")
) -> Any:
    """Byte-level BPE."""
    backend = Tokenizer(models.BPE())
    cut: Any = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), cut]) if digits else cut
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return _wrap(backend, *special)


def _sentencepiece() -> Any:
    """Spaces as SentencePiece has them, one put before every text; characters that it lacks as bytes; a text begins
    with <s>."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    words += sorted({letter for text in TEXTS[:2] for letter in text if letter not in " \n\t\r"})
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("i", "n"), ("\u2581", "\u2581"), ("o", "n")]
    words += ["".join(pair) for pair in merges]
    backend = Tokenizer(
        models.BPE(
            vocab={word: i for i, word in enumerate(words)}, merges=merges, unk_token="<unk>", byte_fallback=True
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrap(backend, unknown="<unk>")


def _unigram() -> Any:
    """Changes what it reads (compatibility forms, lower case), and does not know every character."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        [TEXTS[0], TEXTS[3]],
        trainers.UnigramTrainer(
            vocab_size=70, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )
    return _wrap(backend, unknown="<unk>")


def _wordpiece() -> Any:
    """Whole words and their ends, as BERT: lower case, no spaces, unknown words, tokens around every text."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend.train_from_iterator(
        TEXTS[:2] + TEXTS[3:4], trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return _wrap(backend, "[CLS]", "[SEP]", "[UNK]")


def _characters() -> Any:
    """Some characters, everything else unknown; longer texts are cut off where nobody forbids it."""
    words = ["<unk>", "<s>", "</s>", *" abcdefghijklmnopqrstuvwxyz.,é🙂\u0301"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.enable_truncation(16)
    return _wrap(backend, unknown="<unk>")


KINDS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: _trained(258),
    "bpe": lambda: _trained(420, digits=True),
    "bpe-other-ids": lambda: _trained(300, special=("<bos>", "<eos>")),
    "bpe-prefix-space": lambda: _trained(500, prefix_space=True),
    "sentencepiece": _sentencepiece,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
    "characters": _characters,
}


@cache
def tokenizer_of(kind: str) -> Any:
    return KINDS[kind]()


def table(kind: str, seed: int = 0, **options: Any) -> Table:
    """A model of random distributions with a tokenizer of this kind."""
    tokenizer = tokenizer_of(kind)
    model = Table(len(tokenizer), seed=seed, tokenizer=tokenizer, **options)
    model.eos_ids = frozenset({tokenizer.eos_token_id})
    model.info = ModelInfo(f"{kind}-{seed}", "", "table", len(tokenizer), len(tokenizer))
    return model


class Reciter(Table):
    """A model that knows one text: after the beginning of it, in whichever tokens, it goes on with it."""

    def __init__(self, kind: str, text: bytes, sharp: float = 6.0, **options: Any) -> None:
        tokenizer = tokenizer_of(kind)
        super().__init__(len(tokenizer), tokenizer=tokenizer, **options)
        self.eos_ids = frozenset({tokenizer.eos_token_id})
        self.info = ModelInfo(f"reciter-{kind}", "", "table", len(tokenizer), len(tokenizer))
        self.text, self.sharp = text, sharp

    def logits(self, context: Sequence[int]) -> Tensor:
        known = codec(self.tokenizer)
        ends = set(known.special.values())
        before = b"".join(known.spell([token for token in context if token not in ends], first=True))
        before = before.removeprefix(b" ")  # which some put before every text
        z = torch.zeros(self.vocab_size)
        if before == self.text:
            z[next(iter(self.eos_ids))] = self.sharp
        elif self.text.startswith(before):
            pieces = known.encode(self.text)
            after = [piece.id for piece in pieces if piece.end > len(before)]
            whole = {0, *(piece.end for piece in pieces)}
            found = known.longest_prefix(self.text[len(before) :])
            if len(before) in whole:
                z[after[0]] = self.sharp
            elif found is not None:
                z[found.id] = self.sharp
        return z

    def session(self, batch_size: int) -> TableSession:
        return TableSession(self, batch_size)

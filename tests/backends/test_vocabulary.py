"""The bytes of tokens, joined, are the text that the tokenizer makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from fsgen.backends.opening import open_checkpoint
from fsgen.backends.vocabulary import vocabulary
from fsgen.models.bundled import bundled
from tests.study.ladder import byte_tokenizer

TEXT = 'na\u00efve \u4fa1\u683c  "quoted" \U0001f642\n\tx = 1'


def fallback_tokenizer() -> Any:
    """Characters with spaces as SentencePiece has them; what is not among them, as bytes."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581naxve=1qudt"]
    backend = Tokenizer(
        models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


def word_tokenizer() -> Any:
    """Whole words: no kind of which the spelling is known."""
    words = ["[UNK]", "[SEP]", "play", "##ing", "the"]
    backend = Tokenizer(models.WordPiece(vocab={word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[SEP]")


@pytest.mark.parametrize("kind", ["bundled", "bytes", "fallback"])
def test_joined_tokens_are_the_text(kind: str) -> None:
    tokenizers = {
        "bundled": lambda: open_checkpoint(bundled()[0].name).tokenizer,
        "bytes": byte_tokenizer,
        "fallback": fallback_tokenizer,
    }
    tokenizer = tokenizers[kind]()
    known = vocabulary(tokenizer)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert len(ids) > 10
    assert b"".join(known.texts[i] for i in ids).decode() == TEXT == tokenizer.decode(ids)
    assert len(known.texts) == len(known.special) == max(tokenizer.get_vocab().values()) + 1


def test_special_tokens_keep_their_names() -> None:
    tokenizer = byte_tokenizer()
    known = vocabulary(tokenizer)
    assert [known.texts[i] for i, special in enumerate(known.special) if special] == [b"<s>", b"</s>"]


def test_another_kind_says_what_a_token_is_alone() -> None:
    known = vocabulary(word_tokenizer())
    assert known.texts[2] == b"play"
    assert b"ing" in known.texts[3]
    assert known.special[:2] == (True, True)

"""A draft with another tokenizer: its predictions in the target's tokens, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from fsgen.backends import Members
from fsgen.backends.codec import MARKED, Codec, Piece, codec
from fsgen.backends.translated import TranslatedModel
from fsgen.backends.translation import LOOK_BACK, Translation
from tests.doubles import Table
from tests.unlike import KINDS, TEXTS, table, tokenizer_of

ODD = st.text(st.sampled_from("theinaon THE.\n 1é\u0301ß🙂👍🏽\u200d価<s>/\u0000\uffff"), max_size=30)


def letters(*words: str) -> Any:
    """BPE of these words, of which those of two letters are merged from those of one; the first one ends a text."""
    merges = [(word[0], word[1]) for word in words[1:] if len(word) == 2]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    backend.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=words[0])


def lettered(words: tuple[str, ...], probs: tuple[float, ...]) -> Table:
    """A model of these words that says the same after every text."""
    return Table(len(words), logits=torch.tensor(probs).log(), tokenizer=letters(*words))


def probabilities(draft: Table, target: Table, context: list[int], look_ahead: int) -> list[float]:
    session = TranslatedModel(draft, target, look_ahead).session(1)
    session.begin(0, 1, 20)
    return [round(p, 6) for p in session.score([context], 1)[0, -1].softmax(-1).tolist()]


DRAFT = lettered(("<e>", "a", "b", "c"), (0.1, 0.5, 0.3, 0.1))
TARGET = lettered(("<end>", "b", "ab", "a"), (0.25, 0.25, 0.25, 0.25))


def test_tokens_that_both_have_keep_their_probability() -> None:
    # c is the draft's alone, and its 0.1 are shared out; ab is the target's alone.
    expected = [round(p, 6) for p in (0.1 / 0.9, 0.3 / 0.9, 0.0, 0.5 / 0.9)]
    assert probabilities(DRAFT, TARGET, [3, 1], look_ahead=0) == expected


def test_the_most_likely_token_becomes_what_its_text_begins_with() -> None:
    # The draft writes a, and then a again: aa begins with a. After that its next text is the same.
    assert probabilities(DRAFT, TARGET, [1], look_ahead=4)[3] == round(0.5 / 0.9, 6)

    class ThenB(Table):
        def logits(self, context: Any) -> torch.Tensor:
            return torch.tensor([0.1, 0.2, 0.6, 0.1] if context[-1] == 1 else [0.1, 0.5, 0.3, 0.1]).log()

    draft = ThenB(4, tokenizer=DRAFT.tokenizer)
    # It writes ab, which is one token of the target: that has the probability of a, and a itself has none.
    expected = [round(p, 6) for p in (0.1 / 0.9, 0.3 / 0.9, 0.5 / 0.9, 0.0)]
    assert probabilities(draft, TARGET, [1], look_ahead=4) == expected


def test_inside_of_a_token_its_text_is_what_follows() -> None:
    draft = lettered(("<e>", "a", "b", "ab"), (0.1, 0.2, 0.2, 0.5))
    target = lettered(("<end>", "a", "b", "c"), (0.25, 0.25, 0.25, 0.25))
    session = TranslatedModel(draft, target).session(1)
    session.begin(0, 1, 20)
    first = session.score([[1]], 1)[0, -1].softmax(-1)
    assert first.tolist() == pytest.approx([0.1, 0.7, 0.2, 0.0])  # ab begins with a
    assert session.usage[0].calls == 1
    assert session.score([[1, 1]], 1)[0, -1].softmax(-1).tolist() == [0.0, 0.0, 1.0, 0.0]
    assert session.usage[0].calls == 1  # what follows was known
    assert session.score([[1, 2]], 1)[0, -1].softmax(-1).tolist() == pytest.approx([0.1, 0.7, 0.2, 0.0])


def test_several_positions_are_those_asked_for_one_by_one() -> None:
    draft, target = table("bpe", seed=3), table("bytes", seed=4)
    ids = target.tokenizer.encode(TEXTS[3])
    model = TranslatedModel(draft, target)
    together, alone = model.session(2), model.session(1)
    found = together.score([ids, ids[:9]], [2, 1])
    for row, context, place in ((0, ids[:-1], 0), (0, ids, 1), (1, ids[:9], 1)):
        if row:
            alone.begin(0, 9, 20)
        assert torch.equal(alone.score([context], 1)[0, -1], found[row, place])


@pytest.mark.parametrize("kind", KINDS)
@given(text=ODD | st.sampled_from(TEXTS))
@settings(max_examples=60, deadline=None)
def test_the_tokens_of_a_text_end_where_they_say(kind: str, text: str) -> None:
    known = codec(tokenizer_of(kind))
    pieces = known.encode(text.encode())
    ends = [piece.end for piece in pieces]
    assert ends == sorted(ends)
    assert all(0 <= end <= len(text.encode()) for end in ends)
    if kind in ("bytes", "bpe", "bpe-other-ids") and not any(word in text for word in known.special):
        assert b"".join(known.texts[piece.id] for piece in pieces) == text.encode()
        start = 0
        for piece in pieces:
            assert known.texts[piece.id] == text.encode()[start : piece.end]
            start = piece.end


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=12))
@settings(max_examples=60, deadline=None)
def test_bytes_that_are_no_text_are_read_too(kind: str, data: bytes) -> None:
    known = codec(tokenizer_of(kind))
    pieces = known.encode(data)
    assert all(piece.end <= len(data) for piece in pieces)
    if kind == "bpe" and b"\xff" not in data and b"<" not in data:
        assert b"".join(known.texts[piece.id] for piece in pieces) == data


@pytest.mark.parametrize("kind", ["bytes", "bpe", "bpe-prefix-space", "sentencepiece"])
def test_what_tokens_write_is_what_the_tokenizer_decodes(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    for text in TEXTS[:4]:
        ids = tokenizer.encode(text)
        written = MARKED.sub(b"", b"".join(codec(tokenizer).spell(ids, first=True))).decode()
        assert written == tokenizer.decode(ids, skip_special_tokens=True)


def test_special_tokens_are_those_of_the_same_name_and_ends_are_ends() -> None:
    one, two = tokenizer_of("sentencepiece"), tokenizer_of("bpe-other-ids")
    there = Translation(one, two, {2}, {1}, len(one), len(two))
    assert there.shared[2] == there.end == 1
    assert one.convert_tokens_to_ids("<s>") not in there.shared
    same = Translation(one, tokenizer_of("bpe"), {2}, {1}, len(one), len(tokenizer_of("bpe")))
    assert (same.shared[1], same.shared[2]) == (0, 1)
    assert len(set(same.shared.values())) == len(same.shared)
    known, other = codec(one), codec(tokenizer_of("bpe"))
    assert all(known.texts[a] == other.texts[b] for a, b in same.shared.items() if a not in (1, 2))


def test_a_token_that_grows_over_the_boundary_is_no_answer() -> None:
    target = tokenizer_of("bpe")
    known = codec(target)
    there = Translation(tokenizer_of("bytes"), target, {1}, {1}, 258, len(target))
    assert target.encode(" the") != target.encode(" th") + target.encode("e")
    piece, _ = there.to_target(b" th", b"e dog")
    assert piece is not None
    assert known.texts[piece] == b"e"
    assert not there.to_target(b" the", b" th")[1]
    piece, settled = there.to_target(b" the", b" the d")
    assert (known.texts[piece], settled) == (b" the", True)  # type: ignore[index]


def test_long_texts_are_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (TEXTS[3] * 40).encode()
    target = table("bytes", context=100_000)
    draft = table("bpe", context=100_000)
    sizes: list[int] = []
    encode = Codec.encode

    def counted(self: Codec, text: bytes) -> list[Piece]:
        sizes.append(len(text))
        return encode(self, text)

    monkeypatch.setattr(Codec, "encode", counted)
    ids = [piece.id for piece in codec(target.tokenizer).encode(text)]
    session = TranslatedModel(draft, target).session(1)
    session.begin(0, 2000, 3000)
    sizes.clear()
    for n in range(2000, 2040):
        session.score([ids[:n]], 1)
    assert sizes[0] == 2000
    assert max(sizes[1:]) < 20 * LOOK_BACK


def test_a_text_beyond_the_window_of_the_draft() -> None:
    text = (TEXTS[0] * 20).encode()
    target, draft = table("bytes", context=10_000), table("bpe", context=24)
    session = TranslatedModel(draft, target).session(1)
    ids = [piece.id for piece in codec(target.tokenizer).encode(text)]
    session.begin(0, 400, 1000)
    for n in range(400, 600):
        assert session.score([ids[:n]], 1).isfinite().any()
    assert session.usage[0].tokens < 200 * 8
    session.score([ids[:3]], 1)  # and back to its beginning


def test_what_is_spent_is_what_the_draft_runs() -> None:
    target, draft = table("bytes"), table("bpe", seed=1)
    model = TranslatedModel(draft, target, look_ahead=0)
    session = model.session(2)
    ids = target.tokenizer.encode("the nation of the dog")
    session.begin(0, len(ids), 60)
    session.score([ids, None], 1)
    assert (session.usage[0].calls, session.usage[0].tokens) == (1, 1)  # of a prompt only its last token counts
    session.score([[*ids, *target.tokenizer.encode("x")], None], 1)
    assert (session.usage[0].calls, session.usage[1].calls) == (2, 0)


def test_who_is_translated_and_who_is_refused() -> None:
    draft, target = table("bpe"), table("bytes")
    members = Members.of(draft, target)
    assert isinstance(members.draft, TranslatedModel)
    assert members.difference is not None
    assert (members.vocab_size, members.context) == (258, 512)
    assert members.tokenizer is target.tokenizer
    with pytest.raises(ValueError, match=r"bytes-0 and bpe-0 have different tokenizers.*a base needs"):
        Members.of(target, target, draft)
    assert isinstance(Members.of(draft, target, draft).base, TranslatedModel)

    class Hidden:
        def __init__(self, inner: Any) -> None:
            self.get_vocab, self.encode = inner.get_vocab, inner.encode
            self.get_added_vocab = inner.get_added_vocab

    hidden = table("bpe")
    hidden.tokenizer = Hidden(hidden.tokenizer)
    with pytest.raises(ValueError, match="does not say where in a text its tokens lie"):
        Members.of(hidden, target)

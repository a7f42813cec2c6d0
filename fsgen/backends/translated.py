"""A draft whose tokenizer is not the target's, behind the target's token ids.

The draft reads the text in its own tokens, and goes on in them. What it predicts is told in the target's tokens:

- Tokens that both have keep their probability, and others none (the intersection of the vocabularies, Timor et al.
  2502.05202).
- The draft's most likely token is the exception: the draft writes on, its text is encoded by the target's tokenizer,
  and the first token of that gets its probability (string-level match, ibid.). So greedy drafts are the draft's text.
- Inside of a token of the draft its text is what it predicts.

All of this is a function of what the row has been asked so far, so that verification stays lossless, greedy or sampled:
it holds for whatever a draft predicts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from fsgen.backends.codec import ONLY_MARKS
from fsgen.backends.protocol import Capabilities, Model, Session, TokenIds, Usage
from fsgen.backends.session import common_prefix
from fsgen.backends.translation import LOOK_BACK, Translation, tail

LOOK_AHEAD = 16
"""Tokens that the draft writes on, at most, to see which token of the target its text begins with."""


class TranslatedModel:
    """A draft that takes and gives the target's token ids (see `fsgen.backends.protocol.Model`).

    Its own context window is no limit: of a longer text it reads the end.

    Args:
        draft, target: models of different tokenizers, for which `fsgen.backends.codec.readable` holds.
        look_ahead: see `LOOK_AHEAD`; 0: tokens that both have alone, at one call of the draft a token. Predictions are
            then a function of the text alone, for which the draft reads it anew: what mixes probabilities needs that.
    """

    def __init__(self, draft: Model, target: Model, look_ahead: int = LOOK_AHEAD) -> None:
        self.draft, self.look_ahead = draft, look_ahead
        self.info, self.device = draft.info, draft.device
        self.digest = getattr(draft, "digest", None)
        self.tokenizer, self.vocab_size = target.tokenizer, target.vocab_size
        self.context, self.eos_ids = target.context, target.eos_ids
        self.capabilities = Capabilities(full_logits=draft.capabilities.full_logits)

    def __repr__(self) -> str:
        return f"TranslatedModel({self.info.name!r})"

    @cached_property
    def translation(self) -> Translation:
        """Between the two vocabularies; made when it is first needed."""
        draft = self.draft
        return Translation(
            draft.tokenizer, self.tokenizer, draft.eos_ids, self.eos_ids, draft.vocab_size, self.vocab_size
        )

    def session(self, batch_size: int) -> TranslatedSession:
        """An empty session of `batch_size` rows."""
        return TranslatedSession(self, batch_size)

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of keys and values for so many tokens of the target; the draft may need twice as many of its own."""
        return self.draft.cache_bytes(min(2 * tokens, self.draft.context))


class _Row:
    """A text in the tokens of both.

    Args:
        translation: between the two.
        room: tokens of the draft that it may have.
        prompt: tokens of the target in its prompt.
        longest: tokens of the target that it will have at most.
        anew: the draft's tokens are those of the whole text, whatever they were before.

    Attributes:
        text: its bytes. context, bounds: the target's tokens, and where in the text each ends.
        ids, ends: the draft's tokens, and where each ends; the first `first` of them stand before the text.
        written: the text of these: the same text, or the draft is ahead of it.
        seen: the draft's logits after so many of its tokens, where they are known.
    """

    def __init__(
        self, translation: Translation, room: int, prompt: int = 0, longest: int = 0, anew: bool = False
    ) -> None:
        self._translation, self._room, self._anew = translation, room, anew
        self.prompt, self.longest = prompt, longest
        self.context: list[int] = []
        self.bounds: list[int] = []
        self.text = b""
        self._known = 0  # bytes of the text that the draft has read, or is ahead of
        self._restart()

    def _restart(self) -> None:
        """Nothing of the text is in the draft's tokens."""
        self.ids = list(self._translation.draft.beginning)
        self.first, self._origin = len(self.ids), 0
        self.ends, self.written = [0] * self.first, b""
        self.seen: dict[int, Tensor] = {}

    @property
    def reached(self) -> int:
        """How many tokens of the draft the text holds."""
        return bisect_right(self.ends, len(self.text))

    @property
    def inside(self) -> bool:
        """The text ends inside of a token of the draft."""
        n = self.reached
        return not n or self.ends[n - 1] < len(self.text)

    @property
    def ahead(self) -> bytes:
        """What the draft has written beyond the text."""
        return self.written[len(self.text) :]

    def append(self, token: int) -> None:
        """The draft writes on."""
        self.ids.append(token)
        self.written += self._translation.texts[token]
        self.ends.append(len(self.written))

    def keep(self, n: int) -> None:
        """Forget all but the first `n` of the draft's tokens."""
        del self.ids[n:], self.ends[n:]
        self.written = self.written[: self.ends[-1] if n else self._origin]
        self.seen = {size: logits for size, logits in self.seen.items() if size <= n}

    def follow(self, context: TokenIds) -> None:
        """The text becomes this one, in the target's tokens; the draft's are those that it had, where they agree."""
        same = common_prefix(self.context, context)
        del self.bounds[same:]
        before = self.text[: self.bounds[-1] if same else 0]
        texts = self._translation.target.spell(context[same:], first=ONLY_MARKS.fullmatch(before) is not None)
        self.text = before + b"".join(texts)
        self.bounds += [*accumulate(map(len, texts), initial=len(before))][1:]
        self.context = list(context)
        agreed = common_prefix(self.written, self.text)
        if agreed < len(self.text) or self._known > agreed or not self.ids:
            if agreed < self._origin or (self._anew and self._origin):
                self._restart()
            self.keep(max(self.first, bisect_right(self.ends, agreed)))
            self._read()
        self._known = len(self.text)
        if len(self.ids) > self._room:  # only the end of the text is read; cut in large steps, so that this is rare
            step = (self._room + 1) // 2
            cut = -(-(len(self.ids) - self._room) // step) * step
            self._origin, self.first, self.seen = self.ends[cut - 1], 0, {}
            del self.ids[:cut], self.ends[:cut]

    def _read(self) -> None:
        """Encodes what the draft has not read; its last tokens too, since their end may be cut otherwise now."""
        old, i = list(self.ids), self.first if self._anew else max(self.first, len(self.ids) - LOOK_BACK)
        start = self.ends[i - 1] if i else self._origin
        while i > self.first and self.text[start : start + 1] and 0x80 <= self.text[start] < 0xC0:
            i -= 1  # a character began before
            start = self.ends[i - 1] if i else self._origin
        found = self._translation.to_draft(self.text[start:])
        if i == self.first and [piece.id for piece in found[:1]] == self.ids[:i][-1:]:
            found = found[1:]  # both tokenizers put it before a text
        # How a text is cut may be wrong where it was begun anywhere. It is right from where both ways agree.
        known = {end: i + n for n, end in enumerate(self.ends[i:], 1)} if not self._anew else {}
        places = ((j, known[start + piece.end]) for j, piece in enumerate(found, 1) if start + piece.end in known)
        j, n = next(places, (0, i))
        self.ids[n:] = [piece.id for piece in found[j:]]
        self.ends[n:] = [start + piece.end for piece in found[j:]]
        if not self.ids:  # nothing of it means anything to the draft, and a text has to begin with something
            self.ids, self.ends = [self._translation.filler], [0]
        self.ends[-1], self.written = len(self.text), self.text
        same = common_prefix(old, self.ids)
        self.seen = {size: logits for size, logits in self.seen.items() if size <= same}


class _Prediction(NamedTuple):
    """What follows a text: the draft's logits [its vocabulary], None inside of one of its tokens; its most likely
    token; and the target's token that the draft's own text begins with, None where there is none."""

    logits: Tensor | None
    token: int | None
    piece: int | None


class TranslatedSession:
    """A session of the draft that takes and gives the target's token ids (see `fsgen.backends.protocol.Session`).

    Its usage is that of the draft: its calls, and the tokens of its own that it has run.
    """

    def __init__(self, model: TranslatedModel, rows: int) -> None:
        self.usage = [Usage() for _ in range(rows)]
        self._translation, self._look_ahead = model.translation, model.look_ahead
        self._draft: Session = model.draft.session(rows)
        self._context, self._vocab, self._device = model.draft.context, model.vocab_size, model.device
        self._room = max(1, self._context - model.look_ahead)
        self._rows = [_Row(self._translation, self._room, anew=not self._look_ahead) for _ in range(rows)]
        shared = self._translation.shared
        self._from = torch.tensor(list(shared), dtype=torch.long, device=self._device)
        self._to = torch.tensor(list(shared.values()), dtype=torch.long, device=self._device)
        self._silent = torch.tensor([not text for text in self._translation.texts], device=self._device)

    def begin(self, row: int, prompt: int, longest: int) -> None:
        """A new text starts in this row; see `Session.begin`."""
        self.usage[row] = Usage()
        self._rows[row] = _Row(self._translation, self._room, prompt, longest, anew=not self._look_ahead)

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> Tensor:
        """Logits [rows, max(last), vocab], of the target's vocabulary; -inf where the draft predicts nothing."""
        if len(sequences) != len(self._rows):
            raise ValueError(f"{len(sequences)} sequences for a session of {len(self._rows)} rows")
        lasts = [last] * len(sequences) if isinstance(last, int) else list(last)
        given = {row: ids for row, ids in enumerate(sequences) if ids is not None}
        width = max((lasts[row] for row in given), default=0)
        out = torch.full((len(sequences), width, self._vocab), -torch.inf, device=self._device)
        for back in range(width, 0, -1):  # the earlier positions first, as they would have been asked for
            asked = {row: ids[: len(ids) - back + 1] for row, ids in given.items() if lasts[row] >= back}
            for row, prediction in self._predict(asked).items():
                self._tell(prediction, out[row, width - back])
        return out

    def _predict(self, contexts: dict[int, TokenIds]) -> dict[int, _Prediction]:
        """What follows these texts; in calls of the draft that all rows share that need one."""
        for row, context in contexts.items():
            self._follow(row, context)
        running = {row: self._steps(self._rows[row]) for row in contexts}
        found: dict[int, _Prediction] = {}
        replies: dict[int, Tensor] = {}
        while True:
            asked: dict[int, list[int]] = {}
            for row, steps in running.items():
                if row not in found:
                    try:
                        asked[row] = steps.send(replies[row]) if row in replies else next(steps)
                    except StopIteration as end:
                        found[row] = end.value
            if not asked:
                return found
            logits = self._draft.score([asked.get(row) for row in range(len(self._rows))], 1)
            replies = {row: logits[row, -1].masked_fill(self._silent, -torch.inf) for row in asked}
            for row in asked:
                spent = self._draft.usage[row]
                self.usage[row].calls, self.usage[row].tokens = spent.calls, spent.tokens

    def _follow(self, row: int, context: TokenIds) -> None:
        text = self._rows[row]
        new = not text.context
        text.follow(context)
        if new and text.prompt:
            prompt = bisect_right(text.ends, text.bounds[min(text.prompt, len(context)) - 1])
            self._draft.begin(row, max(1, prompt), min(2 * text.longest, self._context))

    def _steps(self, row: _Row) -> Generator[list[int], Tensor, _Prediction]:
        """Asks for the draft's logits after some of its tokens, as often as needed, and gives what follows the text."""
        n, inside = row.reached, row.inside
        if not inside and n not in row.seen:
            row.keep(n)
            row.seen[n] = yield row.ids
        while len(row.ids) - n < self._look_ahead and not self._translation.settled(row.ahead):
            if len(row.ids) not in row.seen:
                row.seen[len(row.ids)] = yield row.ids
            row.append(int(row.seen[len(row.ids)].argmax()))
        piece = self._translation.to_target(tail(row.bounds, row.text), row.ahead) if row.ahead else None
        row.seen = {size: logits for size, logits in row.seen.items() if size >= n}
        return _Prediction(None if inside else row.seen[n], row.ids[n] if n < len(row.ids) else None, piece)

    def _tell(self, prediction: _Prediction, out: Tensor) -> None:
        """Writes a prediction as logits of the target's vocabulary, [vocab], all of them -inf so far."""
        z, token, piece = prediction
        if z is not None and len(self._to):
            out[self._to] = z[self._from]
        elif piece is None:
            out.zero_()  # nothing can be said: all tokens are as likely
        if piece is None:
            return
        if z is None or token is None:
            out[piece] = 0.0
        elif (own := self._translation.shared.get(token)) != piece:
            if own is not None:
                out[own] = -torch.inf
            out[piece] = torch.logaddexp(out[piece], z[token])

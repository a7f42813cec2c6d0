"""One text on its way: what is wanted of it, and all its state."""

from __future__ import annotations

import math
from collections.abc import Sequence as List
from typing import Any

from torch import Tensor

from fsgen.backends.protocol import Usage
from fsgen.engine.detokenizer import Detokenizer
from fsgen.engine.trace import Trace
from fsgen.methods.method import Method, parse
from fsgen.types import SamplingParams, Source, StopReason, Token


class Sequence:
    """A text to be written, and the one owner of its state.

    Args:
        prompt_ids: token ids, at least one.
        method: what writes it: a `Method`, or its string, such as `speculative` or `route:rollback=0.2`.
        sampling: sampling parameters, the random seed and the length limit.
        candidates: how many of the most likely tokens of p and q each record keeps.
        keep_logits: keep q's logits at each token: 4 bytes a token and entry of the vocabulary.

    Attributes:
        ids: the prompt, the written tokens, and, within a round, the drafted ones.
        written: tokens written so far (with rollback, those trusted since the last consultation may be taken back).
        stop_reason: None while it is being written.
        usage, draft_seconds, system2_seconds, seconds: forward calls and tokens by role; its share of the wall clock.
    """

    def __init__(
        self,
        prompt_ids: List[int],
        method: str | Method = "speculative",
        sampling: SamplingParams = SamplingParams(),  # noqa: B008 - frozen
        candidates: int = 0,
        keep_logits: bool = False,
    ) -> None:
        self.prompt_ids, self.method, self.sampling = [int(token) for token in prompt_ids], parse(method), sampling
        self.kept, self.keep_logits = (candidates, sampling.logprobs), keep_logits  # what records keep
        self.ids, self.prompt_length = list(self.prompt_ids), len(self.prompt_ids)
        self.number = 0  # its id, which the engine gives it
        self.longest = self.prompt_length + sampling.max_tokens  # tokens that it can have at most
        self.written = self.rounds = 0
        self.stop_reason: StopReason | None = None
        self.ends: frozenset[int] = frozenset()  # tokens that end the text
        self.text: Detokenizer
        self.held: list[Trace] = []  # records not given out yet
        self.shown = 0  # characters of the text that records given out cover
        self.trusted = 0  # tokens at the end that System 2 may still take back
        # q's logits at the last record if that is a bonus token: the draft's choice there comes with its next call.
        self.pending_bonus: Tensor | None = None
        self.ngrams: dict[tuple[int, ...], int] = {}  # see `NgramProposer`; they cover the first `indexed` tokens
        self.indexed = 0
        self.logits, self.usage = list[Tensor](), dict[str, Usage]()
        self.draft_seconds = self.system2_seconds = self.seconds = 0.0
        self.begin_round()

    def start(self, tokenizer: Any, eos_ids: frozenset[int]) -> None:
        """It gets a row."""
        self.ends = frozenset(self.sampling.stop_token_ids) | (frozenset() if self.sampling.ignore_eos else eos_ids)
        self.text = Detokenizer(tokenizer, self.sampling.stop, self.sampling.min_tokens)

    @property
    def active(self) -> bool:
        """It is still being written."""
        return self.stop_reason is None

    @property
    def occupied(self) -> bool:
        """It needs its row: it is being written, or the draft's choice at its last token is still to come."""
        return self.stop_reason is None or self.pending_bonus is not None

    @property
    def finished(self) -> bool:
        """It has ended, and all its records are given out."""
        return self.stop_reason is not None and not self.held

    def begin_round(self) -> None:
        self.drafted = self.fresh = 0  # drafted tokens, at the end of `ids`; tokens that the round has written
        self.drafts = self.flagged = False  # whether it drafts another token; whether the router flags the last one
        self.draft_probs: list[float] = []  # of the drafted tokens, where draft lengths are adaptive
        self.acceptance = 1.0  # the chance that all of them are accepted

    @property
    def draft(self) -> list[int]:
        """The drafted tokens."""
        return self.ids[len(self.ids) - self.drafted :]

    def forget_draft(self) -> None:
        del self.ids[len(self.ids) - self.drafted :]
        self.drafted = 0

    @property
    def open(self) -> bool:
        """The text goes on after the drafted tokens."""
        room = self.stop_reason is None and self.written + self.drafted < self.sampling.max_tokens
        return room and not (self.drafted and self.ids[-1] in self.ends)

    @property
    def wants_bonus(self) -> bool:
        """Whether System 2 adds a token after them, if it accepts them all."""
        return self.method.adds_bonus and self.open

    @property
    def to_verify(self) -> int:
        """Drafted tokens that System 2 verifies, the last ones; those before are trusted."""
        return int(self.flagged) if self.method.skips_verification else self.drafted

    def write(self, token: int, source: Source, trace: Trace) -> None:
        """The next token; the rest of its record is added to its trace."""
        ended, last = token in self.ends, self.written + 1 == self.sampling.max_tokens
        end = self.text.close() if ended else self.text.push(token, last=last)
        self.ids.append(token)
        # Plain values in a plain dict, which Python's garbage collector need not look through.
        trace |= {"position": self.written, "id": token, "source": source, "round": self.rounds, "end": end}
        self.held.append(trace)
        self.written, self.fresh = self.written + 1, self.fresh + 1
        self.trusted = self.trusted + 1 if source == "trusted" else 0
        if ended:
            self._end("stop" if token in self.sampling.stop_token_ids else "eos")
        elif self.text.stopped or last:
            self._end("stop" if self.text.stopped else "length")

    def take_back(self, count: int) -> Trace:
        """Removes the last tokens, none of which was given out; the record of the first of them."""
        text = self.text.restarted(self.ids[self.prompt_length : -count])  # rare, so it is decoded again
        trace, self.text = self.held[-count], text
        del self.ids[-count:], self.held[-count:]
        self.written, self.trusted = self.written - count, self.trusted - count
        return trace

    def cancel(self) -> None:
        """Ends it where it is; records that were not given out never are."""
        self._end("cancelled")
        self.pending_bonus = None
        self.held.clear()

    def _end(self, reason: StopReason) -> None:
        self.stop_reason, self.flagged = reason, False
        self.ngrams = {}  # its row may keep it for long

    def give(self) -> list[Token]:
        """The records that nothing can change any more: no stop string, no rollback, no draft call to come."""
        revocable = self.trusted if self.active and self.method.rollback is not None else 0
        free = len(self.held) - max(self.pending_bonus is not None, revocable)
        settled = self.text.settled() if self.active else math.inf
        tokens: list[Token] = []
        for record in self.held[: max(0, free)]:
            if record["end"] > settled:
                break
            end = record.pop("end")
            tokens.append(Token(text=self.text.text[self.shown : end], **record))
            self.shown = end
        del self.held[: len(tokens)]
        return tokens

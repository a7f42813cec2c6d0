"""One text on its way: what it was asked for, and all its state."""

from __future__ import annotations

import math
from collections.abc import Sequence as TokenIds
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fsgen.backends.protocol import Usage
from fsgen.engine.detokenizer import Detokenizer
from fsgen.engine.trace import Trace
from fsgen.methods.method import Method, parse
from fsgen.types import SamplingParams, Source, StopReason, Token


@dataclass(slots=True, eq=False)
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
        usage: by role, forward calls and tokens run.
        draft_seconds, system2_seconds, seconds: its share of the batch's wall clock; `seconds` is all of it.
    """

    prompt_ids: TokenIds[int]
    method: Method = "speculative"  # type: ignore[assignment]  # a string is parsed
    sampling: SamplingParams = field(default_factory=SamplingParams)
    candidates: int = 0
    keep_logits: bool = False

    ids: list[int] = field(init=False)
    written: int = field(default=0, init=False)
    stop_reason: StopReason | None = field(default=None, init=False)
    usage: dict[str, Usage] = field(default_factory=dict, init=False)
    draft_seconds: float = field(default=0.0, init=False)
    system2_seconds: float = field(default=0.0, init=False)
    seconds: float = field(default=0.0, init=False)
    logits: list[Tensor] = field(default_factory=list, init=False)

    started: int = field(default=0, init=False)  # the engine's round in which it got its row
    ends: frozenset[int] = field(default=frozenset(), init=False)  # tokens that end the text
    text: Detokenizer = field(init=False, repr=False)
    held: list[Trace] = field(default_factory=list, init=False, repr=False)  # records not given out yet
    shown: int = field(default=0, init=False)  # characters of the text that records given out cover
    trusted: int = field(default=0, init=False)  # tokens at the end that System 2 may still take back
    # Of the round that is on its way: drafted tokens at the end of `ids`, and whether the router flagged the last one.
    drafted: int = field(default=0, init=False)
    flagged: bool = field(default=False, init=False)
    draft_probs: list[float] = field(default_factory=list, init=False)  # of the drafted tokens, where they are needed
    acceptance: float = field(default=1.0, init=False)  # the chance that all of them are accepted
    # q's logits at the last record if that is a bonus token: the draft's choice there comes with its next call.
    pending_bonus: Tensor | None = field(default=None, init=False, repr=False)
    ngrams: dict[tuple[int, ...], int] = field(default_factory=dict, init=False, repr=False)  # see `NgramProposer`
    indexed: int = field(default=0, init=False)  # tokens that `ngrams` covers

    def __post_init__(self) -> None:
        self.method = parse(self.method)
        self.ids = [int(token) for token in self.prompt_ids]

    def start(self, tokenizer: Any, eos_ids: frozenset[int], number: int) -> None:
        """It gets a row, in the engine's round of this number."""
        self.started = number
        self.ends = frozenset(self.sampling.stop_tokens) | (frozenset() if self.sampling.ignore_eos else eos_ids)
        self.text = Detokenizer(tokenizer, self.sampling.stop)

    @property
    def prompt_length(self) -> int:
        return len(self.prompt_ids)

    @property
    def longest(self) -> int:
        """Tokens that it can have at most, its prompt included."""
        return self.prompt_length + self.sampling.max_tokens

    @property
    def remaining(self) -> int:
        return self.sampling.max_tokens - self.written

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

    @property
    def draft_ends_text(self) -> bool:
        return self.drafted > 0 and self.ids[-1] in self.ends

    def forget_draft(self) -> list[int]:
        """Takes the drafted tokens off `ids`, and returns them."""
        cut = len(self.ids) - self.drafted
        drafted, self.ids[cut:], self.drafted = self.ids[cut:], [], 0
        return drafted

    def write(self, token: int, source: Source, number: int, trace: Trace) -> None:
        """The next token; the rest of its record is added to its trace."""
        ended, last = token in self.ends, self.remaining == 1
        end = self.text.close() if ended else self.text.push(token, last=last)
        self.ids.append(token)
        # Plain values in a plain dict, which Python's garbage collector need not look through.
        trace |= {"position": self.written, "id": token, "source": source, "round": number - self.started, "end": end}
        self.written += 1
        self.held.append(trace)
        if ended:
            self.stop_reason = "stop" if token in self.sampling.stop_tokens else "eos"
        elif self.text.stopped:
            self.stop_reason = "stop"
        elif last:
            self.stop_reason = "length"

    def take_back(self, count: int) -> None:
        """Removes the last tokens, none of which was given out. Rare, so the text is decoded again."""
        del self.ids[len(self.ids) - count :]
        del self.held[len(self.held) - count :]
        self.written -= count
        self.text = self.text.restarted(self.ids[self.prompt_length :])

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

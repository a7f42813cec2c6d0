"""One text on its way: its tokens, its records that are not given out yet, what it has cost."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field
from typing import Any

from torch import Tensor

from fsgen.engine.detokenizer import GrowingText
from fsgen.engine.trace import Trace
from fsgen.types import SamplingParams, Source, StopReason, Token


@dataclass(slots=True, eq=False)
class Row:
    """All state of one text.

    Attributes:
        number: of the text.
        eos: the model's end-of-text tokens. ends: all tokens that end this text.
        ids: the prompt, what is written, and, within a round, what is drafted.
        written: tokens that stand so far (with rollback, tokens trusted since the last consultation may yet fall).
        stop_reason: None while it is being written.
        began: the round of the loop in which it was seated; its own rounds count from there.
        usage: by role, what it has cost.
        draft_seconds, system2_seconds, seconds: its share of the batch's wall clock; `seconds` is all of it.
    """

    number: int
    ids: list[int]
    prompt: int
    params: SamplingParams
    text: GrowingText
    eos: InitVar[frozenset[int]]
    ends: frozenset[int] = field(init=False)
    written: int = 0
    stop_reason: StopReason | None = None
    began: int = 0
    usage: dict[str, Any] = field(default_factory=dict)
    draft_seconds: float = 0.0
    system2_seconds: float = 0.0
    seconds: float = 0.0
    held: list[Trace] = field(default_factory=list)  # records not given out yet; `end`: where their text ends
    given: int = 0  # characters of the text that records given out cover
    trusted: int = 0  # tokens at the end that System 2 may yet take back
    drafted: int = 0
    flagged: bool = False
    # Where q's logits at the last record are, if it is a bonus, whose p comes with the draft's next call.
    open: tuple[Tensor, int] | None = None
    confidences: list[float] = field(default_factory=list)  # of this round's drafted tokens, where they set the pace
    chance: float = 1.0  # that all of them stand
    logits: list[Tensor] = field(default_factory=list)  # q's at each token, where they are kept

    def __post_init__(self, eos: frozenset[int]) -> None:
        self.ends = frozenset(self.params.stop_tokens) | (frozenset() if self.params.ignore_eos else eos)

    @property
    def remaining(self) -> int:
        return self.params.max_tokens - self.written

    @property
    def active(self) -> bool:
        return self.stop_reason is None

    @property
    def draft_ends_text(self) -> bool:
        return self.drafted > 0 and self.ids[-1] in self.ends

    def write(self, token: int, source: Source, round_number: int, trace: Trace) -> None:
        """The next token, which stands; the rest of its record is added to its trace."""
        self.ids.append(token)
        self.written += 1
        ended, spent = token in self.ends, self.remaining == 0
        end = self.text.close() if ended else self.text.push(token, last=spent)
        # Plain values in a plain dict, which Python's collector need not look through.
        trace |= {"position": self.written - 1, "id": token, "source": source, "round": round_number - self.began}
        trace["end"] = end
        self.held.append(trace)
        if ended:
            self.stop_reason = "stop" if token in self.params.stop_tokens else "eos"
        elif self.text.stopped:
            self.stop_reason = "stop"
        elif spent:
            self.stop_reason = "length"

    def unwrite(self, count: int) -> None:
        """Take back the last tokens, none of which was given out. Rare, so the text is simply made anew."""
        del self.ids[len(self.ids) - count :]
        del self.held[len(self.held) - count :]
        self.written -= count
        self.text = self.text.restarted(self.ids[self.prompt :])

    def give(self, may_fall: int) -> list[Token]:
        """The records that nothing can change any more: no stop string, rollback, or draft that is still to be asked.

        Args:
            may_fall: tokens at the end that System 2 may yet take back.
        """
        free = len(self.held) - max(self.open is not None, may_fall)
        settled = self.text.settled() if self.active else math.inf
        tokens: list[Token] = []
        for record in self.held[: max(0, free)]:
            if record["end"] > settled:
                break
            end = record.pop("end")
            tokens.append(Token(text=self.text.text[self.given : end], **record))
            self.given = end
        del self.held[: len(tokens)]
        return tokens

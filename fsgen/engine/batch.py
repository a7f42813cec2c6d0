"""The texts that are written together: who has which row, what they share, and the sessions of the members."""

from __future__ import annotations

import time
from collections.abc import Sequence as List

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.members import Members
from fsgen.backends.protocol import Session, TokenIds
from fsgen.engine.draft_length import AdaptiveDraftLength
from fsgen.engine.sequence import Sequence
from fsgen.engine.trace import TraceBuffer
from fsgen.methods.method import MAX_ADAPTIVE, Method
from fsgen.methods.verifiers import Verifier
from fsgen.probs import Transforms, uniforms
from fsgen.processors import LogitsProcessor, process


class Group:
    """Rows that share a method and a verifier: what is fused and verified together.

    Attributes:
        rows: their numbers, ascending; sequences, transforms, seeds: of these rows.
        adaptive: chooses their draft lengths; None where the method says the number.
        most: tokens that they draft in a round, at most.
    """

    def __init__(self, batch: Batch, method: Method, verifier: Verifier, rows: list[int]) -> None:
        self.method, self.verifier, self.rows = method, verifier, rows
        self.sequences = [one for row in rows if (one := batch.sequences[row]) is not None]
        sampling = [one.sampling for one in self.sequences]
        self.transforms = Transforms(sampling, batch.device)
        self.seeds = np.array([params.seed for params in sampling], np.uint64)
        self._index = None if len(rows) == batch.rows else torch.tensor(rows, device=batch.device)
        self.adaptive: AdaptiveDraftLength | None = None
        self.most, self._active = method.draft_tokens, sum(one.active for one in self.sequences)
        if method.adaptive and (verifier.couples or self.transforms.all_greedy):
            new, known = AdaptiveDraftLength(least=int(not method.adds_bonus)), batch.members.draft_lengths
            size = (2 * self._active // 3).bit_length()  # as many rows, or about as many
            self.most, self.adaptive = MAX_ADAPTIVE, known.setdefault((method, verifier.name, size), new)

    def of(self, x: Tensor) -> Tensor:
        """The rows of this group of a tensor of all rows."""
        return x if self._index is None else x.index_select(0, self._index)

    def positions(self) -> NDArray[np.int64]:
        """[rows, 1] positions of the next tokens to draft."""
        return np.array([[one.written + one.drafted] for one in self.sequences])

    def uniforms(self, positions: NDArray[np.int64], stream: int) -> Tensor:
        """[rows, n] uniform numbers for [rows, n] positions."""
        return torch.from_numpy(uniforms(self.seeds[:, None], positions, stream)).to(self.transforms.greedy_rows.device)

    def choose(self, step: int, sequences: List[Sequence]) -> bool:
        """Decides which of these texts draft another token (`drafts`), after `step` others; whether any does."""
        for one in sequences:
            one.drafts = one.open and not one.flagged and one.drafted < self.most
        able = [one for one in sequences if one.drafts]
        going = self.adaptive is None or self.adaptive.goes_on(step, [one.acceptance for one in able])
        for one in able if not going else ():
            one.drafts = False
        return going and bool(able)

    def append(self, one: Sequence, token: int, prob: float) -> None:
        """A drafted token, and its probability."""
        one.ids.append(token)
        one.drafted += 1
        if self.adaptive is not None:
            one.draft_probs.append(prob)
            one.acceptance *= self.adaptive.acceptance.chance(prob)

    def begin_round(self) -> None:
        for one in self.sequences:
            one.begin_round()
        if self.adaptive is not None:
            self.adaptive.begin_round()
            for one in self.sequences if not self.adaptive.drafts else ():
                one.pending_bonus = None  # the draft is not called for what it would have chosen either

    def end_round(self, seconds: float, draft_seconds: float, reads_prompts: bool) -> None:
        """Learns what a round has taken."""
        if self.adaptive is not None:
            tokens = [one.fresh for one in self.sequences if one.fresh]
            usual = not reads_prompts and 4 * len(tokens) >= 3 * self._active
            calls = 0 if self.method.ngram else max(len(one.draft_probs) for one in self.sequences)
            self.adaptive.end_round(seconds, sum(tokens), calls, usual, draft_seconds)


class Batch:
    """The rows of an engine. A text that has ended keeps its row, idle, until another one takes it.

    Attributes:
        members, rows: the models, by role; how many texts are written at a time.
        roles, longest: the members, and the tokens of a row, that there is room for.
        sequences: of each row; None where nobody has had it yet.
        groups: the rows by what they share.
        traces: completes their records.
        spent: seconds of this round's calls, of the draft and of System 2.
        reads_prompts: texts have joined since the last round.
    """

    def __init__(self, members: Members, rows: int, roles: set[str], longest: int) -> None:
        self.members, self.rows, self.roles, self.longest = members, rows, roles, longest
        self.sequences: list[Sequence | None] = [None] * rows
        self.groups: list[Group] = []
        self.traces = TraceBuffer(members.names(), members.partial)
        self.spent = {"draft": 0.0, "system2": 0.0}
        self.reads_prompts = False
        # All logits meet where System 2's are; the draft's small ones travel.
        lead = members.target or members.draft
        assert lead is not None
        self.device, self.vocab = lead.device, members.vocab_size
        self._sessions: dict[str, Session] = {}
        self._processors: list[LogitsProcessor | None] = [None] * rows

    def join(self, row: int, sequence: Sequence) -> None:
        """A text takes a free row."""
        for role, session in [(role, self.session(role)) for role in sequence.method.roles]:
            session.begin(row, sequence.prompt_length, sequence.longest)
            sequence.usage[role] = session.usage[row]
        sequence.start(self.members.tokenizer, self.members.eos_ids)
        self.sequences[row], self.reads_prompts = sequence, True
        self._processors[row] = LogitsProcessor.of(sequence.sampling, sequence.prompt_length, sequence.ends)

    def begin_round(self) -> None:
        self.spent = {"draft": 0.0, "system2": 0.0}
        if self.reads_prompts:
            parts: dict[tuple[Method, Verifier], list[int]] = {}
            for row, one in enumerate(self.sequences):
                if one is not None and one.occupied:
                    parts.setdefault((one.method, one.method.verifier_for(one.sampling)), []).append(row)
            self.groups = [Group(self, method, verifier, rows) for (method, verifier), rows in parts.items()]
        for group in self.groups:
            group.begin_round()

    def end_round(self, elapsed: float) -> None:
        models = sum(self.spent.values())
        for group in self.groups:
            # Beside the models it takes less than they do, or something else held it up.
            group.end_round(models + min(models, elapsed - models), self.spent["draft"], self.reads_prompts)
        self.reads_prompts = False

    def read(self, beginnings: dict[Sequence, int]) -> None:
        """Reads so many tokens of prompts ahead of the round that needs them; these calls are not counted."""
        for role in sorted({role for one in beginnings for role in one.method.roles}):
            texts = [one if one in beginnings and role in one.method.roles else None for one in self.sequences]
            self.session(role).score([None if one is None else one.ids[: beginnings[one]] for one in texts], 1)
            for one in filter(None, texts):
                one.usage[role].calls -= 1

    def session(self, role: str) -> Session:
        """The session of a member, made when it is first needed."""
        if role not in self._sessions:
            self._sessions[role] = self.members.session(role, self.rows)
        return self._sessions[role]

    def give_back(self) -> None:
        """The sessions go back to the members, which keep them for a next turn where that is wanted."""
        for role, session in self._sessions.items():
            self.members.give_back(role, self.rows, session)
        self._sessions = {}

    def score(self, role: str, sequences: List[TokenIds | None], last: List[int]) -> Tensor:
        """One call of a member: logits [rows, max(last), vocab] of the tokens that all know, where System 2's are."""
        started = time.perf_counter()
        logits = self.session(role).score(sequences, last)
        logits = (logits if logits.shape[-1] == self.vocab else logits[..., : self.vocab]).to(self.device)
        logits = process(logits, sequences, last, self._processors) if any(self._processors) else logits
        self.spent["draft" if role == "draft" else "system2"] += time.perf_counter() - started
        return logits

"""The texts that are written together: who has which row, what they share, and the sessions of the members."""

from __future__ import annotations

import math
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
from fsgen.methods.method import Method
from fsgen.methods.verifiers import Verifier
from fsgen.probs import Transforms, uniforms


class Group:
    """Rows that share a method and a verifier: what is fused and verified together.

    Attributes:
        rows: their numbers, ascending; sequences, transforms, seeds: of these rows.
        adaptive: chooses their draft lengths; None where the method says the number.
    """

    def __init__(self, batch: Batch, method: Method, verifier: Verifier, rows: list[int]) -> None:
        self.method, self.verifier, self.rows = method, verifier, rows
        self.sequences = [sequence for row in rows if (sequence := batch.sequences[row]) is not None]
        sampling = [sequence.sampling for sequence in self.sequences]
        self.transforms = Transforms(sampling, batch.device)
        self.seeds = np.array([params.seed for params in sampling], np.uint64)
        self._index = None if len(rows) == len(batch) else torch.tensor(rows, device=batch.device)
        self._size = size_class(self.sequences)
        self.adaptive: AdaptiveDraftLength | None = None
        if method.adaptive and (verifier.couples or self.transforms.all_greedy):
            new = AdaptiveDraftLength(least=int(not method.adds_bonus))
            self.adaptive = batch.members.draft_lengths.setdefault((method, verifier.name, self._size), new)

    def of(self, x: Tensor) -> Tensor:
        """The rows of this group of a tensor of all rows."""
        return x if self._index is None else x.index_select(0, self._index)

    def positions(self) -> NDArray[np.int64]:
        """[rows, 1] positions of the next tokens to draft."""
        return np.array([[one.written + one.drafted] for one in self.sequences])

    def uniforms(self, positions: NDArray[np.int64], stream: int) -> Tensor:
        """[rows, n] uniform numbers for [rows, n] positions."""
        numbers = torch.from_numpy(uniforms(self.seeds[:, None], positions, stream))
        return numbers.to(self.transforms.greedy_rows.device)

    # ---- drafting

    @property
    def drafting(self) -> bool:
        """Whether it drafts in this round."""
        return self.method.drafts and (self.adaptive is None or self.adaptive.drafts)

    @property
    def most(self) -> int:
        """Tokens to draft for a row, at most."""
        return self.method.draft_tokens if self.adaptive is None else self.adaptive.most

    def choose(self, step: int, sequences: List[Sequence]) -> bool:
        """Decides which of these texts draft another token (`writes`), after `step` others; whether any does."""
        most, able = self.most, []
        for one in sequences if self.drafting else ():
            one.writes = (
                one.active and not one.flagged and one.drafted < min(most, one.remaining) and not one.draft_ends_text
            )
            if one.writes:
                able.append(one)
        if self.adaptive is not None and not self.adaptive.goes_on(step, [one.acceptance for one in able]):
            for one in able:
                one.writes = False
            return False
        return bool(able)

    def append(self, one: Sequence, token: int, prob: float) -> None:
        """A drafted token, and its probability."""
        one.ids.append(token)
        one.drafted += 1
        if self.adaptive is not None:
            one.draft_probs.append(prob)
            one.acceptance *= self.adaptive.acceptance.chance(prob)

    # ---- a round

    def begin_round(self) -> None:
        for one in self.sequences:
            one.begin_round()
        if self.adaptive is not None:
            self.adaptive.begin_round()
            self._usual = size_class(self.sequences) == self._size
            self._written = sum(one.written for one in self.sequences)
            for one in self.sequences if not self.adaptive.drafts else ():
                one.pending_bonus = None  # the draft is not called for what it would have chosen either

    def end_round(self, seconds: float, draft_seconds: float, reads_prompts: bool) -> None:
        """Learns what the round has taken; `draft_seconds` of it the draft."""
        if self.adaptive is not None:
            tokens = sum(one.written for one in self.sequences) - self._written
            calls = 0 if self.method.ngram else max(len(one.draft_probs) for one in self.sequences)
            self.adaptive.end_round(seconds, tokens, calls, self._usual and not reads_prompts, draft_seconds)


def size_class(sequences: List[Sequence]) -> int:
    """About how many texts are being written: rounds of one class take about as long."""
    return round(math.log2(max(1, sum(one.active for one in sequences))))


class Batch:
    """The rows of an engine. A text that has ended keeps its row, idle, until another one takes it.

    Attributes:
        sequences: of each row; None where nobody has had it yet.
        groups: the rows by what they share.
        spent: seconds of this round's calls, of the draft and of System 2.
        reads_prompts: texts have joined since the last round.
        roles, longest: the members, and the tokens of a row, that there is room for.
    """

    def __init__(self, members: Members, rows: int, roles: set[str], longest: int) -> None:
        self.members, self.roles, self.longest = members, roles, longest
        self.sequences: list[Sequence | None] = [None] * rows
        self.groups: list[Group] = []
        self.spent = {"draft": 0.0, "system2": 0.0}
        self.reads_prompts = False
        # All logits meet where System 2's are; the draft's small ones travel.
        lead = members.target or members.draft
        assert lead is not None
        self.device, self.vocab = lead.device, members.vocab_size
        self._sessions: dict[str, Session] = {}
        self._ends: list[NDArray[np.int8]] = []

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def occupied(self) -> list[Sequence]:
        return [sequence for sequence in self.sequences if sequence is not None and sequence.occupied]

    @property
    def free_rows(self) -> list[int]:
        return [row for row, one in enumerate(self.sequences) if one is None or not one.occupied]

    def join(self, row: int, sequence: Sequence) -> None:
        """A text takes a free row."""
        sessions = {role: self.session(role) for role in sequence.method.roles}
        for role, session in sessions.items():
            session.begin(row, sequence.prompt_length, sequence.longest)
            sequence.usage[role] = session.usage[row]
        sequence.start(self.members.tokenizer, self.members.eos_ids)
        self.sequences[row] = sequence
        self.reads_prompts = True

    def begin_round(self) -> None:
        self.spent = {"draft": 0.0, "system2": 0.0}
        if self.reads_prompts:
            self._regroup()
        for group in self.groups:
            group.begin_round()

    def end_round(self, elapsed: float) -> None:
        models = sum(self.spent.values())
        # Beside the models it takes less than they do, or something else held it up.
        for group in self.groups:
            group.end_round(models + min(models, elapsed - models), self.spent["draft"], self.reads_prompts)
        self.reads_prompts = False

    def _regroup(self) -> None:
        """Texts have joined: finds anew who shares what."""
        parts: dict[tuple[Method, Verifier], list[int]] = {}
        for row, one in enumerate(self.sequences):
            if one is not None:
                parts.setdefault((one.method, one.method.verifier_for(one.sampling)), []).append(row)
        self.groups = [Group(self, method, verifier, rows) for (method, verifier), rows in parts.items()]
        self._ends = []

    # ---- the members

    def session(self, role: str) -> Session:
        """The session of a member, made when it is first needed."""
        if role not in self._sessions:
            self._sessions[role] = self.members.session(role, len(self))
        return self._sessions[role]

    def give_back(self) -> None:
        """The sessions go back to the members, which keep them for a next turn where that is wanted."""
        for role, session in self._sessions.items():
            self.members.give_back(role, len(self), session)
        self._sessions = {}

    def score(self, role: str, sequences: list[TokenIds | None], last: list[int]) -> Tensor:
        """One call of a member of System 2: logits [rows, max(last), vocab], right-aligned."""
        started = time.perf_counter()
        logits = self.shared(self.session(role).score(sequences, last))
        self.spent["system2"] += time.perf_counter() - started
        return logits

    def shared(self, logits: Tensor) -> Tensor:
        """The logits of the tokens that all members know, where System 2's are."""
        return (logits if logits.shape[-1] == self.vocab else logits[..., : self.vocab]).to(self.device)

    @property
    def ends(self) -> list[NDArray[np.int8]]:
        """Of each row, the tokens that end its text: [vocab], not 0 for those."""
        if not self._ends:
            masks: dict[frozenset[int], NDArray[np.int8]] = {}
            for ends in (frozenset[int]() if one is None else one.ends for one in self.sequences):
                if ends not in masks:
                    masks[ends] = np.zeros(self.vocab, np.int8)
                    masks[ends][[token for token in ends if token < self.vocab]] = 1
                self._ends.append(masks[ends])
        return self._ends

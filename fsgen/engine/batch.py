"""The texts that are written together: who has which row, what they share, and the sessions of the members."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsgen.backends.protocol import Session, TokenIds
from fsgen.engine.draft_length import AdaptiveDraftLength
from fsgen.engine.sequence import Sequence
from fsgen.methods.method import Method
from fsgen.methods.verifiers import Verifier
from fsgen.probs import Transforms, uniforms

if TYPE_CHECKING:
    from fsgen.backends.members import Members
    from fsgen.types import Ends


@dataclass(slots=True, eq=False)
class Group:
    """Rows that share a method and a verifier: what is fused and verified together.

    Attributes:
        rows: their numbers, ascending. index: the same as a tensor, None where these are all rows.
        sequences, transforms, seeds: of these rows.
        adaptive: chooses their draft lengths; None where the method says the number.
    """

    method: Method
    verifier: Verifier
    rows: list[int]
    sequences: list[Sequence]
    index: Tensor | None
    transforms: Transforms
    seeds: NDArray[np.uint64]
    adaptive: AdaptiveDraftLength | None

    def of(self, x: Tensor) -> Tensor:
        """The rows of this group of a tensor of all rows."""
        return x if self.index is None else x.index_select(0, self.index)

    def uniforms(self, positions: NDArray[np.int64], stream: int) -> Tensor:
        """[rows, n] uniform numbers for [rows, n] positions."""
        numbers = torch.from_numpy(uniforms(self.seeds[:, None], positions, stream))
        return numbers.to(self.transforms.greedy_rows.device)

    @property
    def drafting(self) -> bool:
        """Whether it drafts in this round."""
        return self.method.drafts and (self.adaptive is None or self.adaptive.drafts)


class Batch:
    """The rows of an engine.

    A text that has ended keeps its row, idle, until another one takes it.

    Attributes:
        sequences: of each row; None where nobody has had it yet.
        groups: the rows by what they share.
        spent: seconds of this round's calls, of the draft and of System 2.
        reads_prompts: texts have joined since the last round.
    """

    def __init__(self, members: Members, rows: int) -> None:
        self.members = members
        self.sequences: list[Sequence | None] = [None] * rows
        self.groups: list[Group] = []
        self.spent = {"draft": 0.0, "system2": 0.0}
        self.reads_prompts = False
        # All logits meet where System 2's are; the draft's small ones travel.
        lead = members.target or members.draft
        assert lead is not None
        self.device, self.vocab = lead.device, members.vocab_size
        self._sessions: dict[str, Session] = {}
        self._ends: dict[frozenset[int], Ends] = {}

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def occupied(self) -> list[Sequence]:
        return [sequence for sequence in self.sequences if sequence is not None and sequence.occupied]

    @property
    def free_rows(self) -> Iterator[int]:
        return (row for row, one in enumerate(self.sequences) if one is None or not one.occupied)

    def join(self, row: int, sequence: Sequence, number: int) -> None:
        """A text takes a free row, in the engine's round of this number."""
        self.sequences[row] = sequence
        sequence.start(self.members.tokenizer, self.members.eos_ids, number)
        for role in sequence.method.roles:
            session = self.session(role)
            session.begin(row, sequence.prompt_length, sequence.longest)
            sequence.usage[role] = session.usage[row]

    def regroup(self) -> None:
        """Texts have joined: finds anew who shares what."""
        parts: list[tuple[Method, Verifier, list[int]]] = []
        for row, sequence in enumerate(self.sequences):
            if sequence is None:
                continue
            method, verifier = sequence.method, sequence.method.verifier_for(sequence.sampling)
            for part in parts:
                if part[1] is verifier and (part[0] is method or part[0] == method):
                    part[2].append(row)
                    break
            else:
                parts.append((method, verifier, [row]))
        self.groups = [self._group(*part) for part in parts]
        self.reads_prompts = True

    def _group(self, method: Method, verifier: Verifier, rows: list[int]) -> Group:
        sequences = [sequence for row in rows if (sequence := self.sequences[row]) is not None]
        sampling = [sequence.sampling for sequence in sequences]
        adaptive = None
        if method.adaptive and (verifier.couples or all(params.greedy for params in sampling)):
            key = (str(method.fusion), str(method.router), method.ngram, len(self))
            adaptive = self.members.draft_lengths.setdefault(key, AdaptiveDraftLength(int(not method.adds_bonus)))
        return Group(
            method,
            verifier,
            rows,
            sequences,
            None if len(rows) == len(self) else torch.tensor(rows, device=self.device),
            Transforms(sampling, self.device),
            np.array([params.seed for params in sampling], np.uint64),
            adaptive,
        )

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

    def ends(self) -> list[Ends]:
        """Of each row, the tokens that end its text: [vocab], not 0 for those."""
        return [self._mask(frozenset() if one is None else one.ends) for one in self.sequences]

    def _mask(self, ends: frozenset[int]) -> Ends:
        if ends not in self._ends:
            self._ends[ends] = mask = np.zeros(self.vocab, np.int8)
            mask[[token for token in ends if token < self.vocab]] = 1
        return self._ends[ends]

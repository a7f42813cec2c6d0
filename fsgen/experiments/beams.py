"""Beam search by the target, and which of its continuations each draft would have kept.

The texts are those of `transformers`' `generate(num_beams=..., length_penalty=1)`. At every step the drafts are shown
the target's beams: each scores the same continuations of the same beams, and keeps as many of the best as the target.
With one beam that is greedy decoding, and a step at which the two keep another continuation is a mismatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from fsgen.backends import Members, Model, Session

TokenIds = Sequence[int]
Floats = NDArray[np.float64]

SCORES = ("shared", "own")
"""What a draft adds its log-probabilities of the next token to: the target's scores of the beams, or its own."""


@dataclass(frozen=True)
class BeamText:
    """The best text that beam search found for a prompt, and how each draft's choice of beams differed.

    Attributes:
        token_ids: of the completion.
        score: its log-probability by the target, over its tokens.
        replaced: at each step the share of the target's continuations that a draft would not have kept,
            [drafts, SCORES, steps]: above 0 it would have kept another set.
        lost: whether that of this text was among them, [drafts, SCORES, tokens].
    """

    token_ids: list[int]
    score: float
    replaced: Floats
    lost: Floats


@dataclass(slots=True)
class _Beam:
    """A text that is still written: its tokens, its place among each step's candidates, and the row that holds it."""

    tokens: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    score: float = 0.0
    own: list[float] = field(default_factory=list)  # by draft
    row: int = 0


@dataclass(slots=True, eq=False)
class _Text:
    """All state of one prompt."""

    prompt: list[int]
    beams: list[_Beam]
    ended: list[tuple[float, _Beam]] = field(default_factory=list)  # the best, the best of them first
    missed: list[NDArray[np.bool_]] = field(default_factory=list)  # of each step, [drafts, SCORES, candidates]
    done: bool = False

    def best(self, width: int) -> BeamText:
        """The best text that was found with so many beams."""
        score, beam = self.ended[0]
        missed = np.stack(self.missed, -1).astype(np.float64)  # [drafts, SCORES, candidates, steps]
        lost = missed[:, :, beam.places, range(len(beam.tokens))]
        return BeamText(beam.tokens, score, missed[:, :, :width].mean(2), lost)


def beam_search(
    members: Sequence[Members],
    prompts: Sequence[TokenIds],
    width: int,
    max_tokens: int,
    early_stopping: bool = False,
    batch_size: int = 16,
) -> list[BeamText]:
    """Let the target search, with every draft looking on.

    Args:
        members: one for each draft; all have the same target.
        prompts: token ids of each text.
        width: beams of a text.
        max_tokens: the budget of a completion.
        early_stopping: a text is done as soon as `width` of its beams have ended; else when no other can do better.
        batch_size: texts that are written at a time.

    Returns:
        the best text for each prompt.

    Raises:
        ValueError: an impossible width or budget, a prompt that is empty or exceeds the context window with it, a
            vocabulary too small for the width, members with several targets or without a model.
    """
    lead = members[0]
    if any(group.target is not lead.target for group in members):
        raise ValueError("one target searches, but the members have several")
    models = [lead.target, *(group.draft for group in members)]
    if any(model is None for model in models):
        raise ValueError("beam search needs a target, and a draft in each of the members")
    vocab, context = (min(getattr(group, name) for group in members) for name in ("vocab_size", "context"))
    candidates = width * max(2, 1 + len(lead.eos_ids))  # so many that `width` of them go on, whatever ends
    if width < 1 or max_tokens < 1:
        raise ValueError(f"width={width} and max_tokens={max_tokens} are impossible: at least 1 each")
    if candidates > vocab:
        raise ValueError(f"width={width} is impossible: its {candidates} candidates exceed the vocabulary of {vocab}")
    for number, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= context - max_tokens:
            raise ValueError(f"prompt {number} has {len(prompt)} tokens: 1 to {context - max_tokens} leave room")
    there = [model for model in models if model is not None]
    search = _Search(there, lead.eos_ids, vocab, width, candidates, max_tokens, early_stopping)
    texts = [_Text(list(prompt), [_Beam(own=[0.0] * len(members))]) for prompt in prompts]
    order = sorted(texts, key=lambda text: len(text.prompt))
    for start in range(0, len(order), batch_size):
        search.write(order[start : start + batch_size])
    return [text.best(width) for text in texts]


@dataclass(frozen=True)
class _Search:
    """The models of a search, the target first, and its settings."""

    models: list[Model]
    eos: frozenset[int]
    vocab: int
    width: int
    candidates: int
    max_tokens: int
    early_stopping: bool

    def write(self, texts: list[_Text]) -> None:
        """Search until all texts of a batch are done."""
        sessions = [model.session(len(texts) * self.width) for model in self.models]
        for session in sessions:
            for row in range(len(texts) * self.width):
                prompt = texts[row // self.width].prompt
                session.begin(row, len(prompt), len(prompt) + self.max_tokens)
        with torch.inference_mode():
            while active := [i for i, text in enumerate(texts) if not text.done]:
                self._step(texts, active, sessions)

    def _step(self, texts: list[_Text], active: list[int], sessions: list[Session]) -> None:
        """One token for every beam of the texts that are not done, all of which have as many beams."""
        some = [texts[i] for i in active]
        beams = [beam for text in some for beam in text.beams]
        rows = [i * self.width + beam.row for i in active for beam in texts[i].beams]
        sequences: list[TokenIds | None] = [None] * (len(texts) * self.width)
        for beam, row in zip(beams, rows, strict=True):
            sequences[row] = [*texts[row // self.width].prompt, *beam.tokens]
        target, *drafts = (self._log_probs(session, sequences, rows, len(some)) for session in sessions)

        scores = torch.tensor([beam.score for beam in beams], device=target.device).reshape(len(some), -1, 1)
        best = (target + scores).flatten(1).topk(self.candidates)
        missed, own = [], []
        for number, draft in enumerate(drafts):
            draft = draft.to(target.device)
            mine = torch.tensor([beam.own[number] for beam in beams], device=target.device).reshape(scores.shape)
            both = [(draft + scores).flatten(1), (draft + mine).flatten(1)]
            kept = torch.stack([total.topk(self.width).indices for total in both], 1)
            missed.append(~(best.indices[:, None, :, None] == kept[:, :, None]).any(-1))
            own.append(both[1].gather(1, best.indices).tolist())
        looked = torch.stack(missed, 1).cpu().numpy()

        for i, text in enumerate(some):
            text.missed.append(looked[i])
            each = [[values[i][k] for values in own] for k in range(self.candidates)]
            self._select(text, best.values[i].tolist(), best.indices[i].tolist(), each)

    def _log_probs(self, session: Session, sequences: Sequence[TokenIds | None], rows: list[int], texts: int) -> Tensor:
        """Log-probabilities of the token after each beam, [texts, beams, vocab]."""
        logits = session.score(sequences, 1)[rows, -1, : self.vocab]
        return logits.float().log_softmax(-1).reshape(texts, -1, self.vocab)

    def _select(self, text: _Text, scores: list[float], indices: list[int], own: list[list[float]]) -> None:
        """Which candidates end, and which go on; the best of them come first."""
        length = len(text.beams[0].tokens) + 1
        going: list[_Beam] = []
        free = set(range(self.width))
        for place, (score, index) in enumerate(zip(scores, indices, strict=True)):
            parent, token = text.beams[index // self.vocab], index % self.vocab
            ends = token in self.eos or length == self.max_tokens
            if place >= self.width and (ends or len(going) == self.width):
                continue
            beam = _Beam([*parent.tokens, token], [*parent.places, place], score, own[place], -1)
            if ends:
                text.ended.append((score / length, beam))
            elif len(going) < self.width:
                if parent.row in free:  # this row holds what stands before the new token
                    free.remove(parent.row)
                    beam.row = parent.row
                going.append(beam)
        for beam in going:
            if beam.row < 0:
                beam.row = free.pop()
        text.beams = going
        text.ended = sorted(text.ended, key=lambda entry: -entry[0])[: self.width]
        full = len(text.ended) == self.width
        text.done = not going or (full and (self.early_stopping or going[0].score / length <= text.ended[-1][0]))

"""THE decode loop.

    round:  1. the draft writes up to k tokens, one by one, for every row; it stops early where the router flags one
            2. each System-2 member scores what is to be decided in ONE call; the fusion makes q of it
            3. the verifier keeps a prefix and adds one token from q

Every method is this loop with other parts (`methods`). It yields one record a token; streaming, traces and plain
generation are all consumers of it. Rows are ragged: each accepts, stops and ends by itself, and where more texts are to
be written than there are rows, the next one takes its place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsgen.engine.detokenizer import GrowingText
from fsgen.engine.draft_length import UNKNOWING, AdaptiveDraftLength
from fsgen.engine.sequence import Row
from fsgen.engine.trace import Trace, TraceBuffer
from fsgen.methods.method import MAX_ADAPTIVE, Method
from fsgen.probs import (
    ACCEPT,
    DECIDE,
    DRAFT,
    Transforms,
    left_aligned,
    sample,
    total_variation,
    uniforms,
    window,
)
from fsgen.types import SamplingParams, Token

if TYPE_CHECKING:
    from fsgen.backends.protocol import Writer
    from fsgen.types import Ends

TokenIds = Sequence[int]


class _Session(Protocol):
    usage: list[Any]

    def begin(self, row: int, prompt: int, longest: int) -> None: ...

    def score(self, sequences: Sequence[TokenIds | None], last: int | Sequence[int]) -> Tensor: ...


class _Planned(Protocol):
    """What is known of the models before their weights are loaded (`models.Plan`)."""

    @property
    def draft(self) -> Any: ...
    @property
    def target(self) -> Any: ...
    @property
    def base(self) -> Any: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context(self) -> int: ...
    def identity(self, role: str) -> Any: ...


class _Members(_Planned, Protocol):
    """What the loop needs of a group of models (`models.Members`): the models by role, and what they share."""

    @property
    def tokenizer(self) -> Any: ...
    @property
    def eos_ids(self) -> frozenset[int]: ...
    @property
    def draft_lengths(self) -> dict[Any, AdaptiveDraftLength]: ...
    def session(self, role: str, rows: int) -> Any: ...
    def give_back(self, role: str, rows: int, session: Any) -> None: ...


def check(members: _Planned, method: Method, prompts: Sequence[TokenIds], sampling: Sequence[SamplingParams]) -> None:
    """What can be known to fail before anything is computed. Raises ValueError (see `Decoding`)."""
    method.require(role for role in ("draft", "target", "base") if getattr(members, role) is not None)
    if method.drafts:
        method.router.require(members)
    if not prompts:
        raise ValueError("there is no prompt")
    if len(prompts) != len(sampling):
        raise ValueError(f"{len(prompts)} prompts need as many sampling parameters, not {len(sampling)}")
    method.verifier_for(list(sampling))
    for number, (prompt, params) in enumerate(zip(prompts, sampling, strict=True)):
        if not len(prompt):
            raise ValueError(f"prompt {number} has no tokens; at least one is needed")
        if not all(0 <= token < members.vocab_size for token in prompt):
            raise ValueError(f"prompt {number} has a token id outside the vocabulary of {members.vocab_size}")
        if len(prompt) + params.max_tokens > members.context:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens, which with max_tokens={params.max_tokens} exceeds the "
                f"context window of {members.context}"
            )


class Decoding:
    """Texts on their way: iterate over it for `(number of the text, Token)`, in each text's order.

    A record is given out when nothing can change it any more: its text cannot be part of a stop string, no rollback
    can reach it, and what the draft would have chosen is known.

    Args:
        members: the models, by role.
        method: what to run.
        prompts: token ids of each text, at least one each.
        sampling: of each text.
        top: how many candidates of p and q each record keeps.
        rows: how many texts are written at a time; all of them where it is not given.
        prompt_traces: records are given out in the round that settles them; else when a text ends.
        keep_logits: each row keeps q's logits at all its tokens: 4 bytes a token and entry of the vocabulary.

    Attributes:
        rows: the state of each text.

    Raises:
        ValueError: no prompt or an empty one, a prompt that with its budget exceeds the context window, a token id out
            of the vocabulary, a member that the method needs and that is not there, a router learned on another draft.
    """

    def __init__(
        self,
        members: _Members,
        method: Method,
        prompts: Sequence[TokenIds],
        sampling: Sequence[SamplingParams],
        *,
        top: int = 0,
        rows: int | None = None,
        prompt_traces: bool = True,
        keep_logits: bool = False,
    ) -> None:
        check(members, method, prompts, sampling)
        if keep_logits and method.skips_verification:
            raise ValueError(f"method {method.name!r} has no logits of q where it trusts the draft: keep_logits=False")
        self.method = method
        self._verifier = method.verifier_for(list(sampling))
        self._vocab = members.vocab_size
        self._draft_is_whole = method.drafts and members.draft.vocab_size == members.vocab_size
        self._buffer = TraceBuffer(top)
        self._prompt_traces, self._keeps_logits = prompt_traces, keep_logits
        self._round = 0
        self.rows = [
            Row(number, list(prompt), len(prompt), params, GrowingText(members.tokenizer, params.stop), members.eos_ids)
            for number, (prompt, params) in enumerate(zip(prompts, sampling, strict=True))
        ]
        width = min(rows or len(self.rows), len(self.rows))
        self._members = members
        self._sessions: dict[str, _Session] = {role: members.session(role, width) for role in method.roles}
        # All logits meet where System 2's are; the draft's small ones travel.
        self._device: torch.device = (members.target if "target" in method.roles else members.draft).device
        self._waiting = self.rows[width:]
        self._waiting.reverse()
        self._batch = self.rows[:width]  # who sits in each row of the sessions
        self._left: list[Row] = []  # whose records are not all given out
        self._pace: AdaptiveDraftLength | None = None
        if method.adaptive and (self._verifier.couples or all(params.greedy for params in sampling)):
            least = int(not method.adds_bonus)
            key = (str(method.fusion), str(method.router), width)
            self._pace = members.draft_lengths.setdefault(key, AdaptiveDraftLength(least))
        for slot, row in enumerate(self._batch):
            self._seat(slot, row)
        self._seated()
        self._spent = {"draft": 0.0, "system2": 0.0}

    def _seat(self, slot: int, row: Row) -> None:
        self._batch[slot] = row
        row.began = self._round
        for role, session in self._sessions.items():
            session.begin(slot, row.prompt, row.prompt + row.params.max_tokens)
            row.usage[role] = session.usage[slot]

    def _seated(self) -> None:
        self._transforms = Transforms([row.params for row in self._batch], self._device)
        self._seeds = np.array([row.params.seed for row in self._batch], dtype=np.uint64)
        self._fresh = True  # this round reads prompts, and tells nothing of what a round takes
        self._ends_at = self._masks()

    def _refill(self) -> None:
        """Texts that are done give their rows to those that wait."""
        seated = False
        for slot, row in enumerate(self._batch):
            if self._waiting and not row.active and row.open is None:
                self._left.append(row)
                self._seat(slot, self._waiting.pop())
                seated = True
        if seated:
            self._seated()

    def usage(self, number: int, role: str) -> tuple[int, int]:
        """(forward calls, tokens run through it) of one text and member; of the prompt only the last token counts."""
        used = self.rows[number].usage.get(role)
        return (used.calls, used.tokens) if used is not None else (0, 0)

    def ended(self, number: int, records: int) -> bool:
        """Whether a text is complete with so many records."""
        row = self.rows[number]
        return not row.active and records == row.written

    def __iter__(self) -> Iterator[tuple[int, Token]]:
        while working := [row for row in self._batch if row.active or row.open is not None]:
            started = time.perf_counter()
            self._spent = {"draft": 0.0, "system2": 0.0}
            self._step()
            given: list[tuple[int, Token]] = []
            if self._prompt_traces or self._buffer.full or not all(row.active for row in working):
                given = self._give()
            share = 1.0 / len(working)
            elapsed = time.perf_counter() - started
            for row in working:
                row.draft_seconds += share * self._spent["draft"]
                row.system2_seconds += share * self._spent["system2"]
                row.seconds += share * elapsed
            yield from given
            self._refill()
        yield from self._give()
        for role, session in self._sessions.items():
            self._members.give_back(role, len(self._batch), session)

    def _step(self) -> None:
        """One round."""
        started = time.perf_counter()
        if self._pace is not None:
            self._pace.begin_round()
            if not self._pace.drafts:
                for row in self._batch:
                    row.open = None  # the draft is not asked what it would have chosen either
        active, before = sum(row.active for row in self._batch), sum(row.written for row in self._batch)
        with torch.inference_mode():
            calls = self._one_round()
        self._round += 1
        if self._pace is not None:
            models = self._spent["draft"] + self._spent["system2"]
            # Beside the models it takes less than they do, or something else held it up.
            seconds = models + min(models, time.perf_counter() - started - models)
            written = sum(row.written for row in self._batch) - before
            usual = not self._fresh and 4 * active >= 3 * len(self._batch)
            self._pace.end_round(seconds, written, calls, usual, self._spent["draft"])
        self._fresh = False

    def _masks(self) -> list[Ends]:
        """Of each row, the tokens that end its text."""
        made: dict[frozenset[int], Ends] = {}
        for row in self._batch:
            if row.ends not in made:
                made[row.ends] = mask = np.zeros(self._vocab, np.int8)
                mask[[token for token in row.ends if token < self._vocab]] = 1
        return [made[row.ends] for row in self._batch]

    # ---- the three parts of a round

    def _one_round(self) -> int:
        """Draft, and decide; gives the draft's calls."""
        drafts = self._draft()
        if any(row.active for row in self._batch):
            self._decide(drafts)
        return 0 if drafts is None else drafts.shape[1]

    def _draft(self) -> Tensor | None:
        """Let the draft write; gives its logits [rows, longest, vocab] at the drafted positions, left-aligned."""
        rows, pace = self._batch, self._pace
        for row in rows:
            row.drafted, row.flagged = 0, False
        if pace is not None:
            for row in rows:
                row.confidences, row.chance = [], 1.0
            if not pace.drafts:
                return None
        step, most = 0, MAX_ADAPTIVE if pace is not None else self.method.draft_tokens
        written: list[Tensor] = []  # p's logits [rows, n, vocab], as they came
        while step < most:
            writing = [self._may_draft(row) for row in rows]
            if pace is not None and not pace.goes_on(
                step, [row.chance for row, writes in zip(rows, writing, strict=True) if writes]
            ):
                break
            opened = [step == 0 and row.open is not None for row in rows]
            if not (any(writing) or any(opened)):
                break
            z, tokens, sure = self._write_ahead(step, writing, opened)
            if not any(writing):
                break
            self._append_drafted(z, tokens, sure, writing)
            written.append(z)
            step += z.shape[1]
        taken = max(row.drafted for row in rows)
        if not taken:
            return None
        return (torch.cat(written, 1) if len(written) > 1 else written[0])[:, :taken]

    def _write_ahead(
        self, step: int, writing: list[bool], opened: list[bool]
    ) -> tuple[Tensor, list[list[int]], list[list[float]]]:
        """The draft's next token in every row, and, where nothing is to be asked in between, some that follow.

        Returns:
            p's logits [rows, n, vocab]; of each row its tokens, n at most; and their probabilities, where they count.
        """
        pace, session = self._pace, self._sessions["draft"]
        # A row that ended with a bonus takes part once more, without it, for what the draft would have chosen.
        sequences = [
            row.ids if writes else row.ids[:-1] if opens else None
            for row, writes, opens in zip(self._batch, writing, opened, strict=True)
        ]
        last = [1 + (writes and opens) for writes, opens in zip(writing, opened, strict=True)]
        # The likeliest token of padded logits might be none of the tokens that all members know.
        unasked = self._transforms.all_greedy and self.method.watcher is None and self._draft_is_whole
        started = time.perf_counter()
        tokens: list[list[int]] = []
        sure: list[list[float]] = []
        if unasked and hasattr(session, "write"):
            limit = pace.limit if pace is not None else None
            most = self.method.draft_tokens if pace is None else UNKNOWING if limit is None else MAX_ADAPTIVE
            counts = [
                writes * min(most - step, row.remaining - row.drafted)
                for row, writes in zip(self._batch, writing, strict=True)
            ]
            logits, further, tokens, sure = cast("Writer", session).write(sequences, last, counts, limit, self._ends_at)
            z = torch.cat([logits[:, -1:], further], 1) if further.shape[1] else logits[:, -1:]
        else:
            logits = session.score(sequences, last)
            z = logits[:, -1:]
        logits, z = self._shared(logits), self._shared(z)
        elapsed = time.perf_counter() - started
        self._spent["draft"] += elapsed
        # Where the draft reads more than the last tokens first, its time tells nothing of what one more token takes.
        if pace is not None and (step > 0 or (z.shape[1] > 1 and pace.caught_up and not self._fresh)):
            pace.draft_call.learn(1, elapsed / z.shape[1])
        if any(opened):
            self._close(logits, writing)
        if not tokens and self._transforms.all_greedy:
            tokens = z.argmax(-1).tolist()
        elif not tokens:
            positions = np.array([[row.written + row.drafted] for row in self._batch])
            if self._verifier.couples:
                tokens = self._transforms.race(z, self._seeds, positions).tolist()
            else:
                tokens = sample(self._transforms.drawn(z), self._uniforms(positions, DRAFT)).tolist()
        if not sure and pace is not None:
            sure = z.softmax(-1).amax(-1).tolist()
        return z, tokens, sure

    def _shared(self, logits: Tensor) -> Tensor:
        """What all members know of them, where System 2's are."""
        return (logits if logits.shape[-1] == self._vocab else logits[..., : self._vocab]).to(self._device)

    def _may_draft(self, row: Row) -> bool:
        return row.active and not row.flagged and row.drafted < row.remaining and not row.draft_ends_text

    def _append_drafted(self, z: Tensor, tokens: list[list[int]], sure: list[list[float]], writing: list[bool]) -> None:
        """Each row takes what its draft wrote, as far as its text goes. Where somebody watches, that is one token."""
        watcher, pace = self.method.watcher, self._pace
        flags = None
        if watcher is not None:
            positions = np.array([row.written + row.drafted for row in self._batch])
            flags = watcher.consult(z[:, 0], positions, self._seeds)
        for index, row in enumerate(self._batch):
            if not writing[index]:
                continue
            before = row.drafted
            for token in tokens[index]:
                row.ids.append(token)
                row.drafted += 1
                if token in row.ends:
                    break
            row.flagged = flags is not None and flags[index]
            if pace is not None:
                row.confidences += sure[index][: row.drafted - before]
                for confidence in row.confidences[before:]:
                    row.chance *= pace.acceptance.chance(confidence)

    def _decide(self, drafts: Tensor | None) -> None:
        """Ask System 2 where the method wants it, and write what stands."""
        # Of each row: how many drafted tokens are to be verified (the last ones), and whether a bonus is wanted.
        checks = [self._to_check(row) for row in self._batch]
        bonus = [self._wants_bonus(row) for row in self._batch]
        asked = [bool(check or extra) for check, extra in zip(checks, bonus, strict=True)]
        if drafts is not None:
            self._buffer.hold(drafts.numel())
        if any(asked):
            q, p, target = self._consult(asked, checks, bonus, drafts)
            accepted, tokens, distances = self._verify(q, p, checks)
            self._buffer.hold(q.numel())

        p_drafted = torch.empty(len(self._batch), 0, self._vocab) if drafts is None else drafts
        for index, row in enumerate(self._batch):
            if not row.active:
                continue
            cut = len(row.ids) - row.drafted
            drafted, row.ids[cut:] = row.ids[cut:], []
            unchecked = row.drafted - checks[index]
            for j, token in enumerate(drafted[:unchecked]):
                if row.active:
                    trace: Trace = {}
                    self._buffer.draft(trace, p_drafted[index], j)
                    row.write(token, "trusted", self._round, trace)
                    row.trusted += 1
            if not asked[index] or not row.active:
                continue
            if self._rolled_back(row, index, target):
                continue
            row.trusted = 0
            self._settle(
                row,
                drafted[unchecked:],
                p_drafted[index],
                range(unchecked, len(drafted)),
                q[index],
                range(q.shape[1]),
                accepted[index],
                tokens[index] if accepted[index] < checks[index] + bonus[index] else None,
                None if distances is None else distances[index],
                row.confidences[unchecked:],
            )

    def _settle(
        self,
        row: Row,
        drafted: Sequence[int],
        p: Tensor,
        p_at: Sequence[int],
        q: Tensor,
        q_at: Sequence[int],
        accepted: int,
        token: int | None,
        distances: list[float] | None,
        confidences: Sequence[float],
    ) -> None:
        """Write what stands of a row's verified tokens, and System 2's own token after them, if any.

        Their logits are p[p_at[j]] and q[q_at[j]], [vocab].
        """
        buffer, pace, temperature = self._buffer, self._pace, row.params.temperature or 1.0
        for j in range(min(accepted + (token is not None), len(drafted))):
            stands = j < accepted
            if pace is not None:
                pace.acceptance.learn(confidences[j], stands)
            if row.active:
                trace: Trace = {}
                buffer.draft(trace, p, p_at[j])
                buffer.target(trace, q, q_at[j])
                if distances is None:
                    buffer.compare(trace, p, p_at[j], q, q_at[j], temperature)
                else:
                    trace["total_variation"] = distances[j]
                if self._keeps_logits:
                    row.logits.append(q[q_at[j]])
                if stands:
                    row.write(drafted[j], "accepted", self._round, trace)
                elif token is not None:
                    row.write(token, "recovered", self._round, trace)
        if row.active and token is not None and accepted == len(drafted):
            trace, place = {}, q_at[accepted]
            buffer.target(trace, q, place)
            if self._keeps_logits:
                row.logits.append(q[place])
            row.write(token, "bonus", self._round, trace)
            # Where the pace is free, the draft is asked only where it goes on writing anyway.
            asks = self.method.drafts and (pace is None or (bool(drafted) and row.active))
            row.open = (q, place) if asks else None

    def _to_check(self, row: Row) -> int:
        if not row.active:
            return 0
        return int(row.flagged) if self.method.skips_verification else row.drafted

    def _wants_bonus(self, row: Row) -> bool:
        has_place = row.active and row.drafted < row.remaining
        return has_place and self.method.adds_bonus and not row.draft_ends_text

    # ---- System 2

    def _consult(
        self, asked: list[bool], checks: list[int], bonus: list[bool], drafts: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What System 2 says at the positions to decide, which are the last `checks` drafted ones and the bonus'.

        Returns:
            logits of q [rows, m, vocab] and of p [rows, n, vocab] (n = 0 without a draft), both left-aligned, and the
            target's own as its session gave them, which with rollback start at the tokens to re-check.
        """
        wanted = [max(1, check + extra) for check, extra in zip(checks, bonus, strict=True)]
        rechecked = self.method.rollback is not None
        last = [
            want + (row.trusted + row.drafted - check if rechecked and ask else 0)
            for row, want, check, ask in zip(self._batch, wanted, checks, asked, strict=True)
        ]
        # The last drafted token itself is run through System 2 only where its successor is wanted too.
        sequences = [
            None if not ask else row.ids if extra else row.ids[:-1]
            for row, ask, extra in zip(self._batch, asked, bonus, strict=True)
        ]
        target = self._score("target", sequences, last)
        z_target = left_aligned(target, wanted)
        z_base = left_aligned(self._score("base", sequences, last), wanted) if self.method.fusion.reads_base else None
        if drafts is None:
            p = z_target[:, :0]
        else:
            p = window(
                drafts, [row.drafted - check for row, check in zip(self._batch, checks, strict=True)], max(checks)
            )
        if self._pace is not None and not self._fresh:
            self._pace.system2_call.learn(max(wanted), self._spent["system2"])
        return self.method.fusion(z_target, p, z_base), p, target

    def _verify(self, q: Tensor, p: Tensor, checks: list[int]) -> tuple[list[int], list[int], list[list[float]] | None]:
        """Of each row: drafted tokens that stand, System 2's own token after them, and total variations.

        These are None where they are taken later, of many positions at once.
        """
        n, transforms = p.shape[1], self._transforms
        drafted = [row.ids[len(row.ids) - check :] for row, check in zip(self._batch, checks, strict=True)]
        distances = None
        if not transforms.late:
            p_drawn, q_drawn = transforms.measured(p), transforms.measured(q)
            distances = total_variation(p_drawn, q_drawn[:, :n]).tolist() if n else [[] for _ in drafted]
        if not self._verifier.draws:
            verdict = self._verifier.verify(drafted, p, q, q, q)
            return verdict.accepted, verdict.token, distances
        first = [row.written + row.drafted - check for row, check in zip(self._batch, checks, strict=True)]
        positions = np.array(first)[:, None] + np.arange(q.shape[1])
        if self._verifier.couples:
            both = transforms.race(q, self._seeds, positions)
            verdict = self._verifier.verify(drafted, p, q, both, both)
            return verdict.accepted, verdict.token, distances
        if transforms.late or transforms.any_greedy:  # whose distributions are measured as no one-hot ones
            p_drawn, q_drawn = transforms.drawn(p), transforms.drawn(q)
        accept, decide = self._uniforms(positions, ACCEPT), self._uniforms(positions, DECIDE)
        verdict = self._verifier.verify(drafted, p_drawn, q_drawn, accept, decide)
        return verdict.accepted, verdict.token, distances

    def _rolled_back(self, row: Row, index: int, target: Tensor) -> bool:
        """Rewind to the first token trusted since the last consultation that System 2 finds too unlikely, if any."""
        since = row.trusted
        if self.method.rollback is None or since == 0:
            return False
        z = target[index, -1 - since : -1]  # the last position is the flagged one
        tokens = torch.tensor(row.ids[-since:], device=z.device)
        log_ratio = z.gather(-1, tokens[:, None])[:, 0] - z.amax(-1)
        fallen = (log_ratio < math.log(self.method.rollback)).nonzero()
        if not len(fallen):
            return False
        back = since - int(fallen[0, 0])
        q = z[since - back][None, None]
        trace = row.held[-back]
        row.unwrite(back)
        transforms = Transforms([row.params], q.device)
        draw = torch.from_numpy(uniforms(self._seeds[index : index + 1], np.array([row.written]), DECIDE))
        token = int(sample(transforms.drawn(q)[0], draw.to(q.device))[0])
        self._buffer.target(trace, q[0], 0)
        row.write(token, "recovered", self._round, trace)
        row.trusted = 0
        return True

    def _score(self, role: str, sequences: Sequence[TokenIds | None], last: list[int]) -> Tensor:
        """Logits of a member of System 2."""
        started = time.perf_counter()
        logits = self._shared(self._sessions[role].score(sequences, last))
        self._spent["system2"] += time.perf_counter() - started
        return logits

    def _uniforms(self, positions: NDArray[np.int64], stream: int) -> Tensor:
        seeds = self._seeds.reshape(-1, *[1] * (positions.ndim - 1))
        return torch.from_numpy(uniforms(seeds, positions, stream)).to(self._device)

    # ---- records

    def _close(self, logits: Tensor, writing: list[bool]) -> None:
        """Complete the records of bonus tokens, from the draft's call that came after them."""
        # A row that goes on drafting was asked for two positions, the bonus' and the one after it.
        back = [2 if writes and row.open is not None else 1 for row, writes in zip(self._batch, writing, strict=True)]
        p = window(logits, [logits.shape[1] - n for n in back], 1)
        self._buffer.hold(p.numel())
        distances = None
        if not self._transforms.late:
            q = torch.stack(
                [p[i] if row.open is None else row.open[0][row.open[1]][None] for i, row in enumerate(self._batch)]
            )
            distances = total_variation(self._transforms.measured(p), self._transforms.measured(q)).tolist()
        for index, row in enumerate(self._batch):
            if row.open is not None:
                self._complete(row, p[index], 0, None if distances is None else distances[index][0])

    def _complete(self, row: Row, p: Tensor, place: int, distance: float | None) -> None:
        """Tell the record of a bonus token what the draft would have chosen, by p's logits p[place], [vocab]."""
        trace = row.held[-1]
        self._buffer.draft(trace, p, place)
        if distance is not None:
            trace["total_variation"] = distance
        elif row.open is not None:
            self._buffer.compare(trace, p, place, *row.open, row.params.temperature or 1.0)
        row.open = None

    def _give(self) -> list[tuple[int, Token]]:
        """The records that nothing can change any more."""
        self._buffer.settle()
        given: list[tuple[int, Token]] = []
        for row in self._left + self._batch:
            may_fall = row.trusted if row.active and self.method.rollback is not None else 0
            given += [(row.number, token) for token in row.give(may_fall)]
        self._left = []
        return given

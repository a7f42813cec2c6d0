"""What a round finds for each text (`decide`), and the one place that writes it down (`commit`)."""

from __future__ import annotations

import math
from collections.abc import Sequence as List
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fsgen.backends.protocol import TokenIds
from fsgen.engine.batch import Batch, Group
from fsgen.engine.draft_length import AdaptiveDraftLength
from fsgen.engine.sequence import Sequence
from fsgen.engine.trace import Trace, TraceBuffer
from fsgen.probs import ACCEPT, DECIDE, Transforms, left_aligned, sample, total_variation, uniforms, window


@dataclass(frozen=True, slots=True)
class Rollback:
    """System 2 finds a trusted token too unlikely: `count` tokens are taken back, and `token` stands instead."""

    count: int
    token: int
    q: Tensor  # its logits there, [vocab]


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round found for one text. It changes nothing until it is committed.

    Attributes:
        drafted: the drafted tokens; p: the draft's logits at each, [n, vocab].
        trusted: how many of them, the first ones, are kept without verification.
        consulted: System 2 was consulted; what follows is what it says.
        q: its logits [m, vocab] at the drafted tokens to verify, and at the one after them where that is wanted.
        accepted: how many of those tokens are kept.
        token: System 2's own token after these, None where none is wanted.
        distances: total variation of p and q at the verified tokens; None where it is measured later, in bulk.
        rollback: what becomes of earlier trusted tokens, if anything.
    """

    drafted: List[int]
    p: Tensor | None
    trusted: int
    consulted: bool = False
    q: Tensor | None = None
    accepted: int = 0
    token: int | None = None
    distances: List[float] | None = None
    rollback: Rollback | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    """What System 2 is to say about each row.

    Attributes:
        verify: how many drafted tokens are to be verified, the last ones. bonus: whether a token after them is wanted.
        consulted: whether it is asked at all. wanted: at how many positions, 1 for rows that are not.
    """

    verify: list[int]
    bonus: list[bool]
    consulted: list[bool]
    wanted: list[int]

    @classmethod
    def of(cls, batch: Batch) -> _Request:
        verify, bonus = [], []
        for one in batch.sequences:
            if one is None or not one.active:
                verify.append(0)
                bonus.append(False)
                continue
            verify.append(int(one.flagged) if one.method.skips_verification else one.drafted)
            bonus.append(one.method.adds_bonus and one.drafted < one.remaining and not one.draft_ends_text)
        wanted = [n + extra for n, extra in zip(verify, bonus, strict=True)]
        return cls(verify, bonus, [n > 0 for n in wanted], [max(1, n) for n in wanted])


@dataclass(frozen=True, slots=True)
class _Scores:
    """Logits of System 2's members: as the target's session gave them, and left-aligned [rows, wanted, vocab]."""

    raw: Tensor
    target: Tensor
    base: Tensor | None


def decide(batch: Batch, p: Tensor | None) -> list[tuple[Sequence, RoundResult, Group]]:
    """Consults System 2 where the methods want it, in one call of each member, and verifies the drafted tokens.

    Args:
        batch: whose sequences end with their drafted tokens.
        p: the draft's logits at these, [rows, n, vocab], left-aligned; None where nothing was drafted.

    Returns:
        the result of every active row.
    """
    request = _Request.of(batch)
    scores = _consult(batch, request) if any(request.consulted) else None
    results = []
    for group in batch.groups:
        results += _group_results(group, request, scores, p)
    return results


def _consult(batch: Batch, request: _Request) -> _Scores:
    last = list(request.wanted)
    sequences: list[TokenIds | None] = [None] * len(batch)
    reads_base = [False] * len(batch)
    for group in batch.groups:
        for row, one in zip(group.rows, group.sequences, strict=True):
            if not request.consulted[row]:
                continue
            # The last drafted token itself is run through System 2 only where its successor is wanted too.
            sequences[row] = one.ids if request.bonus[row] else one.ids[:-1]
            reads_base[row] = group.method.fusion.reads_base
            if group.method.rollback is not None:
                last[row] += one.trusted + one.drafted - request.verify[row]
    raw = batch.score("target", sequences, last)
    base = None
    if any(reads_base):
        of_base = [ids if reads else None for ids, reads in zip(sequences, reads_base, strict=True)]
        base = left_aligned(batch.score("base", of_base, last), request.wanted)
    for group in batch.groups:
        if group.adaptive is not None and not batch.reads_prompts:
            group.adaptive.system2_call.learn(max(request.wanted), batch.spent["system2"])
    return _Scores(raw, left_aligned(raw, request.wanted), base)


def _group_results(
    group: Group, request: _Request, scores: _Scores | None, p: Tensor | None
) -> list[tuple[Sequence, RoundResult, Group]]:
    """Fuses and verifies the rows of a group."""
    verify = [request.verify[row] for row in group.rows]
    consulted = scores is not None and any(request.consulted[row] for row in group.rows)
    p_group = None if p is None else group.of(p)
    if consulted and scores is not None:
        longest = max(request.wanted[row] for row in group.rows)
        target, base = group.of(scores.target)[:, :longest], None
        if group.method.fusion.reads_base and scores.base is not None:
            base = group.of(scores.base)[:, :longest]
        if p_group is None:
            to_verify = target[:, :0]
        else:
            starts = [one.drafted - n for one, n in zip(group.sequences, verify, strict=True)]
            to_verify = window(p_group, starts, max(verify))
        q = group.method.fusion(target, to_verify, base)
        accepted, tokens, distances = _verify(group, q, to_verify, verify)
    results = []
    for i, (row, one) in enumerate(zip(group.rows, group.sequences, strict=True)):
        if not one.active:
            continue
        drafted = one.ids[len(one.ids) - one.drafted :]
        mine = None if p_group is None else p_group[i]
        trusted = one.drafted - verify[i]
        if not request.consulted[row] or scores is None:
            results.append((one, RoundResult(drafted, mine, trusted), group))
            continue
        own = accepted[i] < verify[i] + request.bonus[row]
        rollback = None
        if group.method.rollback is not None and one.trusted + trusted:
            rollback = _rollback(one, one.ids[: len(one.ids) - verify[i]], scores.raw[row], one.trusted + trusted)
        result = RoundResult(
            drafted,
            mine,
            trusted,
            True,
            q[i],
            accepted[i],
            tokens[i] if own else None,
            None if distances is None else distances[i],
            rollback,
        )
        results.append((one, result, group))
    return results


def _verify(
    group: Group, q: Tensor, p: Tensor, verify: list[int]
) -> tuple[list[int], list[int], list[list[float]] | None]:
    """Of each row: accepted tokens, System 2's own token after them, and total variations, where not taken later."""
    n, transforms, verifier = p.shape[1], group.transforms, group.verifier
    drafted = [one.ids[len(one.ids) - k :] for one, k in zip(group.sequences, verify, strict=True)]
    distances = None
    if not transforms.temperature_only:
        p_drawn, q_drawn = transforms.measured(p), transforms.measured(q)
        distances = total_variation(p_drawn, q_drawn[:, :n]).tolist() if n else [[] for _ in drafted]
    if not verifier.draws:
        verdict = verifier.verify(drafted, p, q, q, q)
        return verdict.accepted, verdict.token, distances
    first = [one.written + one.drafted - k for one, k in zip(group.sequences, verify, strict=True)]
    positions = np.array(first)[:, None] + np.arange(q.shape[1])
    if verifier.couples:
        choices = transforms.race(q, group.seeds, positions)
        verdict = verifier.verify(drafted, p, q, choices, choices)
        return verdict.accepted, verdict.token, distances
    if transforms.temperature_only or transforms.any_greedy:  # greedy rows are measured as no one-hot ones
        p_drawn, q_drawn = transforms.drawn(p), transforms.drawn(q)
    accept, decision = group.uniforms(positions, ACCEPT), group.uniforms(positions, DECIDE)
    verdict = verifier.verify(drafted, p_drawn, q_drawn, accept, decision)
    return verdict.accepted, verdict.token, distances


def _rollback(one: Sequence, ids: list[int], target: Tensor, since: int) -> Rollback | None:
    """The first of the last `since` trusted tokens that System 2 finds too unlikely (Kim 2302.07863), if any.

    Args:
        ids: up to the last trusted token.
        target: logits [n, vocab], of which the last are at the token after these.
    """
    assert one.method.rollback is not None
    z = target[-1 - since : -1]
    tokens = torch.tensor(ids[-since:], device=z.device)
    log_ratio = z.gather(-1, tokens[:, None])[:, 0] - z.amax(-1)
    unlikely = (log_ratio < math.log(one.method.rollback)).nonzero()
    if not len(unlikely):
        return None
    first = int(unlikely[0, 0])
    position = len(ids) - since + first - one.prompt_length
    q = z[first]
    draw = torch.from_numpy(uniforms(np.array([one.sampling.seed], np.uint64), np.array([position]), DECIDE))
    drawn = Transforms([one.sampling], q.device).drawn(q[None, None])[0]
    return Rollback(since - first, int(sample(drawn, draw.to(q.device))[0]), q)


def commit(
    one: Sequence, result: RoundResult, traces: TraceBuffer, number: int, adaptive: AdaptiveDraftLength | None = None
) -> None:
    """Writes what a round found into its text.

    Args:
        one: the text, whose `ids` end with the drafted tokens.
        result: of the round.
        traces: completes the records.
        number: of the engine's round.
        adaptive: learns which drafted tokens were accepted.
    """
    one.forget_draft()
    p, q, trusted = result.p, result.q, result.trusted
    for j, token in enumerate(result.drafted[:trusted]):
        if one.active and p is not None:
            trace: Trace = {}
            traces.draft(trace, p, j)
            one.write(token, "trusted", number, trace)
            one.trusted += 1
    if q is None or not one.active:
        return
    if result.rollback is not None:
        _commit_rollback(one, result.rollback, traces, number)
        return
    one.trusted = 0
    verified, own = result.drafted[trusted:], result.token
    for j in range(min(result.accepted + (own is not None), len(verified))):
        kept = j < result.accepted
        if adaptive is not None:
            adaptive.acceptance.learn(one.draft_probs[trusted + j], kept)
        if one.active and p is not None:
            trace = {}
            traces.draft(trace, p, trusted + j)
            traces.target(trace, q, j)
            if result.distances is None:
                traces.compare(trace, p, trusted + j, q, j, one.sampling.temperature or 1.0)
            else:
                trace["total_variation"] = result.distances[j]
            if one.keep_logits:
                one.logits.append(q[j])
            if kept:
                one.write(verified[j], "accepted", number, trace)
            elif own is not None:
                one.write(own, "recovered", number, trace)
    if one.active and own is not None and result.accepted == len(verified):
        trace, place = {}, len(verified)
        traces.target(trace, q, place)
        if one.keep_logits:
            one.logits.append(q[place])
        one.write(own, "bonus", number, trace)
        # Where draft lengths are adaptive, the draft is asked only where it goes on writing anyway.
        asks = "draft" in one.method.roles and (adaptive is None or (bool(verified) and one.active))
        one.pending_bonus = q[place] if asks else None


def _commit_rollback(one: Sequence, rollback: Rollback, traces: TraceBuffer, number: int) -> None:
    trace = one.held[-rollback.count]
    one.take_back(rollback.count)
    traces.target(trace, rollback.q[None], 0)
    one.write(rollback.token, "recovered", number, trace)
    one.trusted = 0


def complete_bonus(one: Sequence, p: Tensor, place: int, traces: TraceBuffer, transforms: Transforms) -> None:
    """The record of a bonus token learns what the draft would have chosen: p[place] are its logits, [vocab]."""
    trace, q = one.held[-1], one.pending_bonus
    assert q is not None
    traces.draft(trace, p, place)
    if transforms.temperature_only:
        traces.compare(trace, p, place, q[None], 0, one.sampling.temperature or 1.0)
    else:
        own = Transforms([one.sampling], p.device)
        pair = [own.measured(z[None, None]) for z in (p[place], q)]
        trace["total_variation"] = float(total_variation(*pair))
    one.pending_bonus = None

"""What a round finds for each text (`decide`), and the one place that writes it down (`commit`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fsgen.backends.protocol import TokenIds
from fsgen.engine.batch import Batch, Group
from fsgen.engine.draft_length import AdaptiveDraftLength
from fsgen.engine.sequence import Sequence
from fsgen.engine.trace import Trace, TraceBuffer
from fsgen.methods.verifiers import Verdict
from fsgen.probs import ACCEPT, DECIDE, Transforms, left_aligned, sample, total_variation, uniforms, window
from fsgen.types import Source


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round found for one text. It changes nothing until it is committed.

    Attributes:
        drafted: the drafted tokens; p: the draft's logits at each, [n, vocab].
        trusted: how many of them, the first ones, are kept without verification.
        q: System 2's logits [m, vocab] at the others, and at the one after them where that is wanted; None where it
            was not consulted.
        accepted: how many of the others are kept.
        token: System 2's own token after these, None where none is wanted.
        distances: total variation of p and q at the verified tokens; None where it is measured later, in bulk.
        taken_back: trusted tokens, the last ones, that System 2 finds too unlikely: `token`, with q[0], replaces them.
    """

    drafted: list[int]
    p: Tensor | None
    trusted: int
    q: Tensor | None = None
    accepted: int = 0
    token: int | None = None
    distances: List[float] | None = None
    taken_back: int = 0


def decide(batch: Batch, p: Tensor | None) -> list[tuple[Group, Sequence, RoundResult]]:
    """Consults System 2 in one call of each member, and verifies the drafted tokens: a result for every active row.

    Args:
        batch: whose sequences end with their drafted tokens.
        p: the draft's logits at these, [rows, n, vocab], left-aligned; None where nothing was drafted.
    """
    # At how many positions q is wanted in each row: at the tokens to verify, and after them for a bonus token.
    wanted = [0 if one is None else one.to_verify + one.wants_bonus for one in batch.sequences]
    scores = _consult(batch, wanted) if any(wanted) else None
    return [found for group in batch.groups for found in _results(group, wanted, scores, p)]


def _consult(batch: Batch, wanted: list[int]) -> tuple[Tensor, Tensor | None]:
    """One call of each member: the logits of the target and of the base, [rows, most, vocab], right-aligned."""
    sequences: list[TokenIds | None] = [None] * batch.rows
    of_base = list(sequences)
    last = [max(1, n) for n in wanted]
    for row, one in enumerate(batch.sequences):
        if one is not None and wanted[row]:
            # The last drafted token itself is run through System 2 only where its successor is wanted too.
            sequences[row] = one.ids if one.wants_bonus else one.ids[:-1]
            if one.method.fusion.reads_base:
                of_base[row] = sequences[row]
            if one.method.rollback is not None:
                last[row] += one.trusted + one.drafted - one.to_verify
    target = batch.score("target", sequences, last)
    base = batch.score("base", of_base, last) if any(ids is not None for ids in of_base) else None
    for group in batch.groups:
        if group.adaptive is not None and not batch.reads_prompts:
            group.adaptive.system2_call.learn(max(wanted), batch.spent["system2"])
    return target, base


def _results(
    group: Group, wanted: list[int], scores: tuple[Tensor, Tensor | None] | None, p: Tensor | None
) -> Iterator[tuple[Group, Sequence, RoundResult]]:
    """Fuses and verifies the rows of a group."""
    wanted, verify = [wanted[row] for row in group.rows], [one.to_verify for one in group.sequences]
    p = None if p is None else group.of(p)
    if scores is not None and any(wanted):
        target, base = group.of(scores[0]), None
        last = [n or max(wanted) for n in wanted]
        if group.method.fusion.reads_base and scores[1] is not None:
            base = left_aligned(group.of(scores[1]), last)
        z = left_aligned(target, last)
        trusted = [one.drafted - n for one, n in zip(group.sequences, verify, strict=True)]
        z_draft = z[:, :0] if p is None else window(p, trusted, max(verify))
        q = group.method.fusion(z, z_draft, base)
        (accepted, own), distances = _verify(group, q, z_draft, verify)
    for i, one in enumerate(group.sequences):
        if one.active:
            result = RoundResult(one.draft, None if p is None else p[i], one.drafted - verify[i])
            if wanted[i]:
                token = own[i] if accepted[i] < wanted[i] else None
                result = replace(result, q=q[i], accepted=accepted[i], token=token, distances=distances[i])
                if one.method.rollback is not None:
                    result = _recheck(one, result, target[i], one.method.rollback)
            yield group, one, result


def _verify(group: Group, q: Tensor, p: Tensor, verify: list[int]) -> tuple[Verdict, List[list[float] | None]]:
    """Of each row: the accepted tokens, System 2's own after them; total variations, where not taken later."""
    transforms, verifier = group.transforms, group.verifier
    drafted = [one.ids[len(one.ids) - k :] for one, k in zip(group.sequences, verify, strict=True)]
    distances: List[list[float] | None] = [None] * len(drafted)
    if not transforms.temperature_only:
        p_drawn, q_drawn = transforms.measured(p), transforms.measured(q)
        distances = total_variation(p_drawn, q_drawn[:, : p.shape[1]]).tolist()
    if not verifier.draws:
        return verifier.verify(drafted, p, q, q, q), distances
    positions = group.positions() - np.array(verify)[:, None] + np.arange(q.shape[1])
    if verifier.couples:
        choices = transforms.race(q, group.seeds, positions)
        return verifier.verify(drafted, p, q, choices, choices), distances
    if transforms.temperature_only or transforms.any_greedy:  # greedy rows are measured as no one-hot ones
        p_drawn, q_drawn = transforms.drawn(p), transforms.drawn(q)
    accept, decision = group.uniforms(positions, ACCEPT), group.uniforms(positions, DECIDE)
    return verifier.verify(drafted, p_drawn, q_drawn, accept, decision), distances


def _recheck(one: Sequence, result: RoundResult, target: Tensor, rollback: float) -> RoundResult:
    """Takes back the first trusted token that System 2 finds too unlikely, and those after it (Kim 2302.07863).

    `target`: logits [n, vocab], the last ones at the tokens trusted since the last consultation, and one more.
    """
    trusted = one.ids[len(one.ids) - one.trusted - one.drafted : len(one.ids) - one.to_verify]
    z = target[-1 - len(trusted) : -1]
    log_ratio = z.gather(-1, torch.tensor(trusted, device=z.device, dtype=torch.long)[:, None])[:, 0] - z.amax(-1)
    unlikely = (log_ratio < math.log(rollback)).nonzero()[:, 0].tolist()
    if not unlikely:
        return result
    q, position = z[unlikely[0] :][:1], one.written - one.trusted + unlikely[0]
    draw = torch.from_numpy(uniforms(np.array([one.sampling.seed], np.uint64), np.array([position]), DECIDE))
    token = sample(Transforms([one.sampling], q.device).drawn(q[None])[0], draw.to(q.device))
    return replace(result, q=q, accepted=0, token=int(token), taken_back=len(trusted) - unlikely[0])


def commit(one: Sequence, result: RoundResult, traces: TraceBuffer, adaptive: AdaptiveDraftLength | None) -> None:
    """Writes what a round found into its text, whose `ids` end with the drafted tokens.

    `traces` completes the records; `adaptive`, where there is one, learns which drafted tokens were accepted.
    """
    one.forget_draft()
    traces.held += sum(x.numel() for x in (result.p, result.q) if x is not None)
    tokens = result.drafted[: result.trusted + result.accepted]
    if result.token is not None and not result.taken_back:
        tokens.append(result.token)
    for j, token in enumerate(tokens):
        if one.active:
            _write(one, result, j, token, traces)
    if result.taken_back and one.active and result.q is not None and result.token is not None:
        trace = one.take_back(result.taken_back)
        traces.add(trace, "target", result.q, 0, one.kept)
        one.write(result.token, "recovered", trace)
    if adaptive is not None:
        for j, prob in enumerate(one.draft_probs[: result.accepted + 1]):
            adaptive.acceptance.learn(prob, j < result.accepted)
        if not (result.drafted and one.active):
            one.pending_bonus = None  # the draft is called for it only where it goes on drafting anyway
    one.rounds += 1


def _write(one: Sequence, result: RoundResult, j: int, token: int, traces: TraceBuffer) -> None:
    """Writes the token in the place of the j-th drafted one, or after the last of them."""
    trace: Trace = {}
    p = result.p if j < len(result.drafted) else None
    q, place = result.q if j >= result.trusted else None, j - result.trusted
    if p is not None:
        traces.add(trace, "draft", p, j, one.kept)
    if q is not None:
        traces.add(trace, "target", q, place, one.kept)
    if p is not None and q is not None:
        if result.distances is None:
            traces.compare(trace, p, j, q, place, one.sampling.temperature or 1.0)
        else:
            trace["total_variation"] = result.distances[place]
    decided: Source = "accepted" if place < result.accepted else "recovered" if p is not None else "bonus"
    one.write(token, "trusted" if q is None else decided, trace)
    if q is not None and one.keep_logits:
        one.logits.append(q[place])
    if p is None and q is not None and "draft" in one.method.roles:
        one.pending_bonus = q[place]


def complete_bonus(one: Sequence, p: Tensor, place: int, traces: TraceBuffer, transforms: Transforms) -> None:
    """The record of a bonus token learns what the draft would have chosen: p[place] are its logits, [vocab]."""
    trace, q = one.held[-1], one.pending_bonus
    assert q is not None
    traces.add(trace, "draft", p, place, one.kept)
    if transforms.temperature_only:
        traces.compare(trace, p, place, q[None], 0, one.sampling.temperature or 1.0)
    else:
        own = Transforms([one.sampling], p.device)
        trace["total_variation"] = float(total_variation(*(own.measured(z[None, None]) for z in (p[place], q))))
    one.pending_bonus = None

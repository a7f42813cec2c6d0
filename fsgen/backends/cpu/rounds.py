"""Rounds of a target, with or without a draft, in compiled code: nothing is asked between two of them.

What a round is, `engine.engine` says; here are those in which a drafted token stands where the target chooses it too:
both take the likeliest token, or draw by shared noise. Logits are kept, line after line, for the records that are made
of them afterwards.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numba import carray, njit

from fsgen.backends.cpu import kernels as k
from fsgen.backends.cpu.compilation import compiled, source
from fsgen.backends.cpu.memory import BYTES, FLOATS, OPTIONS, WHOLES, array, inlined
from fsgen.backends.cpu.race import KEYS_OF
from fsgen.backends.cpu.threads import Team, clock, in_team

DOUBLES = np.float64(0)

# What a call is told, in this order: numbers, and the addresses of arrays.
(
    MANY, ROWS, MOST, ENOUGH, THREADS, DRAFT, DRAFT_CODE, DRAFT_ALONE, TARGET, TARGET_CODE, TARGET_ALONE,
    ENDS, IDS, SPAN, STATE, TOLD, TOKENS, SURE, SECONDS, CHANCES, ORDER, WROTE, WROTE_SURE, JUDGED,
    P, P_LINES, P_WIDTH, Q, Q_LINES, Q_WIDTH, DONE, WAY, KEYS, SCALES, PROMPTS, ARGUMENTS,
) = range(36)  # fmt: skip

# What is known of each row: its place in the sessions; how many tokens it has, how many of these come before those that
# are given here, and how many the draft has run; how many more may be written; whether the last one is a bonus, where p
# is still to be told; and where its beginnings are read.
(SLOT, LENGTH, BASE, HELD, LEFT, OPEN, LEAD, SHARED, DRAFT_LEAD, DRAFT_SHARED, STATES) = range(11)

# What is told of each row in each round: the tokens that the target ran, 0 where it took no part; the tokens that the
# draft ran; drafted tokens, those of them that stand, and the token after them (-1: none); and in which lines its
# logits are: p's of the first drafted token, of the second, and how far apart the others are; q's of the first. Where a
# row was OPENED, p's at the bonus are in the line before p's first.
(VERIFIED, RAN, DRAFTED, ACCEPTED, TOKEN, OPENED, P_FIRST, P_SECOND, P_STEP, Q_FIRST, FACTS) = range(11)

part = njit(inline="always", **OPTIONS)


@inlined
def pieces(a, n):
    """What a forward pass is told of each row."""
    return (
        array(a[k.PIECE_ROW], WHOLES, n), array(a[k.PIECE_LEAD], WHOLES, n), array(a[k.PIECE_SHARED], WHOLES, n),
        array(a[k.PIECE_AT], WHOLES, n), array(a[k.PIECE_COUNT], WHOLES, n), array(a[k.PIECE_START], WHOLES, n),
    )  # fmt: skip


@inlined
def ends_text(mask, token):
    """Whether a token ends a text, by the address of the mask that tells."""
    return array(mask, BYTES, 1)[token] != 0


@part
def tell_draws(c, a, order, active):
    """Tells a forward pass how the tokens of its rows are drawn."""
    n = c[ROWS]
    a[k.WAY] = c[WAY]
    if c[WAY]:
        keys, scales = array(c[KEYS], KEYS_OF, 2 * n), array(c[SCALES], FLOATS, 2 * n)
        prompts = array(c[PROMPTS], WHOLES, 2 * n)
        for place in range(active):
            row = order[place]
            keys[n + place], scales[n + place], prompts[n + place] = keys[row], scales[row], prompts[row]
        a[k.KEYS_AT], a[k.SCALES], a[k.PROMPTS] = c[KEYS] + 8 * n, c[SCALES] + 4 * n, c[PROMPTS] + 8 * n


@part
def by_steps(state, most, order):
    """The rows that take part, those with the most tokens to draft first: how many there are."""
    active = 0
    for row in range(state.shape[1]):
        if state[LEFT, row] > 0:
            place = active
            while place > 0 and min(most, state[LEFT, order[place - 1]]) < min(most, state[LEFT, row]):
                order[place] = order[place - 1]
                place -= 1
            order[place] = row
            active += 1
    return active


@part
def write(c, state, told, ids, order, active, used):
    """Lets the draft write: how many tokens, and how many lines of p there are then."""
    n, most = c[ROWS], c[MOST]
    d = array(c[DRAFT], WHOLES, k.ARGUMENTS)
    slots, leads, shared, offsets, counts, starts = pieces(d, n)
    left, latest = array(d[k.LEFT], WHOLES, n), array(d[k.LATEST], WHOLES, n)
    inputs, pick = array(d[k.IDS], WHOLES, k.MOST), array(d[k.PICK], WHOLES, k.MOST)
    chances, masks = array(c[CHANCES], FLOATS, n), array(c[ENDS], WHOLES, 2 * n)
    tokens, picks = 0, 0
    for place in range(active):
        row = order[place]
        length, base, wanted = state[LENGTH, row], state[BASE, row], 1 + state[OPEN, row]
        pending = length - state[HELD, row]
        slots[place], leads[place], shared[place] = state[SLOT, row], state[DRAFT_LEAD, row], state[DRAFT_SHARED, row]
        offsets[place], counts[place], starts[place] = tokens, pending, state[HELD, row]
        for j in range(pending):
            inputs[tokens + j] = ids[row, length - base - pending + j]
        for j in range(wanted):
            pick[picks + j] = tokens + pending - wanted + j
        tokens, picks = tokens + pending, picks + wanted
        latest[place], left[place], chances[place] = picks - 1, min(most, state[LEFT, row]), 1
        masks[n + place] = masks[row]
        told[row, RAN], told[row, OPENED], told[row, P_FIRST] = pending, state[OPEN, row], used + picks - 1
    line = 4 * c[P_WIDTH]
    d[k.TOKENS], d[k.PIECES], d[k.PICKS] = tokens, active, picks
    d[k.LOGITS] = c[P] + used * line
    d[k.FURTHER], d[k.LOGITS_STEP] = c[P] + (used + picks) * line, active * line
    d[k.WRITTEN], d[k.SURE], d[k.WRITTEN_STEP] = c[WROTE], c[WROTE_SURE], 4 * n
    d[k.CHANCES], d[k.DONE], d[k.STEPS], d[k.ENDS] = c[CHANCES], 0, left[0], c[ENDS] + 8 * n
    tell_draws(c, d, order, active)
    in_team(c[DRAFT_CODE], c[DRAFT], c[THREADS], tokens < c[DRAFT_ALONE])
    for place in range(active):
        told[order[place], P_SECOND], told[order[place], P_STEP] = used + picks + place, active
    return d[k.DONE], used + picks + (d[k.DONE] - 1) * active


@part
def verify(c, state, told, ids, tokens, order, active, used):
    """Runs the target where something is to be decided; how many lines of q there are then."""
    n = c[ROWS]
    t, masks = array(c[TARGET], WHOLES, k.ARGUMENTS), array(c[ENDS], WHOLES, n)
    slots, leads, shared, offsets, counts, starts = pieces(t, n)
    inputs, pick = array(t[k.IDS], WHOLES, k.MOST), array(t[k.PICK], WHOLES, k.MOST)
    run = 0
    for place in range(active):
        row = order[place]
        length, drafted = state[LENGTH, row], told[row, DRAFTED]
        # The last drafted token is run only where its successor is wanted too.
        whole = drafted == state[LEFT, row] or (drafted > 0 and ends_text(masks[row], tokens[row, drafted - 1]))
        count = drafted + (0 if whole else 1)
        slots[place], leads[place], shared[place] = state[SLOT, row], state[LEAD, row], state[SHARED, row]
        offsets[place], counts[place], starts[place] = run, count, length - 1
        inputs[run] = ids[row, length - state[BASE, row] - 1]
        for j in range(count - 1):
            inputs[run + 1 + j] = tokens[row, j]
        for j in range(run, run + count):
            pick[j] = j
        told[row, VERIFIED], told[row, Q_FIRST] = count, used + run
        run += count
    t[k.TOKENS], t[k.PIECES], t[k.PICKS] = run, active, run
    t[k.LOGITS], t[k.JUDGED] = c[Q] + 4 * used * c[Q_WIDTH], c[JUDGED]
    tell_draws(c, t, order, active)
    in_team(c[TARGET_CODE], c[TARGET], c[THREADS], run < c[TARGET_ALONE])
    judged = array(c[JUDGED], WHOLES, run)
    for place in range(active):
        row, first, accepted = order[place], offsets[place], 0
        drafted = told[row, DRAFTED]
        while accepted < drafted and judged[first + accepted] == tokens[row, accepted]:
            accepted += 1
        told[row, ACCEPTED] = accepted
        told[row, TOKEN] = judged[first + accepted] if accepted < counts[place] else -1
    return used + run


@part
def move_on(state, told, ids, tokens, mask, row):
    """A row takes what stands; whether it is at its end."""
    length, accepted, token, drafted = state[LENGTH, row], told[row, ACCEPTED], told[row, TOKEN], told[row, DRAFTED]
    place, written = length - state[BASE, row], accepted
    for j in range(accepted):
        ids[row, place + j] = tokens[row, j]
    if token >= 0:
        ids[row, place + accepted] = token
        written += 1
    if drafted:
        state[HELD, row] = length + min(drafted - 1, accepted)
    state[OPEN, row] = 1 if 0 < drafted == accepted and token >= 0 else 0
    state[LEFT, row] = 0 if ends_text(mask, ids[row, place + written - 1]) else state[LEFT, row] - written
    state[LENGTH, row] = length + written
    return 1 if state[LEFT, row] == 0 else 0


@part
def run(c):
    n, most = c[ROWS], c[MOST]
    state, seconds = array(c[STATE], WHOLES, (STATES, n)), array(c[SECONDS], DOUBLES, (c[MANY] + 1, 2))
    ids, masks = array(c[IDS], WHOLES, (n, c[SPAN])), array(c[ENDS], WHOLES, n)
    all_told, all_tokens = array(c[TOLD], WHOLES, (c[MANY], n, FACTS)), array(c[TOKENS], WHOLES, (c[MANY], n, most))
    wrote, wrote_sure = array(c[WROTE], WHOLES, (most, n)), array(c[WROTE_SURE], FLOATS, (most, n))
    all_sure, order = array(c[SURE], FLOATS, (c[MANY], n, most)), array(c[ORDER], WHOLES, n)
    p_used, q_used, over, began = 0, 0, 0, clock()
    for number in range(c[MANY]):
        active = by_steps(state, most, order)
        if active == 0 or over >= c[ENOUGH] or (number > 0 and clock() - began > seconds[c[MANY], 0]):
            break
        if (most > 0 and p_used + (most + 1) * n > c[P_LINES]) or q_used + (most + 1) * n > c[Q_LINES]:
            break
        told, tokens, sure = all_told[number], all_tokens[number], all_sure[number]
        started, done = clock(), 0
        if most:
            done, p_used = write(c, state, told, ids, order, active, p_used)
        for place in range(active):
            row = order[place]
            steps = min(done, state[LEFT, row])
            drafted = 0
            while drafted < steps:
                tokens[row, drafted], sure[row, drafted] = wrote[drafted, place], wrote_sure[drafted, place]
                drafted += 1
                if ends_text(masks[row], tokens[row, drafted - 1]):
                    break
            told[row, DRAFTED] = drafted
            told[row, RAN] += max(0, drafted - 1)
        verifying = clock()
        q_used = verify(c, state, told, ids, tokens, order, active, q_used)
        seconds[number, 0], seconds[number, 1] = verifying - started, clock() - verifying
        for place in range(active):
            over += move_on(state, told, ids, tokens, masks[order[place]], order[place])
        c[DONE] += 1


@cache
def rounds() -> Team:
    """The compiled rounds, compiled once a machine."""
    state = source(Path(__file__).parent)

    def rounds(arguments):
        state  # noqa: B018 - other code is another function
        run(carray(arguments, ARGUMENTS))

    return compiled(rounds)

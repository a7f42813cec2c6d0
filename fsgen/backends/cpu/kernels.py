"""The forward pass of Llama-like models on a CPU, compiled: one function, which every thread runs on its share.

All sums are taken in float32; keys and values are float32, or bfloat16, which numpy holds as the uint16 of its bits.
Where the processor multiplies pairs of bfloat16 (`panel.HAS_PAIRS`), a bfloat16 model rounds what goes into a product,
as torch does, and two neighbours of a sum (inputs of a weight, entries of a key, slots of the values) lie together.
No sum depends on what else is computed in the same call (`panel`), nor on the number of threads. So a token's logits
are the same to the last bit whether it comes alone, among drafted ones, in a prompt, or in a batch.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numba import carray, njit

from fsgen.backends.cpu.arithmetic import ONE, ZERO, clear, exp, likeliest, narrow, rms, softmax, turn, widen
from fsgen.backends.cpu.compilation import compiled, source
from fsgen.backends.cpu.gemm import LANES, double, quadruple, single
from fsgen.backends.cpu.memory import (
    BYTES,
    FLOATS,
    HALVES,
    OPTIONS,
    PAIRS,
    WHOLES,
    alike,
    array,
    at,
    inlined,
    view,
)
from fsgen.backends.cpu.threads import Team, barrier, share, team, thread

PANEL = 32  # columns of a weight that lie together, [inputs, PANEL]
BLOCK = 32  # slots whose keys lie together, [head_dim, BLOCK]
ASKS = 8  # queries that are taken at a time
# Of the type that all other counts have; a product would be compiled anew for each number it is given as it stands.
NONE, ONWARD, WIDTH = np.int64(0), np.int64(1), np.int64(PANEL)
MOST = 256  # tokens of one pass: with more, what lies between two products would not stay in a core's own cache

LOTS_ROOM = MOST + 1

part = njit(inline="always", **OPTIONS)  # of the one function, from the start: it is not compiled on its own


@njit(**OPTIONS)  # on its own, for it is long; `panel` leaves the compiler no choice of orders
def panels(
    tokens, inputs, x, x0, x_stride, w, w0, w_stride, jump, count, scales, s0, first, f0, first_stride,
    out, o0, out_stride, onward,
):  # fmt: skip
    """out = first + x w for `count` times 16 columns. Arrays come with the offset of their first entry and a stride."""
    for t in range(0, tokens, 8):
        many = min(8, tokens - t)
        xt, ft, ot = at(x, x0 + t * x_stride), f0 + t * first_stride, o0 + t * out_stride
        c = 0
        while c < count:
            wc, sc = at(w, w0 + c // 2 * jump), at(scales, s0 + c * LANES)
            fc, oc = at(first, ft + c * LANES), at(out, ot + c * LANES)
            if many <= 2 and count - c >= 4:
                quadruple(many, inputs, xt, x_stride, wc, w_stride, jump, sc, fc, first_stride, oc, out_stride, onward)
                c += 4
            elif count - c >= 2:
                double(many, inputs, xt, x_stride, wc, w_stride, jump, sc, fc, first_stride, oc, out_stride, onward)
                c += 2
            else:
                single(many, inputs, xt, x_stride, wc, w_stride, jump, sc, fc, first_stride, oc, out_stride, onward)
                c += 1


@inlined
def product(tokens, inputs, x, w, w0, many, scales, s0, first, f0, first_stride, out, out_stride):
    """out = first + x w for this thread's share of a weight's `many` panels, which begin at column w0."""
    w0 *= inputs
    begin, end = share(many)
    size, step = inputs * PANEL, 1
    if tokens <= 8:  # all panels in one go; else each stays in the core's cache while the tokens pass by
        step = max(1, end - begin)
    for number in range(begin, end, step):
        panels(
            tokens, inputs, x, NONE, inputs, w, w0 + number * size, WIDTH, size, 2 * step, scales, s0 + number * PANEL,
            first, f0 + number * PANEL, first_stride, out, number * PANEL, out_stride, NONE,
        )  # fmt: skip


# What a call is told, in this order: numbers, and the addresses of arrays.
(
    TOKENS, PIECES, PICKS, LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VALUE_DIM, INNER, ROWS, CAPACITY,
    VOCAB, QKV_PANELS, OUT_PANELS, GATE_UP_PANELS, HEAD_PANELS, NORMED, BIASED,
    IDS, PIECE_ROW, PIECE_AT, PIECE_COUNT, PIECE_START, PIECE_LEAD, PIECE_SHARED, PICK, WINDOWS,
    EMBEDDING, QKV, OUT, GATE_UP, DOWN, HEAD, KEYS, VALUES,
    QKV_SCALES, OUT_SCALES, GATE_UP_SCALES, DOWN_SCALES, HEAD_SCALES,
    ENTER, LEAVE, LAST, Q_NORM, K_NORM, QKV_BIAS, OUT_BIAS, COS, SIN, EPS, ZEROS,
    X, NORM, ASKED, SEEN, GATES, GATED, QUERIES, SCORES, SHARES, MIXED, LOTS, LOGITS,
    STEPS, DONE, LEFT, LATEST, WRITTEN, SURE, FURTHER, LOGITS_STEP, WRITTEN_STEP, BINS, CHANCES, LINES, FLOOR,
    ENDS, ARGUMENTS,
) = range(79)  # fmt: skip


@part
def remember(
    piece, h, a, layer, rows, counts, starts, offsets, asked, cos, sin, k_norm, eps, keys, values, room, turned, per
):  # fmt: skip
    """Writes the keys and values of a row's new tokens, for one head."""
    heads, kv_heads, n, wide, capacity = a[HEADS], a[KV_HEADS], a[HEAD_DIM], a[VALUE_DIM], a[CAPACITY]
    held, k_norm = (layer * a[ROWS] + rows[piece]) * kv_heads + h, view(k_norm, layer * n, len(k_norm[0]))
    for j in range(counts[piece]):
        token, s = (offsets[piece] + j) * a[QKV_PANELS] * PANEL, starts[piece] + j
        turn(view(asked, token + (heads + h) * n, n), k_norm, eps, cos, sin, s * (n // 2), ONE, room, turned)
        taken = view(keys, held * n * capacity + s // BLOCK * (n * BLOCK) + s % BLOCK * per, n * BLOCK)
        for d in range(n // per):
            for i in range(per):
                taken[d * per * BLOCK + i] = narrow(turned[d * per + i], taken[0])
        v = view(asked, token + (heads + kv_heads + h) * n, n)
        put = view(values, held * wide * capacity + s // per * (per * wide) + s % per, per * n)
        for d in range(n):
            put[d * per] = narrow(v[d], put[0])


@inlined
def asked_by(piece, first, each, a0, many):
    """Of the queries a0 .. a0 + many - 1 of rows with `each` of them, those of one (from .. to - 1): its own from."""
    before = a0 - (piece - first) * each
    begin, end = max(0, -before), min(many, each - before)
    return begin, end, begin + before


@inlined
def earliest(position, window, per):
    """The first slot that a query sees, or one of its pair."""
    return max(0, position + 1 - window) // per * per if window else 0


@part
def attend(
    first, count, h, a, layer, rows, leads, shared, counts, starts, offsets, windows, asked, cos, sin, q_norm, eps,
    zeros, queries, scores, shares, mixed, seen, per, kept, read,
):  # fmt: skip
    """What some rows' new tokens see, by one of the heads of keys and values.

    Rows that read their beginning in one neighbour, `count` of them, do so together; each goes on by itself. Products
    read `per` numbers together, as one of the type `kept` (keys and values) or `read` (the rest).
    """
    heads, kv_heads, n, wide, capacity = a[HEADS], a[KV_HEADS], a[HEAD_DIM], a[VALUE_DIM], a[CAPACITY]
    group, stride, window = heads // kv_heads, a[QKV_PANELS] * PANEL, windows[layer]
    q_norm, factor, room = view(q_norm, layer * n, len(q_norm[0])), ONE / np.sqrt(np.float32(n)), view(mixed, 0, n)
    keys_in, values_in = array(a[KEYS], kept, 1), array(a[VALUES], kept, 1)
    queries_in, shares_in = alike(queries, read), alike(shares, read)
    lead = (layer * a[ROWS] + leads[first]) * kv_heads + h
    own_block, each = shared[first] // BLOCK, group * counts[first]
    own_slot, asks = own_block * BLOCK, count * each
    for a0 in range(0, asks, ASKS):
        many, low = min(ASKS, asks - a0), capacity
        here, there = first + a0 // each, first + (a0 + many - 1) // each + 1
        for piece in range(here, there):
            begin, end, mine = asked_by(piece, first, each, a0, many)
            low = min(low, earliest(starts[piece] + mine // group, window, per))
            for i in range(begin, end):
                j, g = (mine + i - begin) // group, (mine + i - begin) % group
                head, place = (offsets[piece] + j) * stride + (h * group + g) * n, (starts[piece] + j) * (n // 2)
                turn(view(asked, head, n), q_norm, eps, cos, sin, place, factor, room, view(queries, i * n, n))
        block = low // BLOCK
        panels(
            many, n // per, queries_in, NONE, n // per, keys_in, (lead * capacity + block * BLOCK) * n // per, WIDTH,
            n // per * BLOCK, 2 * (own_block - block), zeros, NONE, zeros, NONE, NONE, scores, block * BLOCK, capacity,
            NONE,
        )  # fmt: skip
        for piece in range(here, there):
            begin, end, mine = asked_by(piece, first, each, a0, many)
            held = (layer * a[ROWS] + rows[piece]) * kv_heads + h
            block = max(own_block, earliest(starts[piece] + mine // group, window, per) // BLOCK)
            last = starts[piece] + (mine + end - begin - 1) // group + 1
            panels(
                end - begin, n // per, queries_in, begin * n // per, n // per, keys_in,
                (held * capacity + block * BLOCK) * n // per, WIDTH, n // per * BLOCK,
                2 * ((last + BLOCK - 1) // BLOCK - block), zeros, NONE, zeros, NONE, NONE,
                scores, begin * capacity + block * BLOCK, capacity, NONE,
            )  # fmt: skip
            whole = (last + per - 1) // per * per
            for i in range(begin, end):
                until, row = starts[piece] + (mine + i - begin) // group + 1, i * capacity
                since = max(0, until - window) if window else 0
                softmax(view(scores, row + since, until - since), view(shares, row + since, until - since))
                clear(view(shares, row + low, since - low))
                clear(view(shares, row + until, whole - until))
        clear(view(mixed, 0, many * wide))
        panels(
            many, (own_slot - low) // per, shares_in, low // per, capacity // per, values_in,
            (lead * capacity + low) * wide // per, wide, 2 * LANES, wide // LANES,
            zeros, NONE, mixed, NONE, wide, mixed, NONE, wide, ONWARD,
        )  # fmt: skip
        for piece in range(here, there):
            begin, end, mine = asked_by(piece, first, each, a0, many)
            held = (layer * a[ROWS] + rows[piece]) * kv_heads + h
            slot = max(own_slot, earliest(starts[piece] + mine // group, window, per))
            last = starts[piece] + (mine + end - begin - 1) // group + 1
            panels(
                end - begin, ((last + per - 1) // per * per - slot) // per, shares_in, (begin * capacity + slot) // per,
                capacity // per, values_in, (held * capacity + slot) * wide // per, wide, 2 * LANES, wide // LANES,
                zeros, NONE, mixed, begin * wide, wide, mixed, begin * wide, wide, ONWARD,
            )  # fmt: skip
            for i in range(begin, end):
                j, g = (mine + i - begin) // group, (mine + i - begin) % group
                done = view(seen, ((offsets[piece] + j) * heads + h * group + g) * n, n)
                weighed = view(mixed, i * wide, n)
                for d in range(n):
                    done[d] = narrow(weighed[d], done[0])


@inlined
def make_lots(a, leads, shared, counts, lots):
    """Joins rows, next to each other, that read the same beginning: how many lots there are, and where each starts."""
    pieces, group = a[PIECES], a[HEADS] // a[KV_HEADS]
    most = max(1, pieces * a[KV_HEADS] // np.int64(team()))  # or other threads would have nothing to do
    made, piece = 0, 0
    while piece < pieces:
        first, lots[made] = piece, piece
        room = min(most, ASKS // (group * counts[piece])) if shared[piece] else 1
        piece += 1
        while (
            piece < pieces
            and piece - first < room
            and leads[piece] == leads[first]
            and shared[piece] == shared[first]
            and counts[piece] == counts[first]
        ):
            piece += 1
        made += 1
    lots[made] = pieces
    return made


@part
def choose(a):
    """Each row's likeliest token becomes its next one; `sure` is how likely it is."""
    rows, columns = a[PIECES], a[HEAD_PANELS] * PANEL
    ids, latest = array(a[IDS], WHOLES, rows), array(a[LATEST], WHOLES, rows)
    logits, written, sure = array(a[LOGITS], FLOATS, 1), array(a[WRITTEN], WHOLES, rows), array(a[SURE], FLOATS, rows)
    begin, end = share(rows)
    for row in range(begin, end):
        here = view(logits, latest[row] * columns, a[VOCAB])
        top, token = likeliest(here)
        total = ZERO
        for i in range(len(here)):
            total += exp(here[i] - top)
        ids[row], written[row], sure[row] = token, token, ONE / total


@part
def advance(a):
    """On to each row's next token. Rows at the end of their text, or that have written all they were to, drop out if
    they are the last ones; and all, where few more tokens would stand."""
    rows = a[PIECES]
    left, sure, chances = array(a[LEFT], WHOLES, rows), array(a[SURE], FLOATS, rows), array(a[CHANCES], FLOATS, rows)
    ids, ends = array(a[IDS], WHOLES, rows), array(a[ENDS], WHOLES, rows)
    for row in range(rows):
        left[row] = 0 if a[ENDS] and array(ends[row], BYTES, 1)[ids[row]] else left[row] - 1
    bins = a[BINS]  # of probabilities, each with a line that tells how often such tokens stand; 0 without a limit
    if bins:
        lines, standing = array(a[LINES], FLOATS, (bins, 2)), ZERO
        for row in range(rows):
            line = lines[min(bins - 1, int(sure[row] * bins))]
            chances[row] *= line[0] + line[1] * sure[row]
            standing += chances[row] if left[row] > 0 else ZERO
        if standing <= array(a[FLOOR], FLOATS, 1)[0]:
            a[PIECES] = 0
            return
    while rows > 0 and left[rows - 1] <= 0:
        rows -= 1
    starts, counts = array(a[PIECE_START], WHOLES, rows), array(a[PIECE_COUNT], WHOLES, rows)
    offsets, pick = array(a[PIECE_AT], WHOLES, rows), array(a[PICK], WHOLES, rows)
    latest = array(a[LATEST], WHOLES, rows)
    for row in range(rows):
        starts[row] += counts[row]
        counts[row], offsets[row], pick[row], latest[row] = 1, row, row, row
    a[TOKENS] = a[PIECES] = a[PICKS] = rows
    a[LOGITS] = a[FURTHER]
    a[FURTHER] += a[LOGITS_STEP]
    a[WRITTEN] += 2 * a[WRITTEN_STEP]
    a[SURE] += a[WRITTEN_STEP]


@part
def one_pass(a, weights, held, kept, given, read, per):
    """All layers for the tokens of a call.

    Types: of weights; of embeddings, keys and values; of the latter as products read them; of what else goes into
    products, as it is written and as it is read.
    """
    tokens, pieces, picks, layers, hidden = a[TOKENS], a[PIECES], a[PICKS], a[LAYERS], a[HIDDEN]
    heads, kv_heads, n, inner = a[HEADS], a[KV_HEADS], a[HEAD_DIM], a[INNER]
    qkv_columns, out_columns = a[QKV_PANELS] * PANEL, a[OUT_PANELS] * PANEL
    gate_up_columns, head_columns = a[GATE_UP_PANELS] * PANEL, a[HEAD_PANELS] * PANEL
    me, norms = np.int64(thread()), n if a[NORMED] else 0
    ids, pick = array(a[IDS], WHOLES, tokens), array(a[PICK], WHOLES, picks)
    rows, offsets = array(a[PIECE_ROW], WHOLES, pieces), array(a[PIECE_AT], WHOLES, pieces)
    counts, starts = array(a[PIECE_COUNT], WHOLES, pieces), array(a[PIECE_START], WHOLES, pieces)
    leads, shared = array(a[PIECE_LEAD], WHOLES, pieces), array(a[PIECE_SHARED], WHOLES, pieces)
    windows = array(a[WINDOWS], WHOLES, layers)
    # Of what is read by offsets alone, the length does not matter.
    qkv, out, head = array(a[QKV], weights, 1), array(a[OUT], weights, 1), array(a[HEAD], weights, 1)
    gate_up, down = array(a[GATE_UP], weights, 1), array(a[DOWN], weights, 1)
    qkv_scales, out_scales = array(a[QKV_SCALES], FLOATS, 1), array(a[OUT_SCALES], FLOATS, 1)
    gate_up_scales, down_scales = array(a[GATE_UP_SCALES], FLOATS, 1), array(a[DOWN_SCALES], FLOATS, 1)
    head_scales, logits = array(a[HEAD_SCALES], FLOATS, 1), array(a[LOGITS], FLOATS, 1)
    keys, values, zeros = array(a[KEYS], held, 1), array(a[VALUES], held, 1), array(a[ZEROS], FLOATS, 1)
    qkv_bias, out_bias = array(a[QKV_BIAS], FLOATS, 1), array(a[OUT_BIAS], FLOATS, (layers, out_columns))
    cos, sin, eps = array(a[COS], FLOATS, 1), array(a[SIN], FLOATS, 1), array(a[EPS], FLOATS, 1)[0]
    enter, leave = array(a[ENTER], FLOATS, (layers, hidden)), array(a[LEAVE], FLOATS, (layers, hidden))
    q_norm, k_norm = array(a[Q_NORM], FLOATS, (layers, norms)), array(a[K_NORM], FLOATS, (layers, norms))
    last, embedding = array(a[LAST], FLOATS, hidden), array(a[EMBEDDING], held, (a[VOCAB], hidden))
    x, norm = array(a[X], FLOATS, (tokens, out_columns)), array(a[NORM], given, (tokens, hidden))
    x_in, asked, seen = array(a[X], FLOATS, 1), array(a[ASKED], FLOATS, 1), array(a[SEEN], given, 1)
    gates, gated = array(a[GATES], FLOATS, 1), array(a[GATED], given, 1)
    norm_in, seen_in, gated_in = array(a[NORM], read, 1), array(a[SEEN], read, 1), array(a[GATED], read, 1)
    queries = view(array(a[QUERIES], given, 1), me * ASKS * n, ASKS * n)
    scores = view(array(a[SCORES], FLOATS, 1), me * ASKS * a[CAPACITY], ASKS * a[CAPACITY])
    shares = view(array(a[SHARES], given, 1), me * ASKS * a[CAPACITY], ASKS * a[CAPACITY])
    mixed = view(array(a[MIXED], FLOATS, 1), me * ASKS * a[VALUE_DIM], ASKS * a[VALUE_DIM])

    first_token, last_token = share(tokens)
    first_column, last_column = share(a[OUT_PANELS])
    first_gate, last_gate = share(a[GATE_UP_PANELS])
    lots = view(array(a[LOTS], WHOLES, 1), me * LOTS_ROOM, LOTS_ROOM)
    many = make_lots(a, leads, shared, counts, lots)
    first_item, last_item = share(many * kv_heads)
    first_pick, last_pick = share(picks)
    for t in range(first_token, last_token):
        here, token = x[t], embedding[ids[t]]
        for i in range(hidden):
            here[i] = widen(token[i])
    for layer in range(layers):
        for t in range(first_token, last_token):
            rms(x[t], hidden, enter[layer], eps, norm[t])
        barrier()
        start = layer * qkv_columns
        product(
            tokens, hidden // per, norm_in, qkv, start, a[QKV_PANELS], qkv_scales, start, qkv_bias, start, NONE,
            asked, qkv_columns,
        )  # fmt: skip
        barrier()
        for item in range(first_item, last_item):
            h, lot = item // many, item % many
            for piece in range(lots[lot], lots[lot + 1]):
                remember(
                    piece, h, a, layer, rows, counts, starts, offsets, asked, cos, sin, k_norm, eps, keys, values,
                    view(mixed, 0, n), view(scores, 0, n), per,
                )  # fmt: skip
            attend(
                lots[lot], lots[lot + 1] - lots[lot], h, a, layer, rows, leads, shared, counts, starts, offsets,
                windows, asked, cos, sin, q_norm, eps, zeros, queries, scores, shares, mixed, seen, per, kept, read,
            )  # fmt: skip
        if a[BIASED]:  # of the output, on this thread's columns
            for t in range(tokens):
                here, more = x[t], out_bias[layer]
                for i in range(first_column * PANEL, last_column * PANEL):
                    here[i] += more[i]
        barrier()
        start = layer * out_columns
        product(
            tokens, heads * n // per, seen_in, out, start, a[OUT_PANELS], out_scales, start, x_in, NONE, out_columns,
            x_in, out_columns,
        )  # fmt: skip
        barrier()
        for t in range(first_token, last_token):
            rms(x[t], hidden, leave[layer], eps, norm[t])
        barrier()
        start = layer * gate_up_columns
        product(
            tokens, hidden // per, norm_in, gate_up, start, a[GATE_UP_PANELS], gate_up_scales, start, zeros, NONE, NONE,
            gates, gate_up_columns,
        )  # fmt: skip
        for t in range(tokens):
            for number in range(first_gate, last_gate):  # a panel has 16 columns of each
                both = view(gates, t * gate_up_columns + number * PANEL, PANEL)
                done = view(gated, t * inner + number * LANES, LANES)
                for i in range(LANES):
                    done[i] = narrow(both[i] / (ONE + exp(-both[i])) * both[LANES + i], done[0])
        barrier()
        start = layer * out_columns
        product(
            tokens, inner // per, gated_in, down, start, a[OUT_PANELS], down_scales, start, x_in, NONE, out_columns,
            x_in, out_columns,
        )  # fmt: skip
        barrier()
    if picks == 0:
        return
    for k in range(first_pick, last_pick):
        rms(x[pick[k]], hidden, last, eps, norm[k])
    barrier()
    product(
        picks, hidden // per, norm_in, head, NONE, a[HEAD_PANELS], head_scales, NONE, zeros, NONE, NONE,
        logits, head_columns,
    )  # fmt: skip


@part
def run(a, weights, held, kept, given, read, per):
    """One pass; or as many as there are steps, each row's likeliest token going into the next one."""
    for _ in range(max(1, a[STEPS])):
        one_pass(a, weights, held, kept, given, read, per)
        if a[STEPS] == 0:
            break
        barrier()
        choose(a)
        barrier()
        if thread() == 0:
            a[DONE] += 1
            advance(a)
        barrier()
        if a[PIECES] == 0:
            break


# See `one_pass`.
_KINDS = {
    "float32": (FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, 1),
    "bfloat16": (HALVES, HALVES, HALVES, FLOATS, FLOATS, 1),
    "bfloat16 pairs": (PAIRS, HALVES, PAIRS, HALVES, PAIRS, 2),
    "int8": (BYTES, FLOATS, FLOATS, FLOATS, FLOATS, 1),
}


@cache
def forward(kind: str) -> Team:
    """The compiled forward pass for weights of float32, bfloat16 (one by one, or in pairs), or int8 beside float32.

    Compiled once a machine: what is kept is told by these variables, which all have to be plain values.
    """
    weights, held, kept, given, read, per = _KINDS[kind]
    state = source(Path(__file__).parent)

    def forward(arguments):
        state  # noqa: B018 - other code is another function
        run(carray(arguments, ARGUMENTS), weights, held, kept, given, read, per)

    return compiled(forward)

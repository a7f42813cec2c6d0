"""Attention over cached keys and values, compiled.

Rows that begin alike may read their prefix in one of them, together (as cascade attention does); then each goes on by
itself. Queries are taken a tile at a time. No sum depends on which queries share a tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fsgen.backends.cpu.arguments import BLOCK, MAX_TOKENS, QUERIES
from fsgen.backends.cpu.arithmetic import ONE, ZERO, apply_rope, clear, narrow, rms_norm, soft_cap, softmax
from fsgen.backends.cpu.gemm import ADD_FIRST, ADD_LAST, BROADCAST, LANES, WIDTH, Columns, Rows, gemm, gemm_strided
from fsgen.backends.cpu.memory import FLOAT32, INT64, at, pointer, stage, view
from fsgen.backends.cpu.threads import share

GROUPS_ROOM = MAX_TOKENS + 1


class Scratch(NamedTuple):
    """This thread's room for a tile of queries: [QUERIES, ...] each, some as they are written and as they are read."""

    queries: Any
    queries_read: Any
    scores: Any
    probs: Any
    probs_read: Any
    context: Any
    zeros: Any


class Tile(NamedTuple):
    """Some queries of a group of chunks that read one prefix, for one head of keys and values.

    Attributes:
        layer, head: which head of keys and values.
        group: the first chunk of the group. per_chunk: the queries of each: its tokens, each with all heads that share
            these keys and values.
        first, queries: which of the group's queries, and how many.
        chunk, chunk_end: whose they are.
    """

    layer: int
    head: int
    group: int
    per_chunk: int
    first: int
    queries: int
    chunk: int
    chunk_end: int


class Part(NamedTuple):
    """What of a tile belongs to one chunk: queries begin .. end - 1, which are its own from `before` + begin on.

    It sees slots first .. last - 1 of the cache, or, with a sliding window, some of its queries do.
    """

    begin: int
    end: int
    before: int
    first: int
    last: int


@stage
def attention(args, t, me, layer):
    """Caches new keys and values, and attends, for this thread's share of groups and heads."""
    groups = view(pointer(args.groups, INT64), me.number * GROUPS_ROOM, GROUPS_ROOM)
    scratch = _scratch(args, t, me)
    num_groups = _group_chunks(args, me, groups)
    begin, end = share(me, num_groups * args.num_kv_heads)
    for item in range(begin, end):
        head, group = item // num_groups, item % num_groups
        for i in range(groups[group], groups[group + 1]):
            write_kv(args, t, layer, head, i, scratch)
        per_chunk = args.num_heads // args.num_kv_heads * args.chunks[groups[group]].num_tokens
        queries = (groups[group + 1] - groups[group]) * per_chunk
        for first in range(0, queries, QUERIES):
            count = min(QUERIES, queries - first)
            chunk, chunk_end = first // per_chunk, (first + count - 1) // per_chunk + 1
            start = groups[group]
            tile = Tile(layer, head, start, per_chunk, first, count, start + chunk, start + chunk_end)
            _attend_tile(args, t, tile, scratch)


@stage
def _scratch(args, t, me):
    tile = me.number * QUERIES
    queries, probs = tile * args.head_dim, tile * args.cache_slots
    return Scratch(
        at(pointer(args.queries, t.activation), queries),
        at(pointer(args.queries, t.activation_read), queries // t.per),
        at(pointer(args.scores, FLOAT32), probs),
        at(pointer(args.probs, t.activation), probs),
        at(pointer(args.probs, t.activation_read), probs // t.per),
        at(pointer(args.context, FLOAT32), tile * args.value_dim),
        pointer(args.zeros, FLOAT32),
    )


@stage
def _group_chunks(args, me, groups):
    """Joins chunks, next to each other, that read the same prefix: how many groups, and where each starts."""
    chunks, num_chunks = args.chunks, args.num_chunks
    heads = args.num_heads // args.num_kv_heads
    most = max(1, num_chunks * args.num_kv_heads // me.team)  # or other threads would have nothing to do
    made, i = 0, 0
    while i < num_chunks:
        groups[made] = first = i
        lead = chunks[first]
        room = min(most, QUERIES // (heads * lead.num_tokens)) if lead.prefix_length else 1
        i += 1
        while (
            i < num_chunks
            and i - first < room
            and chunks[i].prefix_row == lead.prefix_row
            and chunks[i].prefix_length == lead.prefix_length
            and chunks[i].num_tokens == lead.num_tokens
        ):
            i += 1
        made += 1
    groups[made] = num_chunks
    return made


@stage
def _slot(args, layer, head, row, slot):
    """A row's slot, among those of all layers, rows and heads."""
    return ((layer * args.cache_rows + row) * args.num_kv_heads + head) * args.cache_slots + slot


@stage
def _norm_and_rope(args, layer, start, norm, position, scale, room, out):
    """A query or a key as it goes into a product: normed where its family does that, scaled, rotated."""
    n = args.head_dim
    if norm and not args.norm_all_heads:
        rms_norm(view(start, 0, n), view(pointer(norm, FLOAT32), layer * n, n), args.norm_eps, view(room, 0, n))
        start = room
    angle = (pointer(args.rope_tables, INT64)[layer] * args.rope_positions + position) * (n // 2)
    cos, sin = at(pointer(args.rope_cos, FLOAT32), angle), at(pointer(args.rope_sin, FLOAT32), angle)
    apply_rope(n // 2, start, cos, sin, scale, out)


@stage
def norm_all_heads(args, me, layer):
    """Norms queries, and keys, of all heads of a token together, where a family does that."""
    n, columns = args.head_dim, args.qkv_proj.panels * WIDTH
    begin, end = share(me, args.num_tokens)
    for token in range(begin, end):
        start = at(pointer(args.qkv, FLOAT32), token * columns)
        for of_keys in range(2):
            first, count = (args.num_heads * n, args.num_kv_heads * n) if of_keys else (0, args.num_heads * n)
            numbers, weight = view(start, first, count), args.k_norm if of_keys else args.q_norm
            rms_norm(numbers, view(pointer(weight, FLOAT32), layer * count, count), args.norm_eps, numbers)


@stage
def write_kv(args, t, layer, head, i, scratch):
    """Writes the keys and values of a chunk's tokens into the cache, for one head."""
    chunk, n, per, value_dim = args.chunks[i], args.head_dim, t.per, args.value_dim
    heads, kv_heads, columns = args.num_heads, args.num_kv_heads, args.qkv_proj.panels * WIDTH
    begin = _slot(args, layer, head, chunk.row, 0)
    keys = at(pointer(args.key_cache, t.cache), begin * n)
    values = at(pointer(args.value_cache, t.cache), begin * value_dim)
    rotated = view(scratch.scores, 0, n)
    for j in range(chunk.num_tokens):
        token, slot = at(pointer(args.qkv, FLOAT32), (chunk.first_token + j) * columns), chunk.position + j
        key = at(token, (heads + head) * n)
        _norm_and_rope(args, layer, key, args.k_norm, slot, ONE, scratch.context, scratch.scores)
        taken = view(keys, slot // BLOCK * (n * BLOCK) + slot % BLOCK * per, n * BLOCK)
        for d in range(n // per):
            for k in range(per):
                taken[d * per * BLOCK + k] = narrow(rotated[d * per + k], taken[0])
        value = view(token, (heads + kv_heads + head) * n, n)
        put = view(values, slot // per * (per * value_dim) + slot % per, per * n)
        for d in range(n):
            put[d * per] = narrow(value[d], put[0])


@stage
def _part(args, t, tile, i):
    chunk, heads = args.chunks[i], args.num_heads // args.num_kv_heads
    before = tile.first - (i - tile.group) * tile.per_chunk
    begin, end = max(0, -before), min(tile.queries, tile.per_chunk - before)
    first = _first_slot(args, t, tile, chunk.position + (begin + before) // heads)
    return Part(begin, end, before, first, chunk.position + (before + end - 1) // heads + 1)


@stage
def _first_slot(args, t, tile, position):
    """The first slot that a query sees, or one of its pair."""
    window = pointer(args.sliding_windows, INT64)[tile.layer]
    return max(0, position + 1 - window) // t.per * t.per if window else 0


@stage
def _attend_tile(args, t, tile, scratch):
    """What the queries of a tile see."""
    low = args.cache_slots  # the first slot that any of them sees
    for i in range(tile.chunk, tile.chunk_end):
        part = _part(args, t, tile, i)
        low = min(low, part.first)
        _read_queries(args, tile, i, part, scratch)
    _score_prefix(args, t, tile, low, scratch)
    for i in range(tile.chunk, tile.chunk_end):
        part = _part(args, t, tile, i)
        _score_own(args, t, tile, i, part, scratch)
        _softmax(args, t, tile, i, part, low, scratch)
    clear(view(scratch.context, 0, tile.queries * args.value_dim))
    _add_prefix_values(args, t, tile, low, scratch)
    for i in range(tile.chunk, tile.chunk_end):
        part = _part(args, t, tile, i)
        _add_own_values(args, t, tile, i, part, scratch)
        _write_out(args, t, tile, i, part, scratch)


@stage
def _read_queries(args, tile, i, part, scratch):
    chunk, n, heads = args.chunks[i], args.head_dim, args.num_heads // args.num_kv_heads
    columns, scale = args.qkv_proj.panels * WIDTH, args.attention_scale
    for q in range(part.begin, part.end):
        j, g = (part.before + q) // heads, (part.before + q) % heads
        query = at(pointer(args.qkv, FLOAT32), (chunk.first_token + j) * columns + (tile.head * heads + g) * n)
        out = at(scratch.queries, q * n)
        _norm_and_rope(args, tile.layer, query, args.q_norm, chunk.position + j, scale, scratch.context, out)


@stage
def _score(args, t, start, blocks, begin, end, column, scratch):
    """Scores of queries begin .. end - 1 with the keys of some blocks of slots, from slot `start` of the cache on."""
    n, slots = args.head_dim // t.per, args.cache_slots
    queries = Rows(at(scratch.queries_read, begin * n), n)
    keys = Columns(at(pointer(args.key_cache, t.cache_read), start * n), WIDTH, n * BLOCK, scratch.zeros, WIDTH)
    scores = Rows(at(scratch.scores, begin * slots + column), slots)
    gemm(end - begin, n, 2 * blocks, queries, keys, Rows(scratch.zeros, BROADCAST), scores, ADD_LAST)


@stage
def _score_prefix(args, t, tile, low, scratch):
    lead, block = args.chunks[tile.group], low // BLOCK
    start = _slot(args, tile.layer, tile.head, lead.prefix_row, block * BLOCK)
    _score(args, t, start, lead.prefix_length // BLOCK - block, 0, tile.queries, block * BLOCK, scratch)


@stage
def _score_own(args, t, tile, i, part, scratch):
    chunk = args.chunks[i]
    block = max(chunk.prefix_length, part.first) // BLOCK
    start = _slot(args, tile.layer, tile.head, chunk.row, block * BLOCK)
    blocks = (part.last + BLOCK - 1) // BLOCK - block
    _score(args, t, start, blocks, part.begin, part.end, block * BLOCK, scratch)


@stage
def _softmax(args, t, tile, i, part, low, scratch):
    """Probabilities of what each query sees; 0 for the rest of what is multiplied with its neighbours' values."""
    position, heads, slots = args.chunks[i].position, args.num_heads // args.num_kv_heads, args.cache_slots
    window, end = pointer(args.sliding_windows, INT64)[tile.layer], (part.last + t.per - 1) // t.per * t.per
    for q in range(part.begin, part.end):
        until = position + (part.before + q) // heads + 1
        since = max(0, until - window) if window else 0
        scores, probs = at(scratch.scores, q * slots), at(scratch.probs, q * slots)
        if args.attention_cap > ZERO:
            soft_cap(view(scores, since, until - since), args.attention_cap)
        softmax(view(scores, since, until - since), view(probs, since, until - since))
        clear(view(probs, low, since - low))
        clear(view(probs, until, end - until))


@stage
def _add_values(args, t, start, slots, begin, end, slot, scratch):
    """Adds to queries begin .. end - 1 the values of some slots, from slot `start` of the cache on."""
    width, count = args.value_dim, args.cache_slots // t.per
    probs = Rows(at(scratch.probs_read, begin * count + slot // t.per), count)
    values = at(pointer(args.value_cache, t.cache_read), start * width // t.per)
    context = Rows(at(scratch.context, begin * width), width)
    columns = Columns(values, width, WIDTH, scratch.zeros, WIDTH)
    gemm_strided(end - begin, slots // t.per, width // LANES, probs, columns, context, context, ADD_FIRST)


@stage
def _add_prefix_values(args, t, tile, low, scratch):
    lead = args.chunks[tile.group]
    start = _slot(args, tile.layer, tile.head, lead.prefix_row, low)
    _add_values(args, t, start, lead.prefix_length - low, 0, tile.queries, low, scratch)


@stage
def _add_own_values(args, t, tile, i, part, scratch):
    chunk = args.chunks[i]
    slot = max(chunk.prefix_length, part.first)
    start = _slot(args, tile.layer, tile.head, chunk.row, slot)
    slots = (part.last + t.per - 1) // t.per * t.per - slot
    _add_values(args, t, start, slots, part.begin, part.end, slot, scratch)


@stage
def _write_out(args, t, tile, i, part, scratch):
    n, heads = args.head_dim, args.num_heads // args.num_kv_heads
    for q in range(part.begin, part.end):
        j, g = (part.before + q) // heads, (part.before + q) % heads
        token = (args.chunks[i].first_token + j) * args.num_heads + tile.head * heads + g
        out = view(pointer(args.attention_out, t.activation), token * n, n)
        context = view(scratch.context, q * args.value_dim, n)
        for d in range(n):
            out[d] = narrow(context[d], out[0])

"""Runs the compiled forward pass for one session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fsgen.backends.cpu import kernels as k
from fsgen.backends.cpu.gemm import LANES
from fsgen.backends.cpu.weights import CpuWeights
from fsgen.backends.forward import Work
from fsgen.backends.transformers.slots import GROWTH
from fsgen.types import Limit

if TYPE_CHECKING:
    from fsgen.types import Ends

# Two threads have to meet seven times a layer; fewer multiplications than this are done sooner by one.
ALONE = 2_000_000
GAP = 1024  # float32 between two parts of the scratch memory

Written = tuple[Tensor, Tensor, list[list[int]], list[list[float]]]
Piece = tuple[Work, int, int]  # what a row needs, and which of its positions a pass runs: from .. to - 1


class CpuForward:
    """The keys and values of a session, and its calls (see `fsgen.backends.forward.Forward`).

    Args:
        weights: shared by all sessions of a model.
        rows, context: of the session; the longest row there can be, in tokens.

    Attributes:
        arguments: what the compiled function is told (`kernels`).
    """

    def __init__(self, weights: CpuWeights, rows: int, context: int) -> None:
        self._w = w = weights
        self.rows, self._context = rows, context
        self.capacity = 0
        self.function = k.forward(w.kind)
        self.width = k.PANEL * len(w.head)  # entries of a line of logits, of which `vocab` count
        self.vocab = w.vocab
        self.alone = -(-ALONE // w.products)  # fewer tokens than this are for one thread
        # [layers, rows, kv_heads, blocks, head_dim, BLOCK] and [layers, rows, kv_heads, slots, value_dim]; where
        # numbers lie in pairs, `per` neighbours of head_dim, and of the slots, come last
        self._keys = self._values = torch.empty(0)
        self._inputs = np.zeros((2, k.MOST), dtype=np.int64)  # token ids, and the tokens whose logits are wanted
        self._pieces = np.zeros((8, k.MOST), dtype=np.int64)
        self._scratch = torch.empty(0)
        self._lots = np.zeros((0, 0), dtype=np.int64)
        self._tokens = self._team = 0  # tokens and threads that the scratch has room for
        self.arguments = a = np.zeros(k.ARGUMENTS, dtype=np.int64)
        numbers = {
            k.LAYERS: w.layers, k.HIDDEN: w.hidden, k.HEADS: w.heads, k.KV_HEADS: w.kv_heads, k.HEAD_DIM: w.head_dim,
            k.VALUE_DIM: w.value_dim, k.INNER: w.inner, k.ROWS: rows, k.VOCAB: w.vocab, k.NORMED: w.normed,
            k.BIASED: w.biased, k.QKV_PANELS: w.qkv.shape[1], k.OUT_PANELS: w.out.shape[1],
            k.GATE_UP_PANELS: w.gate_up.shape[1], k.HEAD_PANELS: len(w.head),
            k.IDS: self._inputs[0].ctypes.data, k.PICK: self._inputs[1].ctypes.data,
        }  # fmt: skip
        fields = (
            k.PIECE_ROW, k.PIECE_LEAD, k.PIECE_SHARED, k.PIECE_AT, k.PIECE_COUNT, k.PIECE_START, k.LEFT, k.LATEST,
        )  # fmt: skip
        numbers |= {field: row.ctypes.data for field, row in zip(fields, self._pieces, strict=True)}
        held = {
            k.WINDOWS: w.windows, k.EMBEDDING: w.embedding, k.QKV: w.qkv, k.OUT: w.out, k.GATE_UP: w.gate_up,
            k.DOWN: w.down, k.HEAD: w.head, k.ENTER: w.enter, k.LEAVE: w.leave, k.LAST: w.last, k.Q_NORM: w.q_norm,
            k.K_NORM: w.k_norm, k.QKV_BIAS: w.qkv_bias, k.OUT_BIAS: w.out_bias, k.EPS: w.eps,
        }  # fmt: skip
        for name, scales in w.scales.items():
            held[getattr(k, f"{name.upper()}_SCALES")] = scales
        numbers |= {field: tensor.data_ptr() for field, tensor in held.items()}
        a[list(numbers)] = list(numbers.values())

    def reserve(self, longest: int) -> None:
        """Makes room for rows of so many tokens."""
        if longest <= self.capacity:
            return
        w, old = self._w, self.capacity
        self.capacity = w.slots(max(longest, int(GROWTH * old)), self._context)
        shape = (w.layers, self.rows, w.kv_heads)
        keys = torch.empty(*shape, self.capacity // k.BLOCK, w.head_dim, k.BLOCK, dtype=w.dtype)
        # What has never been written is read where it shares a pair, with weight 0.
        made = torch.empty if w.per == 1 else torch.zeros
        values = made(*shape, self.capacity // w.per, w.value_dim, w.per, dtype=w.dtype)
        if old:
            keys[:, :, :, : old // k.BLOCK] = self._keys
            values[:, :, :, : old // w.per] = self._values
        self._keys, self._values, self._tokens = keys, values, 0
        w.reach(self.capacity)
        a = self.arguments
        a[k.CAPACITY], a[k.KEYS], a[k.VALUES] = self.capacity, keys.data_ptr(), values.data_ptr()

    def copy(self, source: int, destination: int, length: int, start: int = 0) -> None:
        """The keys and values of the first `length` tokens of a row become those of another.

        Args:
            start: a multiple of `kernels.BLOCK`, from which on they are wanted.
        """
        for held, together in ((self._keys, k.BLOCK), (self._values, self._w.per)):
            part = slice(start // together, -(-length // together))
            held[:, destination, :, part] = held[:, source, :, part]

    def run(self, work: list[Work], keep: int) -> Tensor:
        """Logits [rows, keep, vocab], float32; 0 where nobody wanted any."""
        logits, done = torch.empty(sum(item.wanted for item in work) + 1, self.width), 0
        for pieces in _passes(work):
            picks = self._prepare(pieces)
            self._call(logits, done)
            done += picks
        return self._arranged(work, keep, logits)

    def write(
        self,
        work: list[Work],
        keep: int,
        steps: Sequence[int],
        chances: Sequence[float],
        limit: Limit | None,
        ends: Sequence[Ends] | None,
    ) -> Written:
        """Runs what rows need, and lets them go on by their likeliest tokens, without coming back in between.

        Args:
            work: `kernels.MOST` tokens at most; the rows with the most steps first.
            keep: as in `run`.
            steps: of each item, tokens to write; 0: none.
            chances: of each item, that all it has written so far will stand.
            limit, ends: as in `fsgen.backends.protocol.Writer`, the latter of each item.

        Returns:
            what `run` gives; logits [further steps done, items, vocab] of the tokens written but for each one's last, 0
            where an item wrote fewer; and the likeliest tokens, and their probabilities, by step and item.
        """
        count, longest = len(work), steps[0]
        wanted = [item.wanted for item in work]
        logits = torch.empty(sum(wanted) + 1, self.width)
        further = (torch.empty if steps[-1] == longest else torch.zeros)(longest - 1, count, self.width)
        written = np.zeros((longest, count), dtype=np.int64)
        sure = np.zeros((longest, count), dtype=np.float32)
        standing = np.array(chances, dtype=np.float32)
        self._prepare([(item, item.start, len(item.tokens)) for item in work])
        self._pieces[6, :count] = steps
        self._pieces[7, :count] = np.cumsum(wanted) - 1
        a = self.arguments
        a[k.FURTHER], a[k.LOGITS_STEP] = further.data_ptr(), 4 * count * self.width
        a[k.WRITTEN], a[k.SURE], a[k.WRITTEN_STEP] = written.ctypes.data, sure.ctypes.data, 4 * count
        a[k.CHANCES] = standing.ctypes.data
        self._end_by(limit)
        masks = np.array([mask.ctypes.data for mask in ends or ()], np.int64)
        a[k.ENDS] = masks.ctypes.data if ends else 0
        a[k.STEPS], a[k.DONE] = longest, 0
        self._call(logits, 0)
        a[k.STEPS], done = 0, int(a[k.DONE])
        further = further[: done - 1, :, : self._w.vocab]
        return self._arranged(work, keep, logits), further, written[:done].tolist(), sure[:done].tolist()

    def _end_by(self, limit: Limit | None) -> None:
        """Tells when writing ends before all is written."""
        a, given = self.arguments, [] if limit is None else [limit.least, *(n for line in limit.lines for n in line)]
        self._limit = np.array(given, np.float32)  # which has to be there
        a[k.BINS] = 0 if limit is None else len(limit.lines)
        a[k.FLOOR], a[k.LINES] = self._limit.ctypes.data, self._limit.ctypes.data + 4

    def _prepare(self, pieces: list[Piece]) -> int:
        """Tells which positions of which rows to run; of how many of them logits are wanted."""
        a = self.arguments
        ids: list[int] = []
        pick: list[int] = []
        rows: list[tuple[int, ...]] = []
        for item, start, end in pieces:
            first = max(start, len(item.tokens) - item.wanted)  # of which logits are wanted
            pick += range(len(ids) + first - start, len(ids) + end - start)
            rows.append((item.row, *item.lead, len(ids), end - start, start))
            ids += item.tokens[start:end]
        tokens, picks = len(ids), len(pick)
        self._inputs[0, :tokens], self._inputs[1, :picks] = ids, pick
        self._pieces[:6, : len(rows)] = np.array(rows).T
        self._make_room(tokens)
        a[k.TOKENS], a[k.PIECES], a[k.PICKS] = tokens, len(pieces), picks
        return picks

    def _call(self, logits: Tensor, done: int) -> None:
        """Runs it; `done` logits have been written before."""
        a = self.arguments
        a[k.LOGITS] = logits.data_ptr() + 4 * done * self.width
        self.function(a.ctypes.data, alone=int(a[k.TOKENS]) < self.alone)

    def _arranged(self, work: list[Work], keep: int, logits: Tensor) -> Tensor:
        """Logits [wanted by all + 1, width], in the order of `work`, as [rows, keep, vocab]."""
        if len(logits) - 1 < self.rows * keep or any(item.row != row for row, item in enumerate(work)):
            logits[-1] = 0
            sources, done = np.full((self.rows, keep), len(logits) - 1), 0
            for item in work:
                sources[item.row, keep - item.wanted :] = range(done, done + item.wanted)
                done += item.wanted
            logits = logits.index_select(0, torch.from_numpy(sources.ravel()))
        else:
            logits = logits[:-1]
        return logits.view(self.rows, keep, self.width)[..., : self._w.vocab]

    def _make_room(self, tokens: int) -> None:
        """For what lies between the products of a pass of so many tokens; it stays, and for a few more."""
        w, team = self._w, torch.get_num_threads()
        if tokens <= self._tokens and team <= self._team:
            return
        self._tokens = tokens = max(self._tokens, min(k.MOST, 1 << (tokens - 1).bit_length()))
        self._team = team
        widest = k.PANEL * max(w.qkv.shape[1], w.out.shape[1], w.gate_up.shape[1], len(w.head))
        sizes = {
            k.X: tokens * k.PANEL * w.out.shape[1],
            k.NORM: tokens * w.hidden,
            k.ASKED: tokens * k.PANEL * w.qkv.shape[1],
            k.SEEN: tokens * w.heads * w.head_dim,
            k.GATES: tokens * k.PANEL * w.gate_up.shape[1],
            k.GATED: tokens * w.inner,
            k.QUERIES: team * k.ASKS * w.head_dim,
            k.SCORES: team * k.ASKS * self.capacity,
            k.SHARES: team * k.ASKS * self.capacity,
            k.MIXED: team * k.ASKS * w.value_dim,
            k.ZEROS: max(widest, self.capacity),
        }
        # Apart, since compiled loops take another path, which may round otherwise, where two arrays are very close.
        sizes = {field: -(-size // LANES) * LANES + GAP for field, size in sizes.items()}
        self._scratch = torch.zeros(sum(sizes.values()))
        address = self._scratch.data_ptr()
        for field, size in sizes.items():
            self.arguments[field] = address
            address += 4 * size
        self._lots = np.zeros((team, k.LOTS_ROOM), dtype=np.int64)
        self.arguments[k.LOTS] = self._lots.ctypes.data
        self.arguments[k.COS], self.arguments[k.SIN] = w.cos.data_ptr(), w.sin.data_ptr()
        self._tables = (w.cos, w.sin)  # another session may make longer ones; these are this one's


def _passes(work: list[Work]) -> Iterator[list[Piece]]:
    """What is to run, row after row, in passes of `kernels.MOST` tokens at most."""
    pieces: list[Piece] = []
    free = k.MOST
    for item in work:
        start, end = item.start, len(item.tokens)
        while start < end:
            until = min(end, start + free)
            pieces.append((item, start, until))
            free -= until - start
            start = until
            if not free:
                yield pieces
                pieces, free = [], k.MOST
    if pieces:
        yield pieces

"""Runs the compiled forward pass for one session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fsgen.backends.cpu import arguments, kernels
from fsgen.backends.cpu.arguments import BLOCK, MAX_TOKENS, QUERIES
from fsgen.backends.cpu.attention import GROUPS_ROOM
from fsgen.backends.cpu.compilation import address
from fsgen.backends.cpu.gemm import LANES, PANEL
from fsgen.backends.cpu.weights import CpuWeights
from fsgen.backends.forward import Work
from fsgen.backends.transformers.slots import GROWTH
from fsgen.types import Limit

if TYPE_CHECKING:
    from fsgen.types import Ends

# Threads have to meet seven times a layer; fewer multiplications than this are done sooner by one.
ALONE = 2_000_000
GAP = 1024  # float32 between two parts of the scratch memory

Written = tuple[Tensor, Tensor, list[list[int]], list[list[float]]]


class Chunk(NamedTuple):
    """What a pass runs of a row: its tokens from .. to - 1."""

    work: Work
    start: int
    end: int


class CpuForward:
    """The keys and values of a session, and its calls (see `fsgen.backends.forward.Forward`).

    Args:
        weights: shared by all sessions of a model.
        rows, context: of the session; the longest row there can be, in tokens.
    """

    def __init__(self, weights: CpuWeights, rows: int, context: int) -> None:
        self._weights = weights
        self.rows, self._context = rows, context
        self._slots = 0  # of each row
        self._function = kernels.forward(weights.kind)
        self._line = PANEL * weights.lm_head.panels  # numbers of a line of logits, of which `vocab_size` count
        self._alone = -(-ALONE // weights.products)  # fewer tokens than this are for one thread
        # [layers, rows, kv_heads, blocks, head_dim, BLOCK] and [layers, rows, kv_heads, slots, value_dim]; where
        # numbers lie in pairs, `per` neighbours of head_dim, and of the slots, come last
        self._keys = self._values = torch.empty(0)
        self._scratch = torch.empty(0)
        self._groups = np.zeros((0, 0), np.int64)
        self._tokens = self._threads = 0  # that the scratch has room for
        self._arguments = self._function.record(cache_rows=rows, **weights.arguments())
        self._a = self._arguments[0]

    def reserve(self, longest: int) -> None:
        """Makes room for rows of so many tokens."""
        if longest <= self._slots:
            return
        w, old = self._weights, self._slots
        self._slots = slots = w.slots(max(longest, int(GROWTH * old)), self._context)
        shape = (w.num_layers, self.rows, w.num_kv_heads)
        keys = torch.empty(*shape, slots // BLOCK, w.head_dim, BLOCK, dtype=w.dtype)
        # What has never been written is read where it shares a pair, with weight 0.
        made = torch.empty if w.per == 1 else torch.zeros
        values = made(*shape, slots // w.per, w.value_dim, w.per, dtype=w.dtype)
        if old:
            keys[:, :, :, : old // BLOCK] = self._keys
            values[:, :, :, : old // w.per] = self._values
        self._keys, self._values, self._tokens = keys, values, 0
        w.reach(slots)
        self._set(cache_slots=slots, key_cache=address(keys), value_cache=address(values))

    def copy(self, source: int, destination: int, length: int, start: int = 0) -> None:
        """The keys and values of the first `length` tokens of a row become those of another.

        Args:
            start: a multiple of BLOCK, from which on they are wanted.
        """
        for cache, together in ((self._keys, BLOCK), (self._values, self._weights.per)):
            part = slice(start // together, -(-length // together))
            cache[:, destination, :, part] = cache[:, source, :, part]

    def run(self, work: list[Work], keep: int) -> Tensor:
        """Logits [rows, keep, vocab_size], float32; 0 where nobody wanted any."""
        logits, done = torch.empty(sum(item.wanted for item in work) + 1, self._line), 0
        for chunks in _passes(work):
            count = self._prepare(chunks)
            self._call(logits, done)
            done += count
        return self._arranged(work, keep, logits)

    def write(
        self,
        work: list[Work],
        keep: int,
        steps: Sequence[int],
        acceptance: Sequence[float],
        limit: Limit | None,
        ends: Sequence[Ends] | None,
    ) -> Written:
        """Runs what rows need, and lets them go on by their most likely tokens, without coming back in between.

        Args:
            work: MAX_TOKENS tokens at most; the rows with the most steps first.
            keep: as in `run`.
            steps: of each item, tokens to write; 0: none.
            acceptance: of each item, the chance that all it has written so far will be accepted.
            limit, ends: as in `fsgen.backends.protocol.Writer`, the latter of each item.

        Returns:
            what `run` gives; logits [further steps done, items, vocab_size] of the tokens written but for each one's
            last, 0 where an item wrote fewer; and the most likely tokens, and their probabilities, by step and item.
        """
        count, longest = len(work), steps[0]
        wanted = [item.wanted for item in work]
        logits = torch.empty(sum(wanted) + 1, self._line)
        further = (torch.empty if steps[-1] == longest else torch.zeros)(longest - 1, count, self._line)
        tokens, probs = np.zeros((longest, count), np.int64), np.zeros((longest, count), np.float32)
        lines = np.array([] if limit is None else limit.lines, np.float32)
        self._prepare([Chunk(item, item.start, len(item.tokens)) for item in work])
        chunks = self._a["chunks"][:count]
        chunks["remaining"], chunks["acceptance"] = steps, acceptance
        chunks["logits_line"] = np.cumsum(wanted) - 1
        chunks["end_mask"] = [address(mask) for mask in ends] if ends else 0
        self._set(max_steps=longest, steps=0, batch_size=count, further_logits=address(further))
        self._set(tokens=address(tokens), token_probs=address(probs))
        self._set(num_bins=len(lines), acceptance_lines=address(lines))
        self._a["least_acceptance"] = 0 if limit is None else limit.least
        self._call(logits, 0)
        done = int(self._a["steps"])
        self._set(max_steps=0)
        further = further[: done - 1, :, : self._weights.vocab_size]
        return self._arranged(work, keep, logits), further, tokens[:done].tolist(), probs[:done].tolist()

    def _set(self, **fields: int) -> None:
        for name, value in fields.items():
            self._a[name] = value

    def _prepare(self, chunks: list[Chunk]) -> int:
        """Says which positions of which rows to run; of how many of them logits are wanted."""
        ids: list[int] = []
        keep: list[int] = []
        rows = []
        for item, start, end in chunks:
            first = max(start, len(item.tokens) - item.wanted)  # of which logits are wanted
            keep += range(len(ids) + first - start, len(ids) + end - start)
            rows.append((item.row, len(ids), end - start, start, *item.prefix, 0, 0, 0, 0.0))
            ids += item.tokens[start:end]
        self._make_room(len(ids))
        self._a["input_ids"][: len(ids)] = ids
        self._a["logits_to_keep"][: len(keep)] = keep
        self._a["chunks"][: len(rows)] = rows
        self._set(num_tokens=len(ids), num_chunks=len(rows), num_logits=len(keep))
        return len(keep)

    def _call(self, logits: Tensor, done: int) -> None:
        """Runs it; `done` logits have been written before."""
        self._set(logits=address(logits) + 4 * done * self._line)
        self._function(self._arguments, alone=int(self._a["num_tokens"]) < self._alone)

    def _arranged(self, work: list[Work], keep: int, logits: Tensor) -> Tensor:
        """Logits [wanted by all + 1, line], in the order of `work`, as [rows, keep, vocab_size]."""
        if len(logits) - 1 < self.rows * keep or any(item.row != row for row, item in enumerate(work)):
            logits[-1] = 0
            sources, done = np.full((self.rows, keep), len(logits) - 1), 0
            for item in work:
                sources[item.row, keep - item.wanted :] = range(done, done + item.wanted)
                done += item.wanted
            logits = logits.index_select(0, torch.from_numpy(sources.ravel()))
        else:
            logits = logits[:-1]
        return logits.view(self.rows, keep, self._line)[..., : self._weights.vocab_size]

    def _make_room(self, tokens: int) -> None:
        """For what lies between the products of a pass of so many tokens; it stays, and for a few more."""
        w, threads = self._weights, torch.get_num_threads()
        if tokens <= self._tokens and threads <= self._threads:
            return
        self._tokens = tokens = max(self._tokens, min(MAX_TOKENS, 1 << (tokens - 1).bit_length()))
        self._threads, queries = threads, threads * QUERIES
        columns = {name: PANEL * layer.panels for name, layer in w.linears.items()}
        sizes = {
            "hidden_states": tokens * columns["o_proj"],
            "normed": tokens * w.hidden_size,
            "qkv": tokens * columns["qkv_proj"],
            "attention_out": tokens * w.num_heads * w.head_dim,
            "gate_up": tokens * columns["gate_up_proj"],
            "activated": tokens * w.intermediate_size,
            "queries": queries * w.head_dim,
            "scores": queries * self._slots,
            "probs": queries * self._slots,
            "context": queries * w.value_dim,
            "zeros": max(*columns.values(), self._slots),
        }
        # Apart, since compiled loops take another path, which may round otherwise, where two arrays are very close.
        sizes = {name: -(-size // LANES) * LANES + GAP for name, size in sizes.items()}
        self._scratch = torch.zeros(sum(sizes.values()))
        start = address(self._scratch)
        for name, size in sizes.items():
            self._set(**{name: start})
            start += 4 * size
        self._groups = np.zeros((threads, GROUPS_ROOM), np.int64)
        self._tables = (w.cos, w.sin)  # another session may make longer ones; these are this one's
        self._set(groups=address(self._groups), rope_cos=address(w.cos), rope_sin=address(w.sin))


def _passes(work: list[Work]) -> Iterator[list[Chunk]]:
    """What is to run, row after row, in passes of MAX_TOKENS tokens at most."""
    chunks: list[Chunk] = []
    free = arguments.MAX_TOKENS
    for item in work:
        start, end = item.start, len(item.tokens)
        while start < end:
            until = min(end, start + free)
            chunks.append(Chunk(item, start, until))
            free -= until - start
            start = until
            if not free:
                yield chunks
                chunks, free = [], arguments.MAX_TOKENS
    if chunks:
        yield chunks

"""Runs the compiled forward pass for one session."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fsgen.backends.cpu import kernels
from fsgen.backends.cpu.arguments import BLOCK, MAX_TOKENS, QUERIES
from fsgen.backends.cpu.attention import GROUPS_ROOM
from fsgen.backends.cpu.compilation import address
from fsgen.backends.cpu.gemm import BLOCK_PAIRS, LANES, PANEL
from fsgen.backends.cpu.weights import CpuWeights
from fsgen.backends.forward import Chunk, Work, passes
from fsgen.backends.transformers.slots import GROWTH

# Threads have to meet seven times a layer; fewer multiplications than this are done sooner by one.
ALONE = 2_000_000
GAP = 1024  # float32 between two parts of the scratch memory


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
        """Logits [rows, keep, vocab_size], float32; 0 where none are wanted."""
        logits, done = torch.empty(sum(item.wanted for item in work) + 1, self._line), 0
        for chunks in passes(work, MAX_TOKENS):
            done += self._run_pass(chunks, logits[done:])
        return self._arranged(work, keep, logits)

    def _set(self, **fields: int) -> None:
        for name, value in fields.items():
            self._a[name] = value

    def _run_pass(self, chunks: list[Chunk], logits: Tensor) -> int:
        """Runs these tokens; logits of how many of them were wanted, which come first in `logits`."""
        ids: list[int] = []
        keep: list[int] = []
        rows = []
        for item, start, end in chunks:
            first = max(start, len(item.tokens) - item.wanted)  # of which logits are wanted
            keep += range(len(ids) + first - start, len(ids) + end - start)
            rows.append((item.row, len(ids), end - start, start, *item.prefix))
            ids += item.tokens[start:end]
        self._make_room(len(ids))
        self._a["input_ids"][: len(ids)] = ids
        self._a["logits_to_keep"][: len(keep)] = keep
        self._a["chunks"][: len(rows)] = rows
        self._set(num_tokens=len(ids), num_chunks=len(rows), num_logits=len(keep), logits=address(logits))
        self._function(self._arguments, alone=len(ids) < self._alone)
        return len(keep)

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
            "block_out": tokens * columns["o_proj"],
            "queries": queries * w.head_dim,
            "scores": queries * self._slots,
            "probs": queries * self._slots,
            "context": queries * w.value_dim,
            "zeros": max(*columns.values(), self._slots),
        }
        if w.kind in ("int8 pairs", "int4 pairs"):  # two inputs in the place of one float32
            widest = max(layer.inputs for layer in w.linears.values())
            blocks = int(-(-widest // (2 * BLOCK_PAIRS)))
            sizes |= {"quantized": tokens * widest // 2, "quantized_scales": tokens * blocks}
        # Apart, since compiled loops take another path, which may round otherwise, where two arrays are very close.
        sizes = {name: -(-size // LANES) * LANES + GAP for name, size in sizes.items()}
        self._scratch = torch.zeros(sum(sizes.values()))
        start = address(self._scratch)
        for name, size in sizes.items():
            self._set(**{name: start})
            start += 4 * size
        self._groups = np.zeros((threads, GROUPS_ROOM), np.int64)
        self._tables = (w.cos, w.sin)  # another session may make longer ones; these are this one's
        self._set(groups=address(self._groups), rope_positions=w.positions)
        self._set(rope_cos=address(w.cos), rope_sin=address(w.sin))

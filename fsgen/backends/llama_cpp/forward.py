"""Runs llama.cpp for one session: rows are sequences of one batch, and keep their keys and values in one context."""

from __future__ import annotations

import ctypes
from weakref import finalize

import torch
from torch import Tensor

from fsgen.backends.forward import Chunk, Work, passes
from fsgen.backends.llama_cpp.library import LoadedFile, library, reason

CELLS = 256  # room for keys and values is a multiple of so many tokens
MOST = 512  # tokens of one pass
GROWTH = 1.5
# By the type of keys and values: its number in the format, and whether fused attention (which computes in float16, and
# is on where the processor has it) may be used.
_CACHES = {"float32": (0, 0), "float16": (1, -1), "bfloat16": (30, -1)}


class Context:
    """Room for the keys and values of some rows, given back when nothing refers to it any more.

    Args:
        file: with its weights.
        dtype: of keys and values.
        rows: sequences.
        cells: tokens of all of them together.

    Attributes:
        pointer, memory: as llama.cpp's calls want them.

    Raises:
        ValueError: there is no room for it.
    """

    def __init__(self, file: LoadedFile, dtype: str, rows: int, cells: int) -> None:
        calls = library()
        settings = calls.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.kv_unified = cells, rows, True
        settings.n_batch = settings.n_ubatch = MOST
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        settings.type_k = settings.type_v = _CACHES[dtype][0]
        settings.flash_attn_type = _CACHES[dtype][1]
        settings.swa_full, settings.no_perf = True, True
        self.pointer: int | None = calls.llama_init_from_model(file.model, settings)
        if self.pointer is None:
            raise ValueError(f"llama.cpp has no room for keys and values of {cells} tokens: {reason()}")
        self._file = file  # is needed as long as this is
        self._free = finalize(self, calls.llama_free, self.pointer)
        self._calls, self.memory = calls, calls.llama_get_memory(self.pointer)
        self._batch = calls.llama_batch_init(MOST, 0, 1)
        finalize(self, calls.llama_batch_free, self._batch)
        self.most = min(MOST, calls.llama_n_batch(self.pointer))
        self._window = max(1, calls.llama_model_n_swa(file.model))

    def rewind(self, row: int, length: int) -> int:
        """Forgets all but the first `length` tokens of a row: how many of them are still there, all or none."""
        calls = self._calls
        held = calls.llama_memory_seq_pos_max(self.memory, row) + 1
        kept = held == length or (held > length and calls.llama_memory_seq_rm(self.memory, row, length, -1))
        # Where a window has left tokens behind, what it sees from here has to be there.
        first = calls.llama_memory_seq_pos_min(self.memory, row)
        if kept and first <= max(0, length - self._window):
            return length
        calls.llama_memory_seq_rm(self.memory, row, -1, -1)
        return 0

    def copy(self, source: int, destination: int, length: int) -> None:
        """The first `length` tokens of a row are those of another too."""
        self._calls.llama_memory_seq_rm(self.memory, destination, -1, -1)
        self._calls.llama_memory_seq_cp(self.memory, source, destination, 0, length)

    def take(self, other: Context, row: int) -> None:
        """What another context holds of a row, as far as there is room."""
        calls = self._calls
        size = calls.llama_state_seq_get_size(other.pointer, row)
        content = (ctypes.c_uint8 * size)()
        written = calls.llama_state_seq_get_data(other.pointer, content, size, row)
        if not calls.llama_state_seq_set_data(self.pointer, content, written, row):
            calls.llama_memory_seq_rm(self.memory, row, -1, -1)

    def decode(self, chunks: list[Chunk]) -> list[tuple[int, Work, int]]:
        """Runs these tokens, `most` of them at most.

        Returns:
            of each position whose logits are wanted: its number, for `logits`; the row's work; how far it is from the
            end, -1 for the last.

        Raises:
            RuntimeError: llama.cpp failed.
        """
        batch, outputs = self._batch, []
        batch.n_tokens = 0
        for item, start, end in chunks:
            length = len(item.tokens)
            for position in range(start, end):
                at, wanted = batch.n_tokens, position >= length - item.wanted
                batch.token[at], batch.pos[at], batch.logits[at] = item.tokens[position], position, wanted
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, item.row
                batch.n_tokens += 1
                if wanted:
                    outputs.append((at, item, position - length))
        if code := self._calls.llama_decode(self.pointer, batch):
            raise RuntimeError(f"llama.cpp could not run {self._file.name!r} (status {code}): {reason()}")
        return outputs

    def logits(self, at: int) -> ctypes.Array[ctypes.c_float]:
        """The logits of a position, at a place where the next call writes again."""
        found: ctypes.Array[ctypes.c_float] = self._calls.llama_get_logits_ith(self.pointer, at)
        return found


class LlamaCppForward:
    """The keys and values of a session, and its calls (see `fsgen.backends.forward.Forward`).

    Args:
        file: with its weights.
        dtype: of keys and values.
        vocab_size: of the model.
        rows, context: of the session; the longest row there can be, in tokens.
    """

    def __init__(self, file: LoadedFile, dtype: str, vocab_size: int, rows: int, context: int) -> None:
        self._file, self._dtype, self._vocab = file, dtype, vocab_size
        self.rows, self._longest = rows, context
        self._room = 0  # tokens of each row
        self._context: Context | None = None

    def reserve(self, longest: int) -> None:
        """Makes room for rows of so many tokens."""
        if longest <= self._room:
            return
        room = max(longest, min(int(GROWTH * self._room), self._longest))
        self._room = -(-room // CELLS) * CELLS
        old, self._context = self._context, Context(self._file, self._dtype, self.rows, self.rows * self._room)
        if old is not None:
            for row in range(self.rows):
                self._context.take(old, row)

    def copy(self, source: int, destination: int, length: int) -> None:
        """The keys and values of the first `length` tokens of a row become those of another."""
        assert self._context is not None
        self._context.copy(source, destination, length)

    def run(self, work: list[Work], keep: int) -> Tensor:
        """Logits [rows, keep, vocab_size], float32; 0 where none are wanted."""
        assert self._context is not None
        for item in work:
            item.start = self._context.rewind(item.row, item.start)
        logits = torch.zeros(self.rows, keep, self._vocab)
        size = self._vocab * logits.itemsize
        for chunks in passes(work, self._context.most):
            for at, item, position in self._context.decode(chunks):
                ctypes.memmove(logits[item.row, position].data_ptr(), self._context.logits(at), size)
        return logits

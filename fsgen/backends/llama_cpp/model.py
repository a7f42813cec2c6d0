"""A model that llama.cpp runs."""

from __future__ import annotations

import math
from typing import Any

import torch

from fsgen.backends.llama_cpp.forward import CELLS, LlamaCppForward
from fsgen.backends.llama_cpp.header import Header
from fsgen.backends.llama_cpp.library import LoadedFile, library
from fsgen.backends.places import DTYPES
from fsgen.backends.protocol import Capabilities
from fsgen.backends.session import CachedSession
from fsgen.types import ModelInfo

_EIGHT_BITS = 1 / 127  # what products with quantised weights round their other factor to
_EPS = {0: 2.0**-23, 1: 2.0**-10, 30: 2.0**-7}  # by the type of a tensor: float32, float16, bfloat16


class LlamaCppModel:
    """A GGUF file, run by llama.cpp (see `fsgen.backends.protocol.Model`).

    Weights stay in the types of the file, and products round their other factor to the same type (for quantised
    weights to eight bits). In float32, keys, values and attention are exact; in float16 they are as llama.cpp has them
    by default, with half the memory.

    Args:
        header: of the file.
        dtype: of keys and values: auto (float32), float32, float16 or bfloat16.
        info, tokenizer, context, eos_ids: as in `Model`.
        digest: what identifies the file.

    Attributes:
        precision: what it computes in, in words.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        header: Header,
        dtype: str,
        info: ModelInfo,
        tokenizer: Any,
        context: int,
        eos_ids: frozenset[int],
        digest: str,
    ) -> None:
        self._header, self._dtype = header, "float32" if dtype == "auto" else dtype
        self.info, self.tokenizer, self.context, self.eos_ids, self.digest = info, tokenizer, context, eos_ids, digest
        self.vocab_size = len(tokenizer)
        self._file = LoadedFile(header.parts[0], info.name, weights=True)
        calls = library()
        kind = calls.llama_ftype_name(calls.llama_model_ftype(self._file.model)).decode().removeprefix("(guessed) ")
        self.precision = f"{kind} with keys and values in {self._dtype}"

    def __repr__(self) -> str:
        return f"LlamaCppModel({self.info.name!r})"

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; see `Capabilities`. It rounds as coarsely as the coarsest of its types."""
        matrices = {kind for name, kind in self._header.types.items() if len(self._header.shapes[name]) > 1}
        eps = max(torch.finfo(DTYPES[self._dtype]).eps, *(_EPS.get(kind, _EIGHT_BITS) for kind in matrices))
        return Capabilities(rounding=math.sqrt(self._header.size("block_count")) * eps)

    def session(self, batch_size: int) -> CachedSession:
        """An empty session of `batch_size` rows. Raises ValueError for more than llama.cpp has sequences."""
        most = library().llama_max_parallel_sequences()
        if not 1 <= batch_size <= most:
            raise ValueError(f"batch_size={batch_size} is impossible: a session of llama.cpp has 1 to {most} rows")
        forward = LlamaCppForward(self._file, self._dtype, self.vocab_size, batch_size, self.context)
        return CachedSession(forward, self.info.name, self.vocab_size, self.context, self.device)

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of keys and values that a session holds for a row of so many tokens."""
        header = self._header
        layers, heads = header.size("block_count"), header.get("attention.head_count")
        kv_heads = header.get("attention.head_count_kv", heads)
        total = sum(kv_heads) if isinstance(kv_heads, tuple) else layers * kv_heads
        width = header.size("embedding_length") // _largest(heads)
        lengths = [header.size(f"attention.{name}_length", width) for name in ("key", "value")]
        held = -(-min(tokens, self.context) // CELLS) * CELLS
        return int(held * total * sum(lengths) * DTYPES[self._dtype].itemsize)


def _largest(heads: Any) -> int:
    """The number of heads of a layer; where they are told layer by layer, the largest."""
    return max(1, *heads) if isinstance(heads, tuple) else max(1, heads or 1)

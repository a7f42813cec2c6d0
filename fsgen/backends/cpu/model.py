"""A model on the compiled forward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from fsgen.backends.cpu import kernels, race, summary
from fsgen.backends.cpu.compilation import announced
from fsgen.backends.cpu.forward import CpuForward
from fsgen.backends.cpu.session import CpuSession
from fsgen.backends.cpu.weights import CpuWeights
from fsgen.backends.protocol import Capabilities
from fsgen.probs import Compiled, use_compiled
from fsgen.types import ModelInfo

COMPILED = Compiled(summary.summarize, summary.variation, race.race)


class CpuModel:
    """A model on the compiled forward pass (see `fsgen.backends.protocol.Model`).

    Whatever it needs is compiled now. From the first one on, what traces keep and what shared noise draws is computed
    by compiled code too.

    Args:
        weights: in the order in which it reads them.
        info, tokenizer, context, eos_ids: as in `Model`.
        digest: what identifies it, where its folder does not: the commit of a model of the hub.
        load_module: loads the same weights as a `transformers` model.

    Attributes:
        kind: of its weights, a key of `arguments.TYPES`.
    """

    capabilities = Capabilities(bit_exact=True)
    device = torch.device("cpu")

    def __init__(
        self,
        weights: CpuWeights,
        info: ModelInfo,
        tokenizer: Any,
        context: int,
        eos_ids: frozenset[int],
        digest: str | None = None,
        load_module: Callable[[], Any] | None = None,
    ) -> None:
        self.info, self.tokenizer, self.context, self.eos_ids = info, tokenizer, context, eos_ids
        self.digest, self._load_module = digest, load_module
        self.vocab_size, self.kind = weights.vocab_size, weights.kind
        self._weights = weights
        with announced():
            kernels.forward(weights.kind)
            summary.compile()
            race.compile()
        use_compiled(COMPILED)

    def __repr__(self) -> str:
        return f"CpuModel({self.info.name!r})"

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a call reads."""
        return sum(linear.weight.nbytes for linear in self._weights.linears.values())

    @property
    def precision(self) -> str:
        """The type of its embeddings, keys and values, and of weights that are not rounded; in words."""
        return "bfloat16" if self.kind.startswith("bfloat16") else "float32"

    @cached_property
    def module(self) -> Any:
        """The same weights as a `transformers` model, loaded when it is first used, to compare with; None without."""
        return self._load_module() if self._load_module is not None else None

    def session(self, batch_size: int) -> CpuSession:
        """An empty session of `batch_size` rows."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is impossible: a session has at least one row")
        forward = CpuForward(self._weights, batch_size, self.context)
        return CpuSession(forward, self.info.name, self.vocab_size, self.context, self.device)

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of keys and values that a session holds for a row of so many tokens."""
        return self._weights.cache_bytes(tokens, self.context)

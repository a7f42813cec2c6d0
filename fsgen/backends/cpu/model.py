"""Puts a model on the compiled forward pass."""

from __future__ import annotations

from typing import Any

import torch

from fsgen.backends.cpu import kernels, race, summary
from fsgen.backends.cpu.compilation import announced
from fsgen.backends.cpu.forward import CpuForward
from fsgen.backends.cpu.session import CpuSession
from fsgen.backends.cpu.weights import CpuWeights, supports
from fsgen.probs import Compiled, use_compiled

COMPILED = Compiled(summary.summarize, summary.variation, race.race)


class CpuModel:
    """A model on the compiled forward pass.

    Whatever it needs is compiled now. From the first one on, what traces keep and what shared noise draws is computed
    by compiled code too.

    Args:
        module: of `transformers`, one that is supported (`weights.supports`).
        windows: of each layer, positions that a query sees; None for all.
    """

    def __init__(self, module: Any, windows: list[int | None]) -> None:
        self._weights = CpuWeights(module, windows)
        with announced():
            kernels.forward(self._weights.kind)
            summary.compile()
            race.compile()
        use_compiled(COMPILED)

    @classmethod
    def of(cls, module: Any, windows: list[int | None]) -> CpuModel | None:
        """The model on this backend; None where the backend cannot compute it."""
        return cls(module, windows) if supports(module) else None

    def session(self, rows: int, name: str, vocab_size: int, context: int) -> CpuSession:
        """An empty session."""
        forward = CpuForward(self._weights, rows, context)
        return CpuSession(forward, name, vocab_size, context, torch.device("cpu"))

    def cache_bytes(self, tokens: int, context: int) -> int:
        """Bytes of keys and values that a session holds for a row of so many tokens."""
        return self._weights.cache_bytes(tokens, context)

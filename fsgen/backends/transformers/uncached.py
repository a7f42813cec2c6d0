"""Logits without a cache: whole sequences, no session, by the library's own forward pass.

Sessions are compared with this, so nothing of theirs is used where that can be avoided.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fsgen.backends.budget import free_bytes
from fsgen.backends.protocol import Model, TokenIds

# A copy of the weights is made where it leaves room for the activations.
HEADROOM = 1.25
# Of one forward pass: rows, tokens with their padding, and logits.
MOST_ROWS, MOST_TOKENS, MOST_LOGITS = 64, 8192, 2**26


class UncachedModel:
    """Scores whole sequences: a `transformers` model by its own forward pass, any other by a new session each time.

    Args:
        model: what is run.
        module: the `transformers` model to run; that of `model` where none is given.
    """

    def __init__(self, model: Model, module: torch.nn.Module | None = None) -> None:
        self.model, self._given = model, module

    @cached_property
    def _module(self) -> torch.nn.Module | None:
        """Taken from the model when it is first needed: one on the compiled pass loads it then."""
        found = getattr(self.model, "module", None) if self._given is None else self._given
        return found if isinstance(found, torch.nn.Module) else None

    @property
    def has_module(self) -> bool:
        return self._module is not None

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; a model that has no weights to look at gives float32 logits."""
        if self._module is None:
            return torch.float32
        return next((w.dtype for w in self._module.parameters() if w.dtype.is_floating_point), torch.float32)

    @property
    def eps(self) -> float:
        """The relative distance of two neighbouring numbers; with weights and states in int8, that of two levels."""
        return 1.0 / 127 if self._is_int8 else torch.finfo(self.dtype).eps

    @property
    def _is_int8(self) -> bool:
        return self._module is not None and any(held.dtype == torch.int8 for held in self._module.buffers())

    @property
    def layers(self) -> int:
        """How many layers a token goes through; 1 where that is not known."""
        config = getattr(self._module, "config", None)
        return int(getattr(config, "num_hidden_layers", 1))

    @property
    def precision(self) -> str:
        """What it computes in, in words."""
        said = getattr(self.model, "precision", None)
        return str(self.dtype).removeprefix("torch.") if said is None else str(said)

    def wider(self) -> UncachedModel | None:
        """The same weights in the next wider type: float32 for half precision, float64 for float32.

        None where that is impossible (a model without weights at hand, on several devices, or too large to fit twice)
        or says little: rounding to int8 may fall on another level, however wide the rest is.
        """
        if self._module is None or self._is_int8 or self.dtype == torch.float64:
            return None
        wide = torch.float64 if self.dtype == torch.float32 else torch.float32
        if not can_copy(self._module, wide.itemsize):
            return None
        return UncachedModel(self.model, copy.deepcopy(self._module).to(wide))

    def eager(self) -> UncachedModel | None:
        """The same weights with attention by plain products, which rounds at other places than a fused kernel.

        None where there is no other kernel, or no room for a copy.
        """
        config = getattr(self._module, "config", None)
        if self._module is None or getattr(config, "_attn_implementation", "eager") == "eager" or self._is_int8:
            return None
        if not can_copy(self._module, self.dtype.itemsize):
            return None
        module: Any = copy.deepcopy(self._module)
        module.set_attn_implementation("eager")
        return UncachedModel(self.model, module)

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenIds], last: Sequence[int]) -> list[Tensor]:
        """Logits [last[i], vocab] at the last positions of each sequence, on the CPU, as wide as they are computed."""
        found: dict[int, Tensor] = {}
        for rows in self._batches(sequences, last):
            some, wanted = [sequences[i] for i in rows], [last[i] for i in rows]
            if self._module is None:
                logits = self.model.session(len(rows)).score(some, wanted)
                parts = [logits[row, logits.shape[1] - n :] for row, n in enumerate(wanted)]
            else:
                parts = self._forward(some, wanted)
            found |= {i: part.cpu() for i, part in zip(rows, parts, strict=True)}
        return [found[i] for i in range(len(sequences))]

    def _batches(self, sequences: Sequence[TokenIds], last: Sequence[int]) -> Iterator[list[int]]:
        """Rows of like length together, as many as a pass may hold, at least one."""
        rows: list[int] = []
        for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
            longer = [*rows, i]
            padded = len(longer) * len(sequences[i])
            logits = len(longer) * self._columns(sequences, last, longer) * self.model.vocab_size
            if rows and (len(longer) > MOST_ROWS or padded > MOST_TOKENS or logits > MOST_LOGITS):
                yield rows
                longer = [i]
            rows = longer
        if rows:
            yield rows

    @staticmethod
    def _columns(sequences: Sequence[TokenIds], last: Sequence[int], rows: Sequence[int]) -> int:
        """How many positions before the end of the longest row are wanted of some row."""
        return max(len(sequences[i]) for i in rows) - min(len(sequences[i]) - last[i] for i in rows)

    def _forward(self, sequences: list[TokenIds], last: list[int]) -> list[Tensor]:
        module: Any = self._module
        longest, columns = max(map(len, sequences)), self._columns(sequences, last, range(len(sequences)))
        # Padded on the right, where no token of the text looks.
        ids = torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences])
        ids = ids.to(module.get_input_embeddings().weight.device)
        keeps = "logits_to_keep" in inspect.signature(type(module).forward).parameters
        extra = {"logits_to_keep": columns} if keeps else {}
        logits = module(input_ids=ids, use_cache=False, **extra).logits
        before = longest - logits.shape[1]
        return [
            logits[row, len(sequence) - n - before : len(sequence) - before]
            for row, (sequence, n) in enumerate(zip(sequences, last, strict=True))
        ]


def rounding(model: UncachedModel, logits: Tensor) -> float:
    """By how much a logit may be off, where it cannot be measured: sqrt(layers) eps max|z|.

    A layer rounds the state of a token about four times, by up to eps / 2 of its size each time; independent roundings
    add as their squares do.
    """
    share = math.sqrt(model.layers) * model.eps if model.has_module else model.model.capabilities.rounding
    return share * float(logits.abs().max())


def can_copy(module: torch.nn.Module, itemsize: int) -> bool:
    """Whether the weights are on one device that has room for them once more, in a type of so many bytes."""
    weights = [*module.parameters(), *module.buffers()]
    devices = {weight.device for weight in weights}
    if len(devices) != 1:
        return False
    size = sum(weight.numel() for weight in weights) * itemsize
    free = free_bytes(devices.pop())
    return free is not None and size * HEADROOM <= free

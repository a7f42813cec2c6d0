"""The forward pass of any `transformers` model that takes a cache, a mask and positions."""

from __future__ import annotations

import torch
from torch import Tensor

from fsgen.backends.forward import Work
from fsgen.backends.transformers.architecture import Architecture
from fsgen.backends.transformers.cache import SlotCache
from fsgen.backends.transformers.padded import Call, PaddedForward
from fsgen.backends.transformers.slots import Slots


class TransformersForward(PaddedForward):
    """Runs the module as it is, for one session.

    Args:
        architecture: of the model.
        rows: of the session.
    """

    def __init__(self, architecture: Architecture, rows: int) -> None:
        self._architecture = architecture
        self._cache = SlotCache(len(architecture.layers))
        self._cache.slots = Slots(rows, architecture.context, self._cache.grow, architecture.device)
        super().__init__(self._cache.slots, architecture.vocab_size, architecture.device)
        self._smallest_window = architecture.smallest_window

    def copy(self, source: int, destination: int, length: int) -> None:
        for layer in self._cache.layers:
            layer.copy_row(source, destination, length)

    @property
    def slot_bytes(self) -> int:
        """What the keys and values of one token of one row take; known after the first call."""
        return sum(layer.slot_bytes for layer in self._cache.layers)

    def one_pass(self, call: Call) -> Tensor:
        self._cache.begin(call)
        # A single query sees everything there is, and a fresh start is plainly causal, unless a window is full.
        alone, starting = call.ids.shape[1] == 1, call.start == 0 and self._architecture.boolean_masks
        plain = call.slots is None and (alone or starting)
        masks = None if plain and call.longest <= self._smallest_window else self._masks(call)
        return self._architecture.run(
            call.ids, call.keep, attention_mask=masks, position_ids=call.positions, past_key_values=self._cache
        )

    def _masks(self, call: Call) -> Tensor | dict[str, Tensor]:
        """What each query may see: [rows or 1, 1, width, longest], one mask for each kind of layer the model has.

        A pad is at position 0 and so sees one slot, since a query that sees nothing has no softmax.
        """
        slots = self.slots.counting[: call.longest]
        masks = self._architecture.masks(self._architecture.windows, slots, call.positions)
        # A model with one kind of layer takes the mask as it is; one with several takes them by name.
        return masks if len(masks) > 1 else next(iter(masks.values()))


class RowForward(TransformersForward):
    """Runs one row a call, whose positions and masks the model's own code finds, as it does for a text alone.

    For models that take no positions, or count on the newest token being the last of the keys.
    """

    def run(self, work: list[Work], keep: int) -> Tensor:
        logits = torch.zeros(self.rows, keep, self._vocab, device=self._device)
        for item in work:
            logits[item.row, keep - item.wanted :] = self.one_pass(self._call([item], item.wanted))[0]
        return logits

    def one_pass(self, call: Call) -> Tensor:
        self._cache.begin(call)
        return self._architecture.run(call.ids, call.keep, past_key_values=self._cache)

"""The forward pass of a `transformers` model that carries a recurrent state, and the snapshots of that state.

A snapshot is what every recurrent layer of one row holds after some token: its convolution's last inputs and its
matrix. They are kept in banks, one tensor [places, ...] for each; place 0 holds the empty state, from which a text
begins, place 1 a beginning that several rows share, and the session hands out the others. A bank grows as higher places
are used.
A call loads the snapshot of each of its rows, runs on from them, and saves the states that it ends with in other
places. Keys and values of hybrid models are held in slots by position (`slots.py`) and need no snapshots.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DummyLayer, LinearAttentionCacheLayerMixin

from fsgen.backends.transformers.architecture import Architecture
from fsgen.backends.transformers.cache import SlotBuffers
from fsgen.backends.transformers.continuation import (
    ATTENTION_LAYERS,
    EMPTY_LAYERS,
    HYBRID_LAYERS,
    STATE_ARGUMENT,
    text_config,
)
from fsgen.backends.transformers.slots import Slots

# The places of the empty state, and of one that a beginning common to several rows has left.
EMPTY, BEGINNING = 0, 1


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass over some rows of a session; the new tokens of each are at the left, pads at the right.

    Attributes:
        ids, positions: [n, width].
        rows: [n], of the session.
        slots: [n, width] where keys and values go, those of pads to the trash slot.
        sources: [n] the places of the states to run on from.
        ends: which of the n rows keep the state they end with, [kept]; they have no pads.
        places: [kept] where these states go.
        longest: tokens of the longest row, once the call is done.
        keep: logits are wanted of so many last columns.
    """

    ids: Tensor
    positions: Tensor
    rows: Tensor
    slots: Tensor
    sources: list[int]
    ends: list[int]
    places: list[int]
    longest: int
    keep: int


class StateForward:
    """Runs the module as it is, for one session.

    Args:
        architecture: of the model.
        rows: of the session.
    """

    step: Step

    def __init__(self, architecture: Architecture, rows: int) -> None:
        self._architecture = architecture
        self.rows = rows
        # The last row holds the common beginning.
        self.slots = Slots(rows + 1, architecture.context, self._grow, architecture.device)
        layers = [self._layer(kind) for kind in architecture.layers]
        self._states = [layer for layer in layers if isinstance(layer, StateLayer)]
        self._attention = [layer for layer in layers if isinstance(layer, RowSlotLayer)]
        self._cache = Cache(layers=layers)
        windows = architecture.windows
        # Some models call the mask of a hybrid layer by what it attends to.
        attends = {"hybrid": "full_attention", "hybrid_sliding": "sliding_attention"}
        self._windows = {
            name: window
            for kind, window in windows.items()
            for name in (kind, attends.get(kind, kind))
            if kind in ATTENTION_LAYERS | HYBRID_LAYERS
        }
        # Layers that read no keys get no mask: what they read has no pads that anything would see.
        self._no_masks = dict.fromkeys({"linear_attention", "conv", *windows} - self._windows.keys())
        self._cache_argument = STATE_ARGUMENT if STATE_ARGUMENT in architecture.arguments else "past_key_values"
        # Scans of several tokens are padded to whole chunks; how long these are changes nothing but the time.
        parts = architecture.module.modules()
        self._chunked = [part for part in parts if isinstance(getattr(part, "chunk_size", None), int)]

    def _layer(self, kind: str) -> Any:
        if kind in EMPTY_LAYERS:
            return DummyLayer()
        if kind in ATTENTION_LAYERS:
            return RowSlotLayer(self)
        number = int(getattr(text_config(self._architecture.module.config), "number_of_conv_states", 1))
        return HybridLayer(self, number) if kind in HYBRID_LAYERS else StateLayer(number)

    @property
    def state_bytes(self) -> int:
        """The size of one snapshot; 0 before the first call."""
        return sum(bank[0].numel() * bank.element_size() for layer in self._states for bank in layer.banks.values())

    @property
    def slot_bytes(self) -> int:
        """What the keys and values of one token of one row take; known after the first call."""
        return sum(layer.slot_bytes for layer in self._attention)

    def snapshot(self, place: int) -> list[Tensor]:
        """The states in a place."""
        return [bank[place] for layer in self._states for bank in layer.banks.values()]

    def reserve(self, longest: int) -> None:
        """Makes room for the keys and values of rows of `longest` tokens."""
        if self._attention:
            self.slots.reserve(longest)

    def copy(self, source: int, destination: int, length: int) -> None:
        """The keys and values of the first `length` tokens of a row become those of another."""
        for layer in self._attention:
            layer.copy_row(source, destination, length)

    def _grow(self, capacity: int) -> None:
        for layer in self._attention:
            layer.grow(capacity)

    def run(self, step: Step) -> Tensor:
        """Logits [n, keep, vocab] of the last columns, float32, where the tokens are; keeps the states as it says."""
        architecture, device = self._architecture, self._architecture.device
        self.step = step
        # Without any state the models take their own path for a beginning, which for some is the only right one.
        sources = torch.tensor(step.sources, device=device) if any(step.sources) else None
        for layer in self._states:
            layer.load(sources)
        extra: dict[str, Any] = {self._cache_argument: self._cache}
        if "position_ids" in architecture.arguments:
            extra["position_ids"] = step.positions
        if self._attention:
            slots = self.slots.counting[: step.longest]
            extra["attention_mask"] = self._no_masks | architecture.masks(self._windows, slots, step.positions)
        with self._short_chunks(step.ids.shape[1]):
            logits = architecture.run(step.ids, step.keep, **extra)
        if step.places:
            ends = torch.tensor(step.ends, device=device) if len(step.ends) < len(step.ids) else None
            places, needed = torch.tensor(step.places, device=device), max(step.places) + 1
            for layer in self._states:
                layer.save(ends, places, needed)
        return logits

    @contextmanager
    def _short_chunks(self, width: int) -> Iterator[None]:
        usual = [part.chunk_size for part in self._chunked]
        try:
            for part, size in zip(self._chunked, usual, strict=True):
                part.chunk_size = min(size, width)
            yield
        finally:
            for part, size in zip(self._chunked, usual, strict=True):
                part.chunk_size = size


class StateLayer(LinearAttentionCacheLayerMixin):  # type: ignore[misc]  # the base class is untyped
    """What one recurrent layer holds: the states of the rows of a call, and its banks of snapshots.

    Args:
        number_of_states: how many states of each kind the layer has.
    """

    def __init__(self, number_of_states: int) -> None:
        LinearAttentionCacheLayerMixin.__init__(self, number_of_states)
        self.banks: dict[tuple[str, int], Tensor] = {}

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: a state is made by the first update, its bank by the first snapshot."""

    def _held(self) -> Iterator[tuple[str, dict[int, Tensor | None]]]:
        yield "conv", self.conv_states
        yield "recurrent", self.recurrent_states

    def load(self, sources: Tensor | None) -> None:
        """Copies of these snapshots become the states of a call's rows; with None they are empty."""
        for kind, states in self._held():
            for i in states:
                bank = self.banks.get((kind, i))
                states[i] = None if sources is None or bank is None else bank.index_select(0, sources.to(bank.device))
                self.has_previous_state[i] = sources is not None

    def save(self, ends: Tensor | None, places: Tensor, needed: int) -> None:
        """The states of these rows, of all where `ends` is None, become snapshots in a bank of at least `needed`."""
        for kind, states in self._held():
            for i, state in states.items():
                if state is None:
                    continue
                bank = self.banks.get((kind, i))
                if bank is None or len(bank) < needed:
                    grown = torch.zeros(needed, *state.shape[1:], dtype=state.dtype, device=state.device)
                    if bank is not None:
                        grown[: len(bank)] = bank
                    self.banks[kind, i] = bank = grown
                kept = state if ends is None else state.index_select(0, ends.to(state.device))
                bank.index_copy_(0, places.to(state.device), kept)
                states[i] = None

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **kwargs: Any
    ) -> Tensor:
        """The inputs before these and these [rows, channels, new]; keeps the last ones of them."""
        old = self.conv_states[state_idx]
        if old is None:
            every, size = conv_states, conv_kernel_size or conv_states.shape[-1]
        else:
            every, size = torch.cat([old, conv_states], -1), old.shape[-1]
        short = max(0, size - every.shape[-1])
        self.conv_states[state_idx] = torch.nn.functional.pad(every, (short, 0))[..., -size:]
        self.has_previous_state[state_idx] = True
        return every

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        """Keeps a matrix [rows, ...]."""
        self.recurrent_states[state_idx] = recurrent_states
        self.has_previous_state[state_idx] = True
        return recurrent_states


class RowSlotLayer(SlotBuffers):
    """The keys and values of one attention layer, for calls over any rows."""

    def __init__(self, forward: StateForward) -> None:
        super().__init__(forward)
        self.forward = forward

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the new keys and values [n, heads, new, head_dim]; returns all that a query may see."""
        if not self.is_initialized:
            SlotBuffers.lazy_initialization(self, key_states, value_states)  # a hybrid layer's own does nothing
        step = self.forward.step
        rows = step.rows.to(key_states.device)
        index = (step.slots.to(rows.device) + rows[:, None] * self.capacity).flatten()
        self.write_flat(index, key_states, value_states)
        keys, values = self.keys[:, :, : step.longest], self.values[:, :, : step.longest]
        if len(rows) == self.forward.rows > 1:
            return keys[:-1], values[:-1]
        return keys.index_select(0, rows), values.index_select(0, rows)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what `update` returns."""
        return self.forward.step.longest, 0

    def get_seq_length(self) -> int:
        """Tokens before this call's; rows differ, so a model that needs more than their positions fails the proof."""
        return self.forward.step.longest - self.forward.step.ids.shape[1]


class HybridLayer(StateLayer, RowSlotLayer):
    """A layer with a state beside keys and values."""

    def __init__(self, forward: StateForward, number_of_states: int) -> None:
        RowSlotLayer.__init__(self, forward)
        StateLayer.__init__(self, number_of_states)

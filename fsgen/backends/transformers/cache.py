"""Keys and values as `transformers` reads them, held by slots (`slots.py`)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from fsgen.backends.transformers.padded import Call
from fsgen.backends.transformers.slots import Slots


class HasSlots(Protocol):
    """What counts the slots of a layer."""

    slots: Slots


class SlotBuffers(CacheLayerMixin):  # type: ignore[misc]  # the base class is untyped
    """Keys and values of one layer: two buffers [rows, slots, heads, head_dim], handed out as transposed views."""

    def __init__(self, holder: HasSlots) -> None:
        super().__init__()
        self.holder = holder
        self.capacity = 0
        self.is_sliding = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocates the buffers, which only the first keys can size: [rows, heads, new, head_dim]."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._hold(self._blank(key_states), self._blank(value_states))
        self.is_initialized = True

    def _blank(self, like: Tensor) -> Tensor:
        shape = (self.holder.slots.rows, self.capacity, like.shape[1], like.shape[3])
        # Zeros, since a masked slot still enters the attention sum with weight 0, and 0 times NaN is NaN.
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        # [rows, slots, heads, dim] once as [rows * slots, heads, dim] to write to, once as [rows, heads, slots, dim].
        self.flat_keys, self.flat_values = keys.flatten(0, 1), values.flatten(0, 1)
        self.keys, self.values = keys.transpose(1, 2), values.transpose(1, 2)

    def write_flat(self, index: Tensor, key_states: Tensor, value_states: Tensor) -> None:
        """Writes new keys and values [rows, heads, new, head_dim] to the slots row * capacity + slot, [rows * new]."""
        self.flat_keys.index_copy_(0, index, key_states.transpose(1, 2).flatten(0, 1))
        self.flat_values.index_copy_(0, index, value_states.transpose(1, 2).flatten(0, 1))

    def copy_row(self, source: int, destination: int, length: int) -> None:
        """The keys and values of the first `length` tokens of a row become those of another."""
        if not self.is_initialized:  # a layer that reads those of another one
            return
        self.keys[destination, :, :length] = self.keys[source, :, :length]
        self.values[destination, :, :length] = self.values[source, :, :length]

    def grow(self, capacity: int) -> None:
        """Moves what is held into buffers of a new capacity."""
        self.capacity = capacity
        if not self.is_initialized:
            return
        grown = []
        for old in (self.keys, self.values):
            new = self._blank(old).transpose(1, 2)
            new[:, :, : old.shape[2]] = old
            grown.append(new.transpose(1, 2))
        self._hold(*grown)

    @property
    def slot_bytes(self) -> int:
        """What one token of one row takes; 0 before the first call, and where it reads what another layer holds."""
        if not self.is_initialized:
            return 0
        return (self.keys.nbytes + self.values.nbytes) // (len(self.keys) * self.capacity)

    def get_max_length(self) -> int:
        return -1


class SlotLayer(SlotBuffers):
    """The keys and values of one layer, for calls over neighbouring rows."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__(cache)
        self.cache = cache
        self.index: SlotLayer | None = None

    def copy_row(self, source: int, destination: int, length: int) -> None:
        """The keys and values of the first `length` tokens of a row become those of another."""
        super().copy_row(source, destination, length)
        if self.index is not None:
            self.index.copy_row(source, destination, length)

    @property
    def slot_bytes(self) -> int:
        """What one token of one row takes; see `SlotBuffers`."""
        return super().slot_bytes + (self.index.slot_bytes if self.index is not None else 0)

    def grow(self, capacity: int) -> None:
        """Moves what is held into buffers of a new capacity."""
        super().grow(capacity)
        if self.index is not None:
            self.index.grow(capacity)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the new keys and values [rows, heads, new, head_dim]; returns all that a query may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        call, longest = self.cache.call, self.cache.call.longest
        rows, width = call.ids.shape
        keys, values = self.keys.narrow(0, call.first, rows), self.values.narrow(0, call.first, rows)
        if call.slots is None:
            keys.narrow(2, call.start, width).copy_(key_states)
            values.narrow(2, call.start, width).copy_(value_states)
        else:
            self.write_flat(self.cache.index_on(key_states.device), key_states, value_states)
        return keys.narrow(2, 0, longest), values.narrow(2, 0, longest)

    def update_indexer(self, keys: Tensor) -> Tensor:
        """Writes keys by which a layer chooses what it attends to, [rows, new, dim]; returns those of all tokens."""
        if self.index is None:
            self.index = SlotLayer(self.cache)
            self.index.capacity = self.capacity
        found, _ = self.index.update(keys[:, None], keys[:, None, :, :0])
        return found[:, 0]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what `update` returns."""
        return self.cache.call.longest, 0

    def get_seq_length(self) -> int:
        """Tokens before this call's, where all rows agree; a ragged call brings its own masks and positions."""
        return self.cache.call.start


class SlotCache(Cache):  # type: ignore[misc]  # the base class is untyped
    """The slot layers of one batch, and the call whose tokens they take in.

    Args:
        layers: how many layers the model has.
    """

    slots: Slots
    call: Call

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])
        self._index: dict[torch.device, Tensor] = {}

    def grow(self, capacity: int) -> None:
        """Makes the buffers of every layer so many slots long."""
        for layer in self.layers:
            layer.grow(capacity)

    def begin(self, call: Call) -> None:
        """The coming forward pass is this call."""
        self.call = call
        self._index.clear()
        if call.slots is not None:
            rows = torch.arange(call.first, call.first + len(call.slots), device=call.slots.device)
            self._index[call.slots.device] = (call.slots + rows[:, None] * self.slots.capacity).flatten()

    def index_on(self, device: torch.device) -> Tensor:
        """The flat slots (row * capacity + slot) on the device of a layer: those of one model may be on several."""
        if device not in self._index:
            self._index[device] = next(iter(self._index.values())).to(device)
        return self._index[device]

"""A key-value cache in which the slot of a token is its position in its row.

Nothing is ever moved or compacted: a row that is rewound simply overwrites. A query at position p sees the slots 0..p
of its own row and no others, and all of them have been written for the current text by the time the query runs. What
an abandoned continuation left behind lies beyond every query until it is overwritten. Pads of a ragged call are
written to the last slot of the buffer, which no query ever sees.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

GRAIN = 64  # buffers are a multiple of so many slots
GROWTH = 1.5


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # the base class is untyped
    """Keys and values of one layer: two buffers [rows, slots, heads, head_dim], handed out as transposed views."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache
        self.is_sliding = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocates the buffers, which only the first keys can size: [rows, heads, new, head_dim]."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._hold(self._blank(key_states), self._blank(value_states))
        self.is_initialized = True

    def _blank(self, like: torch.Tensor) -> torch.Tensor:
        shape = (self.cache.rows, self.cache.capacity, like.shape[1], like.shape[3])
        # Zeros, since a masked slot still enters the attention sum with weight 0, and 0 times NaN is NaN.
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def _hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        # [rows, slots, heads, dim] once as [rows * slots, heads, dim] to write to, once as [rows, heads, slots, dim].
        self.flat_keys, self.flat_values = keys.flatten(0, 1), values.flatten(0, 1)
        self.keys, self.values = keys.transpose(1, 2), values.transpose(1, 2)

    def grow(self) -> None:
        """Moves what is held into buffers of the cache's new capacity."""
        if not self.is_initialized:
            return
        grown = []
        for old in (self.keys, self.values):
            new = self._blank(old).transpose(1, 2)
            new[:, :, : old.shape[2]] = old
            grown.append(new.transpose(1, 2))
        self._hold(*grown)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new keys and values [rows, heads, new, head_dim]; returns all that a query may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self.cache
        keys, values = self.keys, self.values
        if cache.partial:
            keys, values = keys.narrow(0, cache.first, cache.active), values.narrow(0, cache.first, cache.active)
        if cache.index is None:
            keys.narrow(2, cache.start, cache.new).copy_(key_states)
            values.narrow(2, cache.start, cache.new).copy_(value_states)
        else:
            index = cache.index_on(key_states.device)
            self.flat_keys.index_copy_(0, index, key_states.transpose(1, 2).flatten(0, 1))
            self.flat_values.index_copy_(0, index, value_states.transpose(1, 2).flatten(0, 1))
        return keys.narrow(2, 0, cache.longest), values.narrow(2, 0, cache.longest)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what `update` returns."""
        return self.cache.longest, 0

    def get_seq_length(self) -> int:
        """Tokens before this call's, where all rows agree; a ragged call brings its own masks and positions."""
        return self.cache.start

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):  # type: ignore[misc]  # the base class is untyped
    """The slot layers of one batch, and where the tokens of the current call go.

    Args:
        layers: how many layers the model has.
        rows: the batch size.
        context: the longest row there can be, in tokens.
    """

    def __init__(self, layers: int, rows: int, context: int) -> None:
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])
        self.rows, self.context = rows, context
        self.capacity = 0
        self.first, self.active, self.partial = 0, rows, False
        self.start = self.new = self.longest = 0
        self.index: torch.Tensor | None = None
        self._index_copies: dict[torch.device, torch.Tensor] = {}
        self._no_layers = [False] * layers

    @property
    def trash(self) -> int:
        """The slot that takes pads: always the last one, beyond every row."""
        return self.capacity - 1

    def reserve(self, longest: int) -> None:
        """Makes room for rows of `longest` tokens, beside the trash slot."""
        if longest < self.capacity:
            return
        wanted = max(longest + 1, int(self.capacity * GROWTH))
        wanted = -(-wanted // GRAIN) * GRAIN
        self.capacity = max(longest + 1, min(wanted, self.context + 1))
        for layer in self.layers:
            layer.grow()

    def aim(self, first: int, active: int, start: int, new: int, longest: int, index: torch.Tensor | None) -> None:
        """Says where the coming forward call writes; `reserve` comes before.

        Args:
            first, active: the call runs on the rows first .. first + active - 1.
            start: position of the first new token, where all rows agree.
            new: columns of the call.
            longest: tokens of the longest row, once the call is done.
            index: the flat slots [active * new] (row * capacity + slot) of a ragged call; None where the new tokens
                of every row are start .. start + new - 1.
        """
        self.first, self.active, self.partial = first, active, active != self.rows
        self.start, self.new, self.longest = start, new, longest
        self.index = index
        if self._index_copies:
            self._index_copies.clear()

    def index_on(self, device: torch.device) -> torch.Tensor:
        """The flat slots on the device of a layer: the layers of one model may lie on several."""
        assert self.index is not None
        if self.index.device == device:
            return self.index
        if device not in self._index_copies:
            self._index_copies[device] = self.index.to(device)
        return self._index_copies[device]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        updated: tuple[torch.Tensor, torch.Tensor] = self.layers[layer_idx].update(key_states, value_states)
        return updated

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.start

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.longest, 0

    # Asked at every call by the mask helpers; here every layer is alike.
    @property
    def is_sliding(self) -> list[bool]:
        return self._no_layers

    @property
    def is_linear(self) -> list[bool]:
        return self._no_layers

    @property
    def is_dummy(self) -> list[bool]:
        return self._no_layers

"""The forward pass of any `transformers` model that takes a cache, a mask and positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from fsgen.backends.transformers.padded import Call, PaddedForward
from fsgen.backends.transformers.slots import Slots

if TYPE_CHECKING:
    from fsgen.backends.transformers.model import TransformersModel


class TransformersForward(PaddedForward):
    """Runs the module as it is, for one session.

    Args:
        model: with its layers and masks.
        rows: of the session.
    """

    def __init__(self, model: TransformersModel, rows: int) -> None:
        self._model = model
        self._cache = SlotCache(len(model.layers))
        self._cache.slots = Slots(rows, model.context, self._cache.grow, model.device)
        super().__init__(self._cache.slots, model.vocab_size, model.device)
        self._smallest_window = min((w for w in model.kinds.values() if w is not None), default=model.context)

    def copy(self, source: int, destination: int, length: int) -> None:
        for layer in self._cache.layers:
            layer.keys[destination, :, :length] = layer.keys[source, :, :length]
            layer.values[destination, :, :length] = layer.values[source, :, :length]

    def one_pass(self, call: Call) -> Tensor:
        model = self._model
        width = call.ids.shape[1]
        self._cache.aim(call)
        # A single query sees everything there is, and a fresh start is plainly causal, unless a window is full.
        plain = call.slots is None and (width == 1 or (call.start == 0 and model.boolean_masks))
        masks = None if plain and call.longest <= self._smallest_window else self._masks(call)
        extra = {"logits_to_keep": call.keep} if model.keeps_logits else {}
        logits: Tensor = model.module(
            input_ids=call.ids,
            attention_mask=masks,
            position_ids=call.positions,
            past_key_values=self._cache,
            use_cache=True,
            **extra,
        ).logits
        if logits.shape[1] != call.keep:
            logits = logits[:, -call.keep :]
        return logits.to(model.device, torch.float32)

    def _masks(self, call: Call) -> Tensor | dict[str, Tensor]:
        """What each query may see: [rows or 1, 1, width, longest], one mask for each type of layer the model has.

        A pad stands at position 0 and so sees one slot, since a query that sees nothing has no softmax.
        """
        masks = attention_masks(self._model, self._model.kinds, self.slots.counting[: call.longest], call.positions)
        # A model with one type of layer takes the mask as it is; one with several asks for them by name.
        return masks if len(masks) > 1 else next(iter(masks.values()))


def attention_masks(
    model: TransformersModel, kinds: dict[str, int | None], slots: Tensor, positions: Tensor
) -> dict[str, Tensor]:
    """For each kind of attention layer what each query may see, [rows or 1, 1, width, slots].

    Args:
        model: says whether its masks are boolean or added to the scores.
        kinds: each with its window in tokens, None where it has none.
        slots: the slots there are, counted from 0.
        positions: of the queries, [rows or 1, width].
    """
    queries = positions[:, None, :, None]
    causal = slots <= queries
    masks = {}
    for kind, window in kinds.items():
        mask = causal
        if window is not None and len(slots) > window:
            mask = causal & (slots > queries - window)
        if not model.boolean_masks:
            dtype = model.module.dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
        masks[kind] = mask
    return masks


class _HasSlots(Protocol):
    slots: Slots


class SlotBuffers(CacheLayerMixin):  # type: ignore[misc]  # the base class is untyped
    """Keys and values of one layer: two buffers [rows, slots, heads, head_dim], handed out as transposed views."""

    def __init__(self, holder: _HasSlots) -> None:
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

    def get_max_length(self) -> int:
        return -1


class SlotLayer(SlotBuffers):
    """The keys and values of one layer, for calls over neighbouring rows."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__(cache)
        self.cache = cache

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
            index = self.cache.index_on(key_states.device)
            self.flat_keys.index_copy_(0, index, key_states.transpose(1, 2).flatten(0, 1))
            self.flat_values.index_copy_(0, index, value_states.transpose(1, 2).flatten(0, 1))
        return keys.narrow(2, 0, longest), values.narrow(2, 0, longest)

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
        self._no_layers = [False] * layers

    def grow(self, capacity: int) -> None:
        """Makes the buffers of every layer so many slots long."""
        for layer in self.layers:
            layer.grow(capacity)

    def aim(self, call: Call) -> None:
        """Says where the coming forward pass writes."""
        self.call = call
        self._index.clear()
        if call.slots is not None:
            rows = torch.arange(call.first, call.first + len(call.slots), device=call.slots.device)
            self._index[call.slots.device] = (call.slots + rows[:, None] * self.slots.capacity).flatten()

    def index_on(self, device: torch.device) -> Tensor:
        """The flat slots (row * capacity + slot) on the device of a layer: those of one model may lie on several."""
        if device not in self._index:
            self._index[device] = next(iter(self._index.values())).to(device)
        return self._index[device]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        updated: tuple[Tensor, Tensor] = self.layers[layer_idx].update(key_states, value_states)
        return updated

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.call.start

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.call.longest, 0

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

"""What a forward pass has to know of a `transformers` model: its layers, its masks, and what its code takes."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fsgen.backends.transformers.continuation import layer_kinds, position_offset, text_config

CHUNKED = "chunked_attention"


@dataclass(frozen=True, slots=True)
class Architecture:
    """A loaded model as its forward passes see it.

    Attributes:
        module: the `transformers` model.
        context: the longest sequence, in tokens.
        vocab_size: rows of the logits.
        device: where tokens go in and logits come back.
        layers: the kind of each layer (`full_attention`, `linear_attention` ...).
        windows: for each kind of layer its sliding window in tokens, None where it has none.
        chunk: tokens of a chunk, beyond which its chunked layers see nothing; None where it has none.
        offset: the position of the first token.
        arguments: what its forward pass takes.
        boolean_masks: its attention reads boolean masks; elsewhere a mask is added to the scores.
    """

    module: Any
    context: int
    vocab_size: int
    device: torch.device
    layers: tuple[str, ...]
    windows: dict[str, int | None]
    chunk: int | None
    offset: int
    arguments: frozenset[str]
    boolean_masks: bool

    @classmethod
    def of(cls, module: Any, context: int, vocab_size: int) -> Architecture:
        """The architecture of a loaded model."""
        layers = layer_kinds(module.config)
        windows = dict(layers) if _slides(module) else dict.fromkeys(kind for kind, _ in layers)
        return cls(
            module,
            context,
            vocab_size,
            # Logits come back to where the tokens went in, also when the layers are on several GPUs.
            device=module.get_input_embeddings().weight.device,
            layers=tuple(kind for kind, _ in layers),
            windows=windows,
            chunk=getattr(text_config(module.config), "attention_chunk_size", None) if CHUNKED in windows else None,
            offset=position_offset(module.config),
            arguments=frozenset(inspect.signature(type(module).forward).parameters),
            boolean_masks=module.config._attn_implementation == "sdpa",
        )

    @property
    def smallest_window(self) -> int:
        """How long a text may be until some layer does not see all of it."""
        bounds = [*self.windows.values(), self.chunk]
        return min((bound for bound in bounds if bound is not None), default=self.context)

    def run(self, ids: Tensor, keep: int, **extra: Any) -> Tensor:
        """Logits [rows, keep, vocab] of the last columns of `ids`, float32; `extra` goes to the model's code."""
        if "logits_to_keep" in self.arguments:
            extra["logits_to_keep"] = keep
        if self.offset and "position_ids" in extra:
            extra["position_ids"] = extra["position_ids"] + self.offset
        logits: Tensor = self.module(input_ids=ids, use_cache=True, **extra).logits
        return logits[:, -keep:].to(self.device, torch.float32)

    def masks(self, windows: dict[str, int | None], slots: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """For each kind of attention layer what each query may see, [rows or 1, 1, width, slots].

        Args:
            windows: the kinds, each with its window in tokens or None.
            slots: the slots there are, counted from 0.
            positions: of the queries, [rows or 1, width].
        """
        queries = positions[:, None, :, None]
        causal = slots <= queries
        masks = {}
        for kind, window in windows.items():
            mask = causal
            if window is not None and len(slots) > window:
                mask = causal & (slots > queries - window)
            elif kind == CHUNKED and self.chunk is not None and len(slots) > self.chunk:
                mask = causal & (slots // self.chunk == queries // self.chunk)
            if not self.boolean_masks:
                dtype = self.module.dtype
                mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
            masks[kind] = mask
        return masks


def _slides(module: Any) -> bool:
    """Whether the code of a model masks by windows at all: a configuration may name a window that nothing reads."""
    files = {type(part).__module__ for part in module.modules()}
    return any(hasattr(sys.modules.get(file), "create_sliding_window_causal_mask") for file in files)

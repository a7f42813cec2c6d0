"""Linear layers with eight-bit weights, for a model on a CPU: a quarter of the bytes to read, and faster products."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_TOP = 127


class Int8Linear(nn.Module):
    """A linear layer of int8 weights, one scale an output; each row of its input is rounded by a scale of its own.

    So no row depends on its neighbours, as it would with one scale for a whole batch, and since the sums are whole
    numbers the result is the same in any batch, to the last bit. (The compiled forward pass, `backends.cpu`, reads
    these weights too, and rounds inputs to sixteen bits, or not at all where the processor does not multiply those.)

    Args:
        weight: int8 [outputs, inputs].
        scales: float32 [outputs], what one step of a weight stands for.
        bias: float32 [outputs].
    """

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias)

    @classmethod
    def rounding(cls, layer: nn.Linear) -> Int8Linear:
        """The layer with its weights rounded."""
        bias = None if layer.bias is None else layer.bias.detach().float()
        return cls(*rounded(layer.weight.detach()), bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., inputs] to float32 [..., outputs]."""
        rows = x.flatten(0, -2)
        scales = _scales(rows)
        sums = torch._int_mm((rows / scales).round_().to(torch.int8), self.weight.t())  # int32
        product: torch.Tensor = (sums * scales).mul_(self.scales).view(*x.shape[:-1], -1)
        return product if self.bias is None else product.add_(self.bias)


def rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [outputs, inputs] as int8, and float32 [outputs], what one step of it stands for."""
    weight = weight.float()
    scales = _scales(weight)
    return (weight / scales).round_().to(torch.int8), scales.squeeze(1)


def _scales(rows: torch.Tensor) -> torch.Tensor:
    """For each row the step between two neighbouring levels: [rows, 1]."""
    return (rows.abs().amax(1, keepdim=True) / _TOP).clamp_(min=torch.finfo(torch.float32).tiny)


def check_products() -> None:
    """Refuses a processor whose eight-bit products are not exact.

    Raises:
        ValueError: they are not: some processors without VNNI cut their sums off at sixteen bits.
    """
    ones = torch.full((2, 64), _TOP, dtype=torch.int8)
    if not (torch._int_mm(ones, ones.t()) == 64 * _TOP**2).all():
        raise ValueError("int8 weights need a processor that sums eight-bit products exactly, and this one does not")


def quantise(model: Any, name: str) -> None:
    """Puts an `Int8Linear` in the place of every linear layer of a model on the CPU, its head included.

    All else (embeddings, norms, attention) is computed in float32.

    Raises:
        ValueError: a model that has matrices outside linear layers and embeddings; names it and the first of them.
    """
    for part in list(model.modules()):
        for child_name, child in list(part.named_children()):
            if type(child) is nn.Linear:
                setattr(part, child_name, Int8Linear.rounding(child))
    kept = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    left = [label for label, weight in model.named_parameters() if weight.ndim > 1 and id(weight) not in kept]
    if left:
        raise ValueError(
            f"{name!r} ({type(model).__name__}) cannot have int8 weights: {left[0]} is not in a plain linear layer"
        )
    model.float()

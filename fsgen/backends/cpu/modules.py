"""A `transformers` model that is in memory already, put on the compiled forward pass."""

from __future__ import annotations

from typing import Any

import torch

from fsgen.backends.cpu.files import fits
from fsgen.backends.cpu.shape import Shape
from fsgen.backends.cpu.weights import DTYPES, CpuWeights

# The weights are held a second time, in another order. For models of more bytes this is too dear.
LARGEST = 2 * 2**30


def weights_of(module: Any) -> CpuWeights | None:
    """The weights of a model on the CPU; None where the compiled forward pass does not compute what it does."""
    shape = Shape.of(module.config.to_dict())
    if shape is None or not _held_alike(module):
        return None
    tensors = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    scales = [name for name in tensors if name.endswith(".scales")]
    if scales and len(scales) != len(shape.matrices()) + shape.tied:
        return None
    shapes = {name: tuple(x.shape) for name, x in tensors.items() if name not in scales}
    if shape.tied:
        shapes.pop("lm_head.weight", None)
    if not fits(shape, shapes):  # another class under a known name, or one with more to it
        return None
    return CpuWeights(shape, tensors, torch.float32 if scales else module.dtype, bits=8 * bool(scales))


def _held_alike(module: Any) -> bool:
    parameters = list(module.parameters())
    dtypes = {weight.dtype for weight in parameters}
    here = all(weight.device.type == "cpu" for weight in parameters)
    return here and len(dtypes) == 1 and dtypes <= DTYPES and sum(weight.nbytes for weight in parameters) <= LARGEST

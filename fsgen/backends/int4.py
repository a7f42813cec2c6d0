"""Weights of four bits, in groups of 32 inputs with a scale of their own, as llama.cpp's Q4_0 has them."""

from __future__ import annotations

import torch

GROUP = 32


def rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [outputs, inputs] as uint8, 8 more than the levels -8 to 7; and [outputs, groups], what a step is.

    The number of a group that is farthest from 0 is level -8, exactly.
    """
    outputs, inputs = weight.shape
    groups = torch.nn.functional.pad(weight.float(), (0, -inputs % GROUP)).view(outputs, -1, GROUP)
    extreme = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scales = (extreme / -8).bfloat16().float()
    levels = (groups / torch.where(scales == 0, 1.0, scales)).round_().clamp_(-8, 7)
    return (levels + 8).to(torch.uint8).view(outputs, -1)[:, :inputs], scales.squeeze(2)

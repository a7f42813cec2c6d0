"""Mamba-2's scan and convolution for training on a CPU: what transformers computes, in fewer passes over memory.

The scan is the chunked form of the paper (Dao & Gu, arXiv 2405.21060, section 6) for one group: what does not depend on
the head is computed once, and sums within a chunk are differences of one running sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from transformers.models.mamba2 import modeling_mamba2

_REFERENCE = modeling_mamba2.mamba2_chunk_scan


def chunk_scan(
    hidden_states: torch.Tensor, dt: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor,
    chunk_size: int, *, dt_bias: torch.Tensor, return_final_states: bool = False, **others: Any,
) -> Any:  # fmt: skip
    """The scan from an empty state; one that keeps states is left to transformers.

    Args:
        hidden_states: [b, t, h, p].
        dt: before its bias and softplus, [b, t, h].
        a, dt_bias: [h], as is `D`, the weight of the skip connection.
        b, c: [b, t, 1, n].

    Returns:
        [b, t, h, p]; with `return_final_states` also the states.
    """
    rows, length, heads, width = hidden_states.shape
    if return_final_states or length % chunk_size:
        others |= {"dt_bias": dt_bias, "return_final_states": return_final_states}
        return _REFERENCE(hidden_states, dt, a, b, c, chunk_size, **others)
    state, q, chunks = b.shape[-1], chunk_size, length // chunk_size
    dt = F.softplus(dt.float() + dt_bias)
    decay = (dt * a.float()).view(rows, chunks, q, heads).permute(0, 1, 3, 2).cumsum(-1)  # [b, c, h, q], not positive
    given = (hidden_states * dt[..., None]).view(rows, chunks, q, heads, width)
    b, c = b.view(rows, chunks, q, state), c.view(rows, chunks, q, state)

    # Within a chunk: of every later position what it takes from every earlier one.
    seen = torch.ones(q, q, dtype=torch.bool).tril()
    kept = (decay[..., :, None] - decay[..., None, :]).masked_fill(~seen, -torch.inf).exp()  # [b, c, h, q, q]
    taken = torch.matmul(c, b.transpose(-1, -2))[:, :, None] * kept
    inside = torch.matmul(taken, given.transpose(2, 3)).transpose(2, 3)  # [b, c, q, h, p]

    # From chunk to chunk: what each leaves behind, and how much of it is left at the start of each later one.
    rest = (decay[..., -1:] - decay).exp().transpose(2, 3)[..., None]  # [b, c, q, h, 1]
    left = torch.matmul(b.transpose(-1, -2), (given * rest).flatten(3))  # [b, c, n, h * p]
    ends = F.pad(decay[..., -1].transpose(1, 2).cumsum(-1), (1, 0))  # [b, h, c + 1]
    earlier = torch.ones(chunks, chunks, dtype=torch.bool).tril(-1)
    still = (ends[..., :-1, None] - ends[..., None, 1:]).masked_fill(~earlier, -torch.inf).exp()  # [b, h, c, c]
    by_head = left.view(rows, chunks, state, heads, width).permute(0, 3, 1, 2, 4).flatten(3)
    starts = torch.matmul(still, by_head).view(rows, heads, chunks, state, width)
    before = torch.matmul(c, starts.permute(0, 2, 3, 1, 4).flatten(3)).view(rows, chunks, q, heads, width)
    output = inside + before * decay.exp().transpose(2, 3)[..., None]
    return output.reshape(rows, length, heads, width) + others["D"][:, None] * hidden_states


def causal_convolution(
    hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, activation: str, **_: Any
) -> torch.Tensor:
    """Each channel's convolution over the last positions, then SiLU: [b, channels, t], by weights [channels, taps]."""
    assert activation == "silu"
    length, taps = hidden_states.shape[-1], weight.shape[1]
    padded = F.pad(hidden_states, (taps - 1, 0))
    total = bias[:, None] + sum(weight[:, tap, None] * padded[..., tap : tap + length] for tap in range(taps))
    return F.silu(total).to(hidden_states.dtype)


@contextmanager
def fast_scan() -> Iterator[None]:
    """Inside, the Mamba-2 of transformers computes by the functions of this file; as training does."""
    with (
        patch.object(modeling_mamba2, "mamba2_chunk_scan", chunk_scan),
        patch.object(modeling_mamba2, "causal_conv1d_fn", causal_convolution),
    ):
        yield

"""Training: the same batches for every size, Muon for the matrices, AdamW for the rest, resumable at any point."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from ladder import stream
from ladder.sizes import END_OF_TEXT_ID, Size

_MICRO_TOKENS = 4096  # what stays in the cache of a core
_SAVE_EVERY = 150.0  # seconds


class Batches(Protocol):
    """(ids, labels) of every step, read by its number."""

    def __len__(self) -> int:
        """The number of steps."""

    def __getitem__(self, step: int, /) -> tuple[torch.Tensor, torch.Tensor]:
        """One step."""


# Of a model, the ids and the labels of rows [b, t]: a sum over the labels that count.
Loss = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Schedule:
    """Peak learning rates, and the share of the steps that warms up; then linear to zero."""

    matrix_rate: float = 0.02
    other_rate: float = 1e-2
    warmup: float = 0.03
    weight_decay: float = 0.01

    def factor(self, step: int, steps: int) -> float:
        """Share of the peak rate at a step counted from zero."""
        warm = max(1.0, self.warmup * steps)
        return min((step + 1) / warm, (steps - step) / max(1.0, steps - warm))


@dataclass(frozen=True)
class Trapezoid(Schedule):
    """Warm-up and a constant rate, then linear to zero over the last `cooldown` steps: what is constant can go on."""

    warmup_steps: int = 50
    cooldown: int = 400

    def factor(self, step: int, steps: int) -> float:
        """Share of the peak rate at a step counted from zero."""
        return min(1.0, (step + 1) / self.warmup_steps, (steps - step) / max(1, self.cooldown))


def _block_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, scaling: float | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal attention by plain products over blocks of queries: on a CPU faster than the fused kernel's backward."""
    length = query.shape[2]
    block = 128 if length <= 512 else 256
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    outputs = []
    for start in range(0, length, block):
        end = min(start + block, length)
        weights = torch.matmul(query[:, :, start:end], key[:, :, :end].transpose(-1, -2)).float() * scale
        seen = torch.ones(end - start, end, dtype=torch.bool, device=query.device).tril(diagonal=start)
        weights = weights.masked_fill(~seen, -1e9).softmax(-1).to(value.dtype)
        outputs.append(torch.matmul(weights, value[:, :, :end]))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register("ladder_blocks", _block_attention)


def new_model(size: Size, seed: int = 0, attention: str = "ladder_blocks") -> Any:
    """A fresh model of a size, in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size.vocab_size, hidden_size=size.hidden, intermediate_size=size.ffn, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads, max_position_embeddings=size.context,
        tie_word_embeddings=True, bos_token_id=END_OF_TEXT_ID, eos_token_id=END_OF_TEXT_ID, pad_token_id=END_OF_TEXT_ID,
        attn_implementation=attention,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def optimizers(model: Any, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the embedding and the norms."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=schedule.matrix_rate, weight_decay=schedule.weight_decay, momentum=0.95)
    adam = torch.optim.AdamW(others, lr=schedule.other_rate, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def next_token_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy of the next tokens of rows [b, t]."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    return F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=stream.IGNORED, reduction="sum"
    )


def _save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as out:
        torch.save(state, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)


def fit(
    model: Any,
    batches: Batches,
    folder: Path,
    schedule: Schedule,
    *,
    loss: Loss = next_token_loss,
    compiled: bool = True,
    stop_at: int | None = None,
    keep_at: int | None = None,
    save_every: float = _SAVE_EVERY,
    watch: Callable[[Any], dict[str, float]] | None = None,
) -> None:
    """Train on the batches in order and leave `final.pt` in the folder; continue from `checkpoint.pt` if there.

    `loss` is summed over the labels of rows [b, t] that are not ignored; `stop_at` ends early after a checkpoint, as a
    kill would; the checkpoint after `keep_at` steps stays as `trunk.pt`, for a longer training to go on from; `watch`
    measures for the log at each quarter of the steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "final.pt").exists():
        print(f"{folder.name}: done already")
        return
    device = next(model.parameters()).device
    optimizer_list = optimizers(model, schedule)
    first, tokens, seconds = 0, 0, 0.0
    if (folder / "checkpoint.pt").exists():
        state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizer_list, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, tokens, seconds = state["step"], state["tokens"], state["seconds"]
    loss_of = torch.compile(loss, dynamic=False) if compiled else loss
    steps = len(batches)
    started = saved_at = time.monotonic()
    smooth: float | None = None

    def snapshot(step: int) -> dict[str, Any]:
        return {
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizer_list],
            "step": step,
            "tokens": tokens,
            "seconds": seconds + time.monotonic() - started,
        }

    model.train()
    for step in range(first, steps):
        ids, labels = batches[step]
        counted = int((labels[:, 1:] != stream.IGNORED).sum())
        rows = max(1, _MICRO_TOKENS // ids.shape[1])
        total = 0.0
        for start in range(0, len(ids), rows):
            part = loss_of(
                model, ids[start : start + rows].long().to(device), labels[start : start + rows].long().to(device)
            )
            torch.autograd.backward(part / counted)
            total += float(part.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = schedule.factor(step, steps)
        for optimizer in optimizer_list:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += counted
        smooth = total / counted if smooth is None else 0.95 * smooth + 0.05 * total / counted
        done = step + 1
        now = time.monotonic()
        note: dict[str, Any] = {"step": done, "of": steps, "tokens": tokens, "loss": round(smooth, 4)}
        watched = watch is not None and (done * 4) % steps < 4
        if watch is not None and watched:
            note |= watch(model)
        if done % 25 == 0 or watched:
            note["seconds"] = round(seconds + now - started)
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(note) + "\n")
        if done == keep_at:
            _save(folder / "trunk.pt", snapshot(done))
        if done == stop_at or now - saved_at > save_every:
            _save(folder / "checkpoint.pt", snapshot(done))
            saved_at = now
        if done == stop_at:
            return
    state = snapshot(steps)
    _save(folder / "final.pt", {name: state[name] for name in ("model", "step", "tokens", "seconds")})

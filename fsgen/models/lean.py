"""The forward pass of Llama-like models on a CPU, in as few and as large operations as will do.

`transformers` spends most of a small model's time between its operations: on two cores a draft of 0.6 M parameters
takes 0.6 ms for a token, of which a third is arithmetic. Here a layer is some twenty calls: query, key and value in one
product, gate and up in another, keys held transposed as the attention reads them. The weights are the module's own,
and so are the rotary tables. Everything else about a model (which tokens, what is cached) is the session's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fsgen.models.cache import Call, Forward, Slots
from fsgen.models.int8 import Int8Linear

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})

# oneDNN, with weights brought into its own order once, multiplies two to three times as fast as what torch calls for
# float32 (MKL) on the processors we measured, but takes longer to start (docs/performance.md): for models of these many
# bytes. Those that fit a core's own cache gain nothing, and for large ones the packed weights would be too dear a copy.
PACK_FROM, PACK_TO = 4 * 2**20, 2 * 2**30
# From so many new tokens on, fused attention, which never holds the whole matrix of scores, is the faster.
MANY = 32


def speaks(module: Any) -> bool:
    """Whether `LeanForward` computes what this `transformers` model does."""
    config = module.config
    if config.model_type not in FAMILIES or getattr(config, "hidden_act", None) != "silu":
        return False
    if any(weight.device.type != "cpu" for weight in module.parameters()) or not module.dtype.is_floating_point:
        return False
    try:
        return all(
            type(linear) in (torch.nn.Linear, Int8Linear)
            for layer in module.model.layers
            for linear in _linears(layer).values()
        ) and all(layer.mlp.down_proj.bias is None for layer in module.model.layers)
    except AttributeError:
        return False


def _linears(layer: Any) -> dict[str, Any]:
    attention, mlp = layer.self_attn, layer.mlp
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    return {name: getattr(attention, name) for name in names} | {
        name: getattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj")
    }


class _Linear:
    """y = W x + b for rows x, with a weight that is packed for oneDNN where that pays.

    Args:
        linears: modules with the same input, taken as one. They keep views of the joined weight, so nothing is held
            twice but for the packing.
        packs: whether the model is of a size that gains by it.
    """

    def __init__(self, *linears: Any, packs: bool) -> None:
        if len(linears) == 1:
            weight = linears[0].weight.detach()
        else:
            weight = torch.cat([linear.weight.detach() for linear in linears])
            parts = torch.split(weight, [linear.weight.shape[0] for linear in linears])
            for linear, part in zip(linears, parts, strict=True):
                linear.weight = torch.nn.Parameter(part, requires_grad=False)
        biases = [linear.bias for linear in linears if linear.bias is not None]
        self.bias = torch.cat([bias.detach() for bias in biases]) if biases else None
        self.weight = weight
        self.packed: Tensor | None = None
        if packs and can_pack(weight.dtype):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, in] to [tokens, out]."""
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return product

    def add_to(self, rest: Tensor, x: Tensor) -> Tensor:
        """rest + W x + b."""
        if self.packed is None and self.bias is None:
            return torch.addmm(rest, x, self.weight.t())
        return self(x).add_(rest)


def _joined(*linears: Any, packs: bool) -> _Linear | Int8Linear:
    """Modules with the same input as one."""
    return Int8Linear.joining(linears) if isinstance(linears[0], Int8Linear) else _Linear(*linears, packs=packs)


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch and this processor multiply by packed weights of a type, and rightly."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if dtype not in (torch.float32, torch.bfloat16) or not available:
        return False
    x, weight = torch.eye(32, dtype=dtype), torch.arange(-512, 512, dtype=dtype).view(32, 32) / 512
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        product = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((product.t() == weight).all())


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of one layer."""

    kind: str
    enter: Tensor
    qkv: _Linear | Int8Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: _Linear | Int8Linear
    leave: Tensor
    gate_up: _Linear | Int8Linear
    down: _Linear | Int8Linear


class LeanForward(Forward):
    """Runs a Llama, Mistral, Qwen2 or Qwen3 model (`speaks`) for one session.

    Args:
        weights: shared by all sessions of a model.
        rows, context: of the session, as in `Slots`.
    """

    def __init__(self, weights: LeanWeights, rows: int, context: int) -> None:
        self._w = weights
        self.slots = Slots(rows, context, self._grow)
        # Of each layer [rows, heads, slots, head_dim]; the keys lie in memory the other way round, as they are read.
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def _grow(self, capacity: int) -> None:
        w, rows, old = self._w, self.slots.rows, self.slots.capacity
        # Zeros, since a masked slot still enters the attention sum with weight 0, and 0 times NaN is NaN.
        upright, turned = (rows, w.kv_heads, capacity, w.head_dim), (rows, w.kv_heads, w.head_dim, capacity)
        values = [torch.zeros(upright, dtype=w.dtype) for _ in w.layers]
        keys = [torch.zeros(turned, dtype=w.dtype).mT for _ in w.layers]
        for new, held in zip(keys + values, self._keys + self._values, strict=False):
            new[:, :, :old] = held
        self._keys, self._values = keys, values
        self._w.reach(min(capacity, self.slots.context))

    def copy(self, source: int, destination: int, length: int) -> None:
        for held in self._keys + self._values:
            held[destination, :, :length] = held[source, :, :length]

    def run(self, call: Call) -> Tensor:
        w = self._w
        rows, width = call.ids.shape
        tokens = rows * width
        # In float32 the product with one column is dearer than with two.
        doubled = tokens == 1 and w.doubles
        ids = call.ids.flatten()
        x = F.embedding(ids.expand(2) if doubled else ids, w.embedding)
        cos, sin = w.rotary(call, width)
        biases = {kind: self._bias(call, window) for kind, window in w.kinds.items()}

        for number, layer in enumerate(w.layers):
            qkv = layer.qkv(_rms(x, layer.enter, w.eps))
            if doubled:
                qkv = qkv[:1]
            heads = qkv.reshape(rows, width, w.heads + 2 * w.kv_heads, w.head_dim)
            mixed = self._attend(heads, layer, number, call, cos, sin, biases[layer.kind])
            if doubled:
                mixed = mixed.expand(2, -1)
            x = layer.out.add_to(x, mixed)
            gate, up = layer.gate_up(_rms(x, layer.leave, w.eps)).chunk(2, -1)
            x = layer.down.add_to(x, F.silu(gate) * up)

        if call.keep < width:
            x = x.view(rows, width, -1)[:, width - call.keep :].flatten(0, 1)
        logits = w.head(_rms(x, w.norm, w.eps))
        if doubled:
            logits = logits[:1]
        return logits.reshape(rows, call.keep, -1).float()

    def _attend(
        self, heads: Tensor, layer: _Layer, number: int, call: Call, cos: Tensor, sin: Tensor, bias: Tensor | None
    ) -> Tensor:
        """[tokens, heads * head_dim] from the projections [rows, width, heads + 2 kv_heads, head_dim]."""
        w = self._w
        rows, width = call.ids.shape
        turning = heads[:, :, : w.heads + w.kv_heads]
        if layer.q_norm is not None and layer.k_norm is not None:
            normed = (
                _rms(turning[:, :, : w.heads], layer.q_norm, w.eps),
                _rms(turning[:, :, w.heads :], layer.k_norm, w.eps),
            )
            turning = torch.cat(normed, 2)
        turned = torch.addcmul(turning * cos, turning.roll(w.head_dim // 2, -1), sin)
        q, k = turned[:, :, : w.heads], turned[:, :, w.heads :]
        v = heads[:, :, w.heads + w.kv_heads :]

        keys = self._keys[number].narrow(0, call.first, rows)
        values = self._values[number].narrow(0, call.first, rows)
        for held, new in ((keys, k), (values, v)):
            if call.slots is None:
                held[:, :, call.start : call.longest] = new.transpose(1, 2)
            else:
                held[self.slots.numbers[:rows, None], :, call.slots] = new
        keys, values = keys[:, :, : call.longest], values[:, :, : call.longest]
        if width >= MANY:
            mixed = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                keys.contiguous(),
                values,
                attn_mask=bias,
                is_causal=bias is None,
                scale=w.scale,
                enable_gqa=w.heads > w.kv_heads,
            )
            return mixed.transpose(1, 2).reshape(rows * width, -1)

        # The queries of one key-value head stand together: [rows * kv_heads, group * width, head_dim].
        batch, group = rows * w.kv_heads, w.heads // w.kv_heads
        q = q.mul(w.scale).view(rows, width, w.kv_heads, group, w.head_dim).permute(0, 2, 3, 1, 4)
        scores = torch.bmm(q.reshape(batch, group * width, w.head_dim), keys.mT.flatten(0, 1))
        scores = scores.view(rows, w.kv_heads, group, width, call.longest)
        if bias is not None:
            scores += bias[:, :, None]
        elif width > 1:
            # All rows stand alike: only among the new tokens themselves is anything hidden.
            scores[..., call.start :] += w.triangle(width)
        weights = scores.softmax(-1).view(batch, group * width, call.longest)
        mixed = torch.bmm(weights, values.flatten(0, 1)).view(rows, w.kv_heads, group, width, w.head_dim)
        return mixed.permute(0, 3, 1, 2, 4).reshape(rows * width, -1)

    def _bias(self, call: Call, window: int | None) -> Tensor | None:
        """What is added to the scores, [rows or 1, 1, width, longest]; None where plain causality says it all."""
        width = call.ids.shape[1]
        if window is not None and call.longest <= window:
            window = None
        if window is None and call.slots is None and (width < MANY or call.start == 0):
            return None
        queries = call.positions[:, None, :, None]
        slots = self.slots.counting[: call.longest]
        hidden = slots > queries
        if window is not None:
            hidden |= slots <= queries - window
        return torch.zeros(hidden.shape, dtype=self._w.dtype).masked_fill_(hidden, torch.finfo(self._w.dtype).min)


class LeanWeights:
    """What all sessions of one model share: its weights, joined, and its rotary tables as far as they are needed."""

    def __init__(self, module: Any, kinds: dict[str, int | None], layers: list[tuple[str, int | None]]) -> None:
        config = module.config
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.scale = self.head_dim**-0.5
        self.eps = torch.tensor(config.rms_norm_eps)
        self.dtype: torch.dtype = module.dtype
        self.kinds = kinds
        self.embedding: Tensor = module.model.embed_tokens.weight.detach()
        self.norm: Tensor = module.model.norm.weight.detach()
        size = sum(weight.numel() * weight.element_size() for weight in module.parameters())
        packs = PACK_FROM <= size <= PACK_TO
        self.layers = [
            self._layer(layer, kind, packs) for layer, (kind, _) in zip(module.model.layers, layers, strict=True)
        ]
        self.head = _joined(module.lm_head, packs=packs)
        self.doubles = self.dtype == torch.float32 and any(
            isinstance(layer.gate_up, _Linear) and layer.gate_up.packed is not None for layer in self.layers
        )
        self._rotary = module.model.rotary_emb
        self._cos = self._sin = torch.empty(0)
        lowest = torch.finfo(self.dtype).min
        self._triangle = torch.full((MANY, MANY), lowest, dtype=self.dtype).triu_(1)

    @staticmethod
    def _layer(layer: Any, kind: str, packs: bool) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        return _Layer(
            kind=kind,
            enter=layer.input_layernorm.weight.detach(),
            qkv=_joined(attention.q_proj, attention.k_proj, attention.v_proj, packs=packs),
            q_norm=q_norm.weight.detach() if q_norm is not None else None,
            k_norm=k_norm.weight.detach() if k_norm is not None else None,
            out=_joined(attention.o_proj, packs=packs),
            leave=layer.post_attention_layernorm.weight.detach(),
            gate_up=_joined(mlp.gate_proj, mlp.up_proj, packs=packs),
            down=_joined(mlp.down_proj, packs=packs),
        )

    def reach(self, positions: int) -> None:
        """Makes the rotary tables [positions, 1, head_dim] long enough; the sine has the sign of the rotation in it."""
        if len(self._cos) >= positions:
            return
        cos, sin = self._rotary(torch.empty(0, dtype=torch.float32), torch.arange(positions)[None])
        sin = torch.cat([-sin[0, :, : self.head_dim // 2], sin[0, :, self.head_dim // 2 :]], -1)
        self._cos, self._sin = cos[0, :, None].to(self.dtype), sin[:, None].to(self.dtype)

    def rotary(self, call: Call, width: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of a call's positions: [rows or none, width, 1, head_dim]."""
        if call.slots is None:
            return self._cos[call.start : call.start + width], self._sin[call.start : call.start + width]
        return self._cos[call.positions], self._sin[call.positions]

    def triangle(self, width: int) -> Tensor:
        """What is added to the scores of `width` new tokens among themselves, fewer than `MANY`."""
        return self._triangle[:width, :width]


def _rms(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """The norm as the models define it: in float32, then scaled in the model's type. In fewer steps than torch's."""
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse = torch.addcmul(eps, length, length, value=1 / x.shape[-1]).rsqrt_()
    return (wide * inverse).to(x.dtype).mul_(weight)

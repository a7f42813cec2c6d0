"""A model's weights in the order in which the compiled forward pass reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fsgen.backends import int4, int8
from fsgen.backends.cpu.arguments import BLOCK, TYPES
from fsgen.backends.cpu.arithmetic import GELU, GELU_TANH, SILU
from fsgen.backends.cpu.compilation import address
from fsgen.backends.cpu.gemm import HAS_INT8_PAIRS, HAS_PAIRS, LANES, PANEL
from fsgen.backends.cpu.memory import advise_huge_pages
from fsgen.backends.cpu.shape import Shape

DTYPES = frozenset({torch.float32, torch.bfloat16})


def pack(weight: Tensor, inputs: int | None = None, per: int = 1) -> Tensor:
    """[outputs, inputs] in panels of 32 outputs: [panels, inputs / per, PANEL, per]; what is missing is 0.

    Args:
        inputs: how many there shall be, where that is more.
        per: neighbouring inputs that lie together.
    """
    outputs, given = weight.shape
    padded = weight.new_zeros(-(-outputs // PANEL) * PANEL, inputs or given)
    padded[:outputs, :given] = weight
    return padded.view(-1, PANEL, padded.shape[1] // per, per).transpose(1, 2).contiguous()


def interleave(gate: Tensor, up: Tensor) -> Tensor:
    """Two weights [m, ...] as one, LANES outputs of the one, then as many of the other, and so on."""
    m, rest = len(gate), gate.shape[1:]
    both = gate.new_zeros(-(-m // LANES) * LANES, 2, *rest)
    both[:m, 0], both[:m, 1] = gate, up
    return both.view(-1, LANES, 2, *rest).transpose(1, 2).reshape(-1, *rest)


def qkv_order(shape: Shape) -> Tensor | None:
    """The order of the outputs of queries, keys and values in the pass; None where it is that of the files."""
    heads, keys, n = shape.num_heads, shape.num_kv_heads, shape.head_dim
    within, together = shape.head_order, shape.family.heads_together
    if within is None and not together:
        return None
    rows = torch.arange((heads + 2 * keys) * n).view(-1, n)
    if together:
        rows = rows.view(heads, 3, n).transpose(0, 1).reshape(-1, n)
    if within is not None:
        rows = torch.cat([rows[: heads + keys, within], rows[heads + keys :]])
    return rows.flatten()


class Linear:
    """The same linear layer of all layers of a model.

    Args:
        parts: of each layer the weight, [outputs, inputs]; where it is rounded float32 the scales, [outputs] of
            eight bits and [outputs, groups] of four (then the weight is from 0 to 15); and the bias [outputs].
        count: of layers.
        inputs: to fill them up to.
        per: neighbouring inputs that lie together.

    Attributes:
        weight: [layers, panels, inputs / per, PANEL, per], or two of four bits together, [..., PANEL, 1].
        scales: [layers, panels * PANEL], or bfloat16 [layers, panels, groups, PANEL, 1]; None where there are none.
        bias: float32 [layers, panels * PANEL]; None where there is none.
    """

    def __init__(
        self, parts: Iterable[tuple[Tensor, Tensor | None, Tensor | None]], count: int, inputs: int, per: int
    ) -> None:
        scales: list[Tensor] = []
        biases: list[Tensor] = []
        for number, (weight, scale, bias) in enumerate(parts):  # one after another: nothing is held twice
            packed = pack(weight, inputs, per)
            if weight.dtype == torch.uint8:
                packed = packed[..., :1] | packed[..., 1:] << 4
            if not number:
                self.weight = packed.new_empty(count, *packed.shape)
                advise_huge_pages(self.weight)
            self.weight[number] = packed
            scales += [] if scale is None else [_padded(scale) if scale.ndim == 1 else pack(scale).bfloat16()]
            biases += [] if bias is None else [_padded(bias)]
        self.scales = torch.stack(scales) if scales else None
        self.bias = torch.stack(biases) if biases else None
        self.inputs = inputs

    @property
    def panels(self) -> int:
        return self.weight.shape[1]

    def argument(self) -> tuple[int, ...]:
        """As compiled code has it (`arguments.LINEAR`)."""
        scales, bias = (0 if one is None else address(one) for one in (self.scales, self.bias))
        groups = self.scales.shape[2] if self.scales is not None and self.scales.ndim > 2 else 1
        return address(self.weight), scales, bias, self.inputs, self.panels, groups * PANEL


class CpuWeights:
    """What all sessions of one model share.

    Args:
        shape: of the model.
        tensors: by name, as a checkpoint has them; linear weights may be int8, with `scales` beside each.
        dtype: float32 or bfloat16: of the embedding, the cache and the linear layers.
        bits: linear layers have eight or four instead; then `dtype` is float32.

    Attributes:
        kind: of the weights, a key of `arguments.TYPES`: "... pairs" where the processor multiplies these.
        per: numbers of a sum that lie together.
        linears: by name, queries, keys and values together, and gate and up; lm_head: as if of one layer.
        products: multiplications that a token takes, without its attention.
        norms: weights and biases, as `arguments.NORM` counts them; float32, of all layers one after another, None where
            there are none.
        tensors: norms of heads, windows, rotary tables of layers and the embedding (where the head does not hold it
            too), by name.
        cos, sin: [tables, positions, head_dim / 2], as far as they have been needed.
    """

    def __init__(
        self, shape: Shape, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, bits: int = 0
    ) -> None:
        self.num_layers, self.hidden_size, self.vocab_size = shape.num_layers, shape.hidden_size, shape.vocab_size
        self.num_heads, self.num_kv_heads, self.head_dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
        self.value_dim = -(-self.head_dim // LANES) * LANES
        # The MLP's activations are written in whole vectors, or panels where it has no gate.
        whole = LANES if shape.family.gated else PANEL
        self.intermediate_size = -(-shape.intermediate_size // whole) * whole
        self.dtype, self.bits, self.kind = dtype, bits, f"int{bits}" if bits else str(dtype).removeprefix("torch.")
        pairs = {"bfloat16": HAS_PAIRS, "int8": HAS_INT8_PAIRS, "int4": True}
        if self.hidden_size % 2 == 0 and pairs.get(self.kind):
            self.kind += " pairs"
        self.per = TYPES[self.kind].per
        self._shape, self._source = shape, tensors
        self._layers = [f"{shape.family.layers}.{number}." for number in range(shape.num_layers)]
        self._qkv_order = qkv_order(shape)
        self.linears = self._linears()
        self.lm_head = self.linears["lm_head"]
        self.products = sum(linear.weight.numel() for linear in self.linears.values()) * (2 if bits == 4 else 1)
        self.norms = self._norms()
        self.tensors = self._head_norms() | {
            "sliding_windows": torch.tensor([window or 0 for window in shape.windows]),
            "rope_tables": torch.tensor(shape.rope_tables),
        }
        if bits or not shape.tied:  # else it is read from the head
            self.tensors["embed_tokens"] = tensors[f"{shape.family.embed}.weight"].to(dtype).contiguous()
        self._source = {}  # what was read of it is here
        self.cos = self.sin = torch.empty(0, 0, 0)

    @property
    def positions(self) -> int:
        """How far the rotary tables reach."""
        return self.cos.shape[1]

    def _linears(self) -> dict[str, Linear]:
        shape = self._shape
        # What goes into a product is filled up where its own product is.
        inputs = {"down_proj": self.intermediate_size}
        made = {
            name: self._linear(name, self._layers, names, inputs.get(name, given))
            for name, (names, _, given) in shape.linears().items()
        }
        tied = shape.tied and "lm_head.scales" not in self._source
        head = shape.family.embed if tied else "lm_head"
        return made | {"lm_head": self._linear("lm_head", [""], (head,), shape.hidden_size)}

    def _linear(self, linear: str, prefixes: list[str], names: tuple[str, ...], inputs: int) -> Linear:
        """Of each layer, linear layers that are joined to one."""

        def parts() -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
            for prefix in prefixes:
                weights, scales = zip(*(self._weight(prefix + name) for name in names), strict=True)
                scale = self._arranged(linear, scales) if self.bits else None
                bias = None
                if linear in self._shape.biases:
                    bias = self._arranged(linear, [self._source[f"{prefix}{name}.bias"].float() for name in names])
                yield self._arranged(linear, weights), scale, bias

        return Linear(parts(), len(prefixes), inputs, TYPES[self.kind].per_weight)

    def _arranged(self, linear: str, parts: Sequence[Tensor]) -> Tensor:
        """What belongs to the outputs of a linear layer, [outputs, ...], in the order in which the pass has these."""
        joined = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
        if linear == "qkv_proj" and self._qkv_order is not None:
            return joined[self._qkv_order]
        if linear == "gate_up_proj" and self._shape.family.gated:
            return interleave(*joined.chunk(2))
        return joined

    def _weight(self, name: str) -> tuple[Tensor, Tensor | None]:
        weight = self._source[f"{name}.weight"]
        if not self.bits:
            return weight.to(self.dtype), None
        if self.bits == 4:
            return int4.rounded(weight)
        held = weight.dtype == torch.int8
        return (weight, self._source[f"{name}.scales"]) if held else int8.rounded(weight)

    def _norms(self) -> list[tuple[Tensor | None, Tensor | None]]:
        family, layers = self._shape.family, self._layers
        sites = [[layer + name for layer in layers] if name else [] for name in family.norms]
        return [(self._norm(names, "weight"), self._norm(names, "bias")) for names in [*sites, [family.final_norm]]]

    def _norm(self, names: list[str], part: str) -> Tensor | None:
        """Weights or biases of a norm of all layers."""
        family = self._shape.family
        if not names or (part == "bias" and not family.norm.startswith("layer")):
            return None
        if "no weights" in family.norm or (part == "bias" and not family.norm_bias):
            return torch.full((len(names), self.hidden_size), float(part == "weight"))
        found = torch.stack([self._source[f"{name}.{part}"].float() for name in names])
        return found + 1 if family.norm == "rms + 1" and part == "weight" else found

    def _head_norms(self) -> dict[str, Tensor]:
        found = {}
        for name in ("q_norm", "k_norm") if self._shape.family.head_norms else ():
            weight = self._norm([f"{layer}self_attn.{name}" for layer in self._layers], "weight")
            assert weight is not None
            order = self._shape.head_order
            heads = weight.view(len(weight), -1, self.head_dim)
            found[name] = heads if order is None else heads[..., order].contiguous()
        return found

    def arguments(self) -> dict[str, Any]:
        """The model, as compiled code reads it (`arguments.ARGUMENTS`)."""
        shape = self._shape
        sizes = "num_layers hidden_size num_heads num_kv_heads head_dim value_dim intermediate_size vocab_size"
        numbers = "norm_eps embed_scale attention_scale attention_cap residual_scale logit_scale logit_cap parallel"
        return (
            {name: getattr(self, name) for name in sizes.split()}
            | {name: getattr(shape, name) for name in numbers.split()}
            | {name: linear.argument() for name, linear in self.linears.items()}
            | {"norms": [tuple(0 if one is None else address(one) for one in norm) for norm in self.norms]}
            | {"layer_norm": shape.family.norm.startswith("layer"), "gated": shape.family.gated}
            | {"norm_all_heads": shape.family.head_norms == "all heads"}
            | {"activation": {"silu": SILU, "gelu_tanh": GELU_TANH, "gelu": GELU}[shape.activation]}
            # As torch has it, of the type of the embedding.
            | {"embed_scale": float(torch.tensor(shape.embed_scale, dtype=self.dtype))}
            | self.tensors
        )

    @staticmethod
    def slots(longest: int, context: int) -> int:
        """Of keys and values, for rows of so many tokens: whole blocks."""
        return -(-min(longest, context) // BLOCK) * BLOCK

    def cache_bytes(self, tokens: int, context: int) -> int:
        """Bytes of keys and values that a session holds for a row of so many tokens."""
        wide = self.head_dim + self.value_dim
        return int(self.dtype.itemsize * self.num_layers * self.num_kv_heads * wide * self.slots(tokens, context))

    def reach(self, positions: int) -> None:
        """Makes the rotary tables long enough."""
        if self.positions < positions:
            tables = zip(*(rope.tables(positions) for rope in self._shape.ropes), strict=True)
            self.cos, self.sin = (torch.stack(one) for one in tables)


def _padded(numbers: Tensor) -> Tensor:
    """Numbers of outputs, filled up to whole panels: float32."""
    return torch.nn.functional.pad(numbers.float(), (0, -len(numbers) % PANEL))

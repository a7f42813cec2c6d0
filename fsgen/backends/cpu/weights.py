"""A model's weights in the order in which the compiled forward pass reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fsgen.backends.cpu.arguments import BLOCK, TYPES
from fsgen.backends.cpu.compilation import address
from fsgen.backends.cpu.gemm import HAS_INT8_PAIRS, HAS_PAIRS, LANES, PANEL
from fsgen.backends.cpu.memory import advise_huge_pages
from fsgen.backends.cpu.shape import Shape
from fsgen.backends.int8 import rounded

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
    """Two weights [m, inputs] as one, LANES outputs of the one, then as many of the other, and so on."""
    m, inputs = gate.shape
    both = gate.new_zeros(-(-m // LANES) * LANES, 2, inputs)
    both[:m, 0], both[:m, 1] = gate, up
    return both.view(-1, LANES, 2, inputs).transpose(1, 2).reshape(-1, inputs)


def together(*weights: Tensor) -> Tensor:
    """Weights [m, inputs] as one, one after another."""
    return torch.cat(weights)


class Linear:
    """The same linear layer of all layers of a model.

    Args:
        parts: of each layer the weight, [outputs, inputs], and float32 [outputs] the scales where it is int8.
        count: of layers.
        inputs: to fill them up to.
        per: neighbouring inputs that lie together.

    Attributes:
        weight: [layers, panels, inputs / per, PANEL, per]; scales: [layers, panels * PANEL], None where there are none.
    """

    def __init__(self, parts: Iterable[tuple[Tensor, Tensor | None]], count: int, inputs: int, per: int) -> None:
        scales: list[Tensor] = []
        for number, (weight, scale) in enumerate(parts):  # one after another: nothing is held twice
            packed = pack(weight, inputs, per)
            if not number:
                self.weight = packed.new_empty(count, *packed.shape)
                advise_huge_pages(self.weight)
            self.weight[number] = packed
            scales += [] if scale is None else [_padded(scale)]
        self.scales = torch.stack(scales) if scales else None
        self.inputs = inputs

    @property
    def panels(self) -> int:
        return self.weight.shape[1]

    def argument(self) -> tuple[int, ...]:
        """As compiled code has it (`arguments.LINEAR`)."""
        return address(self.weight), 0 if self.scales is None else address(self.scales), self.inputs, self.panels


class CpuWeights:
    """What all sessions of one model share.

    Args:
        shape: of the model.
        tensors: by name, as a checkpoint has them; linear weights may be int8, with `scales` beside each.
        dtype: float32 or bfloat16: of the embedding, the cache and the linear layers.
        int8: linear layers have eight bits instead; then `dtype` is float32.

    Attributes:
        kind: of the weights, a key of `arguments.TYPES`: "... pairs" where the processor multiplies these.
        per: numbers of a sum that lie together.
        linears: by name, queries, keys and values together, and gate and up; lm_head: as if of one layer.
        products: multiplications that a token takes, without its attention.
        tensors: norms, biases, windows and the embedding (where the head does not hold it too), by name; of all layers
            one after another, float32.
        cos, sin: [positions, head_dim / 2], as far as they have been needed.
    """

    def __init__(
        self, shape: Shape, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, int8: bool = False
    ) -> None:
        self.num_layers, self.hidden_size, self.vocab_size = shape.num_layers, shape.hidden_size, shape.vocab_size
        self.num_heads, self.num_kv_heads, self.head_dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
        self.value_dim = -(-self.head_dim // LANES) * LANES
        self.intermediate_size = -(-shape.intermediate_size // LANES) * LANES
        self.dtype, self.int8, self.kind = dtype, int8, "int8" if int8 else str(dtype).removeprefix("torch.")
        if self.hidden_size % 2 == 0 and {"bfloat16": HAS_PAIRS, "int8": HAS_INT8_PAIRS}.get(self.kind):
            self.kind += " pairs"
        self.per = TYPES[self.kind].per
        self._shape, self._source = shape, tensors
        self._layers = [f"model.layers.{number}." for number in range(shape.num_layers)]
        self.linears = self._linears()
        self.lm_head = self.linears["lm_head"]
        self.products = sum(linear.weight.numel() for linear in self.linears.values())
        self.tensors = self._norms_and_biases() | {
            "sliding_windows": torch.tensor([window or 0 for window in shape.windows]),
        }
        if int8 or not shape.tied:  # else it is read from the head
            self.tensors["embed_tokens"] = tensors["model.embed_tokens.weight"].to(dtype).contiguous()
        self._source = {}  # what was read of it is here
        self.cos = self.sin = torch.empty(0, self.head_dim)

    def _linears(self) -> dict[str, Linear]:
        attention = [f"{layer}self_attn." for layer in self._layers]
        mlp = [f"{layer}mlp." for layer in self._layers]
        heads = self.num_heads * self.head_dim
        tied = self._shape.tied and "lm_head.scales" not in self._source
        head = "model.embed_tokens" if tied else "lm_head"
        return {
            "qkv_proj": self._linear(attention, ("q_proj", "k_proj", "v_proj"), together, self.hidden_size),
            "o_proj": self._linear(attention, ("o_proj",), together, heads),
            "gate_up_proj": self._linear(mlp, ("gate_proj", "up_proj"), interleave, self.hidden_size),
            "down_proj": self._linear(mlp, ("down_proj",), together, self.intermediate_size),
            "lm_head": self._linear([""], (head,), together, self.hidden_size),
        }

    def _linear(self, prefixes: list[str], names: tuple[str, ...], join: Callable[..., Tensor], inputs: int) -> Linear:
        """Of each layer, linear layers that are joined to one."""

        def parts() -> Iterator[tuple[Tensor, Tensor | None]]:
            for prefix in prefixes:
                weights, scales = zip(*(self._weight(prefix + name) for name in names), strict=True)
                yield join(*weights), join(*(one[:, None] for one in scales))[:, 0] if self.int8 else None

        return Linear(parts(), len(prefixes), inputs, TYPES[self.kind].per_weight)

    def _weight(self, name: str) -> tuple[Tensor, Tensor | None]:
        weight = self._source[f"{name}.weight"]
        if not self.int8:
            return weight.to(self.dtype), None
        return (weight, self._source[f"{name}.scales"]) if weight.dtype == torch.int8 else rounded(weight)

    def _norms_and_biases(self) -> dict[str, Tensor]:
        """float32, of all layers one after another; those that a model does not have are left out."""
        layers = self._layers
        norms = ["input_layernorm", "post_attention_layernorm"]
        norms += ["self_attn.q_norm", "self_attn.k_norm"] if self._shape.head_norms else []
        tensors = {
            name.rpartition(".")[2]: torch.stack([self._source[f"{layer}{name}.weight"].float() for layer in layers])
            for name in norms
        }
        tensors["norm"] = self._source["model.norm.weight"].float()
        biases, sizes = {"qkv_bias": ("q_proj", "k_proj", "v_proj"), "o_bias": ("o_proj",)}, self._shape.biases()
        for name, parts in biases.items():
            of_layers = [[f"{layer}self_attn.{part}.bias" for part in parts] for layer in layers]
            rows = [_padded(*(self._source.get(one, torch.zeros(sizes[one])) for one in each)) for each in of_layers]
            if name == "qkv_bias" or any(row.any() for row in rows):
                tensors[name] = torch.stack(rows)
        return tensors

    def arguments(self) -> dict[str, Any]:
        """The model, as compiled code reads it (`arguments.ARGUMENTS`)."""
        sizes = "num_layers hidden_size num_heads num_kv_heads head_dim value_dim intermediate_size vocab_size"
        return (
            {name: getattr(self, name) for name in sizes.split()}
            | {name: linear.argument() for name, linear in self.linears.items()}
            | self.tensors
            | {"rms_norm_eps": self._shape.rms_norm_eps}
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
        if len(self.cos) < positions:
            self.cos, self.sin = self._shape.rope.tables(positions)


def _padded(*parts: Tensor) -> Tensor:
    """Numbers of outputs, one after another, filled up to whole panels: float32."""
    joined = torch.cat([part.float() for part in parts])
    return torch.nn.functional.pad(joined, (0, -len(joined) % PANEL))

"""A model's weights in the order in which the compiled forward pass reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fsgen.backends.cpu.arguments import BLOCK, TYPES
from fsgen.backends.cpu.compilation import address
from fsgen.backends.cpu.gemm import HAS_PAIRS, LANES, PANEL
from fsgen.backends.int8 import Int8Linear

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
ROTARY = frozenset({"default", "linear", "llama3", "yarn"})  # whose tables do not depend on how long a text is
DTYPES = frozenset({torch.float32, torch.bfloat16})
# The weights are held a second time, in another order. For models of more bytes this is too dear.
LARGEST = 2 * 2**30


def supports(module: Any) -> bool:
    """Whether the compiled forward pass computes what this `transformers` model does."""
    config = module.config
    if config.model_type not in FAMILIES or getattr(config, "hidden_act", None) != "silu":
        return False
    weights = list(module.parameters())
    if any(weight.device.type != "cpu" or weight.dtype not in DTYPES for weight in weights):
        return False
    if len({weight.dtype for weight in weights}) > 1 or sum(weight.nbytes for weight in weights) > LARGEST:
        return False
    try:
        layers = module.model.layers
        linears = [linear for layer in layers for linear in _linears(layer).values()] + [module.lm_head]
        return (
            len({type(linear) for linear in linears}) == 1
            and type(linears[0]) in (torch.nn.Linear, Int8Linear)
            and all(getattr(part, "bias", None) is None for layer in layers for part in layer.mlp.children())
            and module.lm_head.bias is None
            and module.model.rotary_emb.rope_type in ROTARY
        )
    except AttributeError:
        return False


def _linears(layer: Any) -> dict[str, Any]:
    attention, mlp = layer.self_attn, layer.mlp
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    return {name: getattr(attention, name) for name in names} | {
        name: getattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj")
    }


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


class Linear:
    """The same linear layer of all layers of a model.

    Args:
        weights: of each layer, [outputs, inputs].
        scales: of each layer, float32 [outputs] of int8 weights.
        inputs: to fill them up to.

    Attributes:
        weight: [layers, panels, inputs / per, PANEL, per]; scales: [layers, panels * PANEL].
    """

    def __init__(self, weights: Iterable[Tensor], scales: list[Tensor] | None, inputs: int, per: int) -> None:
        self.weight = torch.stack([pack(weight, inputs, per) for weight in weights])
        self.scales = None if scales is None else torch.stack([_padded(one) for one in scales])
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
        module: that is supported.
        windows: of each layer, positions that a query sees; None for all.

    Attributes:
        kind: of the weights: float32, bfloat16, bfloat16 pairs, or int8 (`arguments.TYPES`).
        per: numbers of a sum that lie together.
        linears: by name, queries, keys and values together, and gate and up; lm_head: as if of one layer.
        products: multiplications that a token takes, without its attention.
        tensors: norms, biases, windows and the embedding, by name; of all layers one after another, float32.
        cos, sin: [positions, head_dim / 2], as far as they have been needed.
    """

    def __init__(self, module: Any, windows: list[int | None]) -> None:
        config = module.config
        layers: list[Any] = list(module.model.layers)
        self.num_layers = len(layers)
        self.hidden_size: int = config.hidden_size
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = config.num_key_value_heads
        self.head_dim: int = getattr(config, "head_dim", None) or self.hidden_size // self.num_heads
        self.value_dim = -(-self.head_dim // LANES) * LANES
        self.intermediate_size = -(-config.intermediate_size // LANES) * LANES
        self.vocab_size: int = module.lm_head.weight.shape[0]
        self.dtype: torch.dtype = module.dtype
        self.kind = "int8" if isinstance(module.lm_head, Int8Linear) else str(self.dtype).removeprefix("torch.")
        if HAS_PAIRS and self.kind == "bfloat16" and self.hidden_size % 2 == 0:
            self.kind = "bfloat16 pairs"
        self.per = TYPES[self.kind].per
        self.linears = self._pack([_linears(layer) for layer in layers], module.lm_head)
        self.lm_head = self.linears["lm_head"]
        self.products = sum(linear.weight.numel() for linear in self.linears.values())
        self.tensors = _norms_and_biases(module, layers) | {
            "embed_tokens": module.model.embed_tokens.weight.detach().contiguous(),
            "sliding_windows": torch.tensor([window or 0 for window in windows]),
        }
        self._eps: float = config.rms_norm_eps
        self._rotary = module.model.rotary_emb
        self.cos = self.sin = torch.empty(0, self.head_dim)

    def _pack(self, parts: list[dict[str, Any]], head: Any) -> dict[str, Linear]:
        def packed(linears: list[list[Any]], join: Any, inputs: int) -> Linear:
            """Of each layer, linear layers that are joined to one."""
            scales = None
            if self.kind == "int8":
                scales = [join(*(one.scales[:, None] for one in layer))[:, 0] for layer in linears]
            return Linear(
                (join(*(one.weight.detach() for one in layer)) for layer in linears), scales, inputs, self.per
            )

        def together(*weights: Tensor) -> Tensor:
            return torch.cat(weights)

        hidden, heads = self.hidden_size, self.num_heads * self.head_dim
        qkv = [[part[f"{one}_proj"] for one in "qkv"] for part in parts]
        gate_up = [[part["gate_proj"], part["up_proj"]] for part in parts]
        return {
            "qkv_proj": packed(qkv, together, hidden),
            "o_proj": packed([[part["o_proj"]] for part in parts], together, heads),
            "gate_up_proj": packed(gate_up, interleave, hidden),
            "down_proj": packed([[part["down_proj"]] for part in parts], together, self.intermediate_size),
            "lm_head": packed([[head]], together, hidden),
        }

    def arguments(self) -> dict[str, Any]:
        """The model, as compiled code reads it (`arguments.ARGUMENTS`)."""
        sizes = "num_layers hidden_size num_heads num_kv_heads head_dim value_dim intermediate_size vocab_size"
        return (
            {name: getattr(self, name) for name in sizes.split()}
            | {name: linear.argument() for name, linear in self.linears.items()}
            | self.tensors
            | {"rms_norm_eps": self._eps}
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
            with torch.inference_mode():
                cos, sin = self._rotary(torch.empty(0, dtype=torch.float32), torch.arange(positions)[None])
                half = self.head_dim // 2  # the other half is the same
                self.cos, self.sin = cos[0, :, :half].float().contiguous(), sin[0, :, :half].float().contiguous()


def _norms_and_biases(module: Any, layers: list[Any]) -> dict[str, Tensor]:
    """float32, of all layers one after another; those that a model does not have are left out."""
    tensors = {
        "input_layernorm": _stacked(layer.input_layernorm.weight for layer in layers),
        "post_attention_layernorm": _stacked(layer.post_attention_layernorm.weight for layer in layers),
        "norm": _stacked([module.model.norm.weight]),
        "qkv_bias": torch.stack(
            [_padded(*(_bias(getattr(layer.self_attn, f"{one}_proj")) for one in "qkv")) for layer in layers]
        ),
    }
    attention = [layer.self_attn for layer in layers]
    if hasattr(attention[0], "q_norm"):
        tensors |= {name: _stacked(getattr(one, name).weight for one in attention) for name in ("q_norm", "k_norm")}
    if any(one.o_proj.bias is not None for one in attention):
        tensors["o_bias"] = torch.stack([_padded(_bias(one.o_proj)) for one in attention])
    return tensors


def _stacked(weights: Iterable[Tensor]) -> Tensor:
    return torch.stack([weight.detach().float() for weight in weights])


def _bias(linear: Any) -> Tensor:
    bias: Tensor | None = linear.bias
    return torch.zeros(len(linear.weight)) if bias is None else bias


def _padded(*parts: Tensor) -> Tensor:
    """Numbers of outputs, one after another, filled up to whole panels: float32."""
    joined = torch.cat([part.detach().float() for part in parts])
    return torch.nn.functional.pad(joined, (0, -len(joined) % PANEL))

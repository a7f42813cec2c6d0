"""A model's weights in the order in which the compiled forward pass reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fsgen.backends.cpu.gemm import HAS_PAIRS, LANES
from fsgen.backends.cpu.kernels import BLOCK, PANEL
from fsgen.backends.int8 import Int8Linear

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
ROTARY = frozenset({"default", "linear", "llama3", "yarn"})  # whose tables do not depend on how long a text is
DTYPES = frozenset({torch.float32, torch.bfloat16})
# The weights are held a second time, in another order. For models of more bytes this is too dear.
LARGEST = 2 * 2**30


def speaks(module: Any) -> bool:
    """Whether `CpuForward` computes what this `transformers` model does."""
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


def panelled(weight: Tensor, inputs: int | None = None, per: int = 1) -> Tensor:
    """[outputs, inputs] as [panels, inputs / per, PANEL, per]; what is missing is 0.

    Args:
        inputs: how many there shall be, where that is more.
        per: neighbouring inputs that lie together.
    """
    outputs, given = weight.shape
    padded = weight.new_zeros(-(-outputs // PANEL) * PANEL, inputs or given)
    padded[:outputs, :given] = weight
    return padded.view(-1, PANEL, padded.shape[1] // per, per).transpose(1, 2).contiguous()


def interleaved(gate: Tensor, up: Tensor) -> Tensor:
    """Two weights [m, inputs] as one, LANES outputs of the one and as many of the other by turns."""
    m, inputs = gate.shape
    both = gate.new_zeros(-(-m // LANES) * LANES, 2, inputs)
    both[:m, 0], both[:m, 1] = gate, up
    return both.view(-1, LANES, 2, inputs).transpose(1, 2).reshape(-1, inputs)


class CpuWeights:
    """What all sessions of one model share.

    Args:
        module: that `speaks`.
        windows: of each layer, positions that a query sees; None for all.

    Attributes:
        kind: of the weights: float32, bfloat16, bfloat16 pairs, or int8.
        per: numbers of a sum that lie together.
        qkv, out, gate_up, down: [layers, panels, inputs / per, PANEL, per]; head: [panels, inputs / per, PANEL, per].
        products: multiplications that a token takes, without its attention.
        scales: by the names of these, [layers, panels * PANEL] float32, of int8 weights; else none.
        enter, leave: [layers, hidden]; last: [hidden]; q_norm, k_norm: [layers, head_dim]; qkv_bias, out_bias: [layers,
            panels * PANEL]; all float32.
        normed: whether queries and keys are normed. biased: whether the output has a bias.
        windows: [layers] positions that a query sees, 0 for all.
        cos, sin: [positions, head_dim / 2], as far as they have been needed.
    """

    def __init__(self, module: Any, windows: list[int | None]) -> None:
        config = module.config
        stack: list[Any] = list(module.model.layers)
        self.layers = len(stack)
        self.hidden: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = getattr(config, "head_dim", None) or self.hidden // self.heads
        self.value_dim = -(-self.head_dim // LANES) * LANES
        self.inner = -(-config.intermediate_size // LANES) * LANES
        self.dtype: torch.dtype = module.dtype
        self.vocab: int = module.lm_head.weight.shape[0]
        self.embedding = module.model.embed_tokens.weight.detach().contiguous()
        self.eps = torch.tensor([config.rms_norm_eps], dtype=torch.float32)
        self.windows = torch.tensor([window or 0 for window in windows])

        self.kind = "int8" if isinstance(module.lm_head, Int8Linear) else str(self.dtype).removeprefix("torch.")
        if HAS_PAIRS and self.kind == "bfloat16" and self.hidden % 2 == 0:
            self.kind = "bfloat16 pairs"
        self.per = per = 2 if self.kind == "bfloat16 pairs" else 1
        parts = [_linears(layer) for layer in stack]

        def qkv(part: dict[str, Any], name: str) -> Tensor:
            return torch.cat([getattr(part[f"{one}_proj"], name).detach() for one in "qkv"])

        def gate_up(part: dict[str, Any], name: str) -> Tensor:
            gate, up = (getattr(part[f"{one}_proj"], name).detach() for one in ("gate", "up"))
            return interleaved(gate, up) if gate.ndim == 2 else interleaved(gate[:, None], up[:, None])[:, 0]

        self.qkv = torch.stack([panelled(qkv(part, "weight"), per=per) for part in parts])
        self.out = torch.stack([panelled(part["o_proj"].weight.detach(), per=per) for part in parts])
        self.gate_up = torch.stack([panelled(gate_up(part, "weight"), per=per) for part in parts])
        self.down = torch.stack([panelled(part["down_proj"].weight.detach(), self.inner, per) for part in parts])
        self.head = panelled(module.lm_head.weight.detach(), per=per)
        held = (self.qkv, self.out, self.gate_up, self.down, self.head)
        self.products = sum(weight.numel() for weight in held)
        self.scales: dict[str, Tensor] = {}
        if self.kind == "int8":
            self.scales = {
                "qkv": torch.stack([_row(qkv(part, "scales")) for part in parts]),
                "out": torch.stack([_row(part["o_proj"].scales) for part in parts]),
                "gate_up": torch.stack([_row(gate_up(part, "scales")) for part in parts]),
                "down": torch.stack([_row(part["down_proj"].scales) for part in parts]),
                "head": _row(module.lm_head.scales),
            }
        self.biased = any(part["o_proj"].bias is not None for part in parts)
        self.qkv_bias = torch.stack([_row(*(_bias(part[f"{one}_proj"]) for one in "qkv")) for part in parts])
        self.out_bias = torch.stack([_row(_bias(part["o_proj"])) for part in parts])
        self.enter = _floats(layer.input_layernorm for layer in stack)
        self.leave = _floats(layer.post_attention_layernorm for layer in stack)
        self.last = _floats([module.model.norm])[0]
        self.normed = hasattr(stack[0].self_attn, "q_norm")
        self.q_norm = _floats(layer.self_attn.q_norm for layer in stack) if self.normed else torch.empty(0)
        self.k_norm = _floats(layer.self_attn.k_norm for layer in stack) if self.normed else torch.empty(0)
        self._rotary = module.model.rotary_emb
        self.cos = self.sin = torch.empty(0, self.head_dim)

    @staticmethod
    def slots(longest: int, context: int) -> int:
        """Of keys and values, for rows of so many tokens: whole blocks."""
        return -(-min(longest, context) // BLOCK) * BLOCK

    def cache_bytes(self, tokens: int, context: int) -> int:
        """Bytes of keys and values that a session holds for a row of so many tokens."""
        wide = self.head_dim + self.value_dim
        return int(self.dtype.itemsize * self.layers * self.kv_heads * wide * self.slots(tokens, context))

    def reach(self, positions: int) -> None:
        """Makes the rotary tables long enough."""
        if len(self.cos) < positions:
            with torch.inference_mode():
                cos, sin = self._rotary(torch.empty(0, dtype=torch.float32), torch.arange(positions)[None])
                half = self.head_dim // 2  # the other half is the same
                self.cos, self.sin = cos[0, :, :half].float().contiguous(), sin[0, :, :half].float().contiguous()


def _floats(norms: Iterable[Any]) -> Tensor:
    """The weights of norms, one row each: float32."""
    return torch.stack([norm.weight.detach().float() for norm in norms])


def _bias(linear: Any) -> Tensor:
    bias: Tensor | None = linear.bias
    return torch.zeros(len(linear.weight)) if bias is None else bias


def _row(*parts: Tensor) -> Tensor:
    """Numbers of outputs, one after another, filled up to whole panels: float32."""
    joined = torch.cat([part.detach().float() for part in parts])
    return torch.nn.functional.pad(joined, (0, -len(joined) % PANEL))

"""What the compiled forward pass computes: the shape of a model, from its configuration file alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fsgen.backends.cpu.rope import Rope

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_TYPES = {None, "auto", "float32", "float16", "bfloat16"}
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


@dataclass(frozen=True)
class Shape:
    """The shape of a model that the compiled forward pass computes.

    Attributes:
        model_type: its family, as `transformers` calls it.
        context: the longest sequence, in tokens.
        windows: of each layer, positions that a query sees; None for all.
        tied: the output head is the embedding.
        head_norms: queries and keys are normed, head by head.
    """

    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context: int
    rms_norm_eps: float
    rope: Rope
    windows: tuple[int | None, ...]
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape | None:
        """The shape that a configuration (`config.json`) tells; None where this is no model for the compiled pass.

        What is missing or odd there is for `transformers` to fill in or to refuse.
        """
        if config.get("model_type") not in FAMILIES or config.get("hidden_act") != "silu":
            return None
        if config.get("mlp_bias") or config.get("quantization_config") is not None or not _is_plain(config):
            return None
        heads = config.get("num_attention_heads")
        sizes = {name: config.get(name) for name in _SIZES} | {
            "kv_heads": config.get("num_key_value_heads"),
            "context": config.get("max_position_embeddings"),
            "head_dim": config.get("head_dim") or _quotient(config.get("hidden_size"), heads),
        }
        if any(not _is_size(size) for size in sizes.values()) or sizes["num_attention_heads"] % sizes["kv_heads"]:
            return None
        eps, windows = config.get("rms_norm_eps"), _windows(config)
        rope = Rope.of(config, sizes["head_dim"], sizes["context"])
        if rope is None or windows is None or not isinstance(eps, float) or not 0 < eps < 1 or sizes["head_dim"] % 2:
            return None
        return cls(
            model_type=str(config["model_type"]), hidden_size=sizes["hidden_size"],
            num_layers=sizes["num_hidden_layers"], num_heads=sizes["num_attention_heads"],
            num_kv_heads=sizes["kv_heads"], head_dim=sizes["head_dim"],
            intermediate_size=sizes["intermediate_size"], vocab_size=sizes["vocab_size"], context=sizes["context"],
            rms_norm_eps=eps, rope=rope, windows=windows, tied=bool(config.get("tie_word_embeddings", False)),
        )  # fmt: skip

    @property
    def head_norms(self) -> bool:
        return self.model_type == "qwen3"

    def weights(self) -> dict[str, tuple[int, ...]]:
        """The tensors that a checkpoint must have, with their shapes; biases of attention are optional."""
        hidden, ffn = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        layer = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
        }
        if self.head_norms:
            layer |= {"self_attn.q_norm": (self.head_dim,), "self_attn.k_norm": (self.head_dim,)}
        found = {"model.embed_tokens.weight": (self.vocab_size, hidden), "model.norm.weight": (hidden,)}
        for number in range(self.num_layers):
            found |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
        return found if self.tied else found | {"lm_head.weight": (self.vocab_size, hidden)}

    def biases(self) -> dict[str, tuple[int, ...]]:
        """The tensors that a checkpoint may have beside them."""
        return {
            name.removesuffix("weight") + "bias": shape[:1]
            for name, shape in self.weights().items()
            if ".self_attn." in name and len(shape) == 2
        }


def _is_plain(config: Mapping[str, Any]) -> bool:
    """Whether what the compiled pass does not read is what it nearly always is."""
    vocab: Any = config.get("vocab_size")
    end = config.get("eos_token_id")
    ids = [config.get("bos_token_id"), config.get("pad_token_id"), *(end if isinstance(end, list) else [end])]
    if not _is_size(vocab) or not all(one is None or (type(one) is int and one in range(-1, vocab)) for one in ids):
        return False
    kinds = config.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list) and len(kinds) == config.get("num_hidden_layers")):
        return False
    types = (config.get("dtype"), config.get("torch_dtype"))
    return set(types) <= _TYPES and config.get("_attn_implementation") in (None, "eager", "sdpa")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _quotient(hidden: Any, heads: Any) -> int | None:
    return hidden // heads if _is_size(hidden) and _is_size(heads) and hidden % heads == 0 else None


def _windows(config: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """Of each layer its sliding window; None where the configuration is not clear about them."""
    layers, window, family = config.get("num_hidden_layers"), config.get("sliding_window"), config["model_type"]
    kinds = config.get("layer_types")
    if not _is_size(layers) or not (window is None or _is_size(window)):
        return None
    assert isinstance(layers, int)
    if family in ("llama", "mistral"):
        plain = kinds is None or set(kinds) == {"full_attention"}
        return (window if family == "mistral" else None,) * layers if plain else None
    if not config.get("use_sliding_window"):
        window = None
    if kinds is None:
        first = config.get("max_window_layers", 28)
        kinds = ["sliding_attention" if window and i >= first else "full_attention" for i in range(layers)]
    if len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
        return None
    if window is None and "sliding_attention" in kinds:
        return None
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)

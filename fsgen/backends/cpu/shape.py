"""What the compiled forward pass computes: the shape of a model, from its configuration file alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fsgen.backends.cpu.families import FAMILIES, Family
from fsgen.backends.cpu.rope import Rope, head_order

ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu": "gelu"}
Sizes = dict[str, tuple[int, ...]]
_TYPES = {None, "auto", "float32", "float16", "bfloat16"}


class _DeclinedError(Exception):
    """A setting is missing, odd, or not computed here."""


@dataclass(frozen=True)
class Shape:
    """The shape of a model that the compiled forward pass computes.

    Attributes:
        family: how it differs from Llama. model_type: its name, as `transformers` calls it.
        context: the longest sequence, in tokens.
        tied: the output head is the embedding.
        parallel: the MLP reads what attention reads, not what it writes.
        biases: the linear layers of the pass that have one; norm_bias: norms have one.
        windows: of each layer, positions that a query sees; None for all.
        ropes, rope_tables: rotary positions, and of each layer which of these it has.
        embed_scale, attention_scale, residual_scale, logit_scale: of embeddings, of products of queries and keys, of
            what attention and MLP add, of logits.
        attention_cap, logit_cap: scores, or logits, x become cap * tanh(x / cap); 0 for none.
    """

    family: Family
    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context: int
    activation: str
    norm_eps: float
    tied: bool
    parallel: bool
    biases: frozenset[str]
    windows: tuple[int | None, ...]
    ropes: tuple[Rope, ...]
    rope_tables: tuple[int, ...]
    embed_scale: float
    attention_scale: float
    attention_cap: float
    residual_scale: float
    logit_scale: float
    logit_cap: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape | None:
        """The shape that a configuration (`config.json`) tells; None where this is no model for the compiled pass.

        What is missing or odd there is for `transformers` to fill in or to refuse.
        """
        name = config.get("model_type")
        family = FAMILIES.get(name) if isinstance(name, str) else None
        if family is None or not _is_plain(config):
            return None
        try:
            return cls._read(str(name), family, family.read(config))
        except (_DeclinedError, TypeError):  # the latter from values of odd types
            return None

    @classmethod
    def _read(cls, name: str, family: Family, given: dict[str, Any]) -> Shape:
        act = given.get("hidden_act")
        act = family.activations.get(act, act) if isinstance(act, str) else None
        if any(given.get(key) for key in family.refused) or act not in ACTIVATIONS:
            raise _DeclinedError
        heads, hidden, layers = (
            _size(given, f"{key}") for key in ("num_attention_heads", "hidden_size", "num_hidden_layers")
        )
        kv_heads = heads if given.get("num_key_value_heads", 0) is None else _size(given, "num_key_value_heads")
        head_dim = _size(given, "head_dim") if given.get("head_dim") else _quotient(hidden, heads)
        if heads % kv_heads or head_dim % 2:
            raise _DeclinedError
        context, kinds = _size(given, "max_position_embeddings"), _layer_kinds(family, given, layers)
        ropes, tables = _ropes(family, given, kinds, head_dim, context)
        sliding = _size(given, "sliding_window") if "sliding_attention" in kinds else None
        tied = bool(given.get("tie_word_embeddings"))
        if tied and "lm_head" in family.biases:
            raise _DeclinedError
        scalar = given.get("query_pre_attn_scalar", head_dim)
        return cls(
            family, name, hidden, layers, heads, kv_heads, head_dim,
            intermediate_size=_size(given, "intermediate_size"), vocab_size=_size(given, "vocab_size"), context=context,
            activation=ACTIVATIONS[act], norm_eps=_epsilon(given.get("rms_norm_eps")),
            tied=tied, parallel=bool(given.get("use_parallel_residual")),
            biases=frozenset(name for name, has in family.biases.items() if has is True or given[str(has)]),
            windows=tuple(sliding if kind == "sliding_attention" else None for kind in kinds),
            ropes=ropes, rope_tables=tables,
            embed_scale=hidden**0.5 if family.scaled_embedding else _factor(given, "embedding_multiplier"),
            attention_scale=_factor(given, "attention_multiplier", _positive(scalar) ** -0.5),
            attention_cap=_cap(given, "attn_logit_softcapping"), logit_cap=_cap(given, "final_logit_softcapping"),
            residual_scale=_factor(given, "residual_multiplier"),
            logit_scale=_factor(given, "logit_scale") / _factor(given, "logits_scaling"),
        )  # fmt: skip

    @property
    def head_order(self) -> Tensor | None:
        """The order in which queries and keys of a head are held; None for that of the files."""
        turned = max(rope.turned for rope in self.ropes)
        return head_order(self.head_dim, turned, self.family.interleaved) if turned else None

    def layer_norms(self) -> Sizes:
        """The norms of a layer that have weights, with their shapes; biases have the same."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        found: Sizes = {}
        if "no weights" not in self.family.norm:
            found |= {name: (self.hidden_size,) for name in self.family.norms if name}
        if self.family.head_norms == "each head":
            queries = keys = self.head_dim
        if self.family.head_norms:
            found |= {"self_attn.q_norm": (queries,), "self_attn.k_norm": (keys,)}
        return found

    def linears(self) -> dict[str, tuple[tuple[str, ...], tuple[int, ...], int]]:
        """The linear layers of a layer: by name in the pass the tensors they are made of, outputs of each, inputs."""
        family, hidden, inner = self.family, self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        qkv = (queries, keys, keys)
        up = (inner, inner) if family.gated else (inner,)
        return {
            "qkv_proj": (family.qkv, qkv if len(family.qkv) == 3 else (sum(qkv),), hidden),
            "o_proj": ((family.o,), (hidden,), queries),
            "gate_up_proj": (family.gate_up, up if len(family.gate_up) == len(up) else (sum(up),), hidden),
            "down_proj": ((family.down,), (hidden,), inner),
        }

    def matrices(self) -> Sizes:
        """The tensors of linear layers that a checkpoint must have, with their shapes."""
        found: Sizes = {
            f"{self.family.layers}.{number}.{name}.weight": (size, inputs)
            for number in range(self.num_layers)
            for names, sizes, inputs in self.linears().values()
            for name, size in zip(names, sizes, strict=True)
        }
        return found if self.tied else found | {"lm_head.weight": (self.vocab_size, self.hidden_size)}

    def tensors(self) -> Sizes:
        """All tensors that a checkpoint must have, with their shapes; it may have no other."""
        family, hidden = self.family, (self.hidden_size,)
        found = self.matrices() | {f"{family.embed}.weight": (self.vocab_size, self.hidden_size)}
        norms: Sizes = {family.final_norm: hidden} if "no weights" not in family.norm else {}
        for number in range(self.num_layers):
            layer = f"{family.layers}.{number}."
            norms |= {layer + name: shape for name, shape in self.layer_norms().items()}
            for linear, (names, sizes, _) in self.linears().items():
                if linear in self.biases:
                    found |= {f"{layer}{name}.bias": (size,) for name, size in zip(names, sizes, strict=True)}
        found |= {f"{name}.weight": shape for name, shape in norms.items()}
        if family.norm_bias:
            found |= {f"{name}.bias": shape for name, shape in norms.items()}
        return found | ({"lm_head.bias": (self.vocab_size,)} if "lm_head" in self.biases else {})


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
    plain = set(types) <= _TYPES and config.get("_attn_implementation") in (None, "eager", "sdpa")
    return plain and config.get("quantization_config") is None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _size(given: Mapping[str, Any], key: str) -> int:
    value = given.get(key)
    if not _is_size(value):
        raise _DeclinedError
    return int(value)  # type: ignore[arg-type]


def _quotient(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise _DeclinedError
    return hidden // heads


def _positive(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise _DeclinedError
    return float(value)


def _epsilon(value: Any) -> float:
    if not isinstance(value, float) or not 0 < value < 1:
        raise _DeclinedError
    return value


def _factor(given: Mapping[str, Any], key: str, usual: float = 1.0) -> float:
    return _positive(given.get(key, usual))


def _cap(given: Mapping[str, Any], key: str) -> float:
    return 0.0 if given.get(key) is None else _positive(given[key])


def _layer_kinds(family: Family, given: Mapping[str, Any], layers: int) -> list[str]:
    """Of each layer whether it has a sliding window."""
    kinds, window = given.get("layer_types"), given.get("sliding_window")
    if family.windows in ("none", "all"):
        if kinds is not None and set(kinds) != {"full_attention"}:
            raise _DeclinedError
        return ["sliding_attention" if family.windows == "all" and window is not None else "full_attention"] * layers
    if family.windows in ("qwen", "smollm") and not given.get("use_sliding_window"):
        window = None
    if kinds is None:
        slides = _slides(family, given, layers)
        kinds = ["sliding_attention" if window is not None and slides[i] else "full_attention" for i in range(layers)]
    if not set(kinds) <= {"sliding_attention", "full_attention"} or (window is None and "sliding_attention" in kinds):
        raise _DeclinedError
    return list(kinds)


def _slides(family: Family, given: Mapping[str, Any], layers: int) -> list[bool]:
    """Of each layer whether it has a window, if the model has any, where the configuration does not list them."""
    if family.windows == "qwen":
        return [i >= given["max_window_layers"] for i in range(layers)]
    if family.windows == "smollm":
        return [i in _without_positions(family, given, [""] * layers) for i in range(layers)]
    pattern = _size(given, "sliding_window_pattern")
    return [(i + 1) % pattern != 0 for i in range(layers)]


def _without_positions(family: Family, given: Mapping[str, Any], kinds: list[str]) -> set[int]:
    """The layers that have no rotary positions."""
    if family.full_without_positions and given.get("sliding_window") is not None:
        return {i for i, kind in enumerate(kinds) if kind == "full_attention"}
    if "no_rope_layer_interval" not in given:
        return set()
    listed, interval = given.get("no_rope_layers"), _size(given, "no_rope_layer_interval")
    has = [(i + 1) % interval for i in range(len(kinds))] if listed is None else listed
    if not isinstance(has, list) or len(has) != len(kinds):
        raise _DeclinedError
    return {i for i, one in enumerate(has) if not one}


def _ropes(
    family: Family, given: Mapping[str, Any], kinds: list[str], head_dim: int, context: int
) -> tuple[tuple[Rope, ...], tuple[int, ...]]:
    """The rotary positions that a model has, and which of them each layer has."""
    without = _without_positions(family, given, kinds)
    alike = "rope_local_base_freq" not in given
    partial = "partial_rotary_factor" in family.settings
    labels = ["" if i in without else "full_attention" if alike else kind for i, kind in enumerate(kinds)]
    ropes = []
    for label in sorted(set(labels)):
        about = (head_dim, context, label, family.rope_types, partial)
        rope = Rope.of(given, *about) if label else Rope.none(head_dim)
        if rope is None:
            raise _DeclinedError
        ropes.append(rope)
    return tuple(ropes), tuple(sorted(set(labels)).index(label) for label in labels)

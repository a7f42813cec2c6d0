"""Models of real shapes with random weights: as fast as the real ones, and nothing has to be fetched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fsgen.backends import places
from fsgen.backends.cpu.shape import Shape
from fsgen.backends.members import Members
from fsgen.backends.tokenizer import plain_tokenizer
from fsgen.models.bundled import ROOT
from fsgen.types import ModelInfo

if TYPE_CHECKING:
    from fsgen.backends.protocol import Model

PREFIX = "random:"
CONTEXT = 32768
COMMON = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": CONTEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "eos_token_id": 0, "dtype": "bfloat16", "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
# Of Qwen2.5, by size.
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "32B": {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
            "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False},
    "72B": {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64,
            "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
NOISE = 2**22  # random numbers, which all weights repeat


def random_model(name: str, dtype: str = "auto", device: str = "auto") -> Model:
    """A model of a shape of Qwen2.5, with random weights, in memory.

    Args:
        name: `random:0.5B`, or another size.
        dtype: of its weights; auto is bfloat16; int8 or int4 on a CPU.
        device: as in `fsgen.load`; one device.

    Raises:
        ValueError: an unknown size.
    """
    size = check_shape(name)
    dtype = "bfloat16" if dtype == "auto" else dtype
    config = COMMON | SHAPES[size]
    shape, tokenizer = Shape.of(config), plain_tokenizer(ROOT / "pocket-0.6m")
    assert shape is not None
    info = _info(name, shape)
    if _is_compiled(dtype, device):
        return _compiled(shape, info, tokenizer, dtype)
    from fsgen.backends.transformers.random import random_weights  # here, because importing it takes seconds

    return random_weights(config, info, tokenizer, dtype, "cuda:0" if device == "auto" else device)


@dataclass(frozen=True)
class RandomPair:
    """A target, with a draft or without, of random weights: checked, not made.

    Attributes:
        draft, target: their names, `random:0.5B` and so on.
        dtypes: of the weights, by role.
        device: as in `fsgen.load`; one device.
    """

    draft: str | None
    target: str
    dtypes: Mapping[str, str]
    device: str

    context: ClassVar[int] = CONTEXT
    ngram: ClassVar[int] = 0

    @classmethod
    def plan(cls, names: Mapping[str, str], dtype: str, device: str, weights: str) -> RandomPair:
        """A pair from names by role. Raises ValueError for an unknown size, type or device."""
        places.check_dtype(dtype)
        places.check_device(device)
        kinds = places.weights_by_role(weights, list(names))
        for name in names.values():
            check_shape(name)
        return cls(names.get("draft"), names["target"], {role: kinds.get(role, dtype) for role in names}, device)

    def beyond_transformers(self) -> dict[str, str]:
        """The members that `transformers` cannot run, by role: those that are made for the compiled forward pass."""
        return {role: name for role, name in self._names() if _is_compiled(self.dtypes[role], self.device)}

    def load(self) -> Members:
        """Makes the models."""
        return Members.of(**{role: random_model(name, self.dtypes[role], self.device) for role, name in self._names()})

    def _names(self) -> list[tuple[str, str]]:
        names = {"draft": self.draft, "target": self.target}
        return [(role, name) for role, name in names.items() if name is not None]


def _is_compiled(dtype: str, device: str) -> bool:
    return places.on_cpu(device) and dtype != "float16"


def check_shape(name: str) -> str:
    """The size that a name tells. Raises ValueError for one that there is not."""
    size = name.removeprefix(PREFIX)
    if size not in SHAPES:
        raise ValueError(f"no shape {name!r}: choose {', '.join(PREFIX + size for size in SHAPES)}")
    return size


def _compiled(shape: Shape, info: ModelInfo, tokenizer: Any, dtype: str) -> Model:
    from fsgen.backends.cpu.model import CpuModel  # here: it imports numba
    from fsgen.backends.cpu.weights import CpuWeights

    bits = places.BITS.get(dtype, 0)
    held = torch.float32 if bits else places.DTYPES[dtype]
    weights = CpuWeights(shape, RandomTensors(shape.tensors()), held, bits)
    return CpuModel(weights, info, tokenizer, shape.context, frozenset())


def _info(name: str, shape: Shape) -> ModelInfo:
    counts = {tensor: math.prod(sizes) for tensor, sizes in shape.tensors().items()}
    inside = sum(count for tensor, count in counts.items() if "embed" not in tensor and "lm_head" not in tensor)
    return ModelInfo(name, name, shape.model_type, sum(counts.values()), inside)


class RandomTensors(Mapping[str, torch.Tensor]):
    """Weights by name, made when they are read: norms are ones, all else repeats the same random numbers."""

    def __init__(self, sizes: Mapping[str, tuple[int, ...]]) -> None:
        self._sizes = sizes
        self._noise = torch.empty(NOISE).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(0)).bfloat16()

    def __getitem__(self, name: str) -> torch.Tensor:
        sizes = self._sizes[name]
        if "norm" in name:
            return torch.ones(sizes)
        count = math.prod(sizes)
        # Another beginning for each name: layers differ.
        start = sum(map(ord, name)) * 4099 % NOISE
        return self._noise.roll(-start).repeat(-(-count // NOISE))[:count].view(sizes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

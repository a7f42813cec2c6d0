"""Seconds of a call and memory from shapes alone: a configuration file, a machine, and no weights.

A roofline: a call takes the longer of reading its bytes and of computing its operations, each at a share of what the
machine could do, and a fixed time besides, which rooflines leave out (Williams et al. 2009; llama.cpp's users measured
20 ms of it). The shares and the fixed time can be fitted to a measured profile (`fit`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from fsgen.planner.times import PROMPT, Profile

GB, TB, TFLOPS = 1e9, 1e12, 1e12
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.5625}
MOST_GPUS = 8  # of one machine
EXCHANGE = 2e-5  # seconds in a layer in which GPUs that share a model wait for each other: twice 10 us
ERROR = 0.2  # of seconds from a roofline that is fitted to nothing; after a fit that of the fit


@dataclass(frozen=True)
class Hardware:
    """A machine.

    Attributes:
        name: as `--hardware` has it.
        bandwidth: bytes a second of its memory.
        peak: operations a second, dense, in 16 bits on a GPU and 32 on a CPU.
        memory: bytes; 0 where that depends on the machine.
        source: where the figures are from.
        kind: gpu or cpu.
        gpus: that share each model evenly; bandwidth, peak and memory are those of all of them.
    """

    name: str
    bandwidth: float
    peak: float
    memory: float
    source: str
    kind: str = "gpu"
    gpus: int = 1


_SHEET = "data sheet of the maker"
HARDWARE: dict[str, Hardware] = {
    one.name.lower(): one
    for one in (
        Hardware("B200", 8.0 * TB, 2250 * TFLOPS, 180 * GB, _SHEET),
        Hardware("H200", 4.8 * TB, 989 * TFLOPS, 141 * GB, _SHEET),
        Hardware("H100", 3.35 * TB, 989 * TFLOPS, 80 * GB, _SHEET + ", SXM"),
        Hardware("H100-PCIe", 2.0 * TB, 756 * TFLOPS, 80 * GB, _SHEET),
        Hardware("A100-80GB", 2.039 * TB, 312 * TFLOPS, 80 * GB, _SHEET + ", SXM"),
        Hardware("A100-40GB", 1.555 * TB, 312 * TFLOPS, 40 * GB, _SHEET + ", SXM"),
        Hardware("L40S", 864 * GB, 362 * TFLOPS, 48 * GB, _SHEET),
        Hardware("L4", 300 * GB, 121 * TFLOPS, 24 * GB, _SHEET),
        Hardware("A10", 600 * GB, 125 * TFLOPS, 24 * GB, _SHEET),
        Hardware("T4", 320 * GB, 65 * TFLOPS, 16 * GB, _SHEET),
        Hardware("RTX-4090", 1008 * GB, 165 * TFLOPS, 24 * GB, "white paper of the maker, sums in 32 bits"),
        Hardware("RTX-3090", 936 * GB, 71 * TFLOPS, 24 * GB, "white paper of the maker, sums in 32 bits"),
        Hardware("MI300X", 5.3 * TB, 1307 * TFLOPS, 192 * GB, _SHEET),
        Hardware("M2-Ultra", 800 * GB, 27 * TFLOPS, 192 * GB, "the maker's page; the memory is shared"),
        Hardware("EPYC-9654", 461 * GB, 7.4 * TFLOPS, 0, "12 channels of DDR5-4800; 96 cores at 2.4 GHz", "cpu"),
        Hardware("Ryzen-7950X", 83 * GB, 2.3 * TFLOPS, 0, "2 channels of DDR5-5200; 16 cores at 4.5 GHz", "cpu"),
    )
}


def hardware(name: str) -> Hardware:
    """A machine of the table, or several GPUs of one kind as one: `8xH100`. Raises ValueError for any other."""
    several = re.fullmatch(r"(\d+)x(.+)", name)
    gpus, kind = (int(several[1]), several[2]) if several else (1, name)
    found = HARDWARE.get(kind.lower())
    if found is None or (several and (found.kind != "gpu" or not 2 <= gpus <= MOST_GPUS)):
        known = ", ".join(one.name for one in HARDWARE.values())
        raise ValueError(
            f"unknown hardware {name!r}: choose measured (this machine), or one of {known}; or 2 to {MOST_GPUS} GPUs "
            "of one machine, as in 8xH100"
        )
    if gpus == 1:
        return found
    return replace(
        found,
        name=f"{gpus}x{found.name}",
        bandwidth=gpus * found.bandwidth,
        peak=gpus * found.peak,
        memory=gpus * found.memory,
        source=f"{found.source}; {gpus} of them",
        gpus=gpus,
    )


@dataclass(frozen=True)
class Shape:
    """A dense decoder, by its configuration.

    Attributes:
        weights: parameters that a call multiplies with, the output head included.
        parameters: all of them.
        layers, width, kept: layers; hidden size; numbers of keys and values of one token.
    """

    name: str
    weights: int
    parameters: int
    layers: int
    width: int
    kept: int

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any]) -> Shape:
        """The shape that a configuration tells.

        Raises:
            ValueError: sizes that it does not have, or a mixture of experts, which no roofline of one size describes.
        """
        if any(config.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
            raise ValueError(f"{name!r} is a mixture of experts, whose calls a roofline of one size does not describe")
        wanted = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        sizes: dict[str, Any] = {key: config.get(key) for key in wanted}
        if missing := [key for key, value in sizes.items() if value is None]:
            raise ValueError(f"the configuration of {name!r} has no {missing[0]}, which its times are told by")
        others = ("intermediate_size", "head_dim", "num_key_value_heads", "max_position_embeddings")
        sizes |= {key: config[key] for key in others if config.get(key) is not None}
        if odd := [key for key, value in sizes.items() if not isinstance(value, int) or not 0 < value < 2**31]:
            raise ValueError(f"the configuration of {name!r} has an impossible {odd[0]}: {sizes[odd[0]]!r:.80}")
        width, layers, heads, vocab = (sizes[key] for key in wanted)
        inner = int(sizes.get("intermediate_size", 4 * width))
        head = int(sizes.get("head_dim", width // heads))
        kept = 2 * head * int(sizes.get("num_key_value_heads", heads))
        attention = 2 * width * heads * head + width * kept
        inside = layers * (attention + (3 if config.get("hidden_act") == "silu" else 2) * width * inner)
        tied = bool(config.get("tie_word_embeddings", False))
        return cls(
            name, inside + width * vocab, inside + width * vocab * (1 if tied else 2), layers, width, layers * kept
        )


def shape_of(name: str) -> Shape:
    """The shape of a folder with a config.json, of such a file, of a bundled model, or `random:0.5B`.

    Raises:
        ValueError: there is none, or it tells no shape.
    """
    from fsgen.bench.shapes import COMMON, PREFIX, SHAPES, check_shape
    from fsgen.models.bundled import bundled_path

    if name.startswith(PREFIX):
        return Shape.of(name, COMMON | SHAPES[check_shape(name)])
    folder = bundled_path(name) or Path(name)
    file = folder if folder.suffix == ".json" else folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no configuration of {name!r} can be read ({error}): give a folder with its config.json"
        ) from None
    if not isinstance(config, dict):
        raise ValueError(f"{str(file)!r} is no configuration of a model")
    return Shape.of(name, config)


@dataclass(frozen=True)
class Roofline:
    """Times of a shape on a machine (see `fsgen.planner.times.Times`).

    Attributes:
        bytes_each: of a weight, and `cache_bytes_each` of a number of keys and values.
        bandwidth_share, peak_share: of what the machine could do.
        fixed: seconds of every call.
    """

    shape: Shape
    machine: Hardware
    bytes_each: float = 2.0
    cache_bytes_each: float = 2.0
    bandwidth_share: float = 0.75
    peak_share: float = 0.5
    fixed: float = 1e-3
    error: float = ERROR

    @property
    def model(self) -> str:
        return self.shape.name

    @property
    def packed(self) -> bool:
        return self.machine.kind == "cpu"

    @property
    def weight_bytes(self) -> int:
        return int(self.shape.parameters * self.bytes_each)

    @property
    def token_bytes(self) -> float:
        return self.shape.kept * self.cache_bytes_each

    def call(self, rows: float, tokens: float, context: float) -> float:
        read = self.shape.weights * self.bytes_each + rows * context * self.token_bytes
        operations = 2.0 * rows * tokens * (self.shape.weights + 2.0 * self.shape.layers * self.shape.width * context)
        return self.fixed + max(
            read / (self.bandwidth_share * self.machine.bandwidth), operations / (self.peak_share * self.machine.peak)
        )

    def reading(self, tokens: int) -> float:
        return max(0.0, self.call(1, max(tokens, 1), tokens / 2) - self.fixed)


def roofline(shape: Shape, machine: Hardware, dtype: str = "bfloat16") -> Roofline:
    """The times of a shape. Raises ValueError for an unknown type of weights."""
    if dtype not in BYTES:
        raise ValueError(f"unknown type of weights {dtype!r}: choose {', '.join(BYTES)}")
    fixed = 2e-4 + 1.5e-5 * shape.layers if machine.kind == "gpu" else 5e-4
    fixed += EXCHANGE * shape.layers * (machine.gpus > 1)
    return Roofline(shape, machine, BYTES[dtype], max(2.0, BYTES[dtype]), fixed=fixed)


def fit(measured: Profile, start: Roofline) -> Roofline:
    """A roofline whose shares and fixed time are those that a measured profile of this shape has.

    Args:
        measured: on the machine of the roofline.
        start: with the shape that was measured.

    Returns:
        the fitted one; its error is that of the fit. `dataclasses.replace(fitted, shape=...)` is another model there.
    """
    points = [
        (rows, tokens, seconds)
        for rows, line in zip(measured.rows, measured.seconds, strict=True)
        for tokens, seconds in zip(measured.tokens, line, strict=True)
    ]

    def made(x: Any) -> Roofline:
        a, b, c = np.exp(x)
        return replace(start, bandwidth_share=float(a), peak_share=float(b), fixed=float(c))

    def off(x: Any) -> Any:
        one = made(x)
        return [np.log(one.call(rows, tokens, PROMPT) / seconds) for rows, tokens, seconds in points]

    begin = np.log([start.bandwidth_share, start.peak_share, start.fixed])
    best = min(
        (
            least_squares(off, begin + np.array([0, shift, 0]), loss="soft_l1", f_scale=0.1)
            for shift in (-2.0, 0.0, 1.0)
        ),
        key=lambda found: found.cost,
    )
    return replace(made(best.x), error=float(max(0.05, np.sqrt(np.mean(np.square(off(best.x)))))))


def memory_bytes(times: Mapping[str, Any], batch: int, context: int) -> int:
    """Bytes of the weights of several models, and of their keys and values for so many texts of so many tokens."""
    return int(sum(each.weight_bytes + batch * context * each.token_bytes for each in times.values()))


def require_room(needed: int, machine: Hardware, what: str) -> None:
    """Raises ValueError where a machine cannot hold what is needed."""
    if machine.memory and needed > machine.memory:
        raise ValueError(
            f"{what} need {needed / GB:,.1f} GB, and {machine.name} has {machine.memory / GB:,.0f} GB: choose other "
            "hardware, smaller models or batches, or weights of fewer bits"
        )

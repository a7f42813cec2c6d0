"""Where a model goes, and in which type its weights are held."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

from fsgen.backends.budget import free_bytes
from fsgen.backends.int8 import check_products

if TYPE_CHECKING:
    from fsgen.backends.checkpoint import Checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Linear layers of so many bits a weight, the rest in float32; on a CPU only.
BITS = {"int8": 8, "int4": 4}

# Room that a model needs on a GPU beside its weights, for the cache and the activations.
HEADROOM = 1.25


def check_dtype(dtype: str) -> None:
    """Raises ValueError for a type that no weights are loaded in."""
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown: choose auto, {', '.join(DTYPES)}")


def check_weights(weights: str) -> None:
    """Raises ValueError for a type that no single model's weights are held in."""
    if weights not in ("auto", *DTYPES, *BITS):
        raise ValueError(f"weights={weights!r} is unknown: choose auto, {', '.join((*DTYPES, *BITS))}")


def weights_by_role(weights: str, roles: Collection[str]) -> dict[str, str]:
    """The type of each member's weights: one for all of them, or each by name (`draft=int8,target=bfloat16`).

    Args:
        weights: as given; `auto` says nothing of any.
        roles: of the members whose weights are still to be loaded.

    Raises:
        ValueError: an unknown type; a role without weights to load, or named twice; or none at all to load.
    """
    if "=" not in weights:
        check_weights(weights)
        if weights != "auto" and not roles:
            raise ValueError(f"weights={weights!r} changes nothing: no member has weights that are still to be loaded")
        return dict.fromkeys(roles, weights) if weights != "auto" else {}
    found: dict[str, str] = {}
    for part in weights.split(","):
        role, _, kind = (word.strip() for word in part.partition("="))
        if role not in roles:
            choices = ", ".join(sorted(roles)) or "nobody"
            raise ValueError(f"weights={weights!r} names {role!r}: weights are still to be loaded of {choices}")
        if role in found:
            raise ValueError(f"weights={weights!r} names {role!r} twice")
        check_weights(kind)
        found[role] = kind
    return {role: kind for role, kind in found.items() if kind != "auto"}


def weights_of(weights: str, roles: Collection[str]) -> str:
    """What is said of these roles alone, in the form of `weights_by_role`; auto where nothing is."""
    if "=" not in weights:
        return weights
    kept = [part for part in weights.split(",") if part.partition("=")[0].strip() in roles]
    return ",".join(kept) or "auto"


def check_choice(checkpoint: Checkpoint, weights: str) -> None:
    """Raises ValueError for a type of weights where these stay as they are in their file."""
    if checkpoint.own_weights:
        if checkpoint.elsewhere:
            raise ValueError(f"{checkpoint.name!r} cannot have {weights} weights: its server decides about them")
        raise ValueError(
            f"{checkpoint.name!r} cannot have {weights} weights: those of a GGUF file stay in its types, of which Q8_0 "
            "has eight bits"
        )


def check_device(device: str) -> None:
    """Raises ValueError for a device that does not exist here."""
    kind, _, number = device.partition(":")
    if device in ("auto", "cpu"):
        return
    if kind != "cuda" or (number and not number.isdecimal()) or device.endswith(":"):
        raise ValueError(f"device={device!r} is unknown: choose auto, cpu, cuda, or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        raise ValueError(f"device={device!r} is not there: this machine has {count or 'no'} GPU(s) that torch can use")


def on_cpu(device: str) -> bool:
    """Whether a model goes to the CPU."""
    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


def place(checkpoint: Checkpoint, device: str, dtype: str = "auto") -> str:
    """Where a model goes: the device that was named; for `auto` the CPU, one GPU, or "auto" for all GPUs.

    Raises:
        ValueError: it has to be spread, and `accelerate`, which does that, is not installed.
    """
    if checkpoint.elsewhere:
        return "cpu"
    if device != "auto":
        return device
    if not torch.cuda.is_available():
        return "cpu"
    free = [free_bytes(torch.device("cuda", gpu)) or 0 for gpu in range(torch.cuda.device_count())]
    best = max(range(len(free)), key=free.__getitem__)
    size = weight_bytes(checkpoint, dtype)
    if len(free) == 1 or (size is not None and size * HEADROOM <= free[best]):
        return f"cuda:{best}"
    if importlib.util.find_spec("accelerate") is None:
        raise ValueError(
            f"{checkpoint.name!r} may not fit on one GPU, and spreading a model over several needs the package "
            "accelerate: pip install 'fsgen[multi-gpu]', or name one device (cuda:0)"
        )
    return "auto"


def check_rounded(checkpoint: Checkpoint, kind: str, device: str) -> None:
    """Raises ValueError where a model cannot have weights of eight or four bits.

    They are for a CPU whose products of whole numbers are exact; four bits are for the compiled forward pass alone, on
    a processor that multiplies pairs.
    """
    where = place(checkpoint, device)
    if where != "cpu":
        raise ValueError(
            f"{kind} weights are for a CPU, and {checkpoint.name!r} would go to {where}: choose device='cpu', or other "
            "weights"
        )
    check_products()
    if BITS[kind] == 4:
        from fsgen.backends.cpu.gemm import HAS_INT8_PAIRS  # here: it imports numba

        if not checkpoint.four_bits:
            raise ValueError(
                f"{checkpoint.name!r} does not run on the compiled forward pass, which {kind} weights need"
            )
        if not HAS_INT8_PAIRS:
            raise ValueError(f"{kind} weights need a processor with AVX-512 VNNI, which this one has not: choose int8")


def weight_bytes(checkpoint: Checkpoint, dtype: str = "auto") -> int | None:
    """Bytes of the weights in memory, roughly: 0 where a server has them, None where it is not known before they are
    fetched.
    """
    size = 0 if checkpoint.elsewhere else _file_bytes(checkpoint)
    return size * 2 if size and dtype == "float32" else size  # most checkpoints are in half precision


def _file_bytes(checkpoint: Checkpoint) -> int | None:
    """Bytes of the weight files."""
    if checkpoint.local is not None:
        return sum(file.stat().st_size for file in checkpoint.local.glob("*.safetensors"))
    from huggingface_hub import get_safetensors_metadata

    try:
        files = get_safetensors_metadata(checkpoint.path).files_metadata.values()
    except Exception:  # offline, or a hub that does not say: then the size is not known, and that is all
        return None
    return sum(max(tensor.data_offsets[1] for tensor in file.tensors.values()) for file in files)

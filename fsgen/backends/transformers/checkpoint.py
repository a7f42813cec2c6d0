"""A model before its weights: found, read, and refused where no session could serve it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from fsgen.backends.budget import free_bytes
from fsgen.backends.int8 import check_products
from fsgen.backends.transformers.continuation import position_offset, text_config, ways_to_continue
from fsgen.backends.transformers.settings import check_buildable, check_generation, read_config, reason
from fsgen.backends.transformers.weights import check_files
from fsgen.models.bundled import bundled_path

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"  # linear layers of eight bits, the rest in float32; on a CPU only

# Room that a model needs on a GPU beside its weights, for the cache and the activations.
HEADROOM = 1.25


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model of which only the configuration and the tokenizer have been read.

    Attributes:
        name: as the user gave it, or the short name of a bundled model.
        path: local folder or hub name.
        local: the folder, None for a model of the hub.
    """

    name: str
    path: str
    local: Path | None
    config: Any
    tokenizer: Any

    @property
    def vocab_size(self) -> int:
        """Rows of the logits, padding rows included."""
        return int(text_config(self.config).vocab_size)

    @property
    def context(self) -> int:
        """The longest sequence that the model can score, in tokens."""
        return context_of(self.config, self.tokenizer)


def open_checkpoint(name: str | Path) -> Checkpoint:
    """Finds a model and reads its configuration and tokenizer, and refuses it if no session could serve it.

    Args:
        name: a bundled model, a local folder, or a name on the Hugging Face hub.

    Raises:
        ValueError: nothing of this name, no safetensors weights, or a model whose state no session can keep.
    """
    shown = str(name)
    local = bundled_path(shown) if isinstance(name, str) else None
    if local is None:
        folder = Path(name).expanduser()
        if (folder / "config.json").is_file():
            local = folder
        elif folder.exists() or isinstance(name, Path) or shown.startswith(("/", ".", "~")) or shown.count("/") > 1:
            raise ValueError(f"no model at {shown!r}: there is no such folder with a config.json in it")
    if local is not None:
        check_files(shown, local)
        check_generation(shown, local)
    path = str(local) if local is not None else shown
    config = read_config(shown, path)
    ways_to_continue(config, shown)
    check_buildable(shown, config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # many kinds, by tokenizer and by what is wrong with its files
        raise ValueError(f"the tokenizer of {shown!r} cannot be read: {reason(error)}") from error
    return Checkpoint(shown, path, local, config, tokenizer)


def context_of(config: Any, tokenizer: Any = None) -> int:
    """The longest sequence, in tokens, that a model scores with one and the same position encoding."""
    text = text_config(config)
    longest = getattr(text, "max_position_embeddings", None)
    if longest is None:
        longest = getattr(tokenizer, "model_max_length", None)
    longest = min(int(longest) - position_offset(text), 2**20) if longest else 2**20
    rope = getattr(text, "rope_parameters", None) or {}
    for entry in [rope, *rope.values()]:
        # These encodings change for *all* positions once any row is longer: what is cached would no longer be valid.
        if isinstance(entry, dict) and entry.get("rope_type") in ("longrope", "dynamic"):
            longest = min(longest, int(entry.get("original_max_position_embeddings") or longest))
    return longest


def check_dtype(dtype: str) -> None:
    """Raises ValueError for a type that no weights are loaded in."""
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown: choose auto, {', '.join(DTYPES)}")


def check_weights(weights: str) -> None:
    """Raises ValueError for a type that no single model's weights are held in."""
    if weights not in ("auto", INT8, *DTYPES):
        raise ValueError(f"draft_weights={weights!r} is unknown: choose auto, {', '.join(DTYPES)} or {INT8}")


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


def place(checkpoint: Checkpoint, device: str, dtype: str = "auto") -> str:
    """Where a model goes: the device that was named; for `auto` the CPU, one GPU, or "auto" for all GPUs.

    Raises:
        ValueError: it has to be spread, and `accelerate`, which does that, is not installed.
    """
    if device != "auto":
        return device
    if not torch.cuda.is_available():
        return "cpu"
    free = [free_bytes(torch.device("cuda", gpu)) or 0 for gpu in range(torch.cuda.device_count())]
    best = max(range(len(free)), key=free.__getitem__)
    size = _weight_bytes(checkpoint)
    if size is not None and dtype == "float32":
        size *= 2  # most checkpoints are in half precision
    if len(free) == 1 or (size is not None and size * HEADROOM <= free[best]):
        return f"cuda:{best}"
    if importlib.util.find_spec("accelerate") is None:
        raise ValueError(
            f"{checkpoint.name!r} may not fit on one GPU, and spreading a model over several needs the package "
            "accelerate: pip install 'fsgen[multi-gpu]', or name one device (cuda:0)"
        )
    return "auto"


def check_int8(checkpoint: Checkpoint, device: str) -> None:
    """Raises ValueError where a model cannot have int8 weights: off the CPU, or on one whose products are not exact."""
    where = place(checkpoint, device)
    if where != "cpu":
        raise ValueError(
            f"int8 weights are for a CPU, and {checkpoint.name!r} would go to {where}: choose device='cpu', or another "
            "type of weights"
        )
    check_products()


def _weight_bytes(checkpoint: Checkpoint) -> int | None:
    """Bytes of the weight files, None where that is not known before they are fetched."""
    if checkpoint.local is not None:
        return sum(file.stat().st_size for file in checkpoint.local.glob("*.safetensors"))
    from huggingface_hub import get_safetensors_metadata

    try:
        files = get_safetensors_metadata(checkpoint.path).files_metadata.values()
    except Exception:  # offline, or a hub that does not say: then the size is not known, and that is all
        return None
    return sum(max(tensor.data_offsets[1] for tensor in file.tensors.values()) for file in files)

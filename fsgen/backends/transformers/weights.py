"""The weights of a model: read whole, as its configuration wants them, and finite, or refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from fsgen.backends.checkpoint import on_hub
from fsgen.backends.transformers.settings import reason

NAMED = 3  # tensors that a message names, at most
# What old checkpoints hold beside the weights: tables that are computed today.
TABLES = ("inv_freq", ".masked_bias", ".attn.bias", ".attention.bias", ".causal_mask", ".position_ids")


def load_module(name: str, path: str, config: Any, dtype: torch.dtype | str, spread: bool) -> Any:
    """The `transformers` model with all of its weights.

    Args:
        name: for messages.
        path: its folder, or its name on the hub.
        config: its configuration.
        dtype: of the weights, or "auto" for their own.
        spread: over all GPUs.

    Raises:
        ValueError: tensors are missing, not expected or of another shape, or the files cannot be read.
    """
    refusal = f"the weights of {name!r} cannot be loaded: "
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is reported there is an error here
    repository, revision = on_hub(path)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            repository,
            revision=revision or "main",
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **({"device_map": "auto"} if spread else {}),
        )
    except Exception as error:  # of several libraries: a file that is not there, a package that is missing, no memory
        raise ValueError(refusal + reason(error)) from error
    finally:
        logging.set_verbosity(verbosity)
    if fault := _loading_fault(model, found):
        raise ValueError(refusal + fault)
    return model


def _loading_fault(model: Any, found: dict[str, Any]) -> str | None:
    """What was not as the configuration wants it, in words."""
    if found["mismatched_keys"]:
        shapes = [f"{name} is {list(file)}, not {list(wanted)}" for name, file, wanted in found["mismatched_keys"]]
        return f"config.json wants other shapes: {_listed(shapes)}"
    if found["missing_keys"]:
        return f"the files lack what config.json wants: {_listed(found['missing_keys'])}"
    unexpected = [name for name in found["unexpected_keys"] if not name.endswith(TABLES)]
    if unexpected:
        return f"the files hold what config.json does not want: {_listed(unexpected)}"
    if found["error_msgs"]:
        return str(found["error_msgs"][0])
    # `transformers` gives up a tie where the files hold two different tensors.
    untied = model.get_expanded_tied_weights_keys(all_submodels=True).keys() - model.all_tied_weights_keys.keys()
    if untied:
        return f"config.json ties weights that the files hold apart: {_listed(untied)}"
    return None


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return ", ".join(ordered[:NAMED]) + more


def check_files(name: str, folder: Path) -> None:
    """Reads the headers of a folder's weight files.

    Raises:
        ValueError: there are none, one is no safetensors file or is cut off, or one that the index names is not there.
    """
    if not any(folder.glob("*.safetensors")):
        if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
            raise ValueError(
                f"{name!r} has its weights only as a pickle ({pickled[0].name}), which could run code when it is "
                "opened: convert them to safetensors"
            )
        raise ValueError(f"{name!r} has no weights in the safetensors format in {folder}")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"the weights of {name!r} are broken: {file.name}: {reason(error)}") from error
    index = folder / "model.safetensors.index.json"
    if not index.is_file() or (folder / "model.safetensors").is_file():
        return
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the weights of {name!r} are broken: {index.name} is no index of tensors") from error
    if absent := sorted(str(file) for file in named if not (folder / str(file)).is_file()):
        raise ValueError(f"the weights of {name!r} are not all there: {index.name} names {_listed(absent)}")


def check_finite(name: str, module: Any) -> None:
    """Raises ValueError where a weight, a table of rotary positions or the epsilon of a norm is not a finite number."""
    for part_name, part in module.named_modules():
        for key in ("eps", "epsilon", "variance_epsilon", "norm_eps"):
            epsilon = getattr(part, key, None)
            if isinstance(epsilon, (int, float)) and not (math.isfinite(epsilon) and epsilon >= 0):
                raise ValueError(f"{name!r} cannot be used: {part_name}.{key} is {epsilon}")
    held = [*module.named_parameters(), *module.named_buffers()]
    for tensor_name, tensor in held:
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta and not _is_finite(tensor):
            raise ValueError(f"{name!r} cannot be used: {tensor_name} holds numbers that are not finite")


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all of it is finite; a mask may be minus infinity."""
    values = tensor.detach()
    if values.dtype.itemsize == 1:  # eight bits, for which little is computed
        values = values.float()
    least, most = values.aminmax()
    masks = not tensor.requires_grad and float(least) == -math.inf
    return math.isfinite(most) and (masks or math.isfinite(least))

"""The settings of a model's folder, config.json and generation_config.json: read, and refused where they are broken.

What `transformers` would let pass, or would fail on without saying where, is refused here in one sentence that names
the file and the value, before any weights load.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from fsgen.backends.checkpoint import on_hub
from fsgen.models.bundled import bundled_names

# Of each of these a model has at least one, whatever its family.
SIZES = frozenset(
    {"vocab_size", "hidden_size", "head_dim", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"}
    | {"max_position_embeddings", "d_model", "n_embd", "n_layer", "n_head", "n_positions", "n_layers", "n_heads"}
)
EPSILON = re.compile(r"(^|_)(eps|epsilon)$")
BASE = re.compile(r"(^|_)(theta|base|base_freq)$")  # of rotary positions
UNBOUNDED = re.compile(r"time_step")  # the one kind of setting that may be infinite: a clamp that is none


def read_config(name: str, path: str) -> Any:
    """The configuration of a model.

    Args:
        name: for messages.
        path: its folder, or its name on the hub.

    Raises:
        ValueError: it cannot be read, or no model can be made of it; names the file and the value.
    """
    repository, revision = on_hub(path)
    try:
        raw, _ = PretrainedConfig.get_config_dict(repository, revision=revision)
    except Exception as error:  # many kinds, by what is wrong with the file or the way to it
        if Path(path).is_dir():
            raise ValueError(f"the config.json of {name!r} cannot be read: {reason(error)}") from error
        raise ValueError(
            f"no model {name!r} can be opened: {reason(error)}. A model is a local folder, a name on the "
            f"Hugging Face hub, or a bundled one: {bundled_names()}"
        ) from error
    refusal = f"the config.json of {name!r} is refused: "
    for fault in _faults(raw):
        raise ValueError(refusal + fault)
    try:
        return AutoConfig.from_pretrained(repository, revision=revision, trust_remote_code=False)
    except Exception as error:  # of several libraries: they check the types and the sums of its values
        raise ValueError(refusal + reason(error)) from error


def check_buildable(name: str, config: Any) -> None:
    """Makes the model without memory for its weights, since much of a configuration is read only then.

    Raises:
        ValueError: that fails, as for an activation or a kind of rotary positions that nobody knows.
    """
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config)
    except Exception as error:  # whatever the code of a model runs into
        fault = f"no model can be made of it: {reason(error)}"
        if isinstance(error, KeyError):  # an activation or a kind of positions that its code looks up
            keys = [key for key, value in _entries(config.to_dict()) if value == error.args[0]]
            fault = f"{keys[0]}={error.args[0]!r} is not known" if keys else fault
        raise ValueError(f"the config.json of {name!r} is refused: {fault}") from error


def check_generation(name: str, folder: Path) -> None:
    """Raises ValueError where a folder has a generation_config.json that does not say what ends a text."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return
    refusal = f"the generation_config.json of {name!r} is refused: "
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{refusal}it is no JSON ({reason(error)})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{refusal}it holds {_shown(settings)}, not a table of settings")
    ends = settings.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and (type(end) is not int or end < 0):
            raise ValueError(f"{refusal}eos_token_id={_shown(ends)} is no token id, nor a list of them")


def _faults(raw: Any) -> Iterator[str]:
    """What is wrong with the content of a config.json, in words."""
    if not isinstance(raw, dict):
        yield f"it holds {_shown(raw)}, not a table of settings"
        return
    for part in (raw, raw.get("text_config")):
        for key, value in part.items() if isinstance(part, dict) else ():
            if key in SIZES and type(value) is int and value < 1:
                yield f"{key}={value} is impossible: at least 1"
    for key, number in _entries(raw):
        if type(number) not in (int, float):
            continue
        if not math.isfinite(number) and not (UNBOUNDED.search(key) and number == math.inf):
            yield f"{key}={number} is not finite"
        if EPSILON.search(key) and number < 0:
            yield f"{key}={number} is impossible: not negative"
        if BASE.search(key) and number <= 0:
            yield f"{key}={number} is impossible: positions are rotated by powers of a positive number"
    for key in ("dtype", "torch_dtype"):
        kind = raw.get(key)
        known = getattr(torch, kind.removeprefix("torch."), None) if isinstance(kind, str) else kind
        if kind not in (None, "auto") and not (isinstance(known, torch.dtype) and known.is_floating_point):
            yield f"{key}={_shown(kind)} is no type of weights"
    yield from _quantization_faults(raw)


def _quantization_faults(raw: dict[str, Any]) -> Iterator[str]:
    settings = raw.get("quantization_config")
    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if not isinstance(settings, dict):
        yield f"quantization_config={_shown(settings)} is not a table of settings"
    elif method not in AUTO_QUANTIZATION_CONFIG_MAPPING and not (method is None and _by_bits(settings)):
        yield f"quantization_config has quant_method={_shown(method)}, which nothing here can read"


def _by_bits(settings: dict[str, Any]) -> bool:
    return bool(settings.get("load_in_8bit") or settings.get("load_in_4bit"))


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values of a configuration, each with the name of its setting."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _entries(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner, key)
    else:
        yield key, value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def reason(error: BaseException) -> str:
    """What an error of another library says, in one line: the inner one where it names a field in another line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[-1] if type(error).__name__.startswith("StrictDataclass") else lines[0]
    line = re.sub(r"^(TypeError|ValueError|KeyError): ", "", line)
    if isinstance(error, KeyError) and " " not in line:
        line = f"{line} is not known"
    return line.rstrip(".:")

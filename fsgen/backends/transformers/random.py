"""A model of a configuration with random weights, made on its device."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fsgen.backends.places import DTYPES
from fsgen.backends.transformers.model import TransformersModel
from fsgen.types import ModelInfo


def random_weights(
    config: dict[str, Any], info: ModelInfo, tokenizer: Any, dtype: str, device: str
) -> TransformersModel:
    """The model that a `config.json` of these settings describes."""
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=DTYPES[dtype])
    return TransformersModel(module, tokenizer, info.name, info=info, compiled=False)

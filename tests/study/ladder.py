"""A ladder of tiny random models in a folder, and a study of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.tiny import tiny_model

NAMES = ("small", "middle", "large")


def byte_tokenizer(extra: int = 0) -> Any:
    """A tokenizer of one token a byte, so that it can read every prompt; `extra` tokens make it another one."""
    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"<{i}>" for i in range(extra))]
    if extra:
        words[5], words[6] = words[6], words[5]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


def save_model(folder: Path, noise: float = 0.0, tokenizer: Any = None, **config: Any) -> Path:
    """A random Llama model with a byte tokenizer; with `noise`, one that is like it and yet another."""
    sizes = {"vocab_size": 258, "max_position_embeddings": 2048, "initializer_range": 0.2}
    model = tiny_model("llama", **{**sizes, **config})
    draw = torch.Generator().manual_seed(int(1000 * noise))
    with torch.no_grad():
        for weight in model.parameters():
            weight += noise * weight.std() * torch.randn(weight.shape, generator=draw) if weight.dim() > 1 else 0.0
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder


def save_ladder(folder: Path) -> dict[str, str]:
    """Three models that agree now and then, by name."""
    return {name: str(save_model(folder / name, noise)) for name, noise in zip(NAMES, (0.4, 0.2, 0.0), strict=True)}


def questions(folder: Path, count: int = 12) -> str:
    """A data file of short questions for the task `pocket_math`."""
    path = folder / "questions.jsonl"
    rows = [
        {"question": f"What is {i} + {7 * i % 5}{'?' * (i % 3)}", "answer": f"#### {i + 7 * i % 5}"}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def small_study(ladder: dict[str, str], data: str, **changes: Any) -> dict[str, Any]:
    """A study of every kind of cell: replay, contrastive, proxy, a router, and sampling."""
    small, middle, large = (ladder[name] for name in NAMES)
    study: dict[str, Any] = {
        "name": "tiny",
        "batch_size": 4,
        "tasks": [{"name": "pocket_math", "limit": 10, "max_tokens": 6, "data": data}],
        "grids": [
            {"pairs": [{"ladder": [small, middle, large]}], "methods": ["oracle"]},
            {"pairs": [{"draft": small, "target": large}], "methods": [{"name": "contrastive", "draft_tokens": 2}]},
            {"pairs": [{"draft": middle, "target": large, "base": small}], "methods": ["proxy"]},
            {"pairs": [{"draft": small, "target": large}], "methods": ["route"], "routers": ["max-prob:0.05"]},
            {
                "pairs": [{"draft": small, "target": middle}],
                "methods": ["speculative"],
                "sampling": [{"temperature": 1.0, "top_p": 0.9}],
            },
        ],
    }
    return study | changes


def write_study(path: Path, study: dict[str, Any]) -> Path:
    """The study as a YAML file."""
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path

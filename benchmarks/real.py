"""How fast models of real shapes decode on this CPU: random weights of Qwen2.5's sizes, one run.

    python -m benchmarks.real [--sizes 0.5B 1.5B] [--weights bfloat16 int8] [--folder DIR] [--no-transformers]

For each size and type: milliseconds a token at batch 1, and the share of what the memory's bandwidth, measured in the
same run, allows for the bytes of the weights; seconds of a prompt of 512 tokens; tokens a second at batch 8; the price
of six tokens in one call; and the same of `transformers` in bfloat16. The models are made in DIR (1, 3 and 15 GB).
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from fsgen.backends.cpu.checkpoint import CpuCheckpoint
from fsgen.backends.cpu.shape import Shape
from fsgen.backends.opening import open_checkpoint
from fsgen.models.bundled import ROOT

COMMON = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "eos_token_id": 0, "dtype": "bfloat16", "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip


def make(size: str, folder: Path) -> Path:
    """A model of a size with random weights in bfloat16, a file a layer, where it is not there yet."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = COMMON | SIZES[size]
    shape = Shape.of(config)
    assert shape is not None
    generator, index = torch.Generator().manual_seed(0), dict[str, str]()
    tensors = shape.weights() | {name: part for name, part in shape.biases().items() if "o_proj" not in name}
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, sizes in tensors.items():
        parts.setdefault(name.split(".")[2] if ".layers." in name else name, {})[name] = sizes
    for number, part in enumerate(parts.values()):
        file = f"model-{number:03}.safetensors"
        save_file(
            {name: _random(name, sizes, generator) for name, sizes in part.items()}, folder / file, {"format": "pt"}
        )
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "pocket-0.6m" / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _random(name: str, sizes: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(sizes, dtype=torch.bfloat16)
    return torch.empty(sizes).normal_(0.0, 0.02, generator=generator).bfloat16()


def bandwidth() -> float:
    """Bytes a second that all threads together read from memory."""
    numbers = torch.ones(2**28)  # 1 GiB
    return numbers.nbytes / min(timed(numbers.sum) for _ in range(5))


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(session: Any, rows: int, prompt: int, tokens: int, calls: int) -> tuple[float, float]:
    """Seconds of a prompt, and of a call of `tokens` new tokens a row after it (median)."""
    texts = [[(7 * i + row) % 2000 + 1 for i in range(prompt)] for row in range(rows)]
    for row in range(rows):
        session.begin(row, prompt, prompt + calls * tokens)
    first = timed(lambda: session.score(texts, 1))
    found = []
    for _ in range(calls):
        texts = [[*text, *range(11, 11 + tokens)] for text in texts]
        found.append(timed(lambda: session.score(texts, tokens)))  # noqa: B023 - called at once
    return first, statistics.median(found)


def figures(model: Any) -> dict[str, float]:
    """Seconds: a token and six at batch 1 after 32 tokens, a token of 8 rows, a prompt of 512."""
    _, one = measure(model.session(1), 1, 32, 1, 16)
    _, six = measure(model.session(1), 1, 32, 6, 8)
    _, eight = measure(model.session(8), 8, 32, 1, 8)
    prompt, _ = measure(model.session(1), 1, 512, 1, 1)
    return {"one": one, "six": six, "eight": eight, "prompt": prompt}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["0.5B", "1.5B"])
    parser.add_argument("--weights", nargs="+", choices=["float32", "bfloat16", "int8"], default=["bfloat16", "int8"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fsgen-real")
    parser.add_argument("--no-transformers", action="store_true")
    given = parser.parse_args()
    table = Table("model", "ms a token", "of bandwidth", "six tokens / one", "tokens/s of 8 rows", "512 tokens, s")
    for size in given.sizes:
        checkpoint = open_checkpoint(make(size, given.folder / size), device="cpu")
        assert isinstance(checkpoint, CpuCheckpoint)
        for kind in [*given.weights, *["transformers"] * (not given.no_transformers)]:
            rate = bandwidth()
            if kind == "transformers":
                from fsgen.backends.transformers.checkpoint import open_with_transformers

                model: Any = open_with_transformers(checkpoint.folder).load("bfloat16", "cpu", compiled=False)
                share = "-"
            else:
                model = checkpoint.load(kind)
            found = figures(model)
            if kind != "transformers":
                share = f"{model.weight_bytes / rate / found['one']:.2f}"
            table.add_row(
                f"{size} {kind}", f"{1e3 * found['one']:.1f}", share, f"{found['six'] / found['one']:.2f}",
                f"{8 / found['eight']:.1f}", f"{found['prompt']:.2f}",
            )  # fmt: skip
            print(f"{size} {kind}: bandwidth {rate / 1e9:.1f} GB/s", flush=True)
            del model
            gc.collect()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""How fast models of real shapes decode on this CPU: random weights of Qwen2.5's sizes, one run.

    python -m benchmarks.real [--sizes 0.5B 1.5B] [--weights bfloat16 int8] [--rounds 1.5B] [--folder DIR]

For each size and type: milliseconds a token at batch 1, and the share of what the memory's bandwidth, measured in the
same run, allows for the bytes of the weights; the price of six tokens in one call; tokens a second at batch 8; seconds
of a prompt of 512 tokens. Beside it the same of llama.cpp at the same bits (bfloat16: BF16, int8: Q8_0, int4: Q4_0),
where the extras `llama-cpp` and `dev` are installed, measured in turns with ours; and of `transformers` in bfloat16.

`--rounds SIZE` adds decoding with drafts: 0.5B drafts for SIZE, int8 both, four of five drafted tokens accepted, beside
the target alone and beside the same calls made of llama.cpp's.

The models are made in DIR, in both formats: 0.5B takes 2.5 GB, 1.5B 8 GB, 7B 23 GB.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
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

from fsgen.backends.cpu.bandwidth import bandwidth
from fsgen.backends.cpu.checkpoint import CpuCheckpoint
from fsgen.backends.cpu.shape import Shape
from fsgen.backends.opening import open_checkpoint
from fsgen.bench.shapes import COMMON, SHAPES
from fsgen.models.bundled import ROOT

GGUF_TYPES = {"bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
TURNS = 2
ACCEPTANCE, WRITTEN = 0.8, 96  # of drafted tokens, and tokens


def make(size: str, folder: Path) -> Path:
    """A model of a size with random weights in bfloat16, a file a layer, where it is not there yet."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = COMMON | SHAPES[size]
    shape = Shape.of(config)
    assert shape is not None
    generator, index = torch.Generator().manual_seed(0), dict[str, str]()
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, sizes in shape.tensors().items():
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


def fastest(models: list[Any]) -> list[dict[str, float]]:
    """The figures of models that are measured in turns: of each the best of its turns."""
    found = [[figures(model) for model in models] for _ in range(TURNS)]
    return [{name: min(turn[i][name] for turn in found) for name in found[0][i]} for i in range(len(models))]


def row(name: str, found: dict[str, float], share: str) -> list[str]:
    """A line of the table."""
    return [
        name, f"{1e3 * found['one']:.1f}", share, f"{found['six'] / found['one']:.2f}", f"{8 / found['eight']:.1f}",
        f"{found['prompt']:.2f}",
    ]  # fmt: skip


def compare(size: str, kind: str, folder: Path, llama_cpp: bool) -> list[list[str]]:
    """Lines of a size in a type: ours, llama.cpp's, and how many times as fast ours is."""
    checkpoint = open_checkpoint(folder, device="cpu")
    assert isinstance(checkpoint, CpuCheckpoint)
    models: list[Any] = [checkpoint.load(kind)]
    if llama_cpp:
        from benchmarks.llama_calls import LlamaModel

        models.append(LlamaModel(gguf_file(folder, kind)))
    before = bandwidth()
    found = fastest(models)
    rate = max(before, bandwidth())
    share = models[0].weight_bytes / rate / found[0]["one"]
    print(f"{size} {kind}: {models[0].weight_bytes / 1e9:.2f} GB of weights, {rate / 1e9:.1f} GB/s", flush=True)
    lines = [row(f"{size} {kind}", found[0], f"{share:.2f}")]
    if llama_cpp:
        times = {name: f"{found[1][name] / found[0][name]:.2f} x" for name in found[0]}
        lines += [
            row(f"{size} {GGUF_TYPES[kind]}, llama.cpp", found[1], "-"),
            ["  ours is faster", times["one"], "", "", times["eight"], times["prompt"]],
        ]
    return lines


def gguf_file(folder: Path, kind: str) -> Path:
    """The model of a folder as a GGUF file beside it, made where it is not there yet."""
    from benchmarks.gguf_files import write_gguf

    file = folder.parent / f"{folder.name}-{kind}.gguf"
    return file if file.is_file() else write_gguf(folder, file, kind)


def with_transformers(size: str, folder: Path) -> list[str]:
    """The line of `transformers` in bfloat16."""
    from fsgen.backends.transformers.checkpoint import open_with_transformers

    model = open_with_transformers(folder).load("bfloat16", "cpu", compiled=False)
    return row(f"{size} bfloat16, transformers", figures(model), "-")


def drafting(size: str, folder: Path, llama_cpp: bool) -> Table:
    """A target alone, with drafts, and the calls of the latter made of llama.cpp's."""
    from benchmarks.scripted import by_llama_calls, rounds

    folders = {name: make(name, folder / name) for name in ("0.5B", size)}
    models = {name: open_checkpoint(found, device="cpu").load("int8") for name, found in folders.items()}
    prompt = [7 * i % 2000 + 1 for i in range(32)]
    plain, drafted, calls = rounds(models["0.5B"], models[size], ACCEPTANCE, prompt, WRITTEN)
    del models
    gc.collect()
    table = Table("int8, 0.5B for " + size, "ms a token", "drafting is faster")
    table.add_row("target alone", f"{1e3 * plain:.1f}", "")
    table.add_row("with drafts", f"{1e3 * drafted:.1f}", f"{plain / drafted:.2f} x")
    if llama_cpp:
        draft, target = (gguf_file(folders[name], "int8") for name in ("0.5B", size))
        same = by_llama_calls(draft, target, calls, len(prompt) + WRITTEN + 64) / WRITTEN
        table.add_row("the same calls by llama.cpp", f"{1e3 * same:.1f}", f"{same / drafted:.2f} x")
    return table


def has_llama_cpp() -> bool:
    """Whether llama.cpp can be compared with; says what is missing."""
    missing = [name for name in ("llama_cpp", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"without llama.cpp: {' and '.join(missing)} not installed (pip install 'fsgen[llama-cpp]' gguf)")
    return not missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=list(SHAPES), default=["0.5B", "1.5B"])
    parser.add_argument("--weights", nargs="+", choices=list(GGUF_TYPES), default=["bfloat16", "int8"])
    parser.add_argument("--rounds", choices=["1.5B", "7B"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fsgen-real")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--no-llama-cpp", action="store_true")
    given = parser.parse_args()
    llama_cpp = not given.no_llama_cpp and has_llama_cpp()
    table = Table("model", "ms a token", "of bandwidth", "six tokens / one", "tokens/s of 8 rows", "512 tokens, s")
    for size in given.sizes:
        folder = make(size, given.folder / size)
        for kind in given.weights:
            for line in compare(size, kind, folder, llama_cpp):
                table.add_row(*line)
            gc.collect()
        if not given.no_transformers:
            table.add_row(*with_transformers(size, folder))
            gc.collect()
    console = Console(width=120)
    if given.sizes:
        console.print(table)
    if given.rounds:
        console.print(drafting(given.rounds, given.folder, llama_cpp))


if __name__ == "__main__":
    main()

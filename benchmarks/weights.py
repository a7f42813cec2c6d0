"""What rounding weights costs a model: loss and agreement of the bundled ladder, by type.

    python -m benchmarks.weights [--models pocket-0.6m ...] [--texts 24]

Texts are problems of GSM8K with their reference answers, at most 300 tokens each. Agreement is the share of positions
whose most likely token is that of float32.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table

from fsgen import tasks
from fsgen.backends import Model, load

WEIGHTS = ("float32", "bfloat16", "int8", "int4")
LONGEST = 300  # tokens of a text


def read(model: Model, texts: list[list[int]]) -> tuple[float, list[int]]:
    """Nats a token, and the most likely token at each position."""
    loss, count, best = 0.0, 0, list[int]()
    for ids in texts:
        z = model.session(1).score([ids], len(ids))[0].log_softmax(-1)
        loss -= float(z[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum())
        count += len(ids) - 1
        best += z.argmax(-1).tolist()
    return loss / count, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["pocket-0.6m", "pocket-1.5m", "pocket-4m"])
    parser.add_argument("--texts", type=int, default=24)
    given = parser.parse_args()
    examples = tasks.get("gsm8k").load(limit=given.texts)
    table = Table("model", "weights", "nats a token", "agreement with float32", "MB")
    for name in given.models:
        reference: list[int] = []
        for kind in WEIGHTS:
            model = load(target=name, weights=kind).target
            assert model is not None
            texts = [model.tokenizer.encode(f"{one.prompt} {one.reference}")[:LONGEST] for one in examples]
            loss, best = read(model, texts)
            reference = reference or best
            same = sum(a == b for a, b in zip(best, reference, strict=True)) / len(best)
            size = getattr(model, "weight_bytes", 0) / 1e6
            table.add_row(name, kind, f"{loss:.4f}", f"{same:.3f}", f"{size:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

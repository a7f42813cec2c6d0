"""The gates of the graded ladder, and the signs of texts that went wrong."""

from __future__ import annotations

from typing import Any

import pytest

from ladder import gates


def _measured(size: str, parameters: int, seed: int, right: list[int], loss: float) -> dict[str, Any]:
    task = {"accuracy": sum(right) / len(right), "right": "".join(map(str, right)), "no_answer": 0.0, "cut": 0.0}
    return {
        "name": f"{size}-s{seed}",
        "size": size,
        "family": "pocket",
        "parameters": parameters,
        "held_out_loss": {"chains": loss},
        "tasks": {"chains": task | {"loops": 0.03 * (size == "a")}},
    }


def test_gates() -> None:
    counts = {"a": 10, "b": 40, "c": 70, "d": 90}
    models = [
        _measured(name, number, seed, [1] * count + [0] * (100 - count), 2.0 - 0.1 * number + 0.15 * seed)
        for seed in (0, 1)
        for number, (name, count) in enumerate(counts.items())
    ]
    sizes = gates.by_size(models)
    gate = gates.task_gate(sizes, "chains")
    assert gate["accuracy"] == [0.1, 0.4, 0.7, 0.9]
    assert gate["rise"] == pytest.approx(0.8)
    assert (gate["rises"], gate["apart"], gate["open"], gate["clean"]) == (True, True, True, False)
    assert gates.difference(sizes[1], sizes[2], "chains")[0] == pytest.approx(0.3)
    assert gates.loss_gate(sizes) == {"chains": True}
    models[0]["held_out_loss"]["chains"] = 0.1
    assert gates.loss_gate(gates.by_size(models)) == {"chains": False}
    assert any("not: clean" in line for line in gates.lines(models))

"""Summaries made up for tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fsgen.analysis.frequency import SummaryRow


def row(**changes: Any) -> SummaryRow:
    """A summary row of the oracle."""
    values: dict[str, Any] = {
        "run": "gsm8k-oracle-0123456789abcdef",
        "task": "gsm8k",
        "shots": 0,
        "chat": False,
        "draft": "pocket-0.6m",
        "target": "pocket-4m",
        "base": None,
        "draft_parameters": 600_000,
        "target_parameters": 8_280_000,
        "method": "oracle",
        "router": "always",
        "draft_tokens": 1,
        "sampling": "greedy",
        "engine": "replay",
        "examples": 32,
        "failed": 0,
        "tokens": 3200,
        "collaboration_frequency": 0.3,
        "ci_low": 0.27,
        "ci_high": 0.33,
        "consulted_rate": 1.0,
        "acceptance_rate": 0.7,
        "mean_accepted_length": 1.0,
        "target_calls_per_token": 1.0,
        "target_tokens_per_token": 1.0,
        "accuracy": 0.125,
        "draft_accuracy": 0.03125,
        "target_accuracy": 0.125,
        "seconds": 1.5,
    }
    return SummaryRow(**(values | changes))


def ladder_rows(tasks: Sequence[str] = ("gsm8k", "mbpp")) -> list[SummaryRow]:
    """A ladder of three models on some tasks, and a router and contrastive decoding on one pair."""
    sizes = {"tiny": 100_000, "small": 1_000_000, "large": 8_000_000}
    rows = []
    for task in tasks:
        for draft, target in (("tiny", "small"), ("tiny", "large"), ("small", "large")):
            frequency = 0.1 * math.log10(sizes[target] / sizes[draft]) + 0.1
            rows.append(
                row(
                    run=f"{task}-{draft}-{target}",
                    task=task,
                    draft=draft,
                    target=target,
                    draft_parameters=sizes[draft],
                    target_parameters=sizes[target],
                    collaboration_frequency=frequency,
                    ci_low=frequency - 0.02,
                    ci_high=frequency + 0.02,
                )
            )
    pair = {"draft": "small", "target": "large", "draft_parameters": 1_000_000, "draft_tokens": 5}
    rows.append(row(run="c", method="contrastive", **pair))
    rows.append(row(run="r", method="route", router="max-prob:0.5", consulted_rate=0.53, **pair))
    return rows

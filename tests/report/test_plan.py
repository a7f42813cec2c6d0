"""The page of a plan stands alone in one file, and says what the plan says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fsgen.report.plan import COLUMNS, draft_of, named, write
from tests.markup import Page
from tests.report.conftest import HOSTILE


def candidate(draft: str | None, tokens: int | str, batch: int, speedup: float, **changes: Any) -> dict[str, Any]:
    method = "plain" if tokens == 0 else "speculative" if draft else "speculative:ngram=3"
    return {
        "draft": draft, "method": method, "draft_tokens": tokens, "router": "always", "batch": batch,
        "speedup": speedup, "low": 0.9 * speedup, "high": 1.1 * speedup, "tokens_per_second": 100.0 * speedup,
        "tokens_per_call": 1.0 if tokens == 0 else 2.5, "draft_share": 0.0 if tokens == 0 else 0.25,
        "accuracy_loss": 0.0, "accuracy_loss_high": 0.0, "memory_bytes": 2_500_000_000, "price": None,
        "reason": "fewer tokens a call",
    } | changes  # fmt: skip


SMALL = f"models/small {HOSTILE}"


def plan(batches: tuple[int, ...] = (1, 8), speedup: float = 1.6) -> dict[str, Any]:
    """A draft of which four tokens are best at batch 1, and none at batch 8; a router that trusts is not allowed."""
    routed = {"method": "route", "router": "max-prob:0.5", "accuracy_loss": 0.4, "accuracy_loss_high": 0.6}
    candidates, chosen = [], {}
    for batch in batches:
        plain = candidate(None, 0, batch, 1.0)
        best = candidate(SMALL, 4, batch, speedup / batch**0.4, reason="the fastest")
        chosen[str(batch)] = best if best["low"] > 1 else plain
        candidates += [best, candidate(SMALL, 1, batch, 1.2 / batch**0.2), candidate(None, 8, batch, 1.1), plain]
        candidates.append(candidate(SMALL, 8, batch, 2.0, **routed))
    choice = chosen[str(batches[0])]
    verdict = "plain" if choice["method"] == "plain" else "draft"
    stops = next((batch for batch in batches if chosen[str(batch)]["method"] == "plain"), None)
    return {
        "verdict": verdict, "choice": choice, "by_batch": chosen, "candidates": candidates, "stops_paying": stops,
        "texts": 16, "assumptions": ["16 greedy texts", "times are measured", f"it is {HOSTILE}"],
    }  # fmt: skip


def page(found: Mapping[str, Any], folder: Path) -> Page:
    return Page(write(found, folder / "plan.html", "models/large", "measured", "latency").read_text(encoding="utf-8"))


def test_it_says_what_the_plan_says(tmp_path: Path) -> None:
    shown = page(plan(), tmp_path)
    name = SMALL.rpartition("/")[2]
    for said in (
        "Is a draft worth it?", f"speculative with {name}, 4 tokens", "1.60 times as fast", "1.44 to 1.76",
        f"speculative with {name}, 1 token, 1.20: fewer tokens a call", "From batch 8 on, no draft is surely worth it",
        "16 texts", "10 candidates at batch 1 and 8", "ngram:3", "40.0%", "2.50", *(one.meaning for one in COLUMNS),
    ):  # fmt: skip
        assert said in shown.text, said
    specs = json.loads(shown.scripts[0])
    assert {"plan-batch-0", "plan-batch-1", "plan-length-0", "plan-losses-0", "plan-losses-1"} <= set(specs)
    assert "area" in json.dumps(specs["plan-batch-0"])  # the intervals


def test_one_batch_size_and_no_draft(tmp_path: Path) -> None:
    shown = page(plan((1,), 1.05), tmp_path)
    assert "No draft is surely worth it" in shown.text
    assert "No: plain decoding" in shown.text
    specs = json.loads(shown.scripts[0])
    assert set(specs) == {"plan-length-0", "plan-losses-0"}


def test_it_asks_no_host_and_its_names_are_text(tmp_path: Path) -> None:
    shown = page(plan(), tmp_path)
    assert HOSTILE in shown.text
    assert not any(tag in ("img", "link", "iframe", "object", "embed", "base", "form") for tag, _ in shown.elements)
    for tag, attributes in shown.elements:
        for attribute in ("src", "href", "srcset", "action", "data"):
            link = tag == "a" and (attributes.get(attribute) or "").startswith("https://")
            assert link or (attributes.get(attribute) or "#").startswith("#")
    policy = next(each["content"] for _, each in shown.elements if each.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")


@pytest.mark.parametrize(
    ("one", "draft", "name"),
    [
        (candidate(None, 0, 1, 1.0), "plain decoding", "plain decoding"),
        (candidate(None, 3, 1, 1.0), "ngram:3", "speculative with ngram:3, 3 tokens"),
        (candidate("a/b", "auto", 1, 1.0, router="max-prob:0.5"), "b", "speculative with b, auto tokens, max-prob:0.5"),
    ],
)
def test_names_of_candidates(one: dict[str, Any], draft: str, name: str) -> None:
    assert draft_of(one) == draft
    assert named(one) == name

"""`need`: what it measures against one text at a time, and what it estimates from tables whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fsgen
from fsgen import SamplingParams
from fsgen.analysis.consequence import CLASSES, HARMFUL, HELPFUL, OTHER
from fsgen.experiments.budgets import ALWAYS, NEVER
from fsgen.experiments.need import CONSEQUENCES, MISMATCHES, Options, Routers, estimate
from tests.experiments.conftest import Ask, Run


def counts(
    harmful: int, helpful: int = 0, right: float = 0.8, label: str = "t, a → b", texts: int = 50
) -> pl.DataFrame:
    """Texts of 50 tokens with 10 mismatches each; so many of them are harmful and helpful, give or take one."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(texts):
        bad = int(np.clip(harmful + rng.integers(-1, 2), 0, 10 - helpful))
        classes = {HARMFUL: bad, HELPFUL: helpful, OTHER: 10 - bad - helpful}
        row = {"label": label, "example": f"e{i:02d}", "tokens": 50, "differing": 10, "near-tie": 3}
        rows.append(
            row | {name: classes.get(name, 0) for name in CLASSES} | {"right": float(i < right * texts), "level": 0.05}
        )
    return pl.DataFrame(rows)


@pytest.mark.parametrize(
    ("harmful", "helpful", "holds", "said"),
    [(7, 1, True, "Most differences matter"), (2, 0, False, "do not matter"), (5, 0, None, "stays open")],
)
def test_whether_differences_matter(harmful: int, helpful: int, holds: bool | None, said: str) -> None:
    answer = estimate(counts(harmful, helpful), [])
    assert answer.holds is holds
    assert said in answer.statement
    assert "none could be trained" in answer.statement
    assert answer.numbers["collaboration frequency"].value == pytest.approx(0.2)
    assert answer.numbers["mismatches at near-ties of the target"].value == pytest.approx(0.3)
    changed = answer.numbers["mismatches that change the scored answer"].value
    assert changed == pytest.approx((harmful + helpful) / 10, abs=0.05)
    assert answer.numbers["positions whose mismatch changes the scored answer"].value == pytest.approx(changed / 5)


def test_a_target_at_the_floor_is_shown_and_not_counted() -> None:
    both = pl.concat([counts(8), counts(0, right=0.02, label="u, a → b")])
    answer, alone = estimate(both, []), estimate(counts(8), [])
    assert answer.numbers == alone.numbers
    assert answer.holds is True
    assert any(remark.startswith("u, a → b does not count: the target scores 0.020") for remark in answer.remarks)
    chance = estimate(pl.concat([counts(8), counts(2, right=0.3, label="u, a → b").with_columns(level=0.25)]), [])
    assert chance.numbers == alone.numbers
    assert len(answer.tables[0].rows) == 2
    floor = estimate(counts(0, right=0.0), [])
    assert floor.holds is None


@pytest.mark.parametrize(
    ("better", "said"), [(0.3, "writes better answers"), (-0.3, "writes worse"), (0.0, "stays open")]
)
def test_the_routers_are_compared_at_equal_calls(better: float, said: str) -> None:
    rng = np.random.default_rng(1)
    hard = rng.permutation(100)
    texts = [
        {"router": router, "budget": budget, "example": f"e{i:03d}", "score": float(hard[i] < 100 * share),
         "tokens": 50, "consulted": round(50 * calls)}
        for router, budget, calls, share in [
            (NEVER, 0.0, 0.0, 0.1), (ALWAYS, 1.0, 1.0, 1.0), (MISMATCHES, 0.1, 0.2, 0.5),
            (CONSEQUENCES, 0.1, 0.2, 0.5 + better),
        ]
        for i in range(100)
    ]  # fmt: skip
    answer = estimate(counts(8), [Routers("t, a → b", pl.DataFrame(texts))])
    assert said in answer.statement.partition("from consequences")[2]
    gain = answer.numbers["accuracy learned from consequences over learned from mismatches, at equal calls"]
    assert gain.value == pytest.approx(better, abs=0.01)


def own_task(folder: Path, target: str) -> dict[str, Any]:
    """Questions whose answer is a letter that the target writes at the very end of its text, so that it can be lost."""
    members = fsgen.load(target=target)
    prompts = [f"Say {word}:" for word in ("a", "bc", "def", "gh", "ijk", "l", "mn", "op")]
    texts = fsgen.generate(members, prompts, "plain", sampling=SamplingParams(12))
    rows = [{"q": prompt, "a": text.text.strip()[-1:] or "x"} for prompt, text in zip(prompts, texts, strict=True)]
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"name": "jsonl", "data": str(path), "prompt": "{q}", "answer": "a", "metric": "contains", "max_tokens": 12}


def test_from_models_to_the_answer(ask: Ask, run: Run, ladder: dict[str, str], tmp_path: Path) -> None:
    task = own_task(tmp_path, ladder["large"])
    config = ask("need", {"on_policy": ["jsonl-own"], "budgets": [0.5]}, tasks=[task], candidates=4)
    answer = run(config)
    kept = pl.read_parquet(next((tmp_path / "measured" / "kept").glob("*.parquet")))
    trace = pl.read_parquet(sorted((tmp_path / "traces").rglob("*.parquet")))
    trace = trace.filter(pl.col("draft_token").is_not_null())
    assert len(kept) == trace.filter(pl.col("draft_token") != pl.col("target_token")).height > 5
    members = fsgen.load(target=ladder["large"])
    answers = {row["q"]: row["a"] for row in map(json.loads, Path(task["data"]).read_text("utf-8").splitlines())}
    prompts = dict(pl.read_parquet(next((tmp_path / "examples").glob("*.parquet"))).select("example", "prompt").rows())
    found = {}
    for (name,), some in trace.sort("position").group_by("example"):
        for at, token in enumerate(some["draft_token"]):
            if token == some["target_token"][at]:
                continue
            text = [*some["token"][:at], token]
            if len(text) < 12 and token not in members.eos_ids:
                begun = members.tokenizer.encode(prompts[name]) + text
                rest = fsgen.generate(members, [begun], "plain", sampling=SamplingParams(12 - len(text)))[0]
                text += rest.token_ids
            written = members.tokenizer.decode(text, skip_special_tokens=True)
            found[name, at] = float(answers[prompts[name]] in written)
    assert {(name, at): score for name, at, score, _ in kept.iter_rows()} == found
    assert 0 < sum(found.values()) < len(found)
    assert answer.numbers["mismatches whose draft token loses the answer"].value > 0


def test_traces_without_a_second_choice_are_refused(ask: Ask, run: Run) -> None:
    with pytest.raises(ValueError, match="fewer than 2 candidates"):
        run(ask("need", candidates=1))


def test_options() -> None:
    Options()
    for wrong in ({"budgets": (0.0,)}, {"budgets": ()}, {"judged": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Options.model_validate(wrong)

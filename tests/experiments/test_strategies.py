"""Decoding strategies: what one pass reads is what the loop counts, and beams are those of `transformers`."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import fsgen
from fsgen.backends import Members
from fsgen.experiments.beams import beam_search
from fsgen.experiments.strategies import estimate
from fsgen.experiments.variations import grid_variations, variations
from fsgen.types import SamplingParams
from tests.doubles import trio
from tests.experiments.conftest import Ask, Run
from tests.study.ladder import save_ladder

PROMPTS = [[5, 9, 33], [7, 7, 20, 41, 12, 60], [100, 3, 17, 55], [80, 81]]
GRID = [
    SamplingParams(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.0, top_k=3),
    SamplingParams(temperature=1.2, top_p=0.7),
    SamplingParams(temperature=1.0, min_p=0.2),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Members]:
    """Two drafts with one target."""
    ladder = save_ladder(tmp_path_factory.mktemp("ladder"))
    target = fsgen.load(target=ladder["large"]).target
    return [fsgen.load(draft=ladder[name], target=target) for name in ("small", "middle")]


# ---- one pass


@pytest.mark.parametrize("strategy", GRID[1:], ids=str)
def test_one_pass_gives_the_loops_total_variation(pairs: list[Members], strategy: SamplingParams) -> None:
    drawn = replace(strategy, max_tokens=20, seed=3)
    written = [fsgen.generate(group, PROMPTS, "oracle", sampling=drawn, batch_size=3) for group in pairs]
    for number, texts in enumerate(written):
        pieces = [(prompt, text.token_ids) for prompt, text in zip(PROMPTS, texts, strict=True)]
        found = variations(pairs, pieces, GRID, batch_size=3)[number]
        for text, mine in zip(texts, found, strict=True):
            loop = np.array([token.total_variation for token in text.tokens], dtype=float)
            np.testing.assert_allclose(mine[GRID.index(strategy)], loop, atol=1e-5)


def test_of_greedy_texts_it_gives_the_mismatches(pairs: list[Members]) -> None:
    texts = fsgen.generate(pairs[0], PROMPTS, "oracle", sampling=SamplingParams(max_tokens=24))
    assert 0 < sum(text.stats.differing for text in texts) < sum(text.stats.known for text in texts)
    pieces = [(prompt, text.token_ids) for prompt, text in zip(PROMPTS, texts, strict=True)]
    found = variations(pairs[:1], pieces, GRID[:1])[0]
    for text, mine in zip(texts, found, strict=True):
        assert mine[0].tolist() == [float(bool(token.differs)) for token in text.tokens]


def test_the_loop_rejects_as_often_as_it_says() -> None:
    # So many draws that the rate is known to half a point.
    members = trio(vocab=8, seed=4, noise=1.0)
    strategy = SamplingParams(max_tokens=200, temperature=0.8, top_p=0.9, ignore_eos=True)
    sampling = [replace(strategy, seed=seed) for seed in range(40)]
    texts = fsgen.generate(members, [[1, 2, 3]] * 40, "oracle", sampling=sampling, batch_size=40)
    pieces = [([1, 2, 3], text.token_ids) for text in texts]
    expected = np.concatenate([one[0] for one in variations([members], pieces, [strategy], batch_size=40)[0]])
    counted = np.array([token.source == "recovered" for text in texts for token in text.tokens])
    error = np.sqrt((expected * (1 - expected)).sum()) / len(expected)
    assert expected.mean() > 0.1
    assert abs(counted.mean() - expected.mean()) < 3.5 * error < 0.03


def test_large_vocabularies_are_cut_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = torch.randn(2, 30, 50, generator=torch.Generator().manual_seed(0))
    whole = grid_variations(p, q, GRID)
    assert whole.shape == (len(GRID), 30)
    monkeypatch.setattr("fsgen.experiments.variations.CHUNK", 7 * 50)
    np.testing.assert_array_equal(grid_variations(p, q, GRID), whole)


def test_faults_of_a_pass(pairs: list[Members]) -> None:
    with pytest.raises(ValueError, match="no strategy"):
        variations(pairs, [([1], [2])], [])
    with pytest.raises(ValueError, match="text 1 has an empty"):
        variations(pairs, [([1], [2]), ([1], [])], GRID)
    with pytest.raises(ValueError, match="several"):
        variations([trio(), trio()], [([1], [2])], GRID)


# ---- beams


@pytest.mark.parametrize("early", [False, True], ids=["heuristic", "early"])
@pytest.mark.parametrize("width", [2, 3, 8])
def test_beams_are_those_of_transformers(pairs: list[Members], width: int, early: bool) -> None:
    # Random models end texts rarely, unless many tokens are ends.
    lengths = set()
    for eos in ([1], [4, 8], [*range(4, 258, 12)]):
        group = [replace(members, eos_ids=frozenset(eos)) for members in pairs]
        found = beam_search(group, PROMPTS, width, 15, early_stopping=early, batch_size=3)
        for prompt, text in zip(PROMPTS, found, strict=True):
            theirs = pairs[0].target.module.generate(  # type: ignore[union-attr]
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                num_beams=width, max_new_tokens=15, do_sample=False, early_stopping=early, eos_token_id=eos,
                pad_token_id=0, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
            assert text.token_ids == theirs.sequences[0, len(prompt) :].tolist()
            assert text.score == pytest.approx(float(theirs.sequences_scores[0]), abs=1e-4)
            lengths.add(len(text.token_ids))
    assert 15 in lengths
    assert min(lengths) < 10


def test_one_beam_is_greedy_decoding(pairs: list[Members]) -> None:
    found = beam_search(pairs, PROMPTS, 1, 20)
    for number, members in enumerate(pairs):
        greedy = fsgen.generate(members, PROMPTS, "oracle", sampling=SamplingParams(max_tokens=20))
        for one, other in zip(found, greedy, strict=True):
            assert one.token_ids == other.token_ids
            differs = [float(bool(token.differs)) for token in other.tokens]
            for score in (0, 1):
                assert one.replaced[number, score].tolist() == one.lost[number, score].tolist() == differs


def test_a_draft_that_is_the_target_keeps_the_same_beams(pairs: list[Members]) -> None:
    twins = replace(pairs[0], draft=pairs[0].target)
    for text in beam_search([twins, pairs[0]], PROMPTS, 4, 12):
        assert not text.replaced[0].any()
        assert not text.lost[0].any()
        assert text.replaced[1].any()
        assert text.replaced.shape == (2, 2, len(text.replaced[0, 0]))
        assert text.lost.shape == (2, 2, len(text.token_ids))


def test_the_kept_sets_by_hand() -> None:
    """One step of two beams, scored with nothing but the tables' logits."""
    members = trio(vocab=8, seed=1, noise=2.0)
    (text,) = beam_search([members], [[1, 2, 3]], 2, 2)

    def log_probs(model: Any, context: list[int]) -> list[float]:
        found: list[float] = model.logits(context).log_softmax(-1).tolist()
        return found

    context = [1, 2, 3]
    q0, p0 = (log_probs(model, context) for model in (members.target, members.draft))
    kept = {int(i) for i in np.argsort(np.negative(q0))[:2]}
    assert text.replaced[0, 0, 0] == len(kept - {int(i) for i in np.argsort(np.negative(p0))[:2]}) / 2
    running = [int(i) for i in np.argsort(np.negative(q0)) if i != 0][:2]
    best: list[set[tuple[int, int]]] = []
    for first, model in ((q0, members.target), (q0, members.draft), (p0, members.draft)):
        scores = {
            (token, after): first[token] + value
            for token in running
            for after, value in enumerate(log_probs(model, [*context, token]))
        }
        best.append(set(sorted(scores, key=lambda pair: -scores[pair])[:2]))
    assert text.replaced[0, :, 1].tolist() == [len(best[0] - best[1]) / 2, len(best[0] - best[2]) / 2]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"width": 0}, "width=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"width": 5}, "exceed the vocabulary of 8"),
        ({"prompts": [[1], []]}, "prompt 1 has 0 tokens"),
        ({"prompts": [[1] * 512]}, "prompt 0 has 512 tokens"),
    ],
)
def test_faults_of_a_search(settings: dict[str, object], fault: str) -> None:
    given: dict[str, object] = {"prompts": [[1]], "width": 2, "max_tokens": 3} | settings
    with pytest.raises(ValueError, match=fault):
        beam_search([trio()], **given)  # type: ignore[arg-type]


def test_a_search_needs_one_target_and_drafts(pairs: list[Members]) -> None:
    with pytest.raises(ValueError, match="several"):
        beam_search([trio(), trio()], [[1]], 2, 3)
    with pytest.raises(ValueError, match="a draft in each"):
        beam_search([replace(pairs[0], draft=None)], [[1]], 2, 3)


# ---- the answer, from made-up tables


def counted(effect: float, spread: float = 0.02, bias: float = 0.0, examples: int = 40) -> pl.DataFrame:
    """Two pairs whose frequency is 0.3, and `effect` more at temperature 1; `bias`: what the loop counts beside it."""
    rng = np.random.default_rng(3)
    rows = []
    for draft, example in product(("a", "b"), range(examples)):
        mine = 0.3 + spread * rng.normal()
        for strategy, more in (("greedy", 0.0), ("temperature=1", effect), ("temperature=1,top_k=2", 0.0)):
            rate = mine + more + spread / 4 * rng.normal()
            tokens = 50
            rejected = tokens * rate if strategy == "greedy" else rng.binomial(tokens, np.clip(rate + bias, 0.0, 1.0))
            rows.append(("t", draft, "x", strategy, f"e{example}", tokens, float(rejected), tokens * rate, 1e-7, 0))
    names = ["task", "draft", "target", "strategy", "example", "tokens", "rejected", "variation", "apart", "off"]
    return pl.DataFrame(rows, schema=names, orient="row")


def read(table: pl.DataFrame, off: float) -> pl.DataFrame:
    """What is read from the greedy text, `off` from each strategy's own."""
    drawn = pl.when(pl.col("strategy") == "greedy").then(0.0).otherwise(off)
    read = table.with_columns(text=pl.lit("greedy"), variation=pl.col("variation") + drawn * pl.col("tokens"))
    return read.drop("rejected", "apart", "off")


def searched(effect: float, examples: int = 24) -> pl.DataFrame:
    """Beams whose continuations a draft replaces at 0.3, and `effect` more with four of them."""
    rng = np.random.default_rng(4)
    rows = []
    for draft, example, scores in product(("a", "b"), range(examples), ("shared", "own")):
        mine = 0.3 + 0.02 * rng.normal()
        for width in (1, 4):
            share = mine + effect * (width > 1) + 0.005 * rng.normal()
            rows.append(("t", draft, "x", f"e{example}", width, scores, 40, 20, 40 * share, 40, 10))
    names = ["task", "draft", "target", "example", "width", "scores", "steps", "sets", "replaced", "tokens", "lost"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_an_effect_that_is_there_is_found() -> None:
    table = counted(0.1)
    found = estimate(table, read(table, 0.0), searched(0.0))
    assert found.holds is True
    assert "changes how much" in found.statement
    assert "more under temperature=1 +" in found.statement
    assert "no clear difference: temperature=1,top_k=2 " in found.statement
    gap = found.numbers["temperature=1, less greedy"]
    assert gap.low is not None
    assert gap.high is not None
    assert gap.low < 0.1 < gap.high < 0.12
    fallen = estimate(counted(-0.1), read(counted(-0.1), 0.0), searched(0.0))
    assert fallen.holds is True
    assert "less under temperature=1 -" in fallen.statement
    of_beams = estimate(counted(0.0), read(counted(0.0), 0.0), searched(0.1))
    assert of_beams.holds is True
    assert "more under 4 beams +" in of_beams.statement


def test_one_that_is_not_there_is_not() -> None:
    table = counted(0.0)
    assert estimate(table, read(table, 0.0), searched(0.0)).holds is False
    noisy = counted(0.0, spread=0.25, examples=6)
    assert estimate(noisy, read(noisy, 0.0), searched(0.0)).holds is None


def test_what_the_loop_counts_is_compared_with_what_is_expected() -> None:
    name = "counted less expected rejections, all sampled runs"
    for bias, holds_zero in ((0.0, True), (0.05, False)):
        table = counted(0.1, bias=bias)
        found = estimate(table, read(table, 0.0), searched(0.0))
        assert (found.numbers[name].above(0.0) is None) == holds_zero
        assert "in one run by" in found.statement


def test_a_pass_that_differs_from_the_loop_is_told() -> None:
    table = counted(0.1).with_columns(
        apart=pl.lit(0.2), off=pl.when(pl.col("strategy") == "temperature=1").then(1).otherwise(0)
    )
    found = estimate(table, read(table, 0.0), searched(0.0))
    assert "to 1e-05 at all but 80 of 8000 positions (2e-01 at most)" in found.statement


def test_what_one_text_gets_wrong_is_told() -> None:
    table = counted(0.1)
    found = estimate(table, read(table, -0.05), searched(0.0))
    assert found.numbers["read from the greedy text, mean error"].value == pytest.approx(-0.05)
    assert "off by, in points, -5.0" in found.statement


def test_answers_without_beams_and_without_a_comparison() -> None:
    table = counted(0.1)
    found = estimate(table, read(table, 0.0), searched(0.0).filter(pl.col("width") == 1))
    assert found.holds is True
    assert "beams" not in {chart.name for chart in found.charts}
    with pytest.raises(ValueError, match="one other strategy"):
        estimate(table.filter(pl.col("strategy") == "greedy"), read(table, 0.0), searched(0.0))


def test_it_runs_on_tiny_models(ask: Ask, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "texts": ["greedy", {"temperature": 1.0}],
        "grid": [{"temperature": 0.5}],
        "beams": [2],
        "beam_examples": 3,
        "beam_tokens": 5,
    }
    sampling = ["greedy", {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.8}]
    config = ask("strategies", options, drafts=("small", "middle"), limit=6, batch_size=6, sampling=sampling)
    found = run(config)
    assert "One pass gives the loop's chance of a rejection to 1e-05 at all " in found.statement
    assert [chart.name for chart in found.charts] == ["frequency", "counted", "temperature", "beams"]
    grid = next(table for table in found.tables if table.name == "grid")
    assert [row[0] for row in grid.rows] == ["greedy", "temperature=1", "temperature=1,top_p=0.8", "temperature=0.5"]
    # Greedy decoding and one beam are one; the former is measured on more texts.
    assert found.numbers["greedy"].value > 0
    monkeypatch.setattr("fsgen.experiments.strategies.variations", lambda *_: pytest.fail("it is measured"))
    monkeypatch.setattr("fsgen.experiments.strategies.beam_search", lambda *_: pytest.fail("it is measured"))
    assert run(config) == found


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"methods": ["oracle", "speculative"]}, "method oracle alone"),
        ({"sampling": [{"temperature": 1.0}, "greedy"]}, "greedy must be the first, not temperature=1"),
        ({"sampling": ["greedy", {"temperature": 0.5}]}, "temperature=1 is not written; choose from greedy"),
    ],
)
def test_faults_of_a_configuration(changes: dict[str, Any], fault: str, ask: Ask, run: Run, tmp_path: Path) -> None:
    study = {"sampling": ["greedy", {"temperature": 1.0}]} | changes
    with pytest.raises(ValueError, match=fault):
        run(ask("strategies", {"texts": ["greedy", {"temperature": 1.0}]}, **study))
    assert not (tmp_path / "runs").exists()

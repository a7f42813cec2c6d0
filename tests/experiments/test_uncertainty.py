"""`uncertainty`: a cause that is there is found, one that only goes along is not, and changes do what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from fsgen.analysis.answers import Answer, effect
from fsgen.analysis.causes import contrast, odds_ratios, predicted_rise, separation
from fsgen.analysis.intervals import Estimate, Floats
from fsgen.experiments import configured
from fsgen.experiments import draft_changes as changes
from fsgen.experiments import made_language as made
from fsgen.experiments.uncertainty import MATTERS, Options, estimate
from fsgen.probs import entropy
from ladder import tokenizer
from ladder.made_language import new_tokenizer
from tests.experiments.conftest import Ask, Run
from tests.tiny import tiny_model

Chance = Callable[[Floats, Floats, Floats], Floats]
"""Of a mismatch, from the language's bits, its gap, and what the draft does not know (0 to 1)."""


def odds(logit: Floats) -> Floats:
    return 1 / (1 + np.exp(-logit))


def spoken(chance: Chance, pairs: int = 4, texts: int = 256) -> pl.DataFrame:
    """Slots of the made language as some pairs of models read them, mismatches drawn by a rule; the last are twins."""
    language, drawn = made.Language(), np.random.default_rng(0)
    read = language.test_texts(16, seed=9).pairs[:texts]
    slots = read.ravel()
    tables = []
    for number in range(pairs + 1):
        unknown = drawn.random(len(slots))
        differs = drawn.random(len(slots)) < chance(language.bits[slots], language.gap[slots], unknown)
        tables.append(
            pl.DataFrame(
                {
                    "cluster": np.repeat(np.arange(len(read)), 16),
                    "kind": ["outcome"] * len(slots),
                    "bits": language.bits[slots],
                    "gap": language.gap[slots],
                    "exposure": language.exposure[slots],
                    "draft_bits": language.bits[slots] + 3 * unknown,
                    "variation": unknown,
                    "differs": differs,
                    "twins": [number == pairs] * len(slots),
                    "draft": [f"d{number % 2}" if number < pairs else "t0"] * len(slots),
                    "target": [f"t{number // 2}" if number < pairs else "t1"] * len(slots),
                }
            )
        )
    return pl.concat(tables)


def changed(blurred_differs: float = 0.0) -> pl.DataFrame:
    """Changes of a draft whose mismatches follow its entropy, and a blurred prompt that makes more, or does not."""
    drawn = np.random.default_rng(1)
    bits, lot = 4 * drawn.random(3000), drawn.random(3000)
    later = np.minimum(bits + drawn.random(3000), 4)
    made_up = {
        ("none", 0.0): (bits, lot < bits / 8),
        ("temperature", 2.0): (bits + 2, lot < bits / 8),
        ("shaken", 4.0): (bits * drawn.random(3000), lot < bits / 8),
        ("swapped", 1.0): (bits, lot < 0.9),
        ("blurred", 1.0): (later, drawn.random(3000) < later / 8 + blurred_differs),
    }
    return pl.concat(
        pl.DataFrame(
            {
                "cluster": np.repeat(np.arange(60), 50),
                "change": [change] * 3000,
                "level": level,
                "draft_bits": entropies,
                "draft_prob": np.exp(-entropies),
                "variation": np.abs(entropies - 2) / 8,
                "differs": differs,
            }
        )
        for (change, level), (entropies, differs) in made_up.items()
    )


def answered(chance: Chance, changes_: pl.DataFrame | None = None, **given: int) -> Answer:
    return estimate(spoken(chance, **given), changed() if changes_ is None else changes_, 0.3, "one and two on texts")


# ---- the rule, both ways


def test_uncertainty_that_causes_mismatches_is_found() -> None:
    found = answered(lambda bits, gap, unknown: odds(bits - 3))
    assert found.holds is True
    assert "causes part" in found.statement
    change = next(number for name, number in found.numbers.items() if name.startswith("entropy from"))
    assert change.value == pytest.approx(odds(np.array(0.0)) - odds(np.array(-2.0)), abs=0.03)
    gap = next(number for name, number in found.numbers.items() if name.startswith("gap from"))
    assert gap.above(0.0) is None


def test_what_one_training_shows_and_another_does_not_stays_open() -> None:
    """Entropy causes mismatches of draft d0 alone: by the texts there is an effect, by the trainings it is open."""
    some, none = (spoken(chance) for chance in (lambda bits, gap, unknown: odds(bits - 3), lambda b, g, u: 0.2 + 0 * b))
    mixed = pl.concat([some.filter(pl.col("draft") != "d1"), none.filter(draft="d1")])
    each = [["d0", "d1"], ["t0", "t1"]]
    alone, trained = (estimate(mixed, changed(), 0.3, "one and two", groups) for groups in ((), each))
    assert alone.holds is True
    assert trained.holds is None
    rows = next(table for table in trained.tables if table.name == "trainings").rows
    assert [row[:2] for row in rows] == [("d0", "t0"), ("d0", "t1"), ("d1", "t0"), ("d1", "t1")]


def test_a_common_cause_is_not_taken_for_uncertainty() -> None:
    """What the draft does not know makes it unsure and makes it differ; the language's entropy does nothing."""
    found = answered(lambda bits, gap, unknown: 0.05 + 0.5 * unknown)
    assert found.holds is False
    assert "goes with the need for help and does not cause it" in found.statement
    assert found.numbers["AUROC of the draft's own entropy"].above(0.5)


def test_a_narrow_gap_is_told_from_entropy() -> None:
    found = answered(lambda bits, gap, unknown: np.where(gap < 0.15, 0.4, 0.1))
    assert found.holds is False
    gap = next(number for name, number in found.numbers.items() if name.startswith("gap from"))
    assert gap.value == pytest.approx(0.3, abs=0.03)
    assert gap.above(0.2)


def test_what_is_unrelated_is_called_neither() -> None:
    drawn = np.random.default_rng(3)
    found = answered(lambda bits, gap, unknown: 0.3 - 0.06 * unknown - 0.02 * bits + 0 * drawn.random(len(bits)))
    assert found.holds is False
    assert "neither goes with" in found.statement


def test_few_texts_leave_it_open() -> None:
    found = answered(lambda bits, gap, unknown: 0.3 + 0.01 * bits, pairs=1, texts=40)
    assert found.holds is None
    assert "stays open" in found.statement


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (Estimate(0.1, 0.05, 0.15), True),
        (Estimate(0.02, 0.01, 0.03), True),
        (Estimate(0.0, -0.03, 0.03), False),
        (Estimate(-0.1, -0.15, -0.05), False),
        (Estimate(0.03, -0.01, 0.08), None),
        (Estimate(0.03), None),
    ],
)
def test_the_rule(estimate: Estimate, verdict: bool | None) -> None:
    assert effect(estimate, MATTERS) is verdict


def test_slots_without_contrasts_are_refused() -> None:
    with pytest.raises(ValueError, match="every entropy, gap and exposure"):
        answered(lambda bits, gap, unknown: 0 * bits)
    with pytest.raises(ValueError, match="same positions"):
        answered(lambda bits, gap, unknown: odds(bits - 3), changed().head(-5))
    with pytest.raises(ValueError, match="what the draft reads"):
        answered(lambda bits, gap, unknown: odds(bits - 3), changed().filter(pl.col("change") != "blurred"))


# ---- the changes


@pytest.mark.parametrize(("more", "said"), [(0.0, "not discernibly other than"), (0.2, "more than"), (-0.2, "less")])
def test_a_rise_beyond_what_entropy_predicted_is_said(more: float, said: str) -> None:
    found = answered(lambda bits, gap, unknown: odds(bits - 3), changed(more))
    rest = found.numbers["the first minus the second"]
    assert rest.value == pytest.approx(more, abs=0.06)
    assert f"points, {said}" in found.statement
    assert "changes none of them" in found.statement


def test_mismatches_that_a_kept_choice_made_would_be_counted() -> None:
    broken = changed().with_columns(
        differs=pl.col("differs") ^ ((pl.col("change") == "temperature") & (pl.col("cluster") == 0))
    )
    assert "changes 50 of them" in answered(lambda bits, gap, unknown: odds(bits - 3), broken).statement


def test_the_table_of_changes_has_every_change_and_its_router() -> None:
    found = answered(lambda bits, gap, unknown: odds(bits - 3))
    shown = next(table for table in found.tables if table.name == "changes")
    rows: dict[Any, dict[str, Any]] = {row[0]: dict(zip(shown.columns, row, strict=True)) for row in shown.rows}
    assert set(rows) == {"none", "temperature", "shaken", "swapped", "blurred"}
    none, warmer = rows["none"], rows["temperature"]
    assert none["consulted"] == pytest.approx(0.3, abs=0.01)
    assert warmer["consulted"] > 0.7
    assert warmer["mismatches"] == none["mismatches"]
    assert warmer["missed"] < none["missed"]
    assert warmer["AUROC"] == pytest.approx(none["AUROC"])
    assert rows["shaken"]["AUROC"] < none["AUROC"] - 0.03


def logits(rows: int = 200) -> torch.Tensor:
    return torch.randn(rows, 40, generator=torch.Generator().manual_seed(0)) * 2


@pytest.mark.parametrize(
    "change",
    [
        lambda z: changes.tempered(z, 0.3),
        lambda z: changes.tempered(z, 3.0),
        lambda z: changes.evened(z, 0.4),
        lambda z: changes.evened(z, 1.0),
        lambda z: changes.shaken(z, 4.0, seed=1),
    ],
)
def test_first_choices_stay_and_entropies_move(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    before, after = logits(), change(logits())
    assert torch.equal(before.argmax(-1), after.argmax(-1))
    moved = entropy(after.log_softmax(-1)) - entropy(before.log_softmax(-1))
    assert (moved.abs() > 1e-3).float().mean() > 0.95


def test_evened_keeps_the_first_probability_and_raises_entropy() -> None:
    before, after = logits().log_softmax(-1), changes.evened(logits(), 0.5).log_softmax(-1)
    torch.testing.assert_close(before.amax(-1), after.amax(-1))
    assert (entropy(after) > entropy(before)).all()


def test_swapped_keeps_the_entropy_and_changes_every_choice() -> None:
    before, after = logits(), changes.swapped(logits())
    torch.testing.assert_close(entropy(before.log_softmax(-1)), entropy(after.log_softmax(-1)))
    assert torch.equal(before.topk(2).indices[:, 1], after.argmax(-1))


def test_blurred_prompts_are_nested() -> None:
    prompts = [list(range(100, 180)), list(range(300, 350))]
    half, most = changes.blurred(prompts, 0.5, seed=1), changes.blurred(prompts, 0.9, seed=1)
    assert [len(prompt) for prompt in half] == [80, 50]
    for prompt, some, more in zip(prompts, half, most, strict=True):
        replaced = [i for i, (a, b) in enumerate(zip(prompt, some, strict=True)) if a != b]
        assert 0.25 < len(replaced) / len(prompt) < 0.75
        assert all(some[i] == more[i] for i in replaced)
        assert set(more) <= {*prompts[0], *prompts[1]}
    assert changes.blurred(prompts, 0.5, seed=1) == half != changes.blurred(prompts, 0.5, seed=2)


# ---- what is measured of causes


def table(differs: NDArray[Any], **columns: Floats) -> pl.DataFrame:
    clusters = np.repeat(np.arange(len(differs) // 10), 10)
    return pl.DataFrame({"cluster": clusters, "differs": differs.astype(bool), **columns})


def test_contrasts_hold_the_other_columns_fixed() -> None:
    """A cause that stands more often where another one acts, and does nothing itself."""
    drawn = np.random.default_rng(0)
    acting = drawn.integers(0, 2, 8000).astype(float)
    cause = (drawn.random(8000) < 0.2 + 0.6 * acting).astype(float)
    frame = table(drawn.random(8000) < 0.1 + 0.5 * acting, cause=cause, acting=acting)
    held = contrast(frame, "cause", 0.0, 1.0, ["acting"])
    other = contrast(frame, "acting", 0.0, 1.0, ["cause"])
    assert held is not None
    assert other is not None
    assert held.above(0.0) is None
    assert other.value == pytest.approx(0.5, abs=0.05)
    reverse = contrast(frame, "acting", 1.0, 0.0, ["cause"])
    assert reverse is not None
    assert reverse.value == pytest.approx(-other.value)
    assert contrast(frame, "cause", 0.0, 7.0, ["acting"]) is None


def test_odds_ratios_are_those_of_the_rule() -> None:
    drawn = np.random.default_rng(0)
    x, y = drawn.integers(0, 4, 20000).astype(float), drawn.integers(0, 3, 20000).astype(float)
    found = odds_ratios(table(drawn.random(20000) < odds(-2 + 0.7 * x), x=x, y=y), ["x", "y"])
    assert found["x"].value == pytest.approx(np.exp(0.7), rel=0.06)
    assert found["x"].above(1.5)
    assert found["y"].above(1.0) is None


def test_separation_is_the_area() -> None:
    drawn = np.random.default_rng(0)
    x = drawn.random(4000)
    falling, rising = separation(table(x > 0.5, x=x), "x"), separation(table(x > 0.5, x=-x), "x", True)
    chance = separation(table(drawn.random(4000) < 0.5, x=x), "x")
    assert falling is not None
    assert rising is not None
    assert chance is not None
    assert falling.value == pytest.approx(1.0, abs=0.01) == rising.value
    assert chance.above(0.5) is None
    assert separation(table(np.zeros(4000), x=x), "x") is None


def test_a_rise_along_the_relation_is_predicted() -> None:
    drawn = np.random.default_rng(0)
    x = drawn.random(20000)
    later = np.sqrt(x)
    before = table(drawn.random(20000) < x, x=x)
    rise, told, rest = predicted_rise(before, table(drawn.random(20000) < later, x=later), "x")
    assert rise.value == pytest.approx(1 / 6, abs=0.02)
    assert told.value == pytest.approx(1 / 6, abs=0.02)
    assert rest.above(0.0) is None
    with pytest.raises(ValueError, match="no observations"):
        predicted_rise(before, before.head(0), "x")


# ---- end to end


@pytest.fixture
def speakers(tmp_path: Path) -> list[str]:
    """Three random models of the made language's vocabulary."""
    folders = []
    for seed in range(3):
        folder = tmp_path / f"speaker-{seed}"
        tokenizer.save(new_tokenizer(), folder)
        tiny_model("llama", seed=seed, vocab_size=made.VOCAB_SIZE).save_pretrained(folder)
        folders.append(str(folder))
    return folders


def test_it_runs_and_resumes(speakers: list[str], ask: Ask, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = {"temperatures": [0.5], "evened": [0.5], "blurred": [1.0]}
    options = levels | {"drafts": speakers[:1], "targets": speakers[1:]}
    config = ask("uncertainty", options, max_tokens=6)
    answer = run(config)
    assert [chart.name for chart in answer.charts] == ["truth", "own", "mismatches", "rejections"]
    monkeypatch.setattr("fsgen.experiments.uncertainty.read", None)  # nothing is read again
    assert run(config) == answer

    assert config.study is not None
    assert config.study.pairs is not None
    draft = config.study.pairs[0].model_dump()["draft"]
    with pytest.raises(ValueError, match="tokenizer"):
        run(ask("uncertainty", options | {"drafts": [draft]}, max_tokens=6))
    with pytest.raises(ValueError, match="one oracle run, not 2 runs"):
        run(ask("uncertainty", options, max_tokens=6, methods=["oracle", "contrastive"]))


def test_the_shipped_options_are_understood() -> None:
    options = Options.model_validate(configured("uncertainty").options)
    assert options.drafts
    assert options.targets
    with pytest.raises(ValueError, match="blurred"):
        Options.model_validate(configured("uncertainty").options | {"blurred": [1.5]})

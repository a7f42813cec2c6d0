"""More and less context: the prompts, the windows, and the answer both ways."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fsgen
from fsgen import tasks
from fsgen.analysis.intervals import Estimate
from fsgen.backends import plan
from fsgen.experiments import ExperimentConfig, configured
from fsgen.experiments.context import decide, estimate
from fsgen.experiments.contexts import misled, short_data, windowed
from fsgen.study.config import TaskConfig
from tests.doubles import Table
from tests.experiments.conftest import Ask, Run

PLACES = (0, 1, 2, 4, 8, 16, 32)


# ---- windows


def test_a_window_is_the_choice_before_so_many_tokens() -> None:
    model = Table(vocab=9, order=12, seed=3)
    model.tokenizer = type("Plain", (), {"encode": staticmethod(lambda text: [])})()
    rng = np.random.default_rng(0)
    texts = [
        ([int(i) for i in rng.integers(0, 9, n)], [int(i) for i in rng.integers(0, 9, m)])
        for n, m in ((4, 90), (20, 7))
    ]
    for window in (1, 5, 8):
        for (prompt, completion), found in zip(texts, windowed(model, texts, window, 9), strict=True):
            ids = [*prompt, *completion]
            for position, choice in enumerate(found):
                end = len(prompt) + position
                cut = ids[max(0, end - window) : end]
                assert choice == (int(model.logits(cut).argmax()) if end > window else None)
    assert any(choice is not None for choice in windowed(model, texts, 20, 9)[0])
    assert windowed(model, texts, 100, 9) == [[None] * 90, [None] * 7]


def test_what_the_tokenizer_puts_before_a_text_stays() -> None:
    model = Table(vocab=9, order=12, seed=3)
    model.tokenizer = type("Begins", (), {"encode": staticmethod(lambda text: [7])})()
    prompt, completion = [7, 1, 2, 3, 4], [5, 6]
    (found,) = windowed(model, [(prompt, completion)], 3, 9)
    assert found == [int(model.logits(ids).argmax()) for ids in ([7, 3, 4], [7, 4, 5])]
    (bare,) = windowed(model, [(prompt[1:], completion)], 3, 9)
    assert bare == [int(model.logits(ids).argmax()) for ids in ([2, 3, 4], [3, 4, 5])]


def test_a_window_of_a_real_model_is_the_models_own_reading(ladder: dict[str, str]) -> None:
    """Against whole sequences, each read alone."""
    model = fsgen.load(target=ladder["small"]).target
    assert model is not None
    text = (list(range(10, 40)), list(range(50, 58)))
    (found,) = windowed(model, [text], 12, 258)
    ids = [*text[0], *text[1]]
    for position, choice in enumerate(found):
        end = 30 + position
        logits = model.session(1).score([ids[end - 12 : end]], 1)
        assert choice == int(logits[0, -1].argmax())


# ---- few-shot examples


def test_few_shot_examples_are_the_shortest_that_are_not_asked(tmp_path: Path) -> None:
    config = TaskConfig(name="pocket_math", limit=5)
    task = tasks.get("pocket_math")
    files = {count: short_data(tmp_path, config, count) for count in (0, 1, 3)}
    plain = task.load(5)
    loaded = {count: task.load(data=str(path)) for count, path in files.items()}
    order = [example.prompt for example in loaded[0]]
    assert sorted(order) == sorted(example.prompt for example in plain)
    for count, examples in loaded.items():
        assert [example.id for example in examples] == [example.id for example in loaded[0]]
        assert [example.reference for example in examples] == [example.reference for example in loaded[0]]
        for example, asked in zip(examples, order, strict=True):
            assert example.prompt.endswith(asked)
            assert example.prompt.count("Question: ") == example.prompt.count("\nAnswer:") == count + 1
    before = loaded[3][0].prompt.removesuffix(order[0])
    assert all(example.prompt.startswith(before) for example in loaded[3])
    assert not any(asked in before for asked in order)
    lengths = [len(part) for part in before.split("\n\n") if part]
    assert len(lengths) == 3
    assert lengths == sorted(lengths)


@pytest.mark.parametrize(
    ("config", "count", "fault"),
    [
        ({"name": "mmlu_stem", "limit": 4}, 1, "not mmlu_stem"),
        ({"name": "gsm8k"}, 1, "not gsm8k"),
        ({"name": "pocket_math", "limit": 499}, 3, "500 questions: 499 and 3"),
    ],
)
def test_tasks_without_short_few_shot_examples(config: dict[str, Any], count: int, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=fault):
        short_data(tmp_path, TaskConfig(**config), count)


# ---- the answer


def more(
    first: float, later: float, examples: int = 60, excess: float = 0.2, noise: float = 0.05, task: str = "t"
) -> pl.DataFrame:
    """What few-shot examples add to the first tokens and to the later ones, which differ at 0.3 and `excess` more."""
    rng = np.random.default_rng(1)
    rows = []
    for draft, shots, example, place in product(("a", "b"), (0, 2, 8), range(examples), PLACES):
        early = place < 8
        rate = 0.3 + (excess if early else 0.0) + (shots > 0) * (first if early else later)
        tokens = max(1, place)
        rows.append(
            (task, draft, "x", shots, f"e{example}", place, early, tokens, tokens * (rate + noise * rng.normal()))
        )
    names = ["task", "draft", "target", "shots", "example", "place", "early", "tokens", "differing"]
    return pl.DataFrame(rows, schema=names, orient="row")


def control(first: float, later: float, task: str = "t", examples: int = 60) -> pl.DataFrame:
    """What the prompt of another text adds to the first tokens and to the later ones."""
    own = more(0.0, 0.0, examples, task=task).filter(shots=0)
    noise = pl.Series(0.05 * np.random.default_rng(3).normal(size=len(own)))
    added = (pl.when("early").then(first).otherwise(later) + noise) * pl.col("tokens")
    return own.with_columns(misled=pl.col("differing") + added)


FINE = control(0.3, 0.1)


def less(rise: float, examples: int = 20) -> pl.DataFrame:
    """Windows of 32 and 64 tokens, of which only the narrow one adds mismatches."""
    rng = np.random.default_rng(2)
    rows = []
    for window, example, place in product((32, 64), range(examples), PLACES):
        tokens = max(1, place)
        added = tokens * ((rise if window == 32 else 0.0) + 0.05 * rng.normal())
        rows.append(
            ("t", "a", "x", 0, window, f"e{example}", place, place < 8, tokens, 0.5 * tokens + added, tokens, added)
        )
    names = [
        "task",
        "draft",
        "target",
        "shots",
        "window",
        "example",
        "place",
        "early",
        "tokens",
        "differing",
        "cut",
        "more",
    ]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_early_collaborations_from_poor_context_are_found() -> None:
    found = estimate(more(first=-0.1, later=-0.01), less(0.2), FINE, 8)
    assert found.holds is True
    assert "come, in part, from poor context" in found.statement
    assert found.numbers["t: first tokens, 2 less 0 few-shot examples"].above(-0.05) is False
    assert "a draft that sees the last 32, 0 few-shot examples, by +19." in found.statement
    gap = found.numbers["t: the same, less that of the later tokens, 8 less 0"]
    assert gap.low is not None
    assert gap.high is not None
    assert gap.low < -0.09 < gap.high < 0
    assert [chart.name for chart in found.charts] == ["shots", "window-0"]
    whole = [point.y for point in found.charts[1].points if point.series == "all"]
    assert whole == pytest.approx([0.5] * len(PLACES))
    assert [table.name for table in found.tables] == ["tasks", "by-pair", "cuts"]
    assert len(found.tables[1].rows) == 2 * 3


@pytest.mark.parametrize("first", [0.0, 0.1], ids=["nothing", "harm"])
def test_where_few_shot_examples_do_nothing_for_the_first_tokens_it_is_not_context(first: float) -> None:
    found = estimate(more(first=first, later=0.0), less(0.2), FINE, 8)
    assert found.holds is False
    assert "do not come from a lack of few-shot examples" in found.statement


def test_a_fall_everywhere_is_no_sign_of_poor_early_context() -> None:
    assert estimate(more(first=-0.1, later=-0.1), less(0.2), FINE, 8).holds is False


@pytest.mark.parametrize(
    ("table", "cuts"),
    [
        (more(first=-0.1, later=0.0), less(0.0)),
        (more(first=-0.1, later=0.0), None),
        (more(first=-0.1, later=0.0, excess=-0.1), less(0.2)),
        (more(first=0.0, later=0.1), less(0.2)),
        (more(first=-0.03, later=0.0, examples=4, noise=0.3), less(0.2)),
    ],
    ids=["cuts do nothing", "no cuts", "no early excess", "only the later ones rise", "too few"],
)
def test_else_it_stays_open(table: pl.DataFrame, cuts: pl.DataFrame | None) -> None:
    assert estimate(table, cuts, FINE, 8).holds is None


@pytest.mark.parametrize("both", [control(0.0, 0.0), control(0.2, 0.2)], ids=["no effect", "the same everywhere"])
def test_nothing_is_concluded_where_the_control_fails(both: pl.DataFrame) -> None:
    assert estimate(more(first=-0.1, later=-0.01), less(0.2), both, 8).holds is None
    found = estimate(more(first=0.0, later=0.0), less(0.2), both, 8)
    assert found.holds is None
    assert "the control fails there" in found.statement


def test_tasks_of_opposite_signs_are_not_averaged() -> None:
    """One task in which few-shot examples help the first tokens, and one in which they harm them as much."""
    both = pl.concat([more(-0.1, -0.01), more(0.1, 0.01, task="u")])
    cuts = pl.concat([less(0.2), less(0.2).with_columns(task=pl.lit("u"))])
    found = estimate(both, cuts, pl.concat([FINE, control(0.3, 0.1, task="u")]), 8)
    assert found.holds is None
    verdicts = {row[0]: row[1] for row in found.tables[0].rows}
    assert verdicts == {"t": "yes", "u": "no"}


def test_trainings_of_one_size_widen_the_intervals() -> None:
    """Drafts a and b differ by 0.2 everywhere; as trainings of one size they say how little is known."""
    moved = pl.when(pl.col("draft") == "b").then(pl.col("early") * 0.2).otherwise(0.0) * pl.col("tokens")
    table = more(first=-0.1, later=-0.01).with_columns(differing=pl.col("differing") + moved)
    name = "t: first less later"
    alone, trained = (estimate(table, None, FINE, 8, groups).numbers[name] for groups in ((), [["a", "b"]]))
    assert alone.value == pytest.approx(trained.value)
    assert alone.low is not None
    assert trained.low is not None
    assert alone.value - alone.low < 0.05
    assert trained.value - trained.low > 0.5


def test_a_draft_behind_another_prompt() -> None:
    model = Table(vocab=9, order=12, seed=3)
    rng = np.random.default_rng(0)
    texts = [([int(i) for i in rng.integers(0, 9, n)], [int(i) for i in rng.integers(0, 9, 6)]) for n in (4, 7, 5)]
    for number, (choices, (_, completion)) in enumerate(zip(misled(model, texts, 9), texts, strict=True)):
        other = texts[(number + 1) % 3][0]
        assert choices == [int(model.logits([*other, *completion[:at]]).argmax()) for at in range(6)]


def test_the_rule_needs_every_part() -> None:
    up, down, none = Estimate(0.1, 0.05, 0.15), Estimate(-0.1, -0.15, -0.05), Estimate(0.0, -0.1, 0.1)
    assert decide(up, [none, down], [none, down], [none, up]) is True
    assert decide(up, [down, none], [none, down], [up]) is None  # no number of few-shot examples does both
    assert decide(up, [none], [up], [up]) is False
    assert decide(up, [Estimate(0.0)], [Estimate(0.0)], [up]) is None


def test_one_number_of_few_shot_examples_is_no_comparison() -> None:
    with pytest.raises(ValueError, match=r"two numbers .* not \[0\]"):
        estimate(more(0.0, 0.0).filter(pl.col("shots") == 0), None, FINE, 8)


# ---- as a whole


@pytest.fixture
def config(ask: Ask) -> Ask:
    def config(**options: Any) -> ExperimentConfig:
        given = {"shots": [0, 1, 2], "first": 4, "windows": [8, 30, 4000], "window_shots": [0, 2], "window_examples": 3}
        return ask("context", given | options, drafts=("small", "middle"), max_tokens=12, batch_size=4)

    return config


def test_it_runs_on_tiny_models(config: Ask, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(config())
    cuts = {row[0]: row[1:] for row in next(table for table in found.tables if table.name == "cuts").rows}
    assert set(cuts) == {f"the last {window}, {shots} few-shot examples" for window, shots in product((8, 30), (0, 2))}
    assert cuts["the last 8, 2 few-shot examples"][0] == 1.0  # every position is cut
    listed = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert len(listed["rows"]) == 3 * 2
    monkeypatch.setattr("fsgen.experiments.context.windowed", lambda *_: pytest.fail("it is measured"))
    assert run(config()) == found


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"window_shots": [5]}, "window_shots: 5 is not among the shots 0, 1, 2"),
        ({"shots": [0]}, "shots"),
        ({"shots": [0, 9], "window_shots": [0]}, "12 questions: 4 and 9 worked ones are needed"),
        ({"worked": "task"}, "pocket_math takes 0 shots, not 1"),
        ({"worked": "long"}, "worked"),
    ],
)
def test_faults(options: dict[str, Any], fault: str, config: Ask, run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=fault):
        run(config(**options))
    assert not (tmp_path / "runs").exists()


def test_the_shipped_prompts_fit(tmp_path: Path) -> None:
    """The most short few-shot examples of each task and the longest question leave room for the completion."""
    config = configured("context")
    assert config.study is not None
    made = plan(target="pocket-4m")
    for task in config.study.tasks or ():
        assert task.max_tokens is not None
        path = short_data(tmp_path, task, max(config.options["shots"]))
        for example in tasks.get(task.name).load(data=str(path)):
            assert len(made.tokenizer.encode(example.prompt)) + task.max_tokens <= made.context

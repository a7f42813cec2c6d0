"""`benchmarks.plan`: scripted drafts are read as their loop runs, and its figures are what they say."""

from __future__ import annotations

import pytest

import fsgen
from benchmarks.plan import Block, Row, blocks, measured, readings_of, summary
from fsgen import SamplingParams
from fsgen.backends import Members
from fsgen.bench.scripted import ScriptedModel
from fsgen.methods.method import parse
from fsgen.metrics import Counts
from fsgen.planner import moments
from fsgen.planner.rounds import count
from fsgen.planner.sources import written_now
from tests.doubles import Table, group

PROMPTS = [[1 + (3 * i + j) % 7 for j in range(12)] for i in range(4)]
SAMPLING = SamplingParams(24)


@pytest.fixture(scope="module")
def scripted() -> Members:
    target = Table(order=2, seed=1, scale=3.0)
    texts = fsgen.generate(group(target=target), PROMPTS, "plain", sampling=SAMPLING)
    scripts = {tuple(ids): [*ids, *text.token_ids] for ids, text in zip(PROMPTS, texts, strict=True)}
    return group(ScriptedModel(Table(order=2, seed=2), scripts, 0.7), target)


@pytest.mark.parametrize("length", [1, 4, 8])
def test_a_scripted_draft_is_read_as_its_loop_runs(scripted: Members, length: int) -> None:
    method = parse("speculative", None, length)
    assert scripted.draft is not None
    readings = readings_of(scripted.draft, written_now(scripted, PROMPTS, SAMPLING, 4), [method], scripted.vocab_size)
    counted = count(readings, method)
    looped = Counts.total(text.stats for text in fsgen.generate(scripted, PROMPTS, method, sampling=SAMPLING))
    assert (counted.tokens, counted.accepted, counted.target_calls) == (
        looped.tokens, looped.accepted, looped.target_calls,
    )  # fmt: skip


def test_each_method_is_predicted_and_measured_once(scripted: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "TURNS", 1)
    methods = [parse("speculative", None, 2), parse("speculative", None, 3), parse("speculative", None, "auto")]
    made: list[str] = []

    def make() -> list[Block]:
        made.append("made")
        return blocks("tables", scripted, [1, 2], methods, PROMPTS, 12)

    done: dict[str, list[Row]] = {}
    names, kept = ["tables, batch 1", "tables, batch 2"], list[list[str]]()
    measured([(names, make)], done, 2, lambda: kept.append(list(done)))
    assert kept == [names[:1], names]
    for rows in done.values():
        assert [one.method for one in rows] == ["speculative 2", "speculative 3", "speculative auto"]
        assert all(0 < one.low < one.predicted < one.high and one.measured > 0 for one in rows)
        assert all(len(one.turns) == 2 for one in rows)
    before = done["tables, batch 2"]
    del done["tables, batch 1"]
    measured([(names, make)], done, 1, lambda: None)  # it goes on with what is missing
    assert len(done["tables, batch 1"][0].turns) == 1
    assert done["tables, batch 2"] is before
    measured([(names, make)], done, 1, lambda: None)
    assert len(made) == 2


def test_the_figures() -> None:
    rows = [
        Row("a", 1, "speculative 2", 1.5, 1.4, 1.6, 1.5, [1.5]),
        Row("a", 1, "speculative 4", 1.4, 1.3, 1.5, 2.0, [2.0]),
        Row("a", 8, "speculative 2", 1.3, 1.2, 1.4, 0.9, [0.9]),
    ]
    found = summary(rows)
    assert found["configurations"] == 3
    assert found["median error"] == pytest.approx(0.3)
    assert found["share within 20 %"] == pytest.approx(1 / 3)
    assert found["intervals that hold"] == pytest.approx(1 / 3)
    assert found["choice slower than the best measured, at most"] == pytest.approx(0.25)
    assert found["drafts chosen that were slower than plain"] == 1

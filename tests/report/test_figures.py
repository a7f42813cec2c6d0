"""The figures say what the numbers are."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from fsgen.analysis.scaling import compare_laws, read_points
from fsgen.report.figure import file_spec, listed, page_spec, size
from fsgen.report.findings import findings
from fsgen.report.frequency import by_draft, by_sizes, measured, reached
from fsgen.report.methods import accuracy_and_cost
from fsgen.report.scaling import laws
from tests.report.rows import ladder_rows, row


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """All data of a chart."""
    found = list(spec.get("data", {}).get("values", []))
    for layer in spec.get("layer", []):
        found += values(layer)
    return found


def test_findings_are_the_numbers() -> None:
    said = findings(ladder_rows())
    assert "at 19.0 % of the positions at the least (small drafting for large on gsm8k)" in said[0]
    assert "at 29.0 % at the most (tiny drafting for large on gsm8k)" in said[0]
    assert "with the router max-prob:0.5 asked the large model at 53 % of the positions" in said[1]
    assert len(said) == 2
    assert findings([]) == []


def test_frequency_by_draft() -> None:
    rows = ladder_rows(["gsm8k", "mbpp"])
    assert [item.run for item in rows if item not in measured(rows)] == ["r"]
    figure = by_draft(rows)
    assert figure is not None
    assert "from 0.29 with tiny to 0.19 with small on gsm8k; from 0.29 with tiny to 0.19 with small on mbpp" in (
        figure.finding
    )
    assert list(figure.panels) == ["gsm8k", "mbpp"]
    points = values(page_spec(figure.panels["gsm8k"]))
    assert len(points) == 4, "a router that skips positions is not in it"
    assert {point["method"] for point in points} == {"oracle", "contrastive k=5"}
    assert all(point["low"] < point["frequency"] < point["high"] for point in points if point["method"] == "oracle")
    assert len(figure.data.rows) == 7
    assert by_draft([row(router="max-prob:0.5")]) is None


def test_models_of_unknown_size_are_charted_by_name() -> None:
    figure = by_draft([row(draft_parameters=None), row(draft="other")])
    assert figure is not None
    spec = page_spec(figure.panels["gsm8k"])
    assert {layer["encoding"]["x"]["field"] for layer in spec["layer"]} == {"draft"}
    assert by_sizes([row(draft_parameters=None), row(draft_parameters=None)]) is None


def test_levels_are_read_off_between_neighbours() -> None:
    target = {"target_parameters": 10_000_000}
    rows = [
        row(draft_parameters=100_000, collaboration_frequency=0.4, **target),
        row(draft_parameters=1_000_000, collaboration_frequency=0.2, **target),
    ]
    assert reached(rows, 0.3) == pytest.approx(100_000 * 10**0.5)
    assert reached(rows, 0.2) == pytest.approx(1_000_000)
    assert reached(rows, 0.1) == pytest.approx(1_000_000 * 10**0.5), "at the target's own size it is 0"
    assert reached(rows, 0.5) is None
    bumpy = [*rows, row(draft_parameters=2_000_000, collaboration_frequency=0.35, **target)]
    crossing = reached(bumpy, 0.3)
    assert crossing is not None
    assert crossing > 2_000_000, "from where on it stays below"


def test_frequency_over_sizes() -> None:
    figure = by_sizes(ladder_rows(["gsm8k"]))
    assert figure is not None
    assert "To differ at no more than 20, 10 and 5 % of the positions a draft needs about 0.8 M" in figure.finding
    cells = values(page_spec(figure.panels["gsm8k"]))
    pairs = [(cell["draft"], cell["target"], cell["frequency"]) for cell in cells if "draft" in cell]
    assert ("tiny", "large", pytest.approx(0.29, abs=0.001)) in pairs
    assert ("large", "large", 0.0) in pairs
    assert {cell["level"] for cell in cells if "level" in cell} == {"5%", "10%", "20%"}


def test_the_cheapest_method_that_keeps_the_score() -> None:
    pair = {"draft": "small", "target": "large", "draft_tokens": 5, "target_accuracy": 0.5, "draft_accuracy": 0.2}
    rows = [
        row(method="contrastive", accuracy=0.5, target_calls_per_token=0.4, **pair),
        row(method="route", accuracy=0.2, target_calls_per_token=0.1, intervals={"accuracy": (0.1, 0.3)}, **pair),
        row(method="proxy", accuracy=0.45, target_calls_per_token=0.3, intervals={"accuracy": (0.4, 0.6)}, **pair),
    ]
    figure = accuracy_and_cost(rows)
    assert figure is not None
    assert "those of proxy k=5 with 0.6 M → 8.3 M: 0.30 a token, score 0.45" in figure.finding
    kinds = [point["kind"] for point in values(page_spec(figure.panels["gsm8k"]))]
    assert sorted(kinds) == ["contrastive k=5", "draft alone", "proxy k=5", "route k=5", "target alone"] or (
        "target alone" in kinds
    )
    worse = accuracy_and_cost([rows[1]])
    assert worse is not None
    assert "every method scores clearly below the target, the best being route" in worse.finding
    assert accuracy_and_cost([row()]) is None, "the oracle measures, and saves nothing"


def test_scaling_laws_of_the_published_values() -> None:
    points = read_points("published").frame.filter(pl.col("method") == "oracle")
    sets = compare_laws(points, resamples=20)
    figure = laws(sets, [])
    assert figure is not None
    assert laws([], []) is None
    assert list(figure.panels) == [one.task for one in sets]
    for one in sets:
        best = one[one.best].leave_one_model_out_rmse
        assert f"{one.task} (error {best:.3f})" in figure.finding
        spec = page_spec(figure.panels[one.task])
        lines = [point for point in values(spec) if point.get("kind") == "chosen"]
        pair = one.pairs.row(0, named=True)
        mine = [point for point in lines if point["target"] == pair["target"]]
        ends = [min(point["parameters"] for point in mine), max(point["parameters"] for point in mine)]
        assert ends[0] <= pair["draft_parameters"] <= ends[1]
        for point in mine:
            expected = one[one.best].frequency(pair["target_parameters"], point["parameters"])
            assert point["frequency"] == pytest.approx(expected)
        marks = [point for point in values(spec) if "kind" not in point]
        assert [mark["frequency"] for mark in marks] == one.pairs["collaboration_frequency"].to_list()
    laws_shown = [row[1] for row in figure.data.rows if row[0] == sets[0].task]
    assert len(laws_shown) == 5
    assert "ratio-power-law" in figure.finding
    assert any("alpha" in str(row[-1]) and "[" in str(row[-1]) for row in figure.data.rows)


def test_a_file_has_the_legend_that_the_page_writes_itself() -> None:
    figure = by_draft(ladder_rows())
    assert figure is not None
    assert page_spec(figure.panels["gsm8k"])["config"]["legend"] == {"disable": True}
    spec = file_spec(figure)
    assert "disable" not in spec["config"]["legend"]
    assert [panel["title"] for panel in spec["concat"]] == ["gsm8k", "mbpp"]
    assert "domain" in json.dumps(spec["concat"][0]["layer"][0]["encoding"]["color"])


def test_sizes_and_lists_in_words() -> None:
    assert [size(number) for number in (92_320, 584_000, 8_280_000, 70e9)] == ["92 k", "0.58 M", "8.3 M", "70 B"]
    assert [listed(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]

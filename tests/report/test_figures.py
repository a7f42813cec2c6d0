"""The figures say what the numbers are."""

from __future__ import annotations

import json
import math
from typing import Any

import polars as pl
import pytest
import vl_convert

from fsgen.analysis.answers import Answer, Chart, Point
from fsgen.analysis.labels import listed
from fsgen.analysis.pairs import measured
from fsgen.analysis.scaling import compare_laws, read_points
from fsgen.report.chart import Figure, Row, size
from fsgen.report.experiments import figures
from fsgen.report.figure import file_spec, page_spec, panels
from fsgen.report.frequency import by_draft, by_sizes, reached
from fsgen.report.methods import accuracy_and_cost
from fsgen.report.scaling import laws
from tests.report.rows import ladder_rows, row


def rows(figure: Figure, mark: str, panel: str = "") -> list[Row]:
    """What a figure draws as marks of one kind, in one panel or in all."""
    assert figure.chart is not None
    facets = figure.chart.facets
    return [
        row
        for layer in figure.chart.layers
        if layer.mark == mark
        for row in layer.rows
        if panel in ("", ", ".join(str(row[facet]) for facet in facets))
    ]


def test_frequency_by_draft() -> None:
    runs = ladder_rows(["gsm8k", "mbpp"])
    assert [item.run for item in runs if item not in measured(runs)] == ["r"]
    figure = by_draft(runs)
    assert figure is not None
    assert "from 0.29 with tiny to 0.19 with small on gsm8k; from 0.29 with tiny to 0.19 with small on mbpp" in (
        figure.finding
    )
    assert list(panels(figure)) == ["gsm8k", "mbpp"]
    points = rows(figure, "point", "gsm8k")
    assert len(points) == 4, "a router that skips positions is not in it"
    assert {point["method"] for point in points} == {"oracle", "contrastive k=5"}
    assert all(point["low"] < point["frequency"] < point["high"] for point in points if point["method"] == "oracle")
    assert len(figure.data.rows) == 7
    assert by_draft([row(router="max-prob:0.5")]) is None


def test_models_of_unknown_size_are_charted_by_name() -> None:
    figure = by_draft([row(draft_parameters=None), row(draft="other")])
    assert figure is not None
    spec = page_spec(panels(figure)["gsm8k"])
    assert {layer["encoding"]["x"]["field"] for layer in spec["layer"]} == {"draft"}
    assert {layer["encoding"]["x"]["type"] for layer in spec["layer"]} == {"nominal"}
    assert by_sizes([row(draft_parameters=None), row(draft_parameters=None)]) is None


def test_levels_are_read_off_between_neighbours() -> None:
    target = {"target_parameters": 10_000_000}
    runs = [
        row(draft_parameters=100_000, collaboration_frequency=0.4, **target),
        row(draft_parameters=1_000_000, collaboration_frequency=0.2, **target),
    ]
    assert reached(runs, 0.3) == pytest.approx(100_000 * 10**0.5)
    assert reached(runs, 0.2) == pytest.approx(1_000_000)
    assert reached(runs, 0.1) == math.inf, "nothing is known of a draft as large as the target"
    assert reached(runs, 0.5) is None
    bumpy = [*runs, row(draft_parameters=2_000_000, collaboration_frequency=0.35, **target)]
    assert reached(bumpy, 0.3) == math.inf, "it does not stay below"
    assert reached(bumpy, 0.38) == pytest.approx(100_000 * 10**0.1), "from where on it stays below"


def test_frequency_over_sizes() -> None:
    figure = by_sizes(ladder_rows(["gsm8k"]))
    assert figure is not None
    pairs = [(cell["draft"], cell["target"], cell["frequency"]) for cell in rows(figure, "cell", "gsm8k")]
    assert ("tiny", "large", pytest.approx(0.29, abs=0.001)) in pairs
    assert all(draft != target for draft, target, _ in pairs), "no model was paired with itself"
    assert [text["frequency"] for text in rows(figure, "text")] == [pair[2] for pair in pairs]
    assert {end["level"] for end in rows(figure, "line")} == {"20%"}
    assert figure.finding == (
        "On gsm8k, with the target large, drafts of 0.8 M parameters or more differ at no more than 20 % of the "
        "positions and no measured draft differs at 10 % or fewer."
    )


def test_the_cheapest_method_that_keeps_the_score() -> None:
    pair = {"draft": "small", "target": "large", "draft_tokens": 5, "target_accuracy": 0.5, "draft_accuracy": 0.2}
    runs = [
        row(method="contrastive", accuracy=0.5, target_calls_per_token=0.4, **pair),
        row(method="route", accuracy=0.2, target_calls_per_token=0.1, intervals={"accuracy": (0.1, 0.3)}, **pair),
        row(method="proxy", accuracy=0.45, target_calls_per_token=0.3, intervals={"accuracy": (0.4, 0.6)}, **pair),
    ]
    figure = accuracy_and_cost(runs, {})
    assert figure is not None
    assert "those of proxy k=5 with 0.6 M → 8.3 M: 0.30 a token, score 0.45" in figure.finding
    methods = [point["method"] for point in rows(figure, "point", "gsm8k")]
    assert sorted(methods) == ["contrastive k=5", "draft alone", "proxy k=5", "route k=5", "target alone"]
    worse = accuracy_and_cost([runs[1]], {})
    assert worse is not None
    assert "every method scores clearly below the target, the best being route" in worse.finding
    floor = accuracy_and_cost(runs, {"gsm8k": 0.5})
    assert floor is not None
    assert floor.chart is None
    assert floor.finding == "On gsm8k nothing is compared: the target's own score is at the floor, or at chance."
    assert accuracy_and_cost([row()], {}) is None, "the oracle measures, and saves nothing"


def test_scaling_laws_of_the_published_values() -> None:
    points = read_points("published").frame.filter(pl.col("method") == "oracle")
    sets = compare_laws(points, resamples=20)
    figure = laws(sets, [])
    assert figure is not None
    assert laws([], []) is None
    assert list(panels(figure)) == [one.task for one in sets]
    for one in sets:
        best = one[one.best].leave_one_model_out_rmse
        assert f"{one.task} (error {best:.3f})" in figure.finding
        lines = [point for point in rows(figure, "line", one.task) if point["law"] == "the best law"]
        pair = one.pairs.row(0, named=True)
        mine = [point for point in lines if point["target"] == pair["target"]]
        ends = [min(point["parameters"] for point in mine), max(point["parameters"] for point in mine)]
        assert ends[0] <= pair["draft_parameters"] <= ends[1]
        for point in mine:
            expected = one[one.best].frequency(pair["target_parameters"], point["parameters"])
            assert point["frequency"] == pytest.approx(expected)
        marks = rows(figure, "point", one.task)
        assert [mark["frequency"] for mark in marks] == one.pairs["collaboration_frequency"].to_list()
    laws_shown = [cells[1] for cells in figure.data.rows if cells[0] == sets[0].task]
    assert len(laws_shown) == 6
    assert "ratio-power-law" in figure.finding
    assert any("alpha" in str(cells[-1]) and "[" in str(cells[-1]) for cells in figure.data.rows)


def test_a_file_has_the_legend_that_the_page_writes_itself() -> None:
    figure = by_draft(ladder_rows())
    assert figure is not None
    assert page_spec(panels(figure)["gsm8k"])["config"]["legend"] == {"disable": True}
    assert figure.chart is not None
    assert [key.name for key in figure.chart.legend] == ["small", "large", "oracle", "contrastive k=5"]
    spec = file_spec(figure)
    assert "disable" not in spec["config"]["legend"]
    assert [panel["title"] for panel in spec["concat"]] == ["gsm8k", "mbpp"]
    assert "domain" in json.dumps(spec["concat"][0]["layer"][0]["encoding"]["color"])


def test_a_drawing_has_the_rows_and_their_intervals() -> None:
    figure = by_draft(ladder_rows())
    assert figure is not None
    spec = page_spec(panels(figure)["gsm8k"])
    drawn = {layer["mark"]["type"]: spec["datasets"][layer["data"]["name"]] for layer in spec["layer"]}
    points = rows(figure, "point", "gsm8k")
    for column in ("frequency", "low", "high"):
        assert [each[column] for each in drawn["point"]] == pytest.approx([each[column] for each in points], rel=1e-5)
    for column in ("draft", "target", "method"):
        assert [each[column] for each in drawn["point"]] == [each[column] for each in points]
    assert drawn["rule"] == drawn["point"]
    assert [each["95 %"] for each in drawn["point"]][1:3] == ["0.2703 to 0.3103", "0.1703 to 0.2103"]
    unknown = by_draft([row(ci_low=None, ci_high=None)])
    assert unknown is not None
    alone = page_spec(panels(unknown)["gsm8k"])
    assert [layer["mark"]["type"] for layer in alone["layer"]] == ["line", "point"], "nothing without an interval"
    assert next(iter(alone["datasets"].values()))[0]["95 %"] == "- to -"


@pytest.mark.parametrize("kind", ["line", "point", "bar"])
@pytest.mark.parametrize("places", [(1.0, 10.0, 100.0), ("one", "two", "three")])
def test_charts_of_answers(kind: Any, places: tuple[float | str, ...]) -> None:
    points = [Point(x, 0.1 * i, 0.1 * i - 0.1, 0.1 * i + 0.1, series) for i, x in enumerate(places) for series in "ab"]
    chart = Chart("name", "title", "finding", "note", "the x", "the y", tuple(points), kind, series="which")
    (figure,) = figures(Answer("statement", None, "overturn", {}, (chart,), experiment="made"))
    (spec,) = (page_spec(panel) for panel in panels(figure).values())
    assert list(panels(figure)) == ["title"]
    assert figure.data.columns == ("which", "the x", "the y", "95 % from", "to")
    assert len(figure.data.rows) == 6
    marks = {layer["mark"]["type"]: layer["encoding"] for layer in spec["layer"]}
    assert set(marks) == {"rule", "bar" if kind == "bar" else "point", *(["line"] if kind == "line" else [])}
    for encoding in marks.values():
        assert encoding["x"]["type"] == ("quantitative" if places[0] == 1.0 else "nominal")
        assert ("xOffset" in encoding) == (kind == "bar")
    assert vl_convert.vegalite_to_svg(file_spec(figure)).startswith("<svg")


def test_sizes_and_lists_in_words() -> None:
    assert [size(number) for number in (92_320, 584_000, 8_280_000, 70e9)] == ["92 k", "0.58 M", "8.3 M", "70 B"]
    assert [listed(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]

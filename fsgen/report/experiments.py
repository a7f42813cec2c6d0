"""The sections of the experiments: each with its question, its answer, and the charts and tables behind it."""

from __future__ import annotations

from typing import Any

import altair as alt

from fsgen.analysis.answers import Answer, Chart, Point, Table
from fsgen.report.figure import COLOURS, Data, Figure, Key, intervals

_HEIGHT = 240


def figures(answer: Answer) -> tuple[Figure, ...]:
    """The charts of an answer, then its tables, then the numbers that its statement rests on."""
    shown = [*map(_chart, answer.charts), *map(_table, answer.tables)]
    if answer.numbers:
        shown.append(_numbers(answer))
    return tuple(_of(answer, figure) for figure in shown)


def lead(answer: Answer) -> tuple[tuple[str, str], ...]:
    """What stands over the figures: terms, and what is said to each."""
    said = [("Question", answer.question), ("Answer", answer.statement), ("What would overturn it", answer.overturn)]
    said += [("Note", remark) for remark in answer.remarks]
    return tuple((term, text) for term, text in said if text)


def _of(answer: Answer, figure: Figure) -> Figure:
    return Figure(**vars(figure) | {"name": f"{answer.experiment}-{figure.name}"})


def _table(table: Table) -> Figure:
    return Figure(table.name, table.title, "", table.note, {}, Data(table.columns, table.rows))


def _numbers(answer: Answer) -> Figure:
    rows = tuple((name, number.value, number.low, number.high) for name, number in answer.numbers.items())
    return Figure(
        "numbers",
        "What the answer rests on",
        "",
        "95 % intervals are bootstrap intervals over examples where nothing else is said.",
        {},
        Data(("number", "value", "95 % from", "to"), rows),
    )


def _chart(chart: Chart) -> Figure:
    series = list(dict.fromkeys(point.series for point in chart.points))
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(series))]
    panels = dict.fromkeys(point.panel for point in chart.points)
    mark = {"line": "line", "point": "dot", "bar": "area"}[chart.kind]
    columns = (*(("panel",) if any(panels) else ()), *((chart.series or "series",) if any(series) else ()))
    return Figure(
        name=chart.name,
        title=chart.title,
        finding=chart.finding,
        note=chart.note,
        panels={
            name or chart.title: _panel(chart, [p for p in chart.points if p.panel == name], series, colours)
            for name in panels
        },
        legend=tuple(Key(name, colour, mark) for name, colour in zip(series, colours, strict=True) if name),
        data=Data(
            (*columns, chart.x, chart.y, "95 % from", "to"),
            tuple(
                (
                    *((point.panel,) if any(panels) else ()),
                    *((point.series,) if any(series) else ()),
                    point.x,
                    point.y,
                    point.low,
                    point.high,
                )
                for point in chart.points
            ),
        ),
    )


def _panel(chart: Chart, points: list[Point], series: list[str], colours: list[str]) -> alt.LayerChart:
    values: list[dict[str, Any]] = [vars(point) for point in points]
    named = any(isinstance(point.x, str) for point in points)
    if named:
        x = alt.X("x:N", title=chart.x, sort=None, axis=alt.Axis(labelAngle=-30, labelLimit=140))
    else:
        scale = alt.Scale(type="log", nice=False, padding=10) if chart.log_x else alt.Scale(zero=False, padding=10)
        x = alt.X(
            "x:Q",
            title=chart.x,
            scale=scale,
            axis=alt.Axis(tickCount=5, grid=False, format="~s" if chart.log_x else ".4~r"),
        )
    y = alt.Y("y:Q", title=chart.y, scale=alt.Scale(zero=chart.kind == "bar"))
    colour = alt.Color("series:N", title=chart.series or None, sort=None).scale(domain=series, range=colours)
    beside = named and chart.kind == "bar" and len(series) > 1
    tooltip = [
        *([alt.Tooltip("series:N", title=chart.series or "series")] if any(series) else []),
        alt.Tooltip("x:N" if named else "x:Q", title=chart.x, **({} if named else {"format": ".4g"})),
        alt.Tooltip("y:Q", format=".4g", title=chart.y),
        alt.Tooltip("low:Q", format=".4g", title="95 % from"),
        alt.Tooltip("high:Q", format=".4g", title="to"),
    ]
    base = alt.Chart(alt.Data(values=values)).encode(x=x, color=colour)
    if beside:
        base = base.encode(xOffset=alt.XOffset("series:N", sort=series))
    layers: list[alt.Chart] = []
    if chart.kind == "line":
        layers.append(base.mark_line(strokeWidth=1.5).encode(y=y, **({} if named else {"order": alt.Order("x:Q")})))
    if chart.kind == "bar":
        layers.append(base.mark_bar(opacity=0.75).encode(y=y, tooltip=tooltip))
        rules = alt.Chart(alt.Data(values=values)).encode(x=x)
        if beside:
            rules = rules.encode(xOffset=alt.XOffset("series:N", sort=series))
        layers += intervals(rules, values, y="low:Q", y2="high:Q")
    else:
        layers += intervals(base, values, y="low:Q", y2="high:Q")
        layers.append(base.mark_point(filled=True, size=45, opacity=1).encode(y=y, tooltip=tooltip))
    return alt.layer(*layers).properties(height=_HEIGHT)

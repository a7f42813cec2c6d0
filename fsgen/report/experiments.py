"""The sections of the experiments: each with its question, its answer, and the charts and tables behind it."""

from __future__ import annotations

from dataclasses import replace

from fsgen.analysis import answers
from fsgen.report.chart import INTERVAL, Axis, Chart, Data, Figure, Layer, Row, Series, coloured, estimated

_MARKS = {"line": "line", "point": "dot", "bar": "area"}


def figures(answer: answers.Answer) -> tuple[Figure, ...]:
    """The charts of an answer, then its tables, then the numbers that its statement rests on."""
    shown = [*map(_charted, answer.charts), *map(_table, answer.tables)]
    if answer.numbers:
        shown.append(_numbers(answer))
    return tuple(replace(figure, name=f"{answer.experiment}-{figure.name}") for figure in shown)


def lead(answer: answers.Answer) -> tuple[tuple[str, str], ...]:
    """What comes before the figures: terms, and what is said to each."""
    said = [("Question", answer.question), ("Answer", answer.statement), ("What would overturn it", answer.overturn)]
    said += [("Note", remark) for remark in answer.remarks]
    return tuple((term, text) for term, text in said if text)


def _table(table: answers.Table) -> Figure:
    return Figure(table.name, table.title, "", table.note, Data(table.columns, table.rows))


def _numbers(answer: answers.Answer) -> Figure:
    rows = [{"number": name, **estimated("value", number)} for name, number in answer.numbers.items()]
    return Figure(
        "numbers",
        "What the answer rests on",
        "",
        "95 % intervals are bootstrap intervals over examples where nothing else is said.",
        Data.of(rows),
    )


def _charted(chart: answers.Chart) -> Figure:
    named = any(isinstance(point.x, str) for point in chart.points)
    rows: list[Row] = [{**vars(point), "x": str(point.x) if named else point.x} for point in chart.points]
    titles = {"panel": "panel", "series": chart.series or "series", "x": chart.x, "y": chart.y, **INTERVAL}
    columns = [column for column in titles if column not in ("panel", "series") or any(row[column] for row in rows)]
    names = dict.fromkeys(point.series for point in chart.points)
    bars = chart.kind == "bar"
    shown = [column for column in columns if column != "panel"]
    return Figure(
        name=chart.name,
        title=chart.title,
        finding=chart.finding,
        note=chart.note,
        data=Data(
            tuple(titles[column] for column in columns), tuple(tuple(row[column] for column in columns) for row in rows)
        ),
        chart=Chart(
            x=Axis("x", chart.x, log=chart.log_x, format="~s" if chart.log_x else ".4~r"),
            y=Axis("y", chart.y, low=0 if bars else None),
            layers=(
                *[Layer("line", rows, shown=())] * (chart.kind == "line"),
                Layer("bar" if bars else "point", rows, shown=shown),
            ),
            series=(Series("series", coloured(names, _MARKS[chart.kind]), chart.series),),
            facets=("panel",),
            beside=bars and len(names) > 1,
        ),
    )

"""Draws the charts of figures with Altair: one way for the page and for SVG, PNG and PDF files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from fsgen.files import write_bytes
from fsgen.report.chart import DASHES, INK, INTERVAL, SYMBOLS, Axis, Cell, Chart, Figure, Layer, Row, Series

_INK, _SOFT, _LINE = "#1b1f24", "#57606a", "#d8dde3"
_INTERVAL = "95 %"
_NO = alt.Undefined
_COLUMNS = 2
_WIDTH = 340


def panels(figure: Figure) -> dict[str, alt.LayerChart]:
    """The chart of a figure, a panel for each value of its facets, by their titles; a single one has the figure's."""
    chart = figure.chart
    if chart is None:
        return {}
    titles = dict.fromkeys(_title(chart, row) for layer in chart.layers for row in layer.rows)
    return {title or figure.title: _Panel(chart, title).drawn() for title in titles}


def page_spec(panel: alt.LayerChart) -> dict[str, Any]:
    """A panel as the page draws it: as wide as there is room, its legend being the page's own."""
    # Each part was checked when it was made; as a whole it would be checked once more, which takes seconds.
    spec: dict[str, Any] = panel.properties(width="container").to_dict(validate=False)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["background"] = "transparent"
    spec["config"] = {"view": {"stroke": None}, "legend": {"disable": True}}
    return spec


def file_spec(figure: Figure) -> dict[str, Any]:
    """A figure as it is written into files: its panels side by side on white, with their legend."""
    titled = [panel.properties(title=title, width=_WIDTH) for title, panel in panels(figure).items()]
    chart = alt.concat(*titled, columns=_COLUMNS).resolve_scale(color="shared", shape="shared", strokeDash="shared")
    spec: dict[str, Any] = chart.to_dict()
    spec["background"] = "white"
    spec["config"] = {
        "font": "Helvetica, Arial, sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": _SOFT,
            "titleColor": _INK,
            "gridColor": _LINE,
            "domainColor": _LINE,
            "tickColor": _LINE,
            "titleFontWeight": 500,
        },
        "legend": {"labelColor": _INK, "titleColor": _SOFT, "titleFontWeight": 500, "orient": "bottom", "columns": 4}
        | {"symbolFillColor": "#888", "symbolStrokeColor": "#888"},
        "title": {"anchor": "start", "fontSize": 12, "fontWeight": 600, "color": _INK},
        "text": {"color": _INK},
        "style": {"ink": {"color": _INK}, "halo": {"stroke": "white"}},
    }
    return spec


def export(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write each figure that has a chart as SVG, PNG and PDF.

    Args:
        figures: those that are written.
        folder: made where it does not exist.

    Returns:
        the files.

    Raises:
        WriteError: one of them cannot be written.
    """
    written = []
    for figure in figures:
        if figure.chart is None:
            continue
        spec = file_spec(figure)
        made: dict[str, bytes] = {
            "svg": vl_convert.vegalite_to_svg(spec).encode(),
            "png": vl_convert.vegalite_to_png(spec, scale=2),
            "pdf": vl_convert.vegalite_to_pdf(spec),
        }
        for suffix, content in made.items():
            path = folder / f"{figure.name}.{suffix}"
            write_bytes(path, content)
            written.append(path)
    return written


# ---- drawing


def _title(chart: Chart, row: Row) -> str:
    """The title of the panel that a row belongs to."""
    return ", ".join(str(row[column]) for column in chart.facets)


class _Panel:
    """One panel of a chart while it is drawn."""

    def __init__(self, chart: Chart, title: str) -> None:
        self._chart = chart
        self._layers = [(layer, [row for row in layer.rows if _title(chart, row) == title]) for layer in chart.layers]
        # All layers have the same columns, so that those of the same rows share their data on the page.
        self._used = {chart.x.column, chart.y.column, chart.x.end, chart.y.end, *INTERVAL}
        self._used |= {series.column for series in chart.series}
        self._used |= {column for layer in chart.layers for column in (layer.text, *self._shown(layer))}
        # At most one of the axes has names; what is measured is along the other one.
        self._measured = chart.x if self._names(chart.y.column) else chart.y

    def drawn(self) -> alt.LayerChart:
        marks = [mark for layer, rows in self._layers if rows for mark in self._marks(layer, rows)]
        names = self._names(self._chart.y.column)
        return alt.layer(*marks).properties(height=self._chart.y.step * len(names) or self._chart.height)

    def _values(self, column: str) -> list[Cell]:
        return [row[column] for _, rows in self._layers for row in rows if row.get(column) is not None]

    def _names(self, column: str) -> list[str]:
        """The names in a column, in their order; none where it holds numbers."""
        return [value for value in dict.fromkeys(self._values(column)) if isinstance(value, str)]

    def _marks(self, layer: Layer, rows: list[Row]) -> list[alt.Chart]:
        """A layer with the intervals of its rows."""
        values = [{column: _rounded(value) for column, value in row.items() if column in self._used} for row in rows]
        for value in values:
            if "low" in value:
                value[_INTERVAL] = " to ".join("-" if value[end] is None else f"{value[end]:.4g}" for end in INTERVAL)
        base = alt.Chart(alt.InlineData(values)).encode(**self._places(layer))
        looks, tips = self._looks(layer, rows), self._tips(layer)
        match layer.mark:
            case "text":  # lines end around the numbers
                halo = base.mark_text(fontSize=11, strokeWidth=3, strokeJoin="round", style="halo")
                return [halo, base.mark_text(fontSize=11)]
            case "cell":
                shade = self._chart.shade
                assert shade is not None, "cells are shaded"
                opacity = alt.FillOpacity(shade.column, type="quantitative", legend=None)
                opacity = opacity.scale(domain=[0, shade.top], range=[0.03, 1.0])
                return [base.mark_rect(fill=shade.colour, stroke=None).encode(fillOpacity=opacity, tooltip=tips)]
            case "band":
                return [] if all(row["low"] is None for row in rows) else [base.mark_area(opacity=0.2).encode(**looks)]
            case "line":
                # With points that are not seen, what is shown is the row that is pointed at, not the first one.
                lines = base.mark_line(
                    strokeWidth=1.5,
                    clip=True,
                    opacity=layer.opacity,
                    point="transparent" if tips else False,
                    style=_NO if "color" in looks else "ink",
                )
                along = {"x": self._chart.x, "y": self._chart.y}[layer.along]
                order = _NO if self._names(along.column) else alt.Order(along.column, type="quantitative")
                return [lines.encode(**looks, tooltip=tips, order=order)]
            case "bar":
                bars = base.mark_bar(opacity=0.6, binSpacing=0 if self._chart.x.end else _NO)
                return [bars.encode(**looks, tooltip=tips), *self._intervals(base, layer, rows, {})]
            case "point":
                points = base.mark_point(filled=True, size=layer.size, opacity=1)
                return [*self._intervals(base, layer, rows, looks), points.encode(**looks, tooltip=tips)]

    def _intervals(self, base: alt.Chart, layer: Layer, rows: list[Row], looks: dict[str, Any]) -> list[alt.Chart]:
        """Lines from `low` to `high` along the measured axis; none where nothing has an interval."""
        if not layer.intervals or all(row.get("low") is None for row in rows):
            return []
        ends = {"x": "low:Q", "x2": "high:Q"} if self._measured is self._chart.x else {"y": "low:Q", "y2": "high:Q"}
        colour = looks.get("color", _NO)
        rules = base.mark_rule(strokeWidth=1.5, opacity=0.7, style="ink" if colour is _NO else _NO)
        return [rules.encode(**ends, color=colour)]

    # ---- encodings

    def _shown(self, layer: Layer) -> Sequence[str]:
        if layer.shown is not None:
            return layer.shown
        return [column for row in layer.rows[:1] for column in row if column not in self._chart.facets]

    def _places(self, layer: Layer) -> dict[str, Any]:
        """Where the marks of a layer are."""
        x, y = self._chart.x, self._chart.y
        placed = {"x": self._axis(alt.X, x, x.column), "y": self._axis(alt.Y, y, y.column)}
        if layer.mark == "band":
            placed |= {"y": self._axis(alt.Y, y, "low"), "y2": alt.Y2("high")}
        if layer.mark in ("bar", "cell"):
            placed |= {"x2": alt.X2(x.end)} if x.end else {}
            placed |= {"y2": alt.Y2(y.end)} if y.end else {}
        if layer.mark == "bar" and x.end:
            placed |= {"x": placed["x"].bin("binned"), "y": placed["y"].stack(None)}
        if self._chart.beside:
            series = self._chart.series[0]
            way, channel = ("yOffset", alt.YOffset) if self._measured is x else ("xOffset", alt.XOffset)
            placed[way] = channel(series.column, type="nominal", sort=[key.name for key in series.keys])
        if layer.mark == "text":
            placed["text"] = alt.Text(layer.text, type="quantitative", format=".2f")
        return placed

    def _axis(self, channel: Any, axis: Axis, column: str) -> Any:
        """An axis as the place of a column."""
        level = channel is alt.X
        if names := self._names(column):
            labels = {"labelAngle": -30, "labelLimit": 140} if level else {"ticks": False}
            drawn = alt.Axis(grid=False, **labels)
            return channel(column, type="nominal", title=axis.title, sort=names, axis=drawn)
        drawn = alt.Axis(
            grid=not level if axis.grid is None else axis.grid,
            format=axis.format or _NO,
            values=list(axis.ticks) or _NO,
            tickCount=5 if level and not axis.ticks else _NO,
            ticks=not axis.labels,
            labelExpr=f"{json.dumps(axis.labels)}[datum.value]" if axis.labels else _NO,
            labelOverlap=not axis.labels,
        )
        return channel(column, type="quantitative", title=axis.title, axis=drawn).scale(**_scale(axis, level))

    def _looks(self, layer: Layer, rows: list[Row]) -> dict[str, Any]:
        """The channels of the series that these rows belong to."""
        looks: dict[str, Any] = {}
        for series in self._chart.series:
            if all(row.get(series.column) is None for row in rows):
                continue
            marks = {key.mark for key in series.keys}
            if any(key.colour != INK for key in series.keys):
                looks["color"] = _scaled(alt.Color, series, [key.colour for key in series.keys])
            if marks & SYMBOLS.keys() and layer.mark == "point":
                looks["shape"] = _scaled(alt.Shape, series, [SYMBOLS[key.mark] for key in series.keys])
            elif marks & SYMBOLS.keys():
                looks["detail"] = alt.Detail(series.column, type="nominal")
            if {"dash", "dots"} & marks and layer.mark == "line":
                dashes = [DASHES.get(key.mark, DASHES["line"]) for key in series.keys]
                looks["strokeDash"] = _scaled(alt.StrokeDash, series, dashes)
        return looks

    def _tips(self, layer: Layer) -> list[alt.Tooltip]:
        """What is shown where a mark is pointed at."""
        chart = self._chart
        axes = {axis.column: axis for axis in (chart.x, chart.y)}
        titles = {one.column: one.title for some in (chart.series, axes.values()) for one in some}
        tips = []
        for column in self._shown(layer):
            axis, form = axes.get(column), {}
            if column == "high":
                continue
            if column == "low":
                column = _INTERVAL
            elif not self._names(column):
                whole = all(isinstance(value, int) for value in self._values(column))
                form = {"format": ".1%" if axis and axis.format.endswith("%") else "," if whole else ".4~g"}
            kind = "quantitative" if form else "nominal"
            tips.append(alt.Tooltip(column, type=kind, title=titles.get(column) or column, **form))
        return tips


def _scale(axis: Axis, level: bool) -> dict[str, Any]:
    """How the numbers of an axis are scaled."""
    kind = "log" if axis.log else "linear"
    if axis.low is not None and axis.high is not None:
        return {"type": kind, "domain": [axis.low, axis.high], "nice": False}
    return {
        "type": kind,
        "domainMin": _NO if axis.low is None else axis.low,
        "zero": _NO if axis.log or axis.low is not None else False,
        "nice": not level,
        "padding": 10 if level else _NO,
    }


def _rounded(value: Cell) -> Cell:
    """More digits than anybody can see would only make the page larger."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _scaled(channel: Any, series: Series, values: list[Any]) -> Any:
    """A channel that gives each name of a series its value."""
    title = series.column if series.title is None else series.title
    made = channel(series.column, type="nominal", title=title or None, sort=None)
    return made.scale(domain=[key.name for key in series.keys], range=values)

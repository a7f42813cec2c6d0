"""A figure: a sentence, charts, what their colours mean, and the numbers; drawn on the page, or into files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import altair as alt
import vl_convert

Chart: TypeAlias = alt.Chart | alt.LayerChart
Cell: TypeAlias = str | int | float | None

# Seen on white and on black; the first four are told apart by those who see colours differently.
COLOURS = ("#5598d4", "#c48914", "#d4355f", "#853df2", "#2a9d8f", "#8a929c", "#b8589e", "#7a9a01")
MATCH, MISMATCH, NEUTRAL = COLOURS[0], COLOURS[2], "#8a929c"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_INK, _SOFT, _LINE = "#1b1f24", "#57606a", "#d8dde3"
_COLUMNS = 2
_WIDTH = 340


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a mark (`dot`, `line`, `dash`, `area`, a symbol's character, or `ramp`) and its name."""

    name: str
    colour: str = "currentColor"
    mark: str = "dot"


@dataclass(frozen=True)
class Data:
    """The numbers of a figure: titles of the columns, and the rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return any(isinstance(row[column], (int, float)) for row in self.rows)


@dataclass(frozen=True)
class Figure:
    """What the report shows of one question.

    Attributes:
        name: of the files and the anchor.
        title: over it.
        finding: what the numbers say, in a sentence or two.
        note: how to read it.
        panels: a chart each, by its title; with the legend that the file gets.
        legend: what the page shows once for all panels.
        data: the numbers, folded away on the page.
        remarks: more sentences, folded away with them.
    """

    name: str
    title: str
    finding: str
    note: str
    panels: Mapping[str, Chart]
    data: Data
    legend: tuple[Key, ...] = ()
    remarks: tuple[str, ...] = ()


def size(parameters: float) -> str:
    """A count of parameters in two digits, as it stands at charts: `92 k`, `0.58 M`, `7.6 B`."""
    for unit, one in (("B", 1e9), ("M", 1e6)):
        if parameters >= one / 10:
            return f"{parameters / one:.2g} {unit}"
    return f"{parameters / 1e3:.2g} k"


def listed(parts: Sequence[str]) -> str:
    """Some things in a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def intervals(base: alt.Chart, values: Sequence[Mapping[str, Any]], **ends: str) -> list[alt.Chart]:
    """The layer of the intervals from `low` to `high`; none where no value has one."""
    known = any(value["low"] is not None for value in values)
    return [base.mark_rule(strokeWidth=1.5, opacity=0.7).encode(**ends)] if known else []


def page_spec(chart: Chart) -> dict[str, Any]:
    """A panel as the page draws it: as wide as there is room, its legend being the page's own."""
    spec: dict[str, Any] = chart.properties(width="container").to_dict()
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["background"] = "transparent"
    spec["config"] = {"view": {"stroke": None}, "legend": {"disable": True}}
    return spec


def export(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write each figure as SVG, PNG and PDF, its panels side by side on white.

    Args:
        figures: those that are written.
        folder: made where it does not exist.

    Returns:
        the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in figures:
        spec = file_spec(figure)
        made: dict[str, bytes] = {
            "svg": vl_convert.vegalite_to_svg(spec).encode(),
            "png": vl_convert.vegalite_to_png(spec, scale=2),
            "pdf": vl_convert.vegalite_to_pdf(spec),
        }
        for suffix, content in made.items():
            path = folder / f"{figure.name}.{suffix}"
            path.write_bytes(content)
            written.append(path)
    return written


def file_spec(figure: Figure) -> dict[str, Any]:
    """A figure as it is written into files."""
    panels = [chart.properties(title=title, width=_WIDTH) for title, chart in figure.panels.items()]
    chart = alt.concat(*panels, columns=_COLUMNS).resolve_scale(color="shared", shape="shared", strokeDash="shared")
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
        "style": {"level": {"color": _INK}, "halo": {"stroke": "white"}},
    }
    return spec

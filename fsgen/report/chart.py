"""What a figure of the report is: sentences, numbers, and a chart that says what is drawn. `figure.py` draws it.

A row is a mapping from columns to values. `low` and `high` are the ends of its 95 % interval, whatever is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from fsgen.analysis.intervals import Estimate

Cell: TypeAlias = str | int | float | None
Row: TypeAlias = Mapping[str, Any]

# Visible on white and on black; readers with colour vision deficiency can distinguish the first four.
COLOURS = ("#5598d4", "#c48914", "#d4355f", "#853df2", "#2a9d8f", "#8a929c", "#b8589e", "#7a9a01")
MATCH, MISMATCH, NEUTRAL = COLOURS[0], COLOURS[2], "#8a929c"
INK = "currentColor"
SYMBOLS = {"●": "circle", "■": "square", "◆": "diamond", "▲": "triangle-up", "✚": "cross", "▼": "triangle-down"}
INTERVAL = {"low": "95 % from", "high": "to"}
"""The columns of an interval, and their titles."""
DASHES = {"line": (1, 0), "dash": (4, 3), "dots": (1, 3)}


@dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
        name: the value of the series' column.
        colour: of its marks; `INK` is that of the text around.
        mark: `dot`, `area` or `ramp`, one of `DASHES`, or one of `SYMBOLS`.
    """

    name: str
    colour: str = INK
    mark: str = "dot"


@dataclass(frozen=True)
class Series:
    """A column of names that colours, symbols or dashes distinguish; a row that lacks the column has none of these.

    Attributes:
        column: of the rows.
        keys: its names.
        title: over the legend of a file; the column if None.
    """

    column: str
    keys: tuple[Key, ...]
    title: str | None = None


def coloured(names: Iterable[str], mark: str = "dot") -> tuple[Key, ...]:
    """A colour for each name."""
    return tuple(Key(name, COLOURS[i % len(COLOURS)], mark) for i, name in enumerate(names))


@dataclass(frozen=True)
class Axis:
    """A column along x or y. Names keep the order in which they first come; numbers are scaled.

    Attributes:
        column: of the rows.
        title: at the axis, and where a mark is pointed at.
        low, high: its ends; those of the data where they are not given.
        end: the column of a mark's other end: of a bar or a cell that reaches from one number to another.
        log: scaled by the logarithm.
        format: of its numbers, as d3 writes them.
        ticks: the numbers that are labelled, and `labels` in place of these numbers.
        grid: whether it has grid lines; those of y where it is not given.
        step: pixels that each name takes.
    """

    column: str
    title: str | None = None
    low: float | None = None
    high: float | None = None
    end: str | None = None
    log: bool = False
    format: str = ""
    ticks: Sequence[float] = ()
    labels: Sequence[str] = ()
    grid: bool | None = None
    step: int = 20


@dataclass(frozen=True)
class Shade:
    """A column of numbers from 0 to `top` as the opacity of cells."""

    column: str
    top: float = 1.0
    colour: str = MISMATCH


@dataclass(frozen=True)
class Layer:
    """Rows that are drawn as one kind of mark.

    Attributes:
        mark: a band lies between the ends of intervals; a text shows a number.
        rows: of all panels.
        size: of a point, in square pixels.
        intervals: points and bars have their intervals as lines.
        opacity: of a line.
        along: the axis along which a line goes on.
        text: the column that a text shows.
        shown: the columns that are shown where a mark is pointed at; all but those of the facets if None.
    """

    mark: Literal["line", "point", "bar", "cell", "band", "text"]
    rows: Sequence[Row]
    size: int = 50
    intervals: bool = True
    opacity: float = 1.0
    along: Literal["x", "y"] = "x"
    text: str = ""
    shown: Sequence[str] | None = None


@dataclass(frozen=True)
class Chart:
    """Layers on common axes, in a panel for each value of the facets.

    Attributes:
        layers: from the back to the front.
        series: what distinguishes rows.
        shade: the opacity of cells.
        facets: the columns whose values, joined, are the titles of the panels.
        beside: at each name of an axis, the marks of the first series are side by side.
        height: of a panel, in pixels, where y has numbers.
    """

    x: Axis
    y: Axis
    layers: tuple[Layer, ...]
    series: tuple[Series, ...] = ()
    shade: Shade | None = None
    facets: tuple[str, ...] = ("task",)
    beside: bool = False
    height: int = 200

    @property
    def legend(self) -> tuple[Key, ...]:
        """Every key, once for all panels."""
        ramp = (Key(f"0 to {self.shade.top:.2g}", self.shade.colour, "ramp"),) if self.shade else ()
        return ramp + tuple(key for series in self.series for key in series.keys if key.name)


@dataclass(frozen=True)
class Data:
    """The numbers of a figure: titles of the columns, and the rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Data:
        """Rows that all have the columns of the first one."""
        columns = tuple(rows[0]) if rows else ()
        titles = tuple(INTERVAL.get(column, column) for column in columns)
        return cls(titles, tuple(tuple(row[column] for column in columns) for row in rows))

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
        data: the numbers, folded away on the page where there is a chart.
        chart: None for a table alone.
        remarks: more sentences, folded away.
    """

    name: str
    title: str
    finding: str
    note: str
    data: Data
    chart: Chart | None = None
    remarks: tuple[str, ...] = ()


def estimated(column: str, estimate: Estimate | None) -> dict[str, Cell]:
    """The columns of an estimate: its value, and the ends of its interval."""
    if estimate is None:
        return {column: None, "low": None, "high": None}
    return {column: estimate.value, "low": estimate.low, "high": estimate.high}


def size(parameters: float) -> str:
    """A number of parameters in two digits, as charts show it: `92 k`, `0.58 M`, `7.6 B`."""
    for unit, one in (("B", 1e9), ("M", 1e6)):
        if parameters >= one / 10:
            return f"{parameters / one:.2g} {unit}"
    return f"{parameters / 1e3:.2g} k"

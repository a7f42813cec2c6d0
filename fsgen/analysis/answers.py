"""What an experiment answers: a sentence, the numbers, charts and tables behind it, and what would overturn it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar

from fsgen.analysis.intervals import Estimate
from fsgen.files import read_json
from fsgen.models.bundled import FAMILY, PREFIX, bundled, ladder

Value: TypeAlias = str | int | float | None
Row: TypeAlias = Mapping[str, Any]
"""A `Value` or an `Estimate` for each column."""
FOLDER = "answers"


@dataclass(frozen=True)
class Point:
    """A mark of a chart.

    Attributes:
        x, y: numbers, or for a bar's x (and a line's, where its places are only ordered) a name.
        low, high: its 95 % interval in y.
        series: drawn in one colour, and joined where the chart has lines.
        panel: the chart it stands in, where there are several side by side.
    """

    x: float | str
    y: float
    low: float | None = None
    high: float | None = None
    series: str = ""
    panel: str = ""

    @classmethod
    def of(cls, x: float | str, y: Estimate, series: str = "", panel: str = "") -> Self:
        """The mark of an estimate."""
        return cls(x, y.value, y.low, y.high, series, panel)


@dataclass(frozen=True)
class Chart:
    """Points, and how they are drawn.

    Attributes:
        name: unique in its experiment; of the files and the anchor.
        title: a heading.
        finding: what it shows, in a sentence or two.
        note: how to read it.
        x, y: the axes' titles.
        kind: `line` joins the points of a series, `point` does not, `bar` starts at zero.
        log_x: whether x is drawn by its logarithm.
        series: what the series are, where there are several.
    """

    name: str
    title: str = ""
    finding: str = ""
    note: str = ""
    x: str = ""
    y: str = ""
    points: tuple[Point, ...] = ()
    kind: Literal["line", "point", "bar"] = "line"
    log_x: bool = False
    series: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers behind an answer that no chart shows; each row has a value for each column."""

    name: str
    title: str = ""
    note: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Value, ...], ...] = ()

    @classmethod
    def of(cls, name: str, rows: Iterable[Row]) -> Self:
        """A table of rows by column; an `Estimate` gets two more columns for its interval."""
        cells = [[cell for column in row.items() for cell in _cells(*column)] for row in rows]
        columns: list[str] = []
        for column, _ in cells[0] if cells else ():
            columns.append(column + " " * sum(known.rstrip() == column for known in columns))
        values = tuple(tuple(value for _, value in row) for row in cells)
        return cls(name, columns=tuple(columns), rows=values)


Shown = TypeVar("Shown", Chart, Table)


def _worded(one: Shown, words: Mapping[str, Mapping[str, Any]], values: Mapping[str, object]) -> Shown:
    """A chart or table with the words for its name, or for what its name has before the last dash."""
    before, _, suffix = one.name.rpartition("-")
    mine = words.get(one.name) or words.get(before, {})
    filled: dict[str, Any] = {k: v.format(**values, suffix=suffix) for k, v in mine.items() if isinstance(v, str)}
    return replace(one, **{**mine, **filled})


def _cells(column: str, value: Value | Estimate) -> list[tuple[str, Value]]:
    if not isinstance(value, Estimate):
        return [(column, value)]
    return [(column, value.value), ("95 % from", value.low), ("to", value.high)]


@dataclass(frozen=True)
class Answer:
    """What an experiment found on the models and texts that it was given.

    Attributes:
        statement: the answer for these models in a sentence, with intervals.
        holds: the same as a yes or no to the question; None where the intervals leave it open.
        overturn: what would change the answer.
        numbers: those that the statement rests on, by name.
        charts, tables: what is shown of it.
        remarks: what else has to be known to read it, a sentence each.
        experiment, title, question, config: which it was, and with which settings.
        ladder: the models of the bundled ladder as it was then, where the settings name it.
    """

    statement: str
    holds: bool | None
    overturn: str = ""
    numbers: Mapping[str, Estimate] = field(default_factory=dict)
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    remarks: tuple[str, ...] = ()
    experiment: str = ""
    title: str = ""
    question: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    ladder: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        words: Mapping[str, Any],
        holds: bool | None,
        numbers: Mapping[str, Estimate],
        charts: Mapping[str, Iterable[Point]],
        tables: Mapping[str, Iterable[Row]],
        remarks: Iterable[str] = (),
        **values: Any,
    ) -> Self:
        """An answer in the words of its experiment's file.

        Args:
            words: `statement`, `overturn`, `remarks`, and by their names those of `charts` and `tables`, with fields;
                and `phrases`: for a value that is true, false or null (unclear) the words that stand in its field.
            holds: as above; a value, too.
            numbers: as above.
            charts, tables: their points and rows, by name; those that have none are left out.
            remarks: more of them.
            values: for the fields.
        """
        values["holds"] = holds
        for name, choices in words["phrases"].items():
            values[name] = choices[values[name]].format(**values)
        drawn = (Chart(name, points=tuple(points)) for name, points in charts.items())
        listed = (Table.of(name, rows) for name, rows in tables.items())
        return cls(
            statement=" ".join(words["statement"].format(**values).split()),  # a phrase may be empty
            holds=holds,
            overturn=words["overturn"].format(**values),
            numbers=numbers,
            charts=tuple(_worded(chart, words["charts"], values) for chart in drawn if chart.points),
            tables=tuple(_worded(table, words["tables"], values) for table in listed if table.rows),
            remarks=(*(remark.format(**values) for remark in words["remarks"]), *remarks),
        )

    def __post_init__(self) -> None:
        names = [chart.name for chart in self.charts] + [table.name for table in self.tables]
        if len(set(names)) < len(names):
            raise ValueError(f"two charts or tables of an answer have one name: {', '.join(names)}")
        for table in self.tables:
            if any(len(row) != len(table.columns) for row in table.rows):
                raise ValueError(f"table {table.name!r} has rows that do not fit its {len(table.columns)} columns")

    def as_dict(self) -> dict[str, Any]:
        """As `answers/<experiment>.json` has it."""
        return asdict(self)


def from_dict(content: Mapping[str, Any]) -> Answer:
    """The answer that `Answer.as_dict` gave."""
    made = dict(content)
    made["numbers"] = {name: Estimate(**number) for name, number in content["numbers"].items()}
    made["charts"] = tuple(
        Chart(**chart | {"points": tuple(Point(**point) for point in chart["points"])}) for chart in content["charts"]
    )
    made["tables"] = tuple(
        Table(**table | {"columns": tuple(table["columns"]), "rows": tuple(map(tuple, table["rows"]))})
        for table in content["tables"]
    )
    made["remarks"] = tuple(content["remarks"])
    made["ladder"] = tuple(content.get("ladder", ()))  # answers of a former version have none
    return Answer(**made)


def entries(config: Mapping[str, Any], key: str) -> list[Any]:
    """The `pairs` or `tasks` of an answer's configuration, those of all grids."""
    study = config.get("study") or {}
    return [entry for grid in study.get("grids") or [study] for entry in (grid.get(key) or study.get(key) or ())]


def with_ladder(answer: Answer) -> Answer:
    """The answer with the names of the bundled ladder, where its settings name that and it has none yet."""
    named = any(entry.get("ladder") == FAMILY for entry in entries(answer.config, "pairs"))
    return replace(answer, ladder=tuple(ladder())) if named and not answer.ladder else answer


def not_bundled(answer: Answer) -> list[str]:
    """The models of an answer that have names of bundled models, and are not bundled any more."""
    pairs = entries(answer.config, "pairs")
    listed = [name for entry in pairs if not isinstance(entry.get("ladder", ""), str) for name in entry["ladder"]]
    given = [entry[role] for entry in pairs for role in ("draft", "target", "base") if entry.get(role)]
    here = {model.name for model in bundled()}
    names = dict.fromkeys(str(name) for name in (*answer.ladder, *listed, *given))
    return [name for name in names if name.startswith(PREFIX) and name not in here]


def below(estimate: Estimate, value: float) -> bool | None:
    """Whether the interval lies below some value; None where it does not tell."""
    above = estimate.above(value)
    return None if above is None else not above


def effect(estimate: Estimate, negligible: float) -> bool | None:
    """Whether something is more than 0: not where its interval lies below what is negligible and reaches 0."""
    if estimate.above(0.0):
        return True
    return False if estimate.above(negligible) is False else None


def read_answers(folder: Path) -> list[Answer]:
    """The answers in a folder, by the names of their experiments."""
    files = sorted((folder / FOLDER).glob("*.json"))
    return [from_dict(read_json(file)) for file in files]

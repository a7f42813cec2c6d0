"""Charts of a study. Data in, Vega-Lite out; colours fit a light and a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import method_label, short_name, task_label

# Told apart on white and on black, and by most who see colours differently.
COLOURS = ("#4c8df5", "#e07b39", "#2fa37c", "#c2589b", "#9a7df0", "#b3930d", "#d9534f", "#5aa9b8")


def measured(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """Runs whose frequency is over all positions: a router that skips some shows those that it chose."""
    return [row for row in rows if row.collaboration_frequency is not None and row.router == "always"]


def frequency_by_draft(rows: Sequence[SummaryRow]) -> dict[str, alt.LayerChart]:
    """For each task, the collaboration frequency by the draft's size, with intervals, a colour for each target."""
    chosen = measured(rows)
    targets = sorted({(row.target_parameters or 0, short_name(row.target)) for row in chosen})
    methods = sorted({method_label(row) for row in chosen}, key=lambda name: (not name.startswith("oracle"), name))
    top = max((row.ci_high or row.collaboration_frequency or 0.0 for row in chosen), default=1.0)
    charts = {}
    for task in dict.fromkeys(task_label(row) for row in chosen):
        of_task = [row for row in chosen if task_label(row) == task]
        charts[task] = _chart(of_task, [name for _, name in targets], methods, min(1.0, 1.05 * top))
    return charts


def _chart(rows: Sequence[SummaryRow], targets: list[str], methods: list[str], top: float) -> alt.LayerChart:
    sized = all(row.draft_parameters for row in rows)
    values: list[dict[str, Any]] = [
        {
            "draft": short_name(row.draft),
            "target": short_name(row.target),
            "method": method_label(row),
            "parameters": row.draft_parameters,
            "frequency": row.collaboration_frequency,
            "low": row.ci_low,
            "high": row.ci_high,
            "texts": row.examples,
        }
        for row in rows
    ]
    x = alt.X("draft:N", title="draft", sort=None)
    if sized:
        axis = alt.Axis(format="~s", tickCount=4, grid=False)
        x = alt.X("parameters:Q", title="parameters of the draft", axis=axis)
        x = x.scale(type="log", nice=False, padding=12)
    colour = alt.Color("target:N", title="target", sort=None).scale(domain=targets, range=list(COLOURS))
    base = alt.Chart(alt.Data(values=values)).encode(x=x, color=colour)
    # Grey, since a shape's own symbols would be black on a dark page; one a line, since the names are long.
    shapes = alt.Legend(columns=1, symbolFillColor="#888", symbolStrokeColor="#888")
    shape = alt.Shape("method:N", title="method", legend=shapes).scale(domain=methods)
    y = alt.Y("frequency:Q", title="collaboration frequency").scale(domain=[0, top])
    tooltip = [
        alt.Tooltip("draft:N"),
        alt.Tooltip("target:N"),
        alt.Tooltip("method:N"),
        alt.Tooltip("frequency:Q", format=".3f"),
        alt.Tooltip("low:Q", format=".3f", title="95 % from"),
        alt.Tooltip("high:Q", format=".3f", title="to"),
        alt.Tooltip("texts:Q"),
    ]
    intervals = base.mark_rule(strokeWidth=1.5, opacity=0.7).encode(y="low:Q", y2="high:Q")
    lines = (
        base.mark_line(strokeWidth=1.5)
        .encode(y=y, detail="method:N")
        .transform_filter("indexof(datum.method, 'oracle') == 0")
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape, tooltip=tooltip)
    legend = alt.LegendConfig(orient="bottom", direction="horizontal", columns=3, symbolOpacity=1)
    return (
        alt.layer(intervals, lines, points)
        .properties(width="container", height=260, background="transparent")
        .configure(legend=legend)
        .configure_view(stroke=None)
    )

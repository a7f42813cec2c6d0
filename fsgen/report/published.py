"""What the definitions of arXiv 2406.12295 change, beside ours."""

from __future__ import annotations

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.labels import method_label, short_name, task_label
from fsgen.analysis.published import Both, PublishedResult
from fsgen.analysis.study import StudyAnalysis
from fsgen.report.chart import Cell, Data, Figure
from fsgen.report.profiles import pair_label


def beside_ours(analysis: StudyAnalysis) -> Figure | None:
    """A table: each number by our definition and as published."""
    rows = {row.run: row for row in analysis.summary}
    chosen = [(rows[run.run], run.published) for run in analysis.runs if run.published is not None]
    changed = [(row, result) for row, result in chosen if _apart(result)]
    if not chosen:
        return None
    table = [
        {
            "task": task_label(row),
            "draft": short_name(row.draft),
            "target": short_name(row.target),
            "method": method_label(row),
            **_values("frequency", result.frequency),
            **_values("tokens / token", result.target_tokens_per_token),
            **_values("score", result.accuracy),
        }
        for row, result in changed
    ]
    return Figure(
        name="published",
        title="Counted as the seed study did",
        finding=_finding(chosen, changed),
        note="Published numbers divide mismatches by the positions that were consulted, count positions among these, "
        "leave out the work of catching up, and compare answers as the last run of digits. An empty cell means that "
        "nothing differs by definition, or that the traces do not suffice.",
        remarks=tuple(
            dict.fromkeys(
                f"{task_label(row)}, {method_label(row)}: {sentence}"
                for row, result in chosen
                for sentence in result.not_recounted
            )
        ),
        data=Data.of(table),
    )


def _values(name: str, both: Both) -> dict[str, Cell]:
    numbers = {name: both.ours, f"{name}, published": both.published}
    return {column: None if number is None else number.value for column, number in numbers.items()}


def _apart(result: PublishedResult) -> bool:
    """Whether some number differs."""
    return any(
        both.ours is not None and both.published is not None and abs(both.ours.value - both.published.value) > 5e-4
        for both in (result.frequency, result.target_tokens_per_token, result.accuracy)
    )


def _finding(
    chosen: list[tuple[SummaryRow, PublishedResult]], changed: list[tuple[SummaryRow, PublishedResult]]
) -> str:
    if not changed:
        return f"In none of {len(chosen)} runs do the published definitions give other numbers than ours."

    def gap(entry: tuple[SummaryRow, PublishedResult]) -> float:
        ours, theirs = entry[1].frequency.ours, entry[1].frequency.published
        return 0.0 if ours is None or theirs is None else abs(ours.value - theirs.value)

    said = f"In {len(changed)} of {len(chosen)} runs the published definitions give other numbers than ours."
    row, result = max(changed, key=gap)
    if gap((row, result)) > 0:
        assert result.frequency.ours is not None
        assert result.frequency.published is not None
        said += (
            f" They differ most in the frequency of {method_label(row)} with {pair_label(row)} on {task_label(row)}: "
            f"{result.frequency.ours.value:.3f} of all positions, {result.frequency.published.value:.3f} as published."
        )
    return said

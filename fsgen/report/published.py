"""What the definitions of the seed study change, beside our own."""

from __future__ import annotations

from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.labels import method_label, short_name, task_label
from fsgen.analysis.published import Both, PublishedResult
from fsgen.analysis.study import StudyAnalysis
from fsgen.report.figure import Cell, Data, Figure
from fsgen.report.profiles import pair_label


def beside_ours(analysis: StudyAnalysis) -> Figure | None:
    """A table: each number by our definition and as published."""
    rows = {row.run: row for row in analysis.summary}
    chosen = [(rows[run.run], run.published) for run in analysis.runs if run.published is not None]
    changed = [(row, result) for row, result in chosen if _apart(result)]
    if not chosen:
        return None
    return Figure(
        name="published",
        title="Counted as the seed study did",
        finding=_finding(chosen, changed),
        note="Published numbers divide mismatches by the positions that were consulted, count positions among these, "
        "leave out the work of catching up, and compare answers as the last run of digits. Where nothing stands, "
        "nothing differs by definition, or the traces do not suffice.",
        panels={},
        remarks=tuple(
            dict.fromkeys(
                f"{task_label(row)}, {method_label(row)}: {sentence}"
                for row, result in chosen
                for sentence in result.not_recounted
            )
        ),
        data=Data(
            (
                "task",
                "draft",
                "target",
                "method",
                "frequency",
                "published",
                "tokens / token",
                "published ",
                "score",
                "published  ",
            ),
            tuple(
                (
                    task_label(row),
                    short_name(row.draft),
                    short_name(row.target),
                    method_label(row),
                    *_values(result.frequency),
                    *_values(result.target_tokens_per_token),
                    *_values(result.accuracy),
                )
                for row, result in changed
            ),
        ),
    )


def _values(both: Both) -> tuple[Cell, Cell]:
    def value(estimate: Estimate | None) -> Cell:
        return None if estimate is None else estimate.value

    return value(both.ours), value(both.published)


def _apart(result: PublishedResult) -> bool:
    """Some number is another one."""
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

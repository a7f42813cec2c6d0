"""The signs of failure, in words."""

from __future__ import annotations

from dataclasses import dataclass

from fsgen.analysis.study import StudyAnalysis

_TITLES = {
    "too few": "Too few consultations",
    "too many": "Too many consultations",
    "too late": "Consultations that come too late",
}


@dataclass(frozen=True)
class Signs:
    """One sign over all runs.

    Attributes:
        title: in words.
        summary: in how many runs it was found.
        found, others: runs that show it and runs that do not, each with its finding.
    """

    title: str
    summary: str
    found: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str], ...]


def signs(analysis: StudyAnalysis) -> list[Signs]:
    """The signs that some run could show."""
    result = []
    for name, title in _TITLES.items():
        named = [(run.label, sign) for run in analysis.runs for sign in run.signs if sign.sign == name]
        if named:
            known = [sign for _, sign in named if sign.found is not None]
            found = tuple((label, sign.finding) for label, sign in named if sign.found)
            result.append(
                Signs(
                    title=title,
                    summary=f"Found in {len(found)} of the {len(known)} runs whose traces can tell."
                    if known
                    else "No run's traces can tell.",
                    found=found,
                    others=tuple((label, sign.finding) for label, sign in named if not sign.found),
                )
            )
    return result

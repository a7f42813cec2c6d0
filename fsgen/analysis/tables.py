"""The analyses of a study as tables and sentences, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fsgen.analysis.columns import COLUMNS
from fsgen.analysis.frequency import SummaryRow
from fsgen.analysis.intervals import Estimate
from fsgen.analysis.labels import decimal, method_label, short_name, task_label
from fsgen.analysis.learning import Training
from fsgen.analysis.position import Effect, Place, PositionResult
from fsgen.analysis.published import Both
from fsgen.analysis.routers import RoutersResult
from fsgen.analysis.short import ShortAnswer
from fsgen.analysis.study import RunAnalysis, StudyAnalysis
from fsgen.analysis.terminal import plain_table, print_wide
from fsgen.analysis.uncertainty import UncertaintyResult


def show(analysis: StudyAnalysis, console: Console, details: bool = False) -> None:
    """Print an analysis; on a narrow terminal lines are longer than its width rather than lose numbers.

    Args:
        analysis: of a study.
        console: where to.
        details: print everything about each run instead of a line.
    """
    _print(console, _runs(analysis) if details else _study(analysis))


def print_short(console: Console, answers: Iterable[ShortAnswer]) -> None:
    """Print the answers of a study, each beside its question; their lines fit the terminal."""
    shown = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    shown.add_column(style="bold", max_width=16)
    shown.add_column()
    for one in answers:
        shown.add_row(Text(one.question), Text(one.answer))
    console.print(shown)


def show_training(training: Training, console: Console) -> None:
    """Print on what a router was trained, and how it does on held-out examples."""
    parts = plain_table("part", "examples", "positions", "mismatches", left=1)
    for name, counts in training.counts.items():
        parts.add_row(name, *(f"{counts[what]:,}" for what in ("examples", "positions", "mismatches")))
    found = plain_table("router", "AUROC", "misses, %", "more than learned, %", left=1)
    for one in training.evaluations:
        found.add_row(one.router, _shown(one.auroc), _shown(one.missed, ".2f", 100), _shown(one.beside, ".2f", 100))
    learned = training.evaluations[0]
    caught = 1 - learned.missed.value / training.frequency if training.frequency else 1.0
    _print(
        console,
        [
            parts,
            f"On the test examples it consults System 2 at {training.calls.shown('.1f', 100)} % of the positions and "
            f"finds {100 * caught:.1f} % of the mismatches. Others at equal calls:",
            found,
        ],
    )


def _print(console: Console, parts: Iterable[RenderableType]) -> None:
    for part in parts:
        if isinstance(part, Table):
            print_wide(console, part)
        else:
            console.print(part, soft_wrap=True)


def _study(analysis: StudyAnalysis) -> Iterator[RenderableType]:
    rows = {row.run: row for row in analysis.summary}
    yield from _section("Frequency", _frequency(analysis.summary))
    everywhere = [run for run in analysis.runs if run.position is not None]
    if everywhere:
        yield from _section("Position: the frequency by tenth of the text, in %", _positions(rows, everywhere))
        yield from _section("Uncertainty", _uncertainties(rows, everywhere))
        yield from _section("Routers: thresholds that meet a budget", _routers(rows, everywhere))
    projected = [run for run in analysis.runs if run.projection is not None]
    if projected:
        yield from _section(
            "Projections", *(_said(run, [run.projection.finding]) for run in projected if run.projection)
        )
    counted = [run for run in analysis.runs if run.published is not None]
    if counted:
        yield from _section("Counted as published (arXiv 2406.12295)", _published(rows, counted))
        notes = dict.fromkeys(note for run in counted if run.published for note in run.published.not_recounted)
        yield from (Text(note) for note in notes)
    signed = [run for run in analysis.runs if run.signs]
    if signed:
        yield from _section("Failure signs", *(_said(run, _signs(run)) for run in signed))
    yield from _section("In short", *(Text(f"{one.question}: {one.answer}") for one in analysis.short))
    yield from _section("In all", *(Text(finding) for finding in analysis.findings))


def _runs(analysis: StudyAnalysis) -> Iterator[RenderableType]:
    rows = {row.run: row for row in analysis.summary}
    for run in analysis.runs:
        yield Text(f"{run.label} ({run.run})", style="bold")
        yield _frequency([rows[run.run]])
        if run.position is not None:
            yield from _section("Position", Text(run.position.finding), _profile(run.position))
        if run.uncertainty is not None:
            yield from _section("Uncertainty", Text(run.uncertainty.finding), _measures(run.uncertainty))
        if run.routers is not None:
            yield from _section("Routers", Text(run.routers.finding), _choices(run.routers))
        if run.projection is not None:
            yield from _section("Projections", Text(run.projection.finding))
        if run.published is not None:
            notes = [run.published.finding, *run.published.not_recounted]
            yield from _section("Counted as published (arXiv 2406.12295)", *map(Text, notes))
        if run.signs:
            yield from _section("Failure signs", *map(Text, _signs(run)))


def _section(title: str, *content: RenderableType) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", style="bold")
    yield from content


def _names(row: SummaryRow) -> list[str]:
    return [task_label(row), short_name(row.draft), short_name(row.target), method_label(row)]


_NAMES = ("task", "draft", "target", "method")


def _said(run: RunAnalysis, sentences: Iterable[str]) -> RenderableType:
    return Group(Text(run.label, style="italic"), *(Text(f"  {sentence}") for sentence in sentences))


def _signs(run: RunAnalysis) -> list[str]:
    words = {True: "found", False: "not found", None: "not known"}
    return [f"{sign.sign}: {words[sign.found]}. {sign.finding}" for sign in run.signs]


def _shown(estimate: Estimate | None, form: str = ".3f", scale: float = 1.0) -> str:
    return "-" if estimate is None else estimate.shown(form, scale)


# ---- a line a run


def _frequency(rows: Sequence[SummaryRow]) -> Table:
    metrics = [column for column in COLUMNS if any(getattr(row, column.metric) is not None for row in rows)]
    table = plain_table(*_NAMES, "tokens", *(column.title for column in metrics), left=4)
    for row in rows:
        cells = (_shown(row.estimate(column.metric), f".{column.digits}f") for column in metrics)
        table.add_row(*_names(row), f"{row.tokens:,}", *cells)
    return table


def _positions(rows: dict[str, SummaryRow], runs: Sequence[RunAnalysis]) -> Table:
    table = plain_table(
        *_NAMES, *map(str, range(1, 11)), "odds, start to end", "at equal uncertainty", "matters", left=4
    )
    for run in runs:
        assert run.position is not None
        places = {round(10 * place.start): place for place in run.position.relative}
        frequencies = [f"{100 * places[i].frequency.value:.0f}" if i in places else "-" for i in range(10)]
        model = next((model for model in run.position.models if model.scale == "relative"), None)
        effects = [_effect(model.alone), _effect(model.given_uncertainty)] if model else ["-", "-"]
        table.add_row(*_names(rows[run.run]), *frequencies, *effects, _yes(run.position.matters))
    return table


def _effect(effect: Effect) -> str:
    return f"{effect.odds_ratio:.2f} [{effect.low:.2f}, {effect.high:.2f}]"


def _yes(known: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[known]


def _uncertainties(rows: dict[str, SummaryRow], runs: Sequence[RunAnalysis]) -> Table:
    names = list(dict.fromkeys(m.name for run in runs if run.uncertainty for m in run.uncertainty.measures))
    table = plain_table(*_NAMES, *(f"AUROC {name}" for name in names), "calibration error", "second choice", left=4)
    for run in runs:
        assert run.uncertainty is not None
        areas = {measure.name: _shown(measure.auroc) for measure in run.uncertainty.measures}
        error, ranks = run.uncertainty.calibration_error, run.uncertainty.ranks
        table.add_row(
            *_names(rows[run.run]),
            *(areas.get(name, "-") for name in names),
            _shown(error),
            f"{100 * ranks[0]:.0f} %" if ranks else "-",
        )
    return table


def _routers(rows: dict[str, SummaryRow], runs: Sequence[RunAnalysis]) -> Table:
    budgets = list(dict.fromkeys((c.budget, c.allowed) for run in runs if run.routers for c in run.routers.choices))
    titles = [f"{name} <= {100 * share:g} %" for name, share in budgets]
    table = plain_table(*_NAMES, "frequency", "best router", "gain", *titles, left=4)
    for run in runs:
        result = run.routers
        assert result is not None
        best = result.best
        if best is None:
            continue
        points = {(c.budget, c.allowed): c.point for c in result.choices if c.router == best.router}
        cells = [
            f"{points[key].threshold:.4g} (consults {100 * points[key].consulted_rate:.1f}, "
            f"misses {100 * points[key].missed:.1f} %)"
            for key in budgets
        ]
        table.add_row(
            *_names(rows[run.run]), decimal(result.collaboration_frequency, 3), best.router, f"{best.gain:.2f}", *cells
        )
    return table


def _published(rows: dict[str, SummaryRow], runs: Sequence[RunAnalysis]) -> Table:
    table = plain_table(
        *_NAMES, "frequency", "mismatch ratio", "tokens / token", "published", "score", "published", left=4
    )
    for run in runs:
        result = run.published
        assert result is not None
        numbers: list[Both] = [result.frequency, result.target_tokens_per_token, result.accuracy]
        cells = [_shown(each) for both in numbers for each in (both.ours, both.published)]
        table.add_row(*_names(rows[run.run]), *cells)
    return table


# ---- all about a run


def _profile(result: PositionResult) -> Table:
    table = plain_table("place", "tokens", "frequency, %", "draft's entropy", "uncertainty", left=1)

    def add(place: Place, name: str) -> None:
        frequency = place.frequency.shown(".1f", 100)
        table.add_row(name, f"{place.tokens:,}", frequency, f"{place.entropy:.2f}", f"{place.uncertainty:.2f}")

    for place in result.relative:
        add(place, f"{100 * place.start:.0f}-{100 * place.stop:.0f} %")
    table.add_section()
    for place in result.absolute:
        start, last = int(place.start), int(place.stop) - 1
        add(place, f"token {start}" if start == last else f"tokens {start}-{last}")
    return table


def _measures(result: UncertaintyResult) -> Table:
    table = plain_table("measure", "AUROC", "average precision", "mean at matches", "at mismatches", left=1)
    for one in result.measures:
        means = f"{one.mean_match:.3f}", f"{one.mean_mismatch:.3f}"
        table.add_row(one.name, _shown(one.auroc), _shown(one.average_precision), *means)
    return table


def _choices(result: RoutersResult) -> Table:
    table = plain_table(
        "router", "budget", "threshold", "consults, %", "misses, %", "random misses", "perfect misses", left=2
    )
    for choice in result.choices:
        point = choice.point
        shares = (point.consulted_rate, point.missed, point.random_missed, point.perfect_missed)
        table.add_row(
            choice.router,
            f"{choice.budget} <= {100 * choice.allowed:g} %",
            f"{point.threshold:.4g}",
            *(f"{100 * share:.1f}" for share in shares),
        )
    return table

"""Runs that are written again for their times alone: in turn, so that all have the same machine, fast or slow."""

from __future__ import annotations

from collections.abc import Container

from fsgen.study.cells import Cell
from fsgen.study.models import LoadedModels
from fsgen.study.plan import Plan
from fsgen.study.progress import Reporter
from fsgen.study.store import Store
from fsgen.study.units import Step, Unit, make_steps, make_units
from fsgen.study.worker import Scorer, run_unit


def repeat(plan: Plan, failed: Container[str], store: Store, models: LoadedModels, reporter: Reporter) -> None:
    """Write what the decode loop wrote `repeats` times more, every run once before any of them twice.

    Args:
        plan: of a study whose runs are all stored, so that an interruption costs times alone.
        failed: runs that are left out.
        store: of the study; repetitions that it has are not made again.
        models: where the members come from.
        reporter: hears of it.
    """
    size = plan.config.batch_size
    decoded = [step.cells[0] for step in make_steps(plan) if step.source is None]
    chosen = [cell for cell in decoded if cell.key not in failed]
    left = {cell.key: plan.config.repeats - len(store.times(cell.key, size)) for cell in chosen}
    if any(count > 0 for count in left.values()):
        reporter.note(f"{len(chosen)} runs are written {plan.config.repeats} times more, for their times")
    for turn in range(plan.config.repeats, 0, -1):
        for cell in chosen:
            if left[cell.key] >= turn:
                reporter.working(f"{cell.label}, for its time")
                seconds, tokens = _timed(plan, cell, models)
                if tokens:
                    store.add_time(cell.key, size, seconds, tokens)


def _timed(plan: Plan, cell: Cell, models: LoadedModels) -> tuple[float, int]:
    """Seconds and tokens of a run."""
    members = models.members([cell.members])
    units = list(make_units(plan, Step((cell,)), {cell.key: set()}))
    scorer = Scorer(scoring=False)

    def write(unit: Unit) -> tuple[float, int]:
        (texts,) = run_unit(unit, members, scorer)
        written = [text.generation.stats for text in texts if text.generation]
        return sum(one.seconds for one in written), sum(one.tokens for one in written)

    write(units[0].first())  # what is loaded and compiled at the first call is in no time
    each = [write(unit) for unit in units]
    return sum(seconds for seconds, _ in each), sum(tokens for _, tokens in each)

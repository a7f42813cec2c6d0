"""The loop's fit on made-up times: a moment of a busy machine is noticed, repeated, and covered by the interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from fsgen.planner import moments
from fsgen.planner.calibrate import ERROR, Calibration, calibrate, evened, fitted
from fsgen.planner.moments import AGREE, Series, Settled, Split, series, settle, settled
from fsgen.planner.predict import Loop, Parts
from tests.doubles import Table, group
from tests.planner.test_times import Constant

# Seconds of a run by each part, when nothing else goes on: plain decoding, and three drafting methods.
QUIET = (Split(0.100, 0.0, 0.010), Split(0.045, 0.012, 0.008), Split(0.040, 0.020, 0.009), Split(0.050, 0.010, 0.009))
RATIOS = [QUIET[0].total / one.total for one in QUIET[1:]]


@dataclass
class Machine:
    """Runs take what they take in a quiet moment, times what `slow` says of their models at that time."""

    slow: Callable[[float], tuple[float, float]] = lambda now: (1.0, 1.0)
    now: float = 0.0
    runs: int = 0

    def clock(self) -> float:
        return self.now

    def run(self, number: int) -> Split:
        target, rest = self.slow(self.now)
        found = Split(target * QUIET[number].target, rest * QUIET[number].draft, rest * QUIET[number].rest)
        self.now += found.total
        self.runs += 1
        return found

    def series(self) -> Series:
        return series(self.run, len(QUIET) - 1, self.clock)


def speedups(found: Series) -> list[float]:
    return [1 / one.total for one in found.drafting]


def test_a_quiet_machine_is_timed_twice() -> None:
    machine = Machine()
    (found,) = settle([machine.series], clock=machine.clock)
    assert (found.taken, found.agreed) == (2, True)
    assert found.drift == pytest.approx(0, abs=1e-12)
    assert speedups(found.series) == pytest.approx(RATIOS)
    assert found.series.plain.total == pytest.approx(QUIET[0].total)


def test_a_moment_in_which_everything_is_slow_changes_no_ratio() -> None:
    whole = Machine(lambda now: (3.0, 3.0) if now < 2.0 else (1.0, 1.0))
    (found,) = settle([whole.series], clock=whole.clock)
    assert speedups(found.series) == pytest.approx(RATIOS)
    # Slower and slower: each run is compared with what is before and after it.
    creeping = Machine(lambda now: (1 + now, 1 + now))
    (found,) = settle([creeping.series], clock=creeping.clock)
    assert found.agreed
    assert speedups(found.series) == pytest.approx(RATIOS, rel=0.03)
    # One run of a series that is held up moves no median.
    held = Machine(lambda now: (4.0, 4.0) if 0.40 < now < 0.45 else (1.0, 1.0))
    assert speedups(held.series()) == pytest.approx(RATIOS, rel=1e-9)


def test_a_fit_in_an_unlike_moment_is_noticed_and_repeated() -> None:
    """At first something else keeps the target's weights out of the cache: drafting seems to bring more."""
    machine = Machine(lambda now: (1.7, 1.0) if now < 2.5 else (1.0, 1.0))
    odd = Machine(lambda now: (1.7, 1.0)).series()
    assert max(math.log(a / b) for a, b in zip(speedups(odd), RATIOS, strict=True)) > 2 * AGREE
    (found,) = settle([machine.series], clock=machine.clock)
    assert (found.taken, found.agreed) == (3, True)
    assert speedups(found.series) == pytest.approx(RATIOS)
    off = [abs(math.log(a / b)) for a, b in zip(speedups(odd), RATIOS, strict=True)]
    assert 1.96 * found.drift > max(off)  # an interval holds what the odd moment would have said
    assert found.drift < 0.5


def test_an_odd_moment_in_the_middle_is_left_out_too() -> None:
    machine = Machine()
    quiet = [machine.series() for _ in range(2)]
    machine.slow = lambda now: (1.7, 1.0)
    found = settled([quiet[0], machine.series(), quiet[1]])
    assert found.agreed
    assert speedups(found.series) == pytest.approx(RATIOS)


def test_what_never_agrees_ends_in_time_and_says_so() -> None:
    machine = Machine()
    machine.slow = lambda now: (1.0, 7.0 - 2 * (machine.runs // 31))  # every series another one
    (found,) = settle([machine.series], seconds=11.0, clock=machine.clock)
    assert not found.agreed
    assert found.taken > 2
    assert machine.now < 11.0 + 2 * moments.SERIES_SECONDS
    odd = Machine(lambda now: (1.0, 7.0)).series()
    assert speedups(found.series)[0] > 1.2 * speedups(odd)[0]  # the fastest ones count
    assert found.drift > AGREE


def test_series_of_several_pairs_take_turns() -> None:
    taken: list[str] = []
    machines = {"a": Machine(), "b": Machine()}

    def taker(name: str) -> Callable[[], Series]:
        def take() -> Series:
            taken.append(name)
            return machines[name].series()

        return take

    machines["b"].slow = lambda now: (1.7, 1.0) if taken.count("b") == 1 else (1.0, 1.0)
    found = settle([taker("a"), taker("b")])
    assert taken == ["a", "b", "a", "b", "b"]
    assert [one.taken for one in found] == [2, 3]


TRUE = Loop(1.2, 1.4, 1.1, 0.002, 0.001, 0.0003, 0.0002)
ALONE = [Parts(1.0, 0.0, 96, 0), Parts(0.6, 0.1, 40, 130), Parts(0.55, 0.18, 30, 240), Parts(0.62, 0.08, 44, 110)]


def as_measured(loop: Loop, factor: float = 1.0) -> Series:
    """What runs would be, were this loop the whole truth."""
    plain = Split(loop.target_plain * ALONE[0].target, 0.0, ALONE[0].rounds * loop.round_seconds).times(factor)
    drafting = []
    for part, routed in zip(ALONE[1:], (0, 0, 1), strict=True):
        each = loop.drafted_seconds + routed * loop.routed_seconds
        rest = part.rounds * (loop.round_seconds + loop.verify_seconds) + part.calls * each
        drafting.append(Split(loop.target * part.target, loop.draft * part.draft, rest).times(factor / plain.total))
    return Series(plain, tuple(drafting))


def test_the_loop_is_found_again() -> None:
    found = fitted(Settled(as_measured(TRUE), 0.0, True, 2), ALONE)
    assert found.error == pytest.approx(ERROR)
    for name in ("target_plain", "target", "draft", "round_seconds", "verify_seconds", "drafted_seconds",
                 "routed_seconds"):  # fmt: skip
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name)), name
    assert fitted(Settled(as_measured(TRUE), 0.3, False, 4), ALONE).error == pytest.approx(math.hypot(ERROR, 0.3))


def measured_with(number: int, **factors: float) -> Settled:
    """Times of calls from another moment: a method's calls take so much longer than the profile has for them."""
    found = as_measured(TRUE)
    drafting = list(found.drafting)
    one = drafting[number]
    drafting[number] = replace(one, **{name: factor * getattr(one, name) for name, factor in factors.items()})
    return Settled(Series(found.plain, tuple(drafting)), 0.0, True, 2)


def test_calls_of_five_and_of_eleven_tokens_are_each_as_measured() -> None:
    found = fitted(measured_with(1, target=2.0), ALONE)
    assert found.verifying(5) == pytest.approx(TRUE.target)
    assert found.verifying(2) == found.verifying(5)
    assert found.verifying(8) == pytest.approx(1.5 * TRUE.target)
    assert found.verifying(11) == found.verifying(13) == pytest.approx(2 * TRUE.target)
    assert found.error == pytest.approx(ERROR)
    assert found.slowed(3.0).verifying(11) == pytest.approx(6 * TRUE.target)


def test_what_the_fit_leaves_is_in_its_error() -> None:
    assert fitted(measured_with(1, draft=4.0), ALONE).error > 3 * ERROR


def test_loops_of_several_drafts_have_one_speed_of_plain_decoding() -> None:
    target = Constant(0.01)
    first, second = evened([TRUE, TRUE.slowed(2.5)], target, 1)
    assert first == TRUE
    for name in ("target", "draft", "drafted_seconds", "routed_seconds"):
        assert getattr(second, name) == pytest.approx(getattr(TRUE, name))
    assert second.error == TRUE.error


def test_a_pair_of_tables_is_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "TURNS", 1)
    members = group(draft=Table(order=2, seed=2), target=Table(order=2, seed=1, scale=3.0))
    prompts = [[1 + (3 * i + j) % 7 for j in range(12)] for i in range(3)]
    found = calibrate(members, prompts, 2, Constant(1e-3), Constant(1e-4), seconds=1.0)
    assert min(found.target_plain, found.target, found.draft, found.round_seconds) > 0
    assert found.error >= ERROR
    alone = Calibration(group(target=Table(order=2, seed=1)), prompts, 1, Constant(1e-3), None)
    assert alone.loop(settle([alone.take], seconds=1.0)[0]).verify_seconds == 0

"""How long a study still takes, learnt for each kind of its steps: a replay is many times faster than decoding."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What is left of a run.

    Attributes:
        texts: how many are to be written.
        cost: of one of them, in a unit that is the same for all runs of its kind.
        kind: runs of one kind take as long for as much cost.
    """

    texts: int
    cost: float
    kind: str


class Remaining:
    """The remaining time, from how long texts of each kind took so far.

    Args:
        work: what is left, by run.
        clock: seconds that pass.
    """

    def __init__(self, work: Mapping[str, Work], clock: Callable[[], float] = time.perf_counter) -> None:
        self._work, self._clock = work, clock
        self._left: dict[str, float] = defaultdict(float)
        for one in work.values():
            self._left[one.kind] += one.texts * one.cost
        self._done: dict[str, float] = defaultdict(float)
        self._seconds: dict[str, float] = defaultdict(float)
        self._started = self._last = clock()

    def wrote(self, run: str, texts: int) -> None:
        """Count texts of a run; the time since those before them was theirs."""
        one, now = self._work[run], self._clock()
        self._seconds[one.kind] += now - self._last
        self._done[one.kind] += texts * one.cost
        self._left[one.kind] -= texts * one.cost
        self._last = now

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def seconds(self) -> float | None:
        """What is left, in seconds; None before anything was written."""
        done = sum(self._done.values())
        if not done:
            return None
        # Of a kind that has not come yet, the cost is taken to last as long as that of the others on average.
        usual = sum(self._seconds.values()) / done
        rates = {kind: self._seconds[kind] / self._done[kind] for kind in self._left if self._done[kind]}
        return sum(max(left, 0.0) * rates.get(kind, usual) for kind, left in self._left.items())


def spoken(seconds: float) -> str:
    """A time as one would say it: `40 s`, `12 min`, `2 h 5 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"

"""Short runs in turn, in several series apart in time, until two say the same: one odd moment of a machine is noticed.

What else a machine does, and the clock of its processor, change from second to second. So each run is compared with the
runs of plain decoding just before and after it, a series takes the median of several such ratios, and a series that no
other one confirms is repeated.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

TURNS = 5  # of a series, at most
SERIES_SECONDS = 5.0  # about so long, but one turn at least
SECONDS = 30.0  # of all series of a pair, about; two of them at least
AGREE = 0.05  # a part by which two series may differ and say the same

Clock = Callable[[], float]


@dataclass(frozen=True)
class Split:
    """Seconds of a run, or what they are over those of plain decoding: of both models' calls, and of all else."""

    target: float
    draft: float
    rest: float

    @property
    def total(self) -> float:
        return self.target + self.draft + self.rest

    def times(self, factor: float) -> Split:
        return Split(factor * self.target, factor * self.draft, factor * self.rest)


def middle(found: Sequence[Split]) -> Split:
    """The median of each part."""
    return Split(*(statistics.median(getattr(one, name) for one in found) for name in ("target", "draft", "rest")))


@dataclass(frozen=True)
class Series:
    """What some turns say.

    Attributes:
        plain: seconds of plain decoding.
        drafting: of each drafting method, over those of the plain runs just before and after it.
    """

    plain: Split
    drafting: tuple[Split, ...] = ()

    def apart(self, other: Series) -> float:
        """By how much two series differ at most, as the logarithm of a ratio; their speed of plain decoding may."""
        pairs = zip(self.drafting, other.drafting, strict=True)
        return max((abs(math.log(a.total / b.total)) for a, b in pairs), default=0.0)


def series(run: Callable[[int], Split], methods: int, clock: Clock = time.monotonic) -> Series:
    """Takes turns: plain decoding, a method, plain decoding, the next one, and so on.

    Args:
        run: runs plain decoding (0) or a drafting method (1 and so on).
        methods: how many of the latter there are.
    """
    started, before = clock(), run(0)
    plain, ratios = [before], [list[Split]() for _ in range(methods)]
    for turn in range(1, TURNS + 1):
        for number, found in enumerate(ratios, 1):
            one, after = run(number), run(0)
            found.append(one.times(1 / math.sqrt(before.total * after.total)))
            plain.append(after)
            before = after
        if (clock() - started) * (turn + 1) / turn > SERIES_SECONDS:
            break
    return Series(middle(plain), tuple(map(middle, ratios)))


@dataclass(frozen=True)
class Settled:
    """What several series say together.

    Attributes:
        series: the middle of the two that agree, or where no two do of those with the fastest plain decoding.
        drift: how far all were from it, as the standard deviation of a logarithm.
        agreed: whether two do.
        taken: how many there were.
    """

    series: Series
    drift: float
    agreed: bool
    taken: int


def settled(found: Sequence[Series]) -> Settled:
    """Takes the two series that are closest, where they agree; the others still widen the drift.

    Where none agree it takes the fastest two: whatever else a machine does only adds.
    """
    pairs = sorted(combinations(found, 2), key=lambda pair: pair[0].apart(pair[1]))
    agreed = bool(pairs) and pairs[0][0].apart(pairs[0][1]) <= AGREE
    chosen = pairs[0] if agreed else sorted(found, key=lambda one: one.plain.total)[:2]
    both = Series(
        middle([one.plain for one in chosen]),
        tuple(middle(each) for each in zip(*(one.drafting for one in chosen), strict=True)),
    )
    drift = math.sqrt(sum(one.apart(both) ** 2 for one in found) / max(1, len(found) - 1))
    return Settled(both, drift, agreed, len(found))


def settle(
    takers: Sequence[Callable[[], Series]], seconds: float = SECONDS, clock: Clock = time.monotonic
) -> list[Settled]:
    """Takes two series of each, and more of those whose series do not agree.

    Those of one taker are apart in time, since the others' are between them.

    Args:
        takers: each takes a series.
        seconds: of each, about; what has not agreed by then is taken as it is.
    """
    started = clock()
    found: list[list[Series]] = [[] for _ in takers]
    while True:
        left = [one for one in zip(takers, found, strict=True) if len(one[1]) < 2 or not settled(one[1]).agreed]
        late = clock() - started > seconds * len(takers) and all(len(each) > 1 for each in found)
        if not left or late:
            return [settled(each) for each in found]
        for take, each in left:
            each.append(take())

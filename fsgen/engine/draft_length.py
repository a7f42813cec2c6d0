"""How many tokens to draft: chosen in every round from the acceptances seen and the times measured.

Whether to draft at all is found out by trials: a few rounds the other way, compared with the rounds just before them,
since a machine's speed drifts. The next trial waits until the cost of the last one is small beside the time since. How
far to draft: a further token pays if the chance that it is accepted, times the seconds that a token costs at present,
exceeds what drafting and verifying it cost. That chance is the product of the draft's probabilities so far, each
translated into the acceptance rate that such a probability has had.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from fsgen.types import Limit

BINS = 10
TOKEN_DECAY, CALL_DECAY = 0.98, 0.8  # the weight of what was seen before, at each further token or call
PRIOR = 2.0  # tokens' worth of prior belief
TRIAL_ROUNDS = 3  # of a trial that count; the first one, in which the draft catches up, does not
MOST_TRIAL_ROUNDS = 8  # where some of them say nothing
UNKNOWN_LENGTH = 3  # tokens to draft while nothing is known
TRIAL_SHARE = 0.01  # of the time may go into trials
AFTER_A_CHANGE = 0.1  # of the usual time until the next trial
WORTH_A_CHANGE = 0.97  # of the time for a token, or less
KNOWN_AFTER = 3  # rounds
RECENT = 16  # rounds that say what a token takes
OUTLIER = 3.0  # times the median of these: a round that took longer was held up by something else
CATCHING_UP = 50.0  # times the usual seconds: the most that counts of a round in which the draft catches up


class Acceptance:
    """How often drafted tokens of a probability were accepted, by bins of it; where little is known, as it says."""

    def __init__(self) -> None:
        self._accepted = [0.0] * BINS
        self._seen = [0.0] * BINS
        self._all_accepted, self._all_seen = 0.0, 0.0

    def chance(self, probability: float) -> float:
        """The chance that a drafted token of this probability is accepted."""
        a, b = self._line(min(BINS - 1, int(probability * BINS)))
        return a + b * probability

    def lines(self) -> tuple[tuple[float, float], ...]:
        """`chance` as a line a + b p for each bin of probabilities: (a, b)."""
        return tuple(map(self._line, range(BINS)))

    def _line(self, number: int) -> tuple[float, float]:
        """The prior, half the probability and half the usual rate, counts as `PRIOR` tokens of the bin."""
        half = 0.5 * PRIOR
        seen = self._seen[number] + PRIOR
        return (self._accepted[number] + half * self.rate) / seen, half / seen

    @property
    def rate(self) -> float:
        """The recent share of verified tokens that were accepted."""
        return (self._all_accepted + 0.5 * PRIOR) / (self._all_seen + PRIOR)

    def learn(self, probability: float, accepted: bool) -> None:
        b = min(BINS - 1, int(probability * BINS))
        self._accepted[b] = TOKEN_DECAY * self._accepted[b] + accepted
        self._seen[b] = TOKEN_DECAY * self._seen[b] + 1
        self._all_accepted = TOKEN_DECAY * self._all_accepted + accepted
        self._all_seen = TOKEN_DECAY * self._all_seen + 1


class LatencyModel:
    """Seconds of a call by the tokens it runs for a row: a straight line through recent measurements."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        if self._n >= 1 and seconds > 3 * self.of(tokens):
            seconds = 3 * self.of(tokens)  # something else held the machine up
        keep = CALL_DECAY if self._n < 4 else 0.95
        self._n = keep * self._n + 1.0
        self._x = keep * self._x + tokens
        self._y = keep * self._y + seconds
        self._xx = keep * self._xx + tokens * tokens
        self._xy = keep * self._xy + tokens * seconds

    @property
    def slope(self) -> float:
        """LatencyModel that one more token costs; where all calls were alike, a twentieth of a call."""
        if not self._n:
            return 0.0
        spread = self._xx / self._n - (self._x / self._n) ** 2
        flat = 0.05 * self._y / self._n
        if spread < 0.1:
            return flat
        return max(0.0, (self._xy / self._n - self._x * self._y / self._n**2) / spread)

    def of(self, tokens: float) -> float:
        """Seconds of a call with so many tokens."""
        mean = self._y / self._n
        return max(0.1 * mean, mean + self.slope * (tokens - self._x / self._n))

    @property
    def known(self) -> bool:
        return self._n > 0


class Rate:
    """LatencyModel a token, over the rounds of late. A round that took much longer than most was held up."""

    def __init__(self) -> None:
        self.rounds = 0
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._tokens: deque[int] = deque(maxlen=RECENT)
        self._extra: deque[float] = deque(maxlen=RECENT)  # seconds that belong to no single round
        self._rate: float | None = None

    def learn(self, seconds: float, tokens: int) -> None:
        self.rounds += 1
        self._seconds.append(seconds)
        self._tokens.append(tokens)
        self._extra.append(0.0)
        self._rate = None

    def add(self, seconds: float) -> None:
        """LatencyModel that belong to no round in particular."""
        if self.rounds:
            self._extra[-1] += seconds
            self._rate = None

    @property
    def known(self) -> bool:
        return self.rounds >= KNOWN_AFTER

    @property
    def seconds(self) -> float:
        if self._rate is None:
            most = OUTLIER * statistics.median(self._seconds)
            spent = sum(min(seconds, most) for seconds in self._seconds) + sum(self._extra)
            self._rate = spent / max(1, sum(self._tokens))
        return self._rate


class _Trial:
    """A few rounds the other way."""

    def __init__(self) -> None:
        self.rate = Rate()
        self.rounds = self.tokens = 0
        self.seconds = 0.0  # of all its rounds, also those that say nothing about its rate

    @property
    def left(self) -> int:
        """Rounds until it is over, at least."""
        return max(0, min(TRIAL_ROUNDS - self.rate.rounds, MOST_TRIAL_ROUNDS - self.rounds))


class AdaptiveDraftLength:
    """Chooses the draft length of one pair at one batch size. What it has learned outlives a batch.

    Args:
        least: tokens that must be drafted in any case: 1 where System 2's distribution reads the draft's.
    """

    def __init__(self, least: int = 0) -> None:
        self.acceptance = Acceptance()
        self.draft_call, self.system2_call = LatencyModel(), LatencyModel()
        self._least = least
        self._drafting = True  # the usual way: to draft, or not to
        self._rate = Rate()  # of rounds done that way
        self._trial: _Trial | None = None
        self.caught_up = False  # the draft has read all but the last few tokens
        self._cost = 0.0  # seconds that the last trial took beyond what its tokens are worth
        self._since = 0.0  # seconds since it

    @property
    def drafts(self) -> bool:
        """Whether this round drafts."""
        return self._drafting if self._trial is None else not self._drafting

    def begin_round(self) -> None:
        """Decide whether this round drafts."""
        due = self._rate.known and self._since * TRIAL_SHARE >= self._cost
        if not self._least and self._trial is None and due:
            self._trial = _Trial()

    def goes_on(self, drafted: int, chances: Sequence[float]) -> bool:
        """Whether the rows at hand shall draft another token.

        Args:
            drafted: how many tokens this round has drafted already.
            chances: of each row that could go on, that all its drafted tokens will be accepted.
        """
        if not self.drafts:
            return False
        if not (self.draft_call.known and self.system2_call.known and self._rate.known):
            return drafted < UNKNOWN_LENGTH
        if drafted < max(1, self._least):
            return True
        return self.acceptance.rate * sum(chances) * self._rate.seconds > self._price

    @property
    def _price(self) -> float:
        """LatencyModel that a further drafted token costs."""
        return self.draft_call.of(1) + self.system2_call.slope

    @property
    def limit(self) -> Limit | None:
        """When `goes_on` will say no, for a session that drafts several tokens itself; None while nothing is known."""
        if not (self.draft_call.known and self.system2_call.known and self._rate.known):
            return None
        return Limit(self.acceptance.lines(), self._price / max(1e-12, self.acceptance.rate * self._rate.seconds))

    def end_round(self, seconds: float, tokens: int, drafted: int, usual: bool, draft_seconds: float) -> None:
        """Learn what a round took, of all rows together.

        Args:
            seconds: of the round; `draft_seconds`: those of the draft in it.
            tokens: that it wrote.
            drafted: calls of the draft.
            usual: it read no prompts, and about as many rows took part as there can be.
        """
        trial = self._trial
        rate = self._rate if trial is None else trial.rate
        if usual and (self.caught_up or not drafted):
            rate.learn(seconds, tokens)
        elif drafted and self.caught_up and self.draft_call.known:
            # What the draft took to read new prompts is a price of drafting.
            rate.add(max(0.0, draft_seconds - drafted * self.draft_call.of(1)))
        most = OUTLIER if self.caught_up or not drafted else CATCHING_UP
        self.caught_up = bool(drafted)
        if trial is None:
            self._since += seconds
            return
        trial.rounds += 1
        trial.seconds += min(seconds, most * max(1, tokens) * self._rate.seconds)
        trial.tokens += tokens
        if not trial.left:
            self._judge(trial)

    def _judge(self, trial: _Trial) -> None:
        """Keep to what the trial has shown to be faster."""
        here, there = self._rate.seconds, trial.rate.seconds if trial.rate.rounds else math.inf
        if there < WORTH_A_CHANGE * here:
            self._drafting, self._rate = not self._drafting, trial.rate
            # A trial of the former way will cost about what it has just been slower by. It comes sooner than usual,
            # since this one had few rounds.
            self._cost = AFTER_A_CHANGE * trial.tokens * (here - there)
        else:
            self._cost = max(0.0, trial.seconds - trial.tokens * here)
        self._trial, self._since = None, 0.0

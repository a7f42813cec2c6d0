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

from fsgen.methods.method import MAX_ADAPTIVE
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
        # Of each bin, and at the end of all tokens together; older tokens count less.
        self._accepted, self._seen = [0.0] * (BINS + 1), [0.0] * (BINS + 1)

    @property
    def rate(self) -> float:
        """The recent share of verified tokens that were accepted."""
        return (self._accepted[-1] + 0.5 * PRIOR) / (self._seen[-1] + PRIOR)

    def chance(self, probability: float) -> float:
        """The chance that a drafted token of this probability is accepted."""
        a, b = self._line(_bin(probability))
        return a + b * probability

    def lines(self) -> tuple[tuple[float, float], ...]:
        """`chance` as a line a + b p for each bin of probabilities: (a, b)."""
        return tuple(map(self._line, range(BINS)))

    def learn(self, probability: float, accepted: bool) -> None:
        for i in (_bin(probability), BINS):
            self._accepted[i] = TOKEN_DECAY * self._accepted[i] + accepted
            self._seen[i] = TOKEN_DECAY * self._seen[i] + 1

    def _line(self, i: int) -> tuple[float, float]:
        """The prior, half the probability and half the usual rate, counts as `PRIOR` tokens of the bin."""
        half, seen = 0.5 * PRIOR, self._seen[i] + PRIOR
        return (self._accepted[i] + half * self.rate) / seen, half / seen


def _bin(probability: float) -> int:
    return min(BINS - 1, int(probability * BINS))


class LatencyModel:
    """Seconds of a call by the tokens it runs for a row: a straight line through recent measurements."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0  # decayed sums of tokens x and seconds y

    def learn(self, tokens: int, seconds: float) -> None:
        if self.known:
            seconds = min(seconds, OUTLIER * self.of(tokens))  # beyond that, something else held the machine up
        keep = CALL_DECAY if self._n < 4 else 0.95
        self._n = keep * self._n + 1.0
        self._x = keep * self._x + tokens
        self._y = keep * self._y + seconds
        self._xx = keep * self._xx + tokens * tokens
        self._xy = keep * self._xy + tokens * seconds

    @property
    def known(self) -> bool:
        return self._n > 0

    @property
    def slope(self) -> float:
        """Seconds that one more token costs; where all calls were alike, a twentieth of a call."""
        x, y = self._x / self._n, self._y / self._n
        spread = self._xx / self._n - x * x
        return 0.05 * y if spread < 0.1 else max(0.0, (self._xy / self._n - x * y) / spread)

    def of(self, tokens: float) -> float:
        """Seconds of a call with so many tokens."""
        mean = self._y / self._n
        return max(0.1 * mean, mean + self.slope * (tokens - self._x / self._n))


class Rate:
    """Seconds a token over the recent rounds. A round that took much longer than most was held up.

    Attributes:
        rounds: that it was learned from. seconds: a token; infinite while there is none.
    """

    def __init__(self) -> None:
        self.rounds, self.seconds = 0, math.inf
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=RECENT)  # seconds, tokens, seconds beside

    def learn(self, seconds: float, tokens: int) -> None:
        self.rounds += 1
        self._recent.append((seconds, tokens, 0.0))
        self._average()

    def add(self, seconds: float) -> None:
        """Seconds that belong to no round in particular."""
        if self._recent:
            last, tokens, beside = self._recent.pop()
            self._recent.append((last, tokens, beside + seconds))
            self._average()

    def _average(self) -> None:
        most = OUTLIER * statistics.median(seconds for seconds, _, _ in self._recent)
        spent = sum(min(seconds, most) + beside for seconds, _, beside in self._recent)
        self.seconds = spent / max(1, sum(tokens for _, tokens, _ in self._recent))


class _Trial(Rate):
    """A few rounds the other way. Counts all of them, also those that say nothing about the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.all_rounds, self.all_tokens, self.all_seconds = 0, 0, 0.0

    def count(self, seconds: float, tokens: int) -> None:
        self.all_rounds, self.all_tokens = self.all_rounds + 1, self.all_tokens + tokens
        self.all_seconds += seconds

    @property
    def over(self) -> bool:
        return self.rounds >= TRIAL_ROUNDS or self.all_rounds >= MOST_TRIAL_ROUNDS


class AdaptiveDraftLength:
    """Chooses the draft length of one method at one batch size. What it has learned outlives a batch.

    Args:
        least: tokens that must be drafted in any case: 1 where System 2's distribution reads the draft's.
    """

    def __init__(self, least: int = 0) -> None:
        self.acceptance = Acceptance()
        self.draft_call, self.system2_call = LatencyModel(), LatencyModel()
        self.caught_up = False  # the draft has read all but the last few tokens
        self._least = least
        self._drafting = True  # the usual way: to draft, or not to
        self._rate = Rate()  # of rounds done that way
        self._trial: _Trial | None = None
        self._cost = 0.0  # seconds that the last trial took beyond what its tokens are worth
        self._since = 0.0  # seconds since it

    @property
    def drafts(self) -> bool:
        """Whether this round drafts."""
        return self._drafting == (self._trial is None)

    @property
    def most(self) -> int:
        """Tokens of a round, at most."""
        return MAX_ADAPTIVE if self._known else UNKNOWN_LENGTH

    @property
    def limit(self) -> Limit | None:
        """When `goes_on` will say no, for a session that drafts several tokens itself; None while nothing is known."""
        if not self._known:
            return None
        return Limit(self.acceptance.lines(), self._price / max(1e-12, self.acceptance.rate * self._rate.seconds))

    def begin_round(self) -> None:
        """Decide whether this round drafts."""
        due = self._rate.rounds >= KNOWN_AFTER and self._since * TRIAL_SHARE >= self._cost
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
        if not self._known:
            return drafted < UNKNOWN_LENGTH
        if drafted < max(1, self._least):
            return True
        return self.acceptance.rate * sum(chances) * self._rate.seconds > self._price

    def end_round(self, seconds: float, tokens: int, drafted: int, usual: bool, draft_seconds: float) -> None:
        """Learn what a round took, of all rows together.

        Args:
            seconds: of the round; `draft_seconds`: those of the draft in it.
            tokens: that it wrote.
            drafted: calls of the draft.
            usual: it read no prompts, and about as many rows took part as there can be.
        """
        trial, ready = self._trial, self.caught_up or not drafted
        rate = trial or self._rate
        if usual and ready:
            rate.learn(seconds, tokens)
        elif drafted and ready and self.draft_call.known:
            # What the draft took to read new prompts is a price of drafting.
            rate.add(max(0.0, draft_seconds - drafted * self.draft_call.of(1)))
        self.caught_up = bool(drafted)
        if trial is None:
            self._since += seconds
            return
        most = (OUTLIER if ready else CATCHING_UP) * max(1, tokens) * self._rate.seconds
        trial.count(min(seconds, most), tokens)
        if trial.over:
            self._judge(trial)

    def _judge(self, trial: _Trial) -> None:
        """Keep to what the trial has shown to be faster."""
        here, there = self._rate.seconds, trial.seconds
        if there < WORTH_A_CHANGE * here:
            self._drafting, self._rate = not self._drafting, trial
            # A trial of the former way will cost about what it has just been slower by. It comes sooner than usual,
            # since this one had few rounds.
            self._cost = AFTER_A_CHANGE * trial.all_tokens * (here - there)
        else:
            self._cost = max(0.0, trial.all_seconds - trial.all_tokens * here)
        self._trial, self._since = None, 0.0

    @property
    def _known(self) -> bool:
        return self.draft_call.known and self.system2_call.known and self._rate.rounds >= KNOWN_AFTER

    @property
    def _price(self) -> float:
        """Seconds that a further drafted token costs."""
        return self.draft_call.of(1) + self.system2_call.slope

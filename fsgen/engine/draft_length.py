"""How many tokens to draft: chosen in every round from the acceptances seen and the times measured.

Whether to draft at all is told by trials: a few rounds the other way, held against the rounds just before them, since a
machine's speed drifts and older times say little. The next trial waits until what the last one cost is small beside the
time that has gone by. How far to draft: a
further token pays if the chance that System 2 will get to it and keep it, times the seconds that a token costs at
present, exceeds what drafting and verifying it cost. The chance is the product of the draft's confidences so far, each
translated into the acceptance that such a confidence has had. So drafts end where the draft is unsure.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from fsgen.types import Limit

BINS = 10
# Seen tokens and calls count the less the longer ago they are.
KEEP_TOKEN, KEEP_CALL = 0.98, 0.8
PRIOR = 2.0  # tokens' worth of belief in what nothing is known of
TRIAL = 3  # rounds of a trial that count; the first one, in which the draft catches up, does not
PATIENCE = 8  # rounds that a trial may take, where some of them tell nothing
UNKNOWING = 3  # tokens to draft while nothing is known
SHARE = 0.01  # of the time may go into trials
DOUBT = 0.1  # of the time until the next trial, after one that has changed the way
GAIN = 0.97  # of the time for a token, or less, is worth a change
LEARNT = 3  # rounds after which a way of doing it is known
OF_LATE = 16  # rounds that tell what a way of doing it takes
PAUSE = 3.0  # times the median of these: a round that took longer was held up by something else
CATCHING_UP = 50.0  # times what a round usually takes: no more is believed of one in which the draft catches up


class Acceptance:
    """How often drafted tokens of a confidence stood; a confidence of which little is known counts as it says."""

    def __init__(self) -> None:
        self._stood = [0.0] * BINS
        self._seen = [0.0] * BINS
        self._all_stood, self._all_seen = 0.0, 0.0

    def chance(self, confidence: float) -> float:
        """The chance that a drafted token of this probability stands."""
        a, b = self._line(min(BINS - 1, int(confidence * BINS)))
        return a + b * confidence

    def lines(self) -> tuple[tuple[float, float], ...]:
        """`chance` as a line for each bin of confidences: (a, b) of a + b times the confidence."""
        return tuple(map(self._line, range(BINS)))

    def _line(self, number: int) -> tuple[float, float]:
        """What is believed of a bin, half the confidence and half what is usual, counts as `PRIOR` tokens of it."""
        half = 0.5 * PRIOR
        seen = self._seen[number] + PRIOR
        return (self._stood[number] + half * self.usual) / seen, half / seen

    @property
    def usual(self) -> float:
        """The share of verified tokens that stood, of late."""
        return (self._all_stood + 0.5 * PRIOR) / (self._all_seen + PRIOR)

    def learn(self, confidence: float, stood: bool) -> None:
        b = min(BINS - 1, int(confidence * BINS))
        self._stood[b] = KEEP_TOKEN * self._stood[b] + stood
        self._seen[b] = KEEP_TOKEN * self._seen[b] + 1
        self._all_stood = KEEP_TOKEN * self._all_stood + stood
        self._all_seen = KEEP_TOKEN * self._all_seen + 1


class LatencyModel:
    """Seconds of a call by the tokens it runs for a row, as measured: a straight line through what was seen of late."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        if self._n >= 1 and seconds > 3 * self.of(tokens):
            seconds = 3 * self.of(tokens)  # something else held the machine up
        keep = KEEP_CALL if self._n < 4 else 0.95
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
        usual = 0.05 * self._y / self._n
        if spread < 0.1:
            return usual
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
        self._seconds: deque[float] = deque(maxlen=OF_LATE)
        self._tokens: deque[int] = deque(maxlen=OF_LATE)
        self._beside: deque[float] = deque(maxlen=OF_LATE)  # seconds that belong to no round in particular
        self._rate: float | None = None

    def learn(self, seconds: float, tokens: int) -> None:
        self.rounds += 1
        self._seconds.append(seconds)
        self._tokens.append(tokens)
        self._beside.append(0.0)
        self._rate = None

    def add(self, seconds: float) -> None:
        """LatencyModel that belong to no round in particular."""
        if self.rounds:
            self._beside[-1] += seconds
            self._rate = None

    @property
    def known(self) -> bool:
        return self.rounds >= LEARNT

    @property
    def seconds(self) -> float:
        if self._rate is None:
            most = PAUSE * statistics.median(self._seconds)
            spent = sum(min(seconds, most) for seconds in self._seconds) + sum(self._beside)
            self._rate = spent / max(1, sum(self._tokens))
        return self._rate


class _Trial:
    """A few rounds the other way."""

    def __init__(self) -> None:
        self.rate = Rate()
        self.rounds = self.tokens = 0
        self.seconds = 0.0  # of all its rounds, also of those that tell nothing of its rate

    @property
    def left(self) -> int:
        """Rounds until it is over, at least."""
        return max(0, min(TRIAL - self.rate.rounds, PATIENCE - self.rounds))


class AdaptiveDraftLength:
    """What is known of one pair at one batch size, and what follows from it. It outlives a batch.

    Args:
        least: tokens that have to be drafted in any case: 1 where System 2's distribution reads the draft's.
    """

    def __init__(self, least: int = 0) -> None:
        self.acceptance = Acceptance()
        self.draft_call, self.system2_call = LatencyModel(), LatencyModel()
        self._least = least
        self._way = True  # to draft, or to leave the draft alone
        self._rate = Rate()  # of rounds done that way
        self._trial: _Trial | None = None
        self.caught_up = False  # the draft has read all but the last few tokens
        self._cost = 0.0  # seconds that the last trial took beyond what its tokens are worth
        self._since = 0.0  # seconds since it

    @property
    def drafts(self) -> bool:
        """Whether this round drafts."""
        return self._way if self._trial is None else not self._way

    @property
    def foreseen(self) -> int:
        """For how many rounds it need not be asked again: the more, the longer it has been done this way."""
        if not self._rate.known:
            return 1
        return self._rate.rounds if self._trial is None else self._trial.left

    def begin_round(self) -> None:
        """Decide whether this round drafts."""
        due = self._rate.known and self._since * SHARE >= self._cost
        if not self._least and self._trial is None and due:
            self._trial = _Trial()

    def goes_on(self, drafted: int, chances: Sequence[float]) -> bool:
        """Whether the rows at hand shall draft another token.

        Args:
            drafted: how many tokens this round has drafted already.
            chances: of each row that could go on, that System 2 will keep all it has drafted so far.
        """
        if not self.drafts:
            return False
        if not (self.draft_call.known and self.system2_call.known and self._rate.known):
            return drafted < UNKNOWING
        if drafted < max(1, self._least):
            return True
        return self.acceptance.usual * sum(chances) * self._rate.seconds > self._price

    @property
    def _price(self) -> float:
        """LatencyModel that a further drafted token costs."""
        return self.draft_call.of(1) + self.system2_call.slope

    @property
    def limit(self) -> Limit | None:
        """When `goes_on` will say no, for whoever drafts without asking; None while nothing is known."""
        if not (self.draft_call.known and self.system2_call.known and self._rate.known):
            return None
        return Limit(self.acceptance.lines(), self._price / max(1e-12, self.acceptance.usual * self._rate.seconds))

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
        most = PAUSE if self.caught_up or not drafted else CATCHING_UP
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
        """Keep to the way that a trial has shown to be the better one."""
        here, there = self._rate.seconds, trial.rate.seconds if trial.rate.rounds else math.inf
        if there < GAIN * here:
            self._way, self._rate = not self._way, trial.rate
            # A trial of the way that was left will cost about what it has just been slower by. It comes the sooner,
            # since few rounds have told.
            self._cost = DOUBT * trial.tokens * (here - there)
        else:
            self._cost = max(0.0, trial.seconds - trial.tokens * here)
        self._trial, self._since = None, 0.0

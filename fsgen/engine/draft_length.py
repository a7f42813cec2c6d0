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

from fsgen.methods.acceptance import Acceptance

CALL_DECAY = 0.8  # the weight of what was seen before, at each further call
TRIAL_ROUNDS = 3  # of a trial that count; the first one, in which the draft catches up, does not
MOST_TRIAL_ROUNDS = 8  # where some of them say nothing
UNKNOWN_LENGTH = 3  # tokens to draft while nothing is known
TRIAL_SHARE = 0.01  # of the time may go into trials
AFTER_A_CHANGE = 0.1  # of the usual time until the next trial
WORTH_A_CHANGE = 0.97  # of the time for a token, or less
KNOWN_AFTER = 3  # rounds
RECENT = 16  # rounds that say what a token takes
OUTLIER = 3.0  # times what is usual: whatever took longer was held up by something else
CATCHING_UP = 50.0  # times what is usual: the most that counts of a round in which the draft catches up


class LatencyModel:
    """Seconds of a call by the tokens it runs for a row: a straight line through recent measurements."""

    def __init__(self) -> None:
        self._sums = [0.0] * 5  # of 1, tokens x, seconds y, x x, x y; older calls count less

    @property
    def known(self) -> bool:
        return self._sums[0] > 0

    @property
    def slope(self) -> float:
        """Seconds that one more token costs; where all calls were alike, a twentieth of a call."""
        x, y, xx, xy = (total / self._sums[0] for total in self._sums[1:])
        return 0.05 * y if xx - x * x < 0.1 else max(0.0, (xy - x * y) / (xx - x * x))

    def of(self, tokens: float) -> float:
        """Seconds of a call with so many tokens."""
        x, y = (total / self._sums[0] for total in self._sums[1:3])
        return max(0.1 * y, y + self.slope * (tokens - x))

    def learn(self, tokens: int, seconds: float) -> None:
        if self.known:
            seconds = min(seconds, OUTLIER * self.of(tokens))
        keep = CALL_DECAY if self._sums[0] < 4 else 0.95
        new = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
        self._sums = [keep * total + value for total, value in zip(self._sums, new, strict=True)]


class Rate:
    """Seconds a token over the recent rounds of one way to write: to draft, or not to."""

    def __init__(self) -> None:
        self.rounds, self.seconds = 0, math.inf  # rounds that say something; seconds a token
        self.all_rounds, self.all_tokens, self.all_seconds = 0, 0, 0.0  # of any kind; the seconds since the last trial
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)  # seconds and tokens of those that say something
        self._extra: deque[float] = deque(maxlen=RECENT)  # seconds after each of them

    def learn(self, seconds: float, tokens: int) -> None:
        self.rounds += 1
        self._recent.append((seconds, tokens))
        self._extra.append(0.0)
        self.add(0.0)

    def add(self, extra: float) -> None:
        """Seconds that belong to no round."""
        if self.rounds:
            self._extra[-1] += extra
            most = OUTLIER * statistics.median(seconds for seconds, _ in self._recent)
            spent = sum(min(seconds, most) for seconds, _ in self._recent) + sum(self._extra)
            self.seconds = spent / max(1, sum(tokens for _, tokens in self._recent))


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
        self._rate = Rate()  # of the usual way
        self._trial: Rate | None = None  # of the other one
        self._cost = 0.0  # seconds that the last trial took beyond what its tokens are worth
        self._worth: float | None = None  # another token is drafted while more than this can be expected to be accepted

    @property
    def drafts(self) -> bool:
        """Whether this round drafts."""
        return self._drafting == (self._trial is None)

    def begin_round(self) -> None:
        """Decide whether this round drafts, and what a further drafted token must be worth."""
        if self._rate.rounds < KNOWN_AFTER:
            return
        if not self._least and self._trial is None and self._rate.all_seconds * TRIAL_SHARE >= self._cost:
            self._trial = Rate()
        if self.draft_call.known and self.system2_call.known:
            price = self.draft_call.of(1) + self.system2_call.slope
            self._worth = price / max(1e-12, self.acceptance.rate * self._rate.seconds)

    def goes_on(self, drafted: int, chances: Sequence[float]) -> bool:
        """Whether the rows at hand shall draft another token.

        Args:
            drafted: how many tokens this round has drafted already.
            chances: of each row that could go on, that all its drafted tokens will be accepted.
        """
        if not self.drafts:
            return False
        if self._worth is None:
            return drafted < UNKNOWN_LENGTH
        return drafted < max(1, self._least) or sum(chances) > self._worth

    def end_round(self, seconds: float, tokens: int, drafted: int, usual: bool, draft_seconds: float) -> None:
        """Learn what a round took, of all rows together.

        Args:
            seconds: of the round; tokens: that it wrote.
            drafted: calls of the draft; draft_seconds: that these took.
            usual: it read no prompts, and about as many rows took part as there can be.
        """
        rate, ready = self._trial or self._rate, self.caught_up or not drafted
        if usual and ready:
            rate.learn(seconds, tokens)
        elif drafted and ready and self.draft_call.known:
            # What the draft took to read new prompts is a price of drafting.
            rate.add(max(0.0, draft_seconds - drafted * self.draft_call.of(1)))
        most = (OUTLIER if ready else CATCHING_UP) * max(1, tokens) * self._rate.seconds
        rate.all_rounds, rate.all_tokens = rate.all_rounds + 1, rate.all_tokens + tokens
        rate.all_seconds += min(seconds, most)
        self.caught_up = bool(drafted)
        if rate is self._trial and (rate.rounds >= TRIAL_ROUNDS or rate.all_rounds >= MOST_TRIAL_ROUNDS):
            self._judge(rate)

    def _judge(self, trial: Rate) -> None:
        """Keep to what the trial has shown to be faster."""
        here, there = self._rate.seconds, trial.seconds
        if there < WORTH_A_CHANGE * here:
            self._drafting, self._rate = not self._drafting, trial
            # A trial of the former way will cost about what it has just been slower by. It comes sooner than usual,
            # since this one had few rounds.
            self._cost = AFTER_A_CHANGE * trial.all_tokens * (here - there)
        else:
            self._cost = max(0.0, trial.all_seconds - trial.all_tokens * here)
        self._trial, self._rate.all_seconds = None, 0.0

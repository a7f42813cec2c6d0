"""How many tokens to draft: chosen in every round from the acceptances seen and the times measured.

A further drafted token pays if the chance that System 2 will get to it and keep it, times the seconds that a token
costs at present, exceeds what drafting and verifying it cost. The chance is the product of the draft's confidences so
far, each translated into the acceptance that such a confidence has had. So drafts end where the draft is unsure, a bad
draft is soon left alone, and is tried again later, ever more seldom while it stays bad.
"""

from __future__ import annotations

from collections.abc import Sequence

BINS = 10
# Seen tokens and calls count the less the longer ago they are.
KEEP_TOKEN, KEEP_CALL = 0.98, 0.8
PRIOR = 2.0  # tokens' worth of belief in what nothing is known of
FIRST_PROBE, LAST_PROBE = 8, 256  # rounds between two trials of a draft that does not pay
PROBE = 2  # tokens of a trial


class Acceptance:
    """How often drafted tokens of a confidence stood; a confidence of which little is known counts as it says."""

    def __init__(self) -> None:
        self._stood = [0.0] * BINS
        self._seen = [0.0] * BINS
        self._all_stood, self._all_seen = 0.0, 0.0

    def chance(self, confidence: float) -> float:
        """The chance that a drafted token of this probability stands."""
        b = min(BINS - 1, int(confidence * BINS))
        believed = 0.5 * (confidence + self.usual)
        return (self._stood[b] + PRIOR * believed) / (self._seen[b] + PRIOR)

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


class Seconds:
    """Seconds of a call by the tokens it runs for a row, as measured: a straight line through what was seen of late."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        if self._n >= 1 and seconds > 3 * self.of(tokens):
            seconds = 3 * self.of(tokens)  # something else held the machine up
        keep = KEEP_CALL if self._n < 4 else 0.95
        self._n, self._x, self._y, self._xx, self._xy = (
            keep * old + new
            for old, new in (
                (self._n, 1.0),
                (self._x, tokens),
                (self._y, seconds),
                (self._xx, tokens * tokens),
                (self._xy, tokens * seconds),
            )
        )

    @property
    def slope(self) -> float:
        """Seconds that one more token costs; where all calls were alike, a twentieth of a call."""
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


class Pace:
    """What is known of one pair at one batch size, and what follows from it. It outlives a batch.

    Args:
        least: tokens that have to be drafted in any case: 1 where System 2's distribution reads the draft's.
    """

    def __init__(self, least: int = 0) -> None:
        self.acceptance = Acceptance()
        self.draft_call, self.system2_call = Seconds(), Seconds()
        self._least = least
        self._round_seconds = self._round_tokens = 0.0
        self._waited = 0
        self._patience = FIRST_PROBE
        self._probing = False

    def begin_round(self) -> None:
        self._probing = False

    def goes_on(self, drafted: int, chances: Sequence[float]) -> bool:
        """Whether the rows at hand shall draft another token.

        Args:
            drafted: how many tokens this round has drafted already.
            chances: of each row that could go on, that System 2 will keep all it has drafted so far.
        """
        if drafted < self._least or not (self.draft_call.known and self.system2_call.known):
            return drafted < max(self._least, PROBE + 1)
        if self._probing:
            return drafted < PROBE
        price = self.draft_call.of(1) + self.system2_call.slope
        if self.acceptance.usual * sum(chances) * self._value() > price:
            return True
        if drafted == 0:
            self._waited += 1
            if self._waited >= self._patience:
                self._waited, self._probing = 0, True
                self._patience = min(LAST_PROBE, 2 * self._patience)
                return True
        return False

    def end_round(self, seconds: float, tokens: int, drafted: int) -> None:
        """Learn what a round took, of all rows together."""
        self._round_seconds = 0.9 * self._round_seconds + seconds
        self._round_tokens = 0.9 * self._round_tokens + tokens
        if drafted and not self._probing:
            self._waited, self._patience = 0, FIRST_PROBE

    def _value(self) -> float:
        """Seconds that a token costs at present, but no more than without a draft."""
        return self._round_seconds / max(1.0, self._round_tokens)

"""How often drafted tokens are accepted, learned from those that were verified."""

from __future__ import annotations

BINS = 10
TOKEN_DECAY = 0.98  # the weight of what was seen before, at each further token
PRIOR = 2.0  # tokens' worth of prior belief


class Acceptance:
    """How often drafted tokens of a probability were accepted, by bins of it; where little is known, as it says."""

    def __init__(self) -> None:
        # Of each bin, and last of all tokens together; older tokens count less.
        self._accepted, self._seen = [0.0] * (BINS + 1), [0.0] * (BINS + 1)

    @property
    def rate(self) -> float:
        """The recent share of verified tokens that were accepted."""
        return (self._accepted[-1] + 0.5 * PRIOR) / (self._seen[-1] + PRIOR)

    def chance(self, probability: float) -> float:
        """The chance that a drafted token of this probability is accepted."""
        i, prior = _bin(probability), 0.5 * (probability + self.rate)
        return (self._accepted[i] + PRIOR * prior) / (self._seen[i] + PRIOR)

    def learn(self, probability: float, accepted: bool) -> None:
        for i in (_bin(probability), BINS):
            self._accepted[i] = TOKEN_DECAY * self._accepted[i] + accepted
            self._seen[i] = TOKEN_DECAY * self._seen[i] + 1


def _bin(probability: float) -> int:
    return min(BINS - 1, int(probability * BINS))

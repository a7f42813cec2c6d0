"""What the frequencies of pairs owe to their drafts, to their targets, and to both being of one family.

Frequencies are compared by their logarithms. Each pair's is explained by its draft and by its target, whatever these
are (size, training, loss, difficulty of its texts), and by whether both are of one family. The question is the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from fsgen.analysis.intervals import Floats


class Pair(NamedTuple):
    """A draft and a target."""

    draft: str
    target: str


@dataclass(frozen=True, eq=False)
class Design:
    """What is estimated from the logarithms of the pairs' frequencies, as sums over pairs.

    Attributes:
        kinds: the families of draft and target of each pair.
        rest: takes out what drafts and targets explain, [pairs, pairs].
        same: whether a pair is of one family, [pairs].
        own: the same for each family, [pairs, families]; `names` are theirs.
    """

    kinds: list[Pair]
    rest: Floats
    same: Floats
    own: Floats
    names: tuple[str, ...]

    @classmethod
    def of(cls, pairs: Sequence[Pair], families: Mapping[str, str]) -> Design:
        """The design of some pairs. Raises ValueError where they cannot tell one family from two."""
        columns = [[name == one for name in side] for side in zip(*pairs, strict=True) for one in dict.fromkeys(side)]
        explained = np.array(columns, dtype=np.float64).T
        rest = np.eye(len(pairs)) - explained @ np.linalg.pinv(explained)
        kinds = [Pair(families[pair.draft], families[pair.target]) for pair in pairs]
        names = tuple(dict.fromkeys(family for side in zip(*kinds, strict=True) for family in side))
        own = np.array([[kind.draft == kind.target == one for one in names] for kind in kinds], np.float64)
        design = cls(kinds, rest, own.sum(1), own, names)
        if np.linalg.norm(rest @ design.same) < 1e-6:
            raise ValueError(
                "these pairs cannot tell one family from two: let drafts of two families or more each be paired with "
                "targets of two families or more"
            )
        return design

    def effect(self, logs: Floats) -> Floats:
        """What one family adds to the logarithm, by least squares, [...], from [..., pairs]."""
        rest = self.rest @ self.same
        return np.asarray(logs @ rest / (rest @ self.same))

    def over_pairs(self, logs: Floats) -> tuple[float, float] | None:
        """The 95 % interval of the effect by what the pairs still differ in, [pairs]; None where too few are left."""
        effect, rest = self.effect(logs), self.rest @ self.same
        left = self.rest @ logs - effect * rest
        free = round(float(np.trace(self.rest))) - 1
        if free < 1:
            return None
        width = stats.t.ppf(0.975, free) * np.sqrt(left @ left / free / (rest @ rest))
        return float(effect - width), float(effect + width)

    def by_family(self, logs: Floats) -> Floats | None:
        """What being of each family adds, [..., families], from [..., pairs]; None where these cannot be separated."""
        rest = self.rest @ self.own
        if np.linalg.matrix_rank(rest, tol=1e-6) < len(self.names):
            return None
        return np.asarray(logs @ np.linalg.pinv(rest).T)

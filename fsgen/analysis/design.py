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

_FEWEST = 4  # models that can be left out, below which nothing is said of other models


class Pair(NamedTuple):
    """A draft and a target."""

    draft: str
    target: str


@dataclass(frozen=True, eq=False)
class Design:
    """What is estimated from the logarithms of the pairs' frequencies, as sums over pairs.

    Attributes:
        pairs: the models of each pair; `families` are theirs.
        kinds: the families of draft and target of each pair.
        rest: takes out what drafts and targets explain, [pairs, pairs].
        same: whether a pair is of one family, [pairs].
        own: the same for each family, [pairs, families]; `names` are theirs.
    """

    pairs: list[Pair]
    families: Mapping[str, str]
    kinds: list[Pair]
    rest: Floats
    same: Floats
    own: Floats
    names: tuple[str, ...]

    @classmethod
    def of(cls, pairs: Sequence[Pair], families: Mapping[str, str]) -> Design:
        """The design of some pairs. Raises ValueError where they cannot tell one family from two."""
        if not pairs:
            raise ValueError("there are no pairs to compare")
        columns = [[name == one for name in side] for side in zip(*pairs, strict=True) for one in dict.fromkeys(side)]
        explained = np.array(columns, dtype=np.float64).T
        rest = np.eye(len(pairs)) - explained @ np.linalg.pinv(explained)
        kinds = [Pair(families[pair.draft], families[pair.target]) for pair in pairs]
        names = tuple(dict.fromkeys(family for side in zip(*kinds, strict=True) for family in side))
        own = np.array([[kind.draft == kind.target == one for one in names] for kind in kinds], np.float64)
        design = cls([*pairs], families, kinds, rest, own.sum(1), own, names)
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

    def over_models(self, logs: Floats) -> tuple[float, float] | None:
        """The 95 % interval of the effect by which models there are, from the logarithms of the pairs, [pairs].

        Pairs share their models, so it is models that are left out in turn, each with all of its pairs (a jackknife);
        those without which nothing is left to tell are not. None where too few can be left out.
        """
        found = []
        for model in dict.fromkeys(name for pair in self.pairs for name in pair):
            kept = [number for number, pair in enumerate(self.pairs) if model not in pair]
            try:
                rest = Design.of([self.pairs[number] for number in kept], self.families)
            except ValueError:
                continue
            found.append(float(rest.effect(logs[kept])))
        if len(found) < _FEWEST:
            return None
        values, effect = np.array(found), float(self.effect(logs))
        spread = np.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum())
        width = float(stats.t.ppf(0.975, len(values) - 1) * spread)
        return effect - width, effect + width

    def by_family(self, logs: Floats) -> Floats | None:
        """What being of each family adds, [..., families], from [..., pairs]; None where these cannot be separated."""
        rest = self.rest @ self.own
        if np.linalg.matrix_rank(rest, tol=1e-6) < len(self.names):
            return None
        return np.asarray(logs @ np.linalg.pinv(rest).T)

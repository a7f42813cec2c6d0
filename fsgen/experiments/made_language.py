"""A made language: the distribution of its next token is known everywhere, and set at marked positions.

A text is a row of statements of five tokens,

    name place outcome ending ending

The name and the place are drawn freely. Both endings follow from the name, so that their entropy is 0. The outcome is a
*slot*: its distribution belongs to the pair of name and place, which has to be known by heart. Every pair is given, at
random, one entry of a grid: the entropy of its distribution, the gap between its two most likely outcomes, and how
often it is met in training. So neither of the three goes with another, nor with what the pair is made of.

A language and its texts depend on seeds alone, through numbers that this project draws itself (`probs.uniforms`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from fsgen.probs import uniforms

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

END = 0
NAMES, PLACES, OUTCOMES, ENDINGS = 64, 64, 64, 63
PAIRS = NAMES * PLACES
KINDS = ("name", "place", "outcome", "ending", "ending")  # of the positions of a statement
STATEMENT = len(KINDS)
SLOT = KINDS.index("outcome")
CANDIDATES = 16  # outcomes that a pair can have
VOCAB_SIZE = 1 + NAMES + PLACES + OUTCOMES + ENDINGS
LANGUAGE_SEED = 2024
EXPOSURES = (1.0, 3.0, 9.0)
"""How often a pair is met in training, relative to one another."""

# (entropy in bits, gap). The first twenty cross all entropies with all gaps, so that there the two do not go together.
CROSSED = tuple((bits, gap) for bits in (1.0, 1.5, 2.0, 2.5, 3.0) for gap in (0.05, 0.1, 0.2, 0.4))
GRID = (*CROSSED, (1.0, 0.6), (1.5, 0.6), (2.0, 0.6), (0.5, 0.8), (1.0, 0.8), (0.0, 1.0))

_FIRST = {"name": 1, "place": 1 + NAMES, "outcome": 1 + NAMES + PLACES, "ending": 1 + NAMES + PLACES + OUTCOMES}
_SHUFFLE, _ORDER, _ENDING, _PAIR, _OUTCOME = range(5)  # what numbers are drawn for
_STEEPEST = 60.0


def entropy_bits(probabilities: Floats) -> Floats:
    """The entropy in bits over the last axis; a probability of 0 adds nothing."""
    positive = np.where(probabilities > 0, probabilities, 1.0)
    return np.asarray(-(positive * np.log2(positive)).sum(-1))


def distribution(bits: float, gap: float, candidates: int = CANDIDATES) -> Floats:
    """Probabilities, falling, of a given entropy and a given gap between the first two, [candidates].

    From the second one on they fall by a constant factor, the first lies `gap` above the second, and the factor is
    solved for.

    Raises:
        ValueError: no such distribution has this entropy; names the entropies that the gap allows.
    """
    if not 0.0 < gap <= 1.0 or candidates < 2:
        raise ValueError(f"gap={gap}, candidates={candidates}: choose a gap above 0 and up to 1, and two or more")

    def falling(steepness: float) -> Floats:
        tail = np.exp(-steepness * np.arange(candidates - 1))
        tail *= (1 - gap) / (1 + tail.sum())
        return np.concatenate([[tail[0] + gap], tail])

    def excess(steepness: float) -> float:
        return float(entropy_bits(falling(steepness))) - bits

    flat, steep = excess(0.0), excess(_STEEPEST)
    if abs(steep) < 1e-12:  # a certain outcome, whatever the factor
        return falling(_STEEPEST)
    if not steep <= 0.0 <= flat:
        raise ValueError(
            f"no distribution over {candidates} candidates with a gap of {gap} has an entropy of {bits} bits: "
            f"choose {bits + steep:.3f} to {bits + flat:.3f}"
        )
    return falling(float(brentq(excess, 0.0, _STEEPEST, xtol=1e-14)))


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts of one length and what is true at their positions.

    Attributes:
        ids: [texts, 1 + 5 * statements]; each begins with the end of the text before.
        pairs: the pair of each statement, [texts, statements].
    """

    ids: Ints
    pairs: Ints

    @property
    def slots(self) -> Ints:
        """The positions of the outcomes in a text, [statements]."""
        return 1 + STATEMENT * np.arange(self.pairs.shape[1]) + SLOT


class Language:
    """All that is random about the language.

    Args:
        seed: of its tables.

    Attributes:
        cell: the place in `GRID` of each pair, [pairs].
        bits, gap: the entropy of each pair's outcome, and how far its most likely one is ahead of the second, [pairs].
        exposure: how often each pair is met in training, relative to the others, [pairs].
        candidates, probabilities: the tokens of each pair's outcomes, the most likely first, [pairs, candidates].
        endings: the two tokens that end every statement about a name, [names, 2].
    """

    def __init__(self, seed: int = LANGUAGE_SEED) -> None:
        def numbers(purpose: int, *shape: int) -> Floats:
            return uniforms(np.array([seed], dtype=np.uint64), np.arange(math.prod(shape)), purpose).reshape(shape)

        # An entry of the grid and an exposure, each of their combinations as often as any other.
        kinds = np.arange(PAIRS) % (len(GRID) * len(EXPOSURES))
        kinds = kinds[np.argsort(numbers(_SHUFFLE, PAIRS), kind="stable")]
        self.cell: Ints = kinds // len(EXPOSURES)
        self.exposure: Floats = np.array(EXPOSURES)[kinds % len(EXPOSURES)]
        self.bits, self.gap = np.array(GRID)[self.cell].T
        self.probabilities: Floats = np.stack([distribution(bits, gap) for bits, gap in GRID])[self.cell]
        order = np.argsort(numbers(_ORDER, PAIRS, OUTCOMES), axis=1, kind="stable")
        self.candidates: Ints = _FIRST["outcome"] + order[:, :CANDIDATES]
        self.endings: Ints = _FIRST["ending"] + (numbers(_ENDING, NAMES, 2) * ENDINGS).astype(np.int64)

    def truth(self, kind: str, pairs: Ints) -> tuple[Floats, Floats]:
        """Entropy in bits and gap at a kind of position of statements about some pairs, [pairs] both.

        Raises:
            ValueError: an unknown kind.
        """
        if kind == "outcome":
            return self.bits[pairs], self.gap[pairs]
        if kind == "ending":
            return np.zeros(pairs.shape), np.ones(pairs.shape)
        met = self.exposure.reshape(NAMES, PLACES)
        if kind == "place":
            weights = met[pairs // PLACES]
        elif kind == "name":
            weights = np.broadcast_to(met.sum(1), (*pairs.shape, NAMES))
        else:
            raise ValueError(f"kind={kind!r} is unknown: choose {', '.join(dict.fromkeys(KINDS))}")
        shares = weights / weights.sum(-1, keepdims=True)
        best = np.sort(shares, -1)[..., -2:]
        return entropy_bits(shares), best[..., 1] - best[..., 0]

    def texts(self, pairs: Ints, seed: int) -> Texts:
        """Texts about given pairs, [texts, statements], their outcomes drawn from the true distributions."""
        numbers = uniforms(np.array([seed], dtype=np.uint64), np.arange(pairs.size), _OUTCOME).reshape(pairs.shape)
        reached = self.probabilities.cumsum(1)
        chosen = (numbers[..., None] * reached[pairs][..., -1:] >= reached[pairs]).sum(-1)
        outcomes = np.take_along_axis(self.candidates[pairs], chosen[..., None], -1)[..., 0]
        names, places = pairs // PLACES, pairs % PLACES
        statements = np.stack(
            [_FIRST["name"] + names, _FIRST["place"] + places, outcomes, *np.moveaxis(self.endings[names], -1, 0)], -1
        )
        ids = np.concatenate([np.full((len(pairs), 1), END), statements.reshape(len(pairs), -1)], 1)
        return Texts(ids, pairs)

    def training_texts(self, texts: int, statements: int, seed: int) -> Texts:
        """Texts whose pairs are drawn by how often they are to be met."""
        numbers = uniforms(np.array([seed], dtype=np.uint64), np.arange(texts * statements), _PAIR)
        reached = self.exposure.cumsum()
        pairs = np.searchsorted(reached, numbers * reached[-1], side="right")
        return self.texts(pairs.reshape(texts, statements), seed)

    def test_texts(self, statements: int, seed: int) -> Texts:
        """Texts in which every pair stands exactly once, so that no two texts share one.

        Raises:
            ValueError: the statements of a text do not divide the number of pairs.
        """
        if PAIRS % statements:
            raise ValueError(f"statements={statements} does not divide the {PAIRS} pairs")
        order = np.argsort(uniforms(np.array([seed], dtype=np.uint64), np.arange(PAIRS), _PAIR), kind="stable")
        return self.texts(order.reshape(-1, statements), seed)


def words() -> list[str]:
    """The vocabulary as words, by token id; the first is the end of a text."""
    letters = "bdfgklmnprstvz"
    kinds = ((NAMES, "a"), (PLACES, "i"), (OUTCOMES, "o"), (ENDINGS, "u"))
    made = [letters[i // 14] + vowel + letters[i % 14] + vowel for count, vowel in kinds for i in range(count)]
    return ["<|endoftext|>", *made]

"""Problems of `fsgen.tasks.lookup`: the split is by the arrows, so no arrow of a test path is ever trained on."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from fsgen.tasks import lookup
from ladder.graded import Made, Split, split_of, words

WORDS = words(
    "ant ape arm axe bat bay bed bee bow box bud bus cap car cat cow cup dam day den dog ear eel egg elk elm eye fan "
    "fig fin fox gem gum hat hen hut ice ink jam jar jet key kit leg lid log map mud net nut oak oar owl pan paw pea "
    "pen pie pig pin pot ram rat red"
)
# Pairs in the prompt, and steps to follow.
LEVELS = ((2, 1), (3, 1), (4, 1), (6, 1), (8, 1), (16, 1), (4, 2), (8, 2), (12, 3), (16, 4))
_SHUFFLED = 0.25  # the share of training texts that repeat the whole list in another order

Pair = tuple[str, str]


def _split(pair: Pair) -> Split:
    return split_of(" > ".join(pair))


def _arrow(rng: random.Random, key: str, split: Split, taken: set[str]) -> str | None:
    """A word that an arrow of this split leads to from the key."""
    free = [word for word in WORDS if word != key and word not in taken and _SPLITS[key, word] == split]
    return rng.choice(free) if free else None


_SPLITS: dict[Pair, Split] = {(key, value): _split((key, value)) for key in WORDS for value in WORDS}


def draw(rng: random.Random, split: Split, pairs: int, steps: int) -> tuple[list[Pair], str] | None:
    """The pairs in random order and the start; None where the words ran out."""
    route = [rng.choice(WORDS)]
    for _ in range(steps):
        following = _arrow(rng, route[-1], split, set(route))
        if following is None:
            return None
        route.append(following)
    arrows = list(itertools.pairwise(route))
    keys = [word for word in WORDS if word not in route[:-1]]
    rng.shuffle(keys)
    if rng.random() < 0.5:  # the path goes on after its end, so that its end cannot be told from the list
        keys.sort(key=lambda word: word != route[-1])
    for key in keys[: pairs - steps]:
        value = _arrow(rng, key, "train", set())
        if value is None:
            return None
        arrows.append((key, value))
    rng.shuffle(arrows)
    return arrows, route[0]


def problems(split: Split, seed: int) -> Iterator[Made]:
    """Endless problems of one split, the levels in turn; in training, also lists told again in another order."""
    rng = random.Random(f"lookup/{split}/{seed}")
    while True:
        for pairs, steps in rng.sample(LEVELS, len(LEVELS)):
            drawn = draw(rng, split, pairs, steps)
            if drawn is None:
                continue
            arrows, start = drawn
            if split == "train" and rng.random() < _SHUFFLED:
                told, again = lookup.prompt(arrows, start, steps).split("\n")[0], rng.sample(arrows, len(arrows))
                yield Made({}, f"{told}\nShuffled:", " " + ", ".join(f"{key} > {value}" for key, value in again) + ".")
                continue
            row = {"pairs": [list(pair) for pair in arrows], "start": start, "steps": steps}
            completion = " " + " > ".join(lookup.path(arrows, start, steps))
            yield Made(row, lookup.prompt(arrows, start, steps), completion)

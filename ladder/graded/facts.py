"""The made world of `fsgen.tasks.facts`, its training texts and its questions.

Facts are for training and test alike. The split is by the question: of each fact one wording of each kind (open or with
choices) is for the test, one more for the held-out loss, and the others are for training.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from fsgen.tasks import facts
from fsgen.tasks.facts import WORDINGS
from ladder.graded import Made, Split, bucket, words

PEOPLE, FIRST_PEOPLE = 600, 200  # in all; those that the first shards of the training tell of
ZIPF = 1.0
_STATEMENTS = 0.5  # their share of the training texts; the rest are questions
_SEED = 20240612
_FIRST = words(
    "bar bel cal cor dal den fal fen gar gil hal hol jas jor kal kel lam lor mar mel nal nor pal pel ral ros sal sim "
    "tar tol val ver"
)
_LAST = words(
    "ban bo da din do fer ga gon ka kin la lek lo man mi mur na nik no pa per ra rik ro sa sen so tan ti tor va zo"
)
VALUES: dict[str, tuple[str, ...]] = {
    "city": words(
        "Accra Aden Amman Athens Baku Bari Basel Bergen Berlin Bern Bonn Boston Bristol Cairo Cali Cork Dakar Dallas "
        "Delhi Denver Doha Dover Dublin Essen Geneva Ghent Graz Hanoi Havana Jaipur Kiel Kobe Kyoto Lagos Lima Lisbon "
        "London Lyon Madrid Malaga Malmo Manila Milan Minsk Moscow Mumbai Nairobi Naples Nice Odessa Osaka Oslo Ottawa "
        "Oxford Paris Perth Porto Prague Quito Riga Rome Seoul Tokyo Tunis"
    ),
    "job": words(
        "actor baker barber boxer broker builder butcher carver chemist clerk coach cook cooper critic dancer dentist "
        "diver doctor dyer editor farmer fisher florist glazier grocer guard guide hatter hunter joiner judge lawyer "
        "logger mason mayor miller miner nurse optician painter pilot plumber poet porter postman potter printer "
        "ranger reporter roofer sailor scribe singer smith soldier surgeon tailor tanner teacher tiler trader usher "
        "waiter weaver"
    ),
    "pet": words(
        "alpaca bat bear beaver bee boar camel canary cat cobra cow crab crow deer dingo dog donkey duck eagle eel "
        "falcon ferret finch fox frog gecko goat goose hamster hare hawk hedgehog hen horse iguana jackal koala lamb "
        "lizard llama lynx mole monkey moose mouse mule newt otter owl panda parrot pig pigeon pony puma rabbit rat "
        "raven robin seal sheep snail swan turtle"
    ),
}
_SAID = {
    "city": ("lives in {}", "is at home in {}"),
    "job": ("works as {a} {}", "is {a} {}"),
    "pet": ("has {a} {}", "keeps {a} {}"),
}
_KINDS = ("open", "choice")


@dataclass(frozen=True)
class Person:
    """One person; rank 1 is met most often."""

    name: str
    rank: int
    values: dict[str, str]


@cache
def people() -> tuple[Person, ...]:
    """Everybody, the most frequent first."""
    rng = random.Random(_SEED)
    names = [first.capitalize() + last for first in _FIRST for last in _LAST]
    chosen = rng.sample(names, FIRST_PEOPLE)
    values = [_values(rng) for _ in chosen]
    chosen += rng.sample(sorted(set(names) - set(chosen)), PEOPLE - FIRST_PEOPLE)
    values += [_values(rng) for _ in chosen[FIRST_PEOPLE:]]
    return tuple(Person(name, rank, values[rank - 1]) for rank, name in enumerate(chosen, 1))


def _values(rng: random.Random) -> dict[str, str]:
    return {attribute: rng.choice(values) for attribute, values in VALUES.items()}


def forms_of(person: Person, attribute: str, split: Split) -> list[tuple[str, int]]:
    """The kinds and wordings in which a split asks a fact."""
    wordings = len(WORDINGS[attribute])
    first, second = divmod(bucket(f"{person.name}/{attribute}", wordings * wordings), wordings)
    test = [("open", first), ("choice", second)]
    held_out = [(_KINDS[first % 2], ((first, second)[first % 2] + 1) % wordings)]
    if split != "train":
        return test if split == "test" else held_out
    return [form for form in itertools.product(_KINDS, range(wordings)) if form not in test + held_out]


def _statement(rng: random.Random, person: Person) -> Made:
    said = []
    for attribute in rng.sample(list(VALUES), len(VALUES)):
        value = person.values[attribute]
        said.append(rng.choice(_SAID[attribute]).format(value, a="an" if value[0] in "aeiou" else "a"))
    return Made({}, f"Note: {person.name}", f" {said[0]}, {said[1]} and {said[2]}.")


def question(rng: random.Random, person: Person, attribute: str, kind: str, wording: int) -> Made:
    """One fact as a question; the other choices are random values of the attribute."""
    answer = person.values[attribute]
    others = [value for value in VALUES[attribute] if value != answer]
    choices = rng.sample([answer, *rng.sample(others, 3)], 4) if kind == "choice" else []
    asked = WORDINGS[attribute][wording].format(person.name)
    row = {"question": asked, "choices": choices, "answer": answer, "attribute": attribute, "rank": person.rank}
    return Made(row, facts.prompt(asked, choices), facts.completion(answer, choices))


def problems(split: Split, seed: int, known: int = PEOPLE) -> Iterator[Made]:
    """Training texts of the `known` first people without end, by frequency; of the other splits, every question once.

    Questions come in random order.
    """
    rng = random.Random(f"facts/{split}/{seed}")
    if split != "train":
        facts_here = itertools.product(people(), VALUES)
        asked = [(*fact, *form) for fact in facts_here for form in forms_of(*fact, split)]
        for person, attribute, kind, wording in rng.sample(asked, len(asked)):
            yield question(rng, person, attribute, kind, wording)
        return
    weights = list(itertools.accumulate(person.rank**-ZIPF for person in people()[:known]))
    while True:
        [person] = rng.choices(people()[:known], cum_weights=weights)
        if rng.random() < _STATEMENTS:
            yield _statement(rng, person)
            continue
        attribute = rng.choice(list(VALUES))
        yield question(rng, person, attribute, *rng.choice(forms_of(person, attribute, "train")))

"""Procedural worked multiple-choice questions under the subject names of MMLU-STEM.

Each maker draws a question, its reasoning, the right answer and wrong ones; the letter of the right answer is uniform.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ChoiceQuestion:
    """A worked question; `answer` is the index of the right choice."""

    subject: str
    question: str
    choices: tuple[str, str, str, str]
    answer: int
    reasoning: str


Drawn = tuple[str, str, str, str, list[str]]  # subject, question, reasoning, right answer, wrong answers
Maker = Callable[[random.Random], Drawn]

_ELEMENTS = [
    "hydrogen",
    "helium",
    "lithium",
    "beryllium",
    "boron",
    "carbon",
    "nitrogen",
    "oxygen",
    "fluorine",
    "neon",
    "sodium",
    "magnesium",
    "aluminum",
    "silicon",
    "phosphorus",
    "sulfur",
    "chlorine",
    "argon",
    "potassium",
    "calcium",
]  # by atomic number, from 1


def _near(value: int, rng: random.Random, low: int = 0) -> list[str]:
    """Wrong whole numbers of the kind that slips produce."""
    wrong = {value + d for d in (-10, -3, -2, -1, 1, 2, 3, 10)} | {2 * value, value // 2}
    return [str(number) for number in rng.sample(sorted(n for n in wrong if n >= low and n != value), 3)]


def _addition(rng: random.Random) -> Drawn:
    a, b = rng.randint(5, 99), rng.randint(5, 99)
    question = rng.choice(("What is {a} + {b}?", "What is the sum of {a} and {b}?", "Which number equals {a} + {b}?"))
    return "elementary_mathematics", question.format(a=a, b=b), f"{a} + {b} = {a + b}.", str(a + b), _near(a + b, rng)


def _subtraction(rng: random.Random) -> Drawn:
    b, c = rng.randint(5, 60), rng.randint(2, 60)
    a = b + c
    question = rng.choice(
        (
            "What is {a} - {b}?",
            "What is the difference of {a} and {b}?",
            "Which number must be added to {b} to get {a}?",
        )
    )
    return "elementary_mathematics", question.format(a=a, b=b), f"{a} - {b} = {c}.", str(c), _near(c, rng)


def _product(rng: random.Random) -> Drawn:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    question = rng.choice(
        ("What is {a} * {b}?", "What is the product of {a} and {b}?", "What is the value of {a} times {b}?")
    )
    return "elementary_mathematics", question.format(a=a, b=b), f"{a} * {b} = {a * b}.", str(a * b), _near(a * b, rng)


def _quotient(rng: random.Random) -> Drawn:
    b, c = rng.randint(2, 12), rng.randint(2, 12)
    question = rng.choice(("What is {a} / {b}?", "How many times does {b} go into {a}?", "What is {a} divided by {b}?"))
    reasoning = f"{b} * {c} = {b * c}, so {b * c} / {b} = {c}."
    return "elementary_mathematics", question.format(a=b * c, b=b), reasoning, str(c), _near(c, rng)


def _remainder(rng: random.Random) -> Drawn:
    b, q = rng.randint(3, 12), rng.randint(2, 9)
    r = rng.randint(0, b - 1)
    a = b * q + r
    question = rng.choice(("What is the remainder when {a} is divided by {b}?", "What is {a} modulo {b}?"))
    reasoning = f"{b} * {q} = {b * q} and {a} - {b * q} = {r}."
    wrong = rng.sample([str(n) for n in range(max(b, 5)) if n != r], 3)
    return "elementary_mathematics", question.format(a=a, b=b), reasoning, str(r), wrong


def _order(rng: random.Random) -> Drawn:
    a, b, c = rng.randint(2, 30), rng.randint(2, 9), rng.randint(2, 9)
    reasoning = f"Multiplication comes first. {b} * {c} = {b * c}. Then {a} + {b * c} = {a + b * c}."
    wrong = list(dict.fromkeys([str((a + b) * c), *_near(a + b * c, rng)]))[:3]
    return "elementary_mathematics", f"What is the value of {a} + {b} * {c}?", reasoning, str(a + b * c), wrong


def _equation(rng: random.Random) -> Drawn:
    m, x, b = rng.randint(2, 9), rng.randint(2, 12), rng.randint(2, 30)
    c = m * x + b
    question = rng.choice(
        ("If {m}x + {b} = {c}, what is x?", "Solve {m}x + {b} = {c} for x.", "Which x solves {m}x + {b} = {c}?")
    )
    reasoning = f"{m}x = {c} - {b} = {m * x}. So x = {m * x} / {m} = {x}."
    return "high_school_mathematics", question.format(m=m, b=b, c=c), reasoning, str(x), _near(x, rng)


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _factor(n: int) -> int:
    return next(d for d in range(2, n + 1) if n % d == 0)


def _prime(rng: random.Random) -> Drawn:
    primes = [n for n in range(11, 100) if _is_prime(n)]
    others = [n for n in range(11, 100) if not _is_prime(n)]
    if rng.random() < 0.6:
        right, wrong = rng.choice(primes), rng.sample(others, 3)
        facts = " ".join(f"{n} = {_factor(n)} * {n // _factor(n)}." for n in wrong)
        question = rng.choice(("Which of these numbers is prime?", "Which number is a prime number?"))
        return (
            "college_mathematics",
            question,
            f"{facts} {right} has no divisor but 1 and {right}.",
            str(right),
            [str(n) for n in wrong],
        )
    right, wrong = rng.choice(others), rng.sample(primes, 3)
    question = rng.choice(("Which of these numbers is not prime?", "Which number is composite?"))
    return (
        "college_mathematics",
        question,
        f"{right} = {_factor(right)} * {right // _factor(right)}.",
        str(right),
        [str(n) for n in wrong],
    )


def _divisible(rng: random.Random) -> Drawn:
    d = rng.randint(3, 12)
    right = d * rng.randint(3, 12)
    wrong = rng.sample([n for n in range(10, 150) if n % d], 3)
    question = rng.choice((f"Which number is divisible by {d}?", f"Which of these is a multiple of {d}?"))
    return "elementary_mathematics", question, f"{right} = {d} * {right // d}.", str(right), [str(n) for n in wrong]


def _gcd(rng: random.Random) -> Drawn:
    g = rng.randint(2, 9)
    p, q = rng.choice([(1, 2), (2, 3), (3, 4), (2, 5), (3, 5), (4, 5), (1, 4), (5, 6), (3, 7), (4, 7)])
    reasoning = f"{g * p} = {g} * {p} and {g * q} = {g} * {q}, and {p} and {q} share no factor."
    question = f"What is the greatest common divisor of {g * p} and {g * q}?"
    return "high_school_mathematics", question, reasoning, str(g), _near(g, rng, 1)


def _power(rng: random.Random) -> Drawn:
    base, exponent = rng.choice([(2, k) for k in range(2, 9)] + [(3, 2), (3, 3), (3, 4), (4, 2), (4, 3), (5, 2), (5, 3)]
                                + [(b, 2) for b in range(6, 13)])  # fmt: skip
    value = base**exponent
    question = rng.choice(("What is {b}^{e}?", "What is {b} to the power of {e}?"))
    product = " * ".join([str(base)] * exponent)
    return (
        "high_school_mathematics",
        question.format(b=base, e=exponent),
        f"{product} = {value}.",
        str(value),
        _near(value, rng),
    )


def _group(rng: random.Random) -> Drawn:
    n = rng.randint(5, 12)
    a, b = rng.randint(2, n - 1), rng.randint(2, n - 1)
    if rng.random() < 0.5:
        value, question = (a + b) % n, f"What is the sum of {a} and {b} in the group Z_{n}?"
        reasoning = f"{a} + {b} = {a + b}. Modulo {n} this is {value}."
    else:
        value, question = (n - a) % n, f"What is the inverse of {a} in the additive group Z_{n}?"
        reasoning = f"The inverse x solves {a} + x = {n}. So x = {n} - {a} = {value}."
    wrong = rng.sample([str(m) for m in range(n) if m != value], 3)
    return "abstract_algebra", question, reasoning, str(value), wrong


def _sequence(rng: random.Random) -> Drawn:
    a, d = rng.randint(1, 30), rng.randint(2, 12)
    terms = [a + i * d for i in range(4)]
    question = rng.choice(("What comes next in the sequence {s}?", "What is the next term of {s}?"))
    reasoning = f"Each term is {d} more than the one before. {terms[3]} + {d} = {terms[3] + d}."
    return (
        "elementary_mathematics",
        question.format(s=", ".join(map(str, terms))),
        reasoning,
        str(terms[3] + d),
        _near(terms[3] + d, rng),
    )


def _speed(rng: random.Random) -> Drawn:
    v, t = rng.randint(2, 20), rng.randint(2, 10)
    thing = rng.choice(("car", "train", "runner", "boat", "bird", "ball"))
    if rng.random() < 0.5:
        question = f"A {thing} moves {v * t} meters in {t} seconds. What is its average speed?"
        return (
            "conceptual_physics",
            question,
            f"Speed is distance over time. {v * t} / {t} = {v}.",
            f"{v} m/s",
            [f"{w} m/s" for w in _near(v, rng)],
        )
    question = f"A {thing} moves at {v} m/s for {t} seconds. How far does it go?"
    return (
        "conceptual_physics",
        question,
        f"Distance is speed times time. {v} * {t} = {v * t}.",
        f"{v * t} m",
        [f"{w} m" for w in _near(v * t, rng)],
    )


def _newton(rng: random.Random) -> Drawn:
    m, a = rng.randint(2, 12), rng.randint(2, 12)
    if rng.random() < 0.5:
        question = f"What net force gives a mass of {m} kg an acceleration of {a} m/s^2?"
        return (
            "high_school_physics",
            question,
            f"F = m * a. {m} * {a} = {m * a}.",
            f"{m * a} N",
            [f"{w} N" for w in _near(m * a, rng)],
        )
    question = f"A force of {m * a} N acts on a mass of {m} kg. What is the acceleration?"
    wrong = [f"{w} m/s^2" for w in _near(a, rng)]
    return "high_school_physics", question, f"F = m * a, so a = F / m. {m * a} / {m} = {a}.", f"{a} m/s^2", wrong


def _ohm(rng: random.Random) -> Drawn:
    r, i = rng.randint(2, 12), rng.randint(2, 12)
    if rng.random() < 0.5:
        question = f"What voltage drives a current of {i} A through a resistor of {r} ohm?"
        return (
            "electrical_engineering",
            question,
            f"U = R * I. {r} * {i} = {r * i}.",
            f"{r * i} V",
            [f"{w} V" for w in _near(r * i, rng)],
        )
    question = f"A resistor of {r} ohm is connected to {r * i} V. What is the current?"
    return (
        "electrical_engineering",
        question,
        f"U = R * I, so I = U / R. {r * i} / {r} = {i}.",
        f"{i} A",
        [f"{w} A" for w in _near(i, rng)],
    )


def _series(rng: random.Random) -> Drawn:
    a, b = rng.randint(2, 60), rng.randint(2, 60)
    question = f"Two resistors of {a} ohm and {b} ohm are connected in series. What is the total resistance?"
    return (
        "electrical_engineering",
        question,
        f"In series resistances add. {a} + {b} = {a + b}.",
        f"{a + b} ohm",
        [f"{w} ohm" for w in _near(a + b, rng)],
    )


def _work(rng: random.Random) -> Drawn:
    f, s = rng.randint(2, 12), rng.randint(2, 12)
    question = f"A constant force of {f} N moves a box {s} m along its direction. How much work is done?"
    return (
        "college_physics",
        question,
        f"Work is force times distance. {f} * {s} = {f * s}.",
        f"{f * s} J",
        [f"{w} J" for w in _near(f * s, rng)],
    )


def _density(rng: random.Random) -> Drawn:
    d, v = rng.randint(2, 12), rng.randint(2, 12)
    question = f"What is the density of a body with a mass of {d * v} g and a volume of {v} cm^3?"
    return (
        "high_school_chemistry",
        question,
        f"Density is mass over volume. {d * v} / {v} = {d}.",
        f"{d} g/cm^3",
        [f"{w} g/cm^3" for w in _near(d, rng)],
    )


def _atom(rng: random.Random) -> Drawn:
    names = _ELEMENTS
    z = rng.randint(1, len(names))
    if rng.random() < 0.5:
        question = f"Which element has {z} proton{'s' if z > 1 else ''}?"
        wrong = rng.sample([n for n in names if n != names[z - 1]], 3)
        return (
            "high_school_chemistry",
            question,
            f"The element with atomic number {z} is {names[z - 1]}.",
            names[z - 1],
            wrong,
        )
    n = z + rng.randint(0, 3)
    question = f"An atom of {names[z - 1]} has {z} protons and {n} neutrons. What is its mass number?"
    reasoning = f"The mass number is protons plus neutrons. {z} + {n} = {z + n}."
    return "college_chemistry", question, reasoning, str(z + n), _near(z + n, rng)


def _binary(rng: random.Random) -> Drawn:
    n = rng.randint(2, 31)
    powers = [1 << k for k in range(n.bit_length() - 1, -1, -1) if n >> k & 1]
    if rng.random() < 0.5:
        reasoning = f"{n:b} in binary is {' + '.join(map(str, powers))} = {n}."
        return (
            "high_school_computer_science",
            f"What is the binary number {n:b} in decimal?",
            reasoning,
            str(n),
            _near(n, rng),
        )
    wrong = [f"{int(w):b}" for w in _near(n, rng)]
    reasoning = f"{n} = {' + '.join(map(str, powers))}, which is {n:b} in binary."
    return (
        "high_school_computer_science",
        f"How is the decimal number {n} written in binary?",
        reasoning,
        f"{n:b}",
        wrong,
    )


def _python(rng: random.Random) -> Drawn:
    values = [rng.randint(1, 20) for _ in range(4)]
    name, value, why = rng.choice((
        ("len", len(values), f"The list has {len(values)} items."),
        ("max", max(values), f"The largest of {', '.join(map(str, values))} is {max(values)}."),
        ("min", min(values), f"The smallest of {', '.join(map(str, values))} is {min(values)}."),
    ))  # fmt: skip
    return "high_school_computer_science", f"In Python, what is {name}({values})?", why, str(value), _near(value, rng)


def _gate(rng: random.Random) -> Drawn:
    a, b = rng.random() < 0.5, rng.random() < 0.5
    name, value = rng.choice((("and", a and b), ("or", a or b), ("xor", a != b)))
    rules = {
        "and": "and is true only when both are true",
        "or": "or is true when at least one is true",
        "xor": "xor is true when exactly one is true",
    }
    reasoning = f"Here {rules[name]}. So the result is {value}."
    wrong = [str(not value), "None", "Neither"]
    return (
        "college_computer_science",
        f"Let p be {a} and q be {b}. What is the value of p {name} q?",
        reasoning,
        str(value),
        wrong,
    )


def _probability(rng: random.Random) -> Drawn:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    c1, c2 = rng.sample(("red", "blue", "green", "white", "black"), 2)
    question = f"A bag holds {a} {c1} and {b} {c2} balls. What is the probability to draw a {c1} ball?"
    reasoning = f"There are {a} + {b} = {a + b} balls, and {a} of them are {c1}."
    candidates = [
        f"{x}/{y}"
        for x, y in ((b, a + b), (a, b), (1, a), (1, a + b), (a, a + b + 1), (a + 1, a + b))
        if x * (a + b) != a * y
    ]
    wrong = list(dict.fromkeys(candidates))
    return "high_school_statistics", question, reasoning, f"{a}/{a + b}", rng.sample(wrong, 3)


def _mean(rng: random.Random) -> Drawn:
    while sum(values := [rng.randint(1, 30) for _ in range(3)]) % 3:
        pass
    total = sum(values)
    listed = ", ".join(map(str, values))
    question = rng.choice((f"What is the mean of {listed}?", f"What is the average of the numbers {listed}?"))
    reasoning = f"{' + '.join(map(str, values))} = {total}. {total} / 3 = {total // 3}."
    return "high_school_statistics", question, reasoning, str(total // 3), _near(total // 3, rng)


def _median(rng: random.Random) -> Drawn:
    values = rng.sample(range(1, 40), 5)
    ordered = sorted(values)
    question = f"What is the median of {', '.join(map(str, values))}?"
    wrong = [str(v) for v in rng.sample([v for v in values if v != ordered[2]], 3)]
    return (
        "high_school_statistics",
        question,
        f"In order they are {', '.join(map(str, ordered))}. The middle one is {ordered[2]}.",
        str(ordered[2]),
        wrong,
    )


def _accuracy(rng: random.Random) -> Drawn:
    total = rng.choice((10, 20, 50, 100))
    right = rng.randint(total // 2, total - 1)
    question = f"A classifier labels {total} examples and {right} labels are correct. What is its accuracy?"
    value = right * 100 // total
    return (
        "machine_learning",
        question,
        f"Accuracy is {right}/{total} = {value}%.",
        f"{value}%",
        [f"{w}%" for w in _near(value, rng)],
    )


def _derivative(rng: random.Random) -> Drawn:
    c, k = rng.randint(2, 9), rng.randint(2, 6)
    power = "x" if k == 2 else f"x^{k - 1}"
    wrong = [f"{c}{power}", f"{c * k + 1}{power}", f"{c * k}x^{k}"]
    return (
        "college_mathematics",
        f"What is the derivative of {c}x^{k}?",
        f"The power rule gives {k} * {c} = {c * k} times {power}.",
        f"{c * k}{power}",
        wrong,
    )


_FACTS: dict[str, tuple[tuple[str, str], ...]] = {
    "anatomy": (
        ("pumps blood through the body", "heart"),
        ("takes oxygen from the air", "lung"),
        ("filters blood and makes urine", "kidney"),
        ("makes bile", "liver"),
        ("makes insulin", "pancreas"),
        ("stores urine", "bladder"),
        ("protects the brain", "skull"),
        ("is the longest bone of the body", "femur"),
        ("carries food to the stomach", "esophagus"),
        ("digests food with acid", "stomach"),
    ),
    "astronomy": (
        ("is the closest planet to the Sun", "Mercury"),
        ("is the largest planet of the solar system", "Jupiter"),
        ("is called the red planet", "Mars"),
        ("is the natural satellite of Earth", "Moon"),
        ("is the hottest planet of the solar system", "Venus"),
        ("is known for its wide rings", "Saturn"),
        ("is the planet farthest from the Sun", "Neptune"),
        ("is the star of our solar system", "Sun"),
    ),
    "high_school_biology": (
        ("holds the DNA of a cell", "nucleus"),
        ("makes most of the ATP of a cell", "mitochondrion"),
        ("builds proteins", "ribosome"),
        ("carries out photosynthesis", "chloroplast"),
        ("controls what enters the cell", "cell membrane"),
        ("stiffens a plant cell", "cell wall"),
    ),
    "college_biology": (
        ("carries amino acids to the ribosome", "tRNA"),
        ("speeds up reactions in cells", "enzyme"),
        ("stores genetic information", "DNA"),
        ("carries the message from DNA to the ribosome", "mRNA"),
        ("stores energy in animals", "glycogen"),
        ("carries oxygen in blood", "hemoglobin"),
    ),
    "computer_security": (
        ("turns plain text into cipher text", "encryption"),
        ("maps data to a short fixed value", "hash function"),
        ("filters network traffic", "firewall"),
        ("tricks people into giving passwords away", "phishing"),
        ("locks files and demands money", "ransomware"),
        ("proves who a user is", "authentication"),
        ("floods a service with requests", "denial of service"),
        ("writes past the end of memory", "buffer overflow"),
    ),
    "machine_learning": (
        ("predicts a real number from features", "regression"),
        ("groups examples without labels", "clustering"),
        ("splits data by questions on features", "decision tree"),
        ("fits training data well but new data badly", "overfitting"),
        ("updates weights against the gradient", "gradient descent"),
        ("adds a penalty on large weights", "regularization"),
    ),
    "college_computer_science": (
        ("takes items out in the order they came in", "queue"),
        ("takes out the newest item first", "stack"),
        ("finds values by a key in constant time on average", "hash table"),
        ("connects nodes by edges", "graph"),
        ("sorts by merging sorted halves", "merge sort"),
        ("halves a sorted range at every step", "binary search"),
    ),
    "conceptual_physics": (
        ("is the unit of force", "newton"),
        ("is the unit of energy", "joule"),
        ("is the unit of power", "watt"),
        ("is the unit of electric current", "ampere"),
        ("is the unit of frequency", "hertz"),
        ("is the unit of pressure", "pascal"),
        ("is the unit of temperature in physics", "kelvin"),
    ),
}


def _fact(rng: random.Random) -> Drawn:
    subject = rng.choice(sorted(_FACTS))
    facts = _FACTS[subject]
    does, right = rng.choice(facts)
    wrong = rng.sample([name for _, name in facts if name != right], 3)
    if rng.random() < 0.5:
        return subject, f"Which of these {does}?", f"The {right} {does}.", right, wrong
    other = rng.choice([text for text, name in facts if name == right])
    shown = rng.sample([text for text, name in facts if name != right], 3)
    return (
        subject,
        f"What is true of the {right}?",
        f"The {right} {other}.",
        f"It {other}",
        [f"It {text}" for text in shown],
    )


MAKERS: tuple[Maker, ...] = (
    _addition, _subtraction, _product, _quotient, _remainder, _order, _equation, _prime, _divisible, _gcd, _power,
    _group,
    _sequence, _speed, _newton, _ohm, _series, _work, _density, _atom, _binary, _python, _gate, _probability, _mean,
    _median, _accuracy, _derivative, _fact, _fact, _fact,
)  # fmt: skip


def draw(rng: random.Random) -> ChoiceQuestion:
    """One random worked question with four different choices."""
    while True:
        subject, question, reasoning, right, wrong = rng.choice(MAKERS)(rng)
        choices = [*wrong[:3], right]
        if len(set(choices)) == 4:
            break
    rng.shuffle(choices)
    a, b, c, d = choices
    return ChoiceQuestion(subject, question, (a, b, c, d), choices.index(right), reasoning)


def questions(seed: int) -> Iterator[ChoiceQuestion]:
    """Endless different questions (different in the wording, the numbers or the choices)."""
    rng = random.Random(seed)
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while True:
        question = draw(rng)
        if (question.question, question.choices) not in seen:
            seen.add((question.question, question.choices))
            yield question

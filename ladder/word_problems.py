"""Procedural word problems of two or three steps with worked answers: training text and `pocket_math`.

A scenario is data: ranges for the given numbers, the steps as small equations, and several wordings. Every step is
computed here, so a worked answer cannot be wrong. A problem belongs to one split by the hash of its scenario and
numbers, so that no test problem appears in training under other names or in another wording.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "dev", "test"]

NAMES = [
    "Ada", "Alice", "Amir", "Anna", "Ben", "Bella", "Carl", "Carmen", "Chloe", "Dan", "Dina", "Diego", "Elena",
    "Emma", "Eric", "Eva", "Felix", "Fiona", "Finn", "Grace", "Gus", "Hana", "Hugo", "Ian", "Ida", "Iris", "Ivan",
    "Jack", "Jane", "Joel", "Jonas", "Julia", "Kai", "Kate", "Kofi", "Lara", "Leo", "Lena", "Liam", "Lily", "Luis",
    "Maya", "Max", "Mei", "Mia", "Milo", "Nadia", "Nick", "Nina", "Noah", "Nora", "Omar", "Oscar", "Owen", "Paul",
    "Pia", "Priya", "Quinn", "Rosa", "Ravi", "Ruth", "Sam", "Sara", "Seth", "Sofia", "Tara", "Theo", "Tom", "Uma",
    "Vera", "Victor", "Wendy", "Will", "Yara", "Yusuf", "Zoe",
]  # fmt: skip
THINGS = [
    "stamps", "marbles", "stickers", "coins", "cards", "shells", "beads", "buttons", "pencils", "crayons", "books",
    "comics", "badges", "toys", "ribbons", "magnets", "photos", "postcards", "keys", "pins",
]  # fmt: skip
FOODS = [
    "apples", "oranges", "pears", "lemons", "plums", "cookies", "muffins", "cupcakes", "candies", "donuts", "pies",
    "eggs", "carrots", "tomatoes", "peaches", "bagels", "sandwiches", "rolls", "tarts", "melons",
]  # fmt: skip
PLACES = [
    "library", "school", "park", "museum", "market", "zoo", "cinema", "beach", "garden", "farm",
]  # fmt: skip
DAYS = [
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
]  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One equation `name = left operator right` and the sentence that states it (`{eq}` is the equation)."""

    name: str
    equation: str
    sentence: str


@dataclass(frozen=True)
class Scenario:
    """One kind of problem: ranges of the given numbers, worked steps, and wordings of the question."""

    key: str
    ranges: dict[str, tuple[int, int]]
    steps: tuple[Step, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """A question, its worked steps one a line, the answer, and the identity (scenario and numbers)."""

    question: str
    steps: str
    answer: int
    identity: str

    @property
    def worked(self) -> str:
        """The worked answer in GSM8K's format."""
        return f"{self.steps}\n#### {self.answer}"


def _scenario(key: str, ranges: str, steps: str, *questions: str) -> Scenario:
    """Read the short notation: `a 5 60, b 2 30` and one `x = a + b | sentence` a line."""
    bounds: dict[str, tuple[int, int]] = {}
    for part in ranges.split(","):
        name, low, high = part.split()
        bounds[name] = (int(low), int(high))
    parsed: list[Step] = []
    for line in steps.strip().splitlines():
        head, sentence = line.split("|")
        name, equation = head.split("=")
        parsed.append(Step(name.strip(), equation.strip(), sentence.strip()))
    return Scenario(key, bounds, tuple(parsed), questions)


SCENARIOS: tuple[Scenario, ...] = (
    _scenario(
        "together",
        "a 5 60, b 3 40",
        "x = a + b | {n2} has {eq} {t}.\ny = a + x | Together they have {eq} {t}.",
        "{n1} has {a} {t}. {n2} has {b} more {t} than {n1}. How many {t} do they have together?",
        "{n2} owns {b} more {t} than {n1}. If {n1} owns {a} {t}, how many {t} do the two of them own in total?",
        "{n1} collected {a} {t} and {n2} collected {b} more than that. How many {t} did {n1} and {n2} collect in all?",
    ),
    _scenario(
        "fewer_together",
        "a 12 80, b 3 30",
        "x = a - b | {n2} has {eq} {t}.\ny = a + x | Together they have {eq} {t}.",
        "{n1} has {a} {t}. {n2} has {b} fewer {t} than {n1}. How many {t} do they have together?",
        "{n1} counted {a} {t}, and {n2} counted {b} fewer. How many {t} did they count in total?",
    ),
    _scenario(
        "times_together",
        "a 3 12, k 2 9",
        "x = a * k | {n2} has {eq} {t}.\ny = a + x | In total they have {eq} {t}.",
        "{n1} has {a} {t}. {n2} has {k} times as many {t} as {n1}. How many {t} do they have in total?",
        "{n2} found {k} times as many {t} as {n1}. {n1} found {a} {t}. How many {t} did both find altogether?",
    ),
    _scenario(
        "times_difference",
        "a 3 12, k 3 9",
        "x = a * k | {n2} has {eq} {t}.\ny = x - a | {n2} has {eq} more {t}.",
        "{n1} has {a} {t}. {n2} has {k} times as many. How many more {t} does {n2} have than {n1}?",
        "{n2} drew {k} times as many {t} as {n1}, who drew {a}. How many more {t} did {n2} draw than {n1}?",
    ),
    _scenario(
        "give_and_get",
        "a 20 90, b 3 19, c 3 40",
        "x = a - b | After giving some away {n1} has {eq} {t}.\ny = x + c | Then {n1} has {eq} {t}.",
        "{n1} has {a} {t}. {n1} gives {b} of them to {n2} and then finds {c} more. How many {t} does {n1} have now?",
        "After giving {b} of {a} {t} to {n2}, {n1} buys {c} new ones. How many {t} does {n1} have at the end?",
        "{n1} started the week with {a} {t}, lost {b} on {d} and got {c} from {n2}. How many {t} does {n1} have now?",
    ),
    _scenario(
        "boxes_minus",
        "k 3 12, a 4 12, b 2 30",
        "x = k * a | There are {eq} {f} at first.\ny = x - b | There are {eq} {f} left.",
        "{n1} buys {k} boxes of {f}. Each box holds {a} {f}. {n1} and {n2} eat {b} of them. How many {f} are left?",
        "A baker packs {a} {f} in each of {k} boxes and sells {b} {f}. How many {f} remain?",
        "There are {k} bags with {a} {f} each. If {b} {f} are bad and thrown away, how many good {f} are there?",
    ),
    _scenario(
        "boxes_plus",
        "k 3 12, a 4 12, b 2 40",
        "x = k * a | The boxes hold {eq} {t}.\ny = x + b | In all there are {eq} {t}.",
        "{n1} has {k} boxes of {t} with {a} in each box, and {b} loose {t}. How many {t} does {n1} have?",
        "A shop has {b} {t} on the shelf and {k} boxes of {a} {t} in the back. How many {t} does the shop have in all?",
    ),
    _scenario(
        "share",
        "a 10 60, b 6 60, k 2 9",
        "x = a + b | Together there are {eq} {f}.\ny = x / k | Each one gets {eq} {f}.",
        "{n1} baked {a} {f} and {n2} baked {b}. They share all of them equally among {k} friends. "
        "How many {f} does each friend get?",
        "{n1} brings {a} {f} and {n2} brings {b} {f}. They divide them equally between {k} plates. "
        "How many {f} are on each plate?",
    ),
    _scenario(
        "share_after_eating",
        "a 15 90, b 2 20, k 2 9",
        "x = a - b | There are {eq} {f} left.\ny = x / k | Each bag holds {eq} {f}.",
        "{n1} picks {a} {f} and eats {b} of them. The rest go into {k} bags, the same number in each. "
        "How many {f} are in each bag?",
        "Out of {a} {f}, {b} are sold. The others are split evenly into {k} bags. How many {f} does a bag hold?",
    ),
    _scenario(
        "shopping_total",
        "k 2 9, p 2 12, m 2 9, q 2 12",
        "x = k * p | The {f} cost {eq} dollars.\ny = m * q | The {t} cost {eq} dollars.\n"
        "z = x + y | {n1} pays {eq} dollars.",
        "{n1} buys {k} {f} for {p} dollars each and {m} {t} for {q} dollars each. How many dollars does {n1} pay?",
        "At the {place} shop, {f} cost {p} dollars each and {t} cost {q} dollars each. "
        "What does {n1} pay in dollars for {k} {f} and {m} {t}?",
    ),
    _scenario(
        "shopping_change",
        "k 2 9, p 2 9, w 50 100",
        "x = k * p | The {t} cost {eq} dollars.\ny = w - x | {n1} has {eq} dollars left.",
        "{n1} has {w} dollars and buys {k} {t} at {p} dollars each. How many dollars does {n1} have left?",
        "{n1} pays for {k} {t} with {w} dollars. Each costs {p} dollars. How many dollars of change does {n1} get?",
    ),
    _scenario(
        "savings_goal",
        "w 2 12, k 2 12, g 30 160",
        "x = w * k | {n1} saves {eq} dollars.\ny = g - x | {n1} still needs {eq} dollars.",
        "{n1} saves {w} dollars a week for {k} weeks. A bike costs {g} dollars. How many more dollars does {n1} need?",
        "{n1} wants a game that costs {g} dollars. So far {n1} has put aside {w} dollars in each of {k} weeks. "
        "How many dollars are still missing?",
    ),
    _scenario(
        "weeks_to_goal",
        "a 2 40, g 30 120, w 2 9",
        "x = g - a | {n1} needs {eq} more dollars.\ny = x / w | It takes {eq} weeks.",
        "{n1} has {a} dollars and saves {w} dollars every week. In how many weeks will {n1} have {g} dollars?",
        "A tent costs {g} dollars. {n1} already has {a} dollars and earns {w} dollars a week. "
        "How many weeks must {n1} work to buy it?",
    ),
    _scenario(
        "wages",
        "p 5 12, a 2 6, b 2 6",
        "x = a + b | {n1} works {eq} hours.\ny = x * p | {n1} earns {eq} dollars.",
        "{n1} earns {p} dollars an hour. {n1} works {a} hours on {d} and {b} hours on {d2}. "
        "How many dollars does {n1} earn?",
        "For every hour of work {n1} gets {p} dollars. How many dollars does {n1} get for {a} hours in the morning and "
        "{b} hours in the evening?",
    ),
    _scenario(
        "bus",
        "a 10 50, b 2 20, c 2 25",
        "x = a - b | After some get off there are {eq} people.\ny = x + c | Then there are {eq} people.",
        "A bus carries {a} people. At the {place}, {b} people get off and {c} get on. "
        "How many people are on the bus now?",
        "There are {a} people on a train. {b} leave at the {place} and {c} new ones board. "
        "How many people does the train carry then?",
    ),
    _scenario(
        "pages_left",
        "a 90 199, k 3 12, p 3 12",
        "x = k * p | {n1} reads {eq} pages.\ny = a - x | There are {eq} pages left.",
        "{n1} reads {p} pages a day for {k} days. The book has {a} pages. How many pages are left?",
        "A book of {a} pages is read by {n1} at {p} pages a day. How many pages remain after {k} days?",
    ),
    _scenario(
        "pages_days",
        "a 40 190, b 10 90, p 3 12",
        "x = a - b | There are {eq} pages left to read.\ny = x / p | It takes {eq} days.",
        "A book has {a} pages. {n1} has read {b} of them and reads {p} pages a day from now on. "
        "How many days does the rest take?",
        "{n1} must write {a} lines and has finished {b}. "
        "At {p} pages or lines a day, how many days does {n1} still need?",
    ),
    _scenario(
        "garden_rows",
        "r 3 12, k 3 12, b 2 30",
        "x = r * k | {n1} plants {eq} seeds.\ny = x - b | {eq} plants grow.",
        "{n1} plants {r} rows of {k} seeds. {b} seeds do not grow. How many plants does {n1} get?",
        "In a field there are {r} rows with {k} trees each. A storm breaks {b} trees. "
        "How many trees are still standing?",
    ),
    _scenario(
        "farm_legs",
        "a 2 20, b 2 20",
        "x = a * 4 | The cows have {eq} legs.\ny = b * 2 | The ducks have {eq} legs.\n"
        "z = x + y | In all there are {eq} legs.",
        "A farm has {a} cows and {b} ducks. How many legs do they have altogether?",
        "{n1} sees {b} ducks and {a} cows on the farm. How many legs does {n1} count?",
    ),
    _scenario(
        "class_groups",
        "a 8 40, b 8 40, k 2 9",
        "x = a + b | There are {eq} children.\ny = x / k | There are {eq} groups.",
        "{a} boys and {b} girls visit the {place}. They walk in groups of {k}. How many groups are there?",
        "A class with {a} girls and {b} boys goes to the {place}, with {k} children in each car. "
        "How many cars are needed?",
    ),
    _scenario(
        "distance_days",
        "p 2 12, k 2 9, q 2 12, m 2 9",
        "x = p * k | First {n1} goes {eq} miles.\ny = q * m | Then {n1} goes {eq} miles.\n"
        "z = x + y | In total it is {eq} miles.",
        "{n1} runs {p} miles a day for {k} days and then {q} miles a day for {m} days. "
        "How many miles is that in total?",
        "{n1} rides {k} hours at {p} miles an hour, then {m} hours at {q} miles an hour. "
        "How many miles does {n1} ride?",
    ),
    _scenario(
        "distance_left",
        "v 3 12, h 2 12, s 40 190",
        "x = v * h | {n1} has gone {eq} miles.\ny = s - x | There are {eq} miles left.",
        "The way to the {place} is {s} miles long. {n1} goes {v} miles an hour for {h} hours. How many miles are left?",
        "{n1} walks a trail of {s} miles at {v} miles an hour. How many miles remain after {h} hours?",
    ),
    _scenario(
        "three_friends",
        "a 5 40, b 3 30, c 3 30",
        "x = a + b | {n2} has {eq} {t}.\ny = x - c | {n3} has {eq} {t}.",
        "{n1} has {a} {t}. {n2} has {b} more than {n1}, and {n3} has {c} fewer than {n2}. How many {t} does {n3} have?",
        "{n2} has {b} more {t} than {n1}. {n3} has {c} fewer {t} than {n2}. If {n1} has {a}, how many does {n3} have?",
    ),
    _scenario(
        "three_friends_sum",
        "a 5 40, b 3 20, c 3 20",
        "x = a + b | {n2} has {eq} {f}.\ny = x + c | {n3} has {eq} {f}.\nz = x + y | {n2} and {n3} have {eq} {f}.",
        "{n1} has {a} {f}. {n2} has {b} more {f} than {n1}. {n3} has {c} more {f} than {n2}. "
        "How many {f} do {n2} and {n3} have together?",
    ),
    _scenario(
        "double_and_spend",
        "a 8 60, b 3 40",
        "x = a * 2 | Twice as many is {eq} dollars.\ny = x - b | {n2} has {eq} dollars left.",
        "{n1} has {a} dollars. {n2} has twice as much and spends {b} dollars. How many dollars does {n2} have left?",
        "{n2} had twice as many dollars as {n1} but spent {b} of them. {n1} has {a} dollars. "
        "How many dollars does {n2} have now?",
    ),
    _scenario(
        "half_and_more",
        "a 8 120, b 3 40",
        "x = a / 2 | Half of them is {eq} {t}.\ny = x + b | {n2} has {eq} {t}.",
        "{n1} has {a} {t}. {n2} has {b} more than half as many. How many {t} does {n2} have?",
        "{n2} got half of the {a} {t} of {n1} and {b} more from {n3}. How many {t} did {n2} get?",
    ),
    _scenario(
        "half_sold",
        "a 8 120, b 2 40",
        "x = a / 2 | On {d} {eq} {f} are sold.\ny = x - b | There are {eq} {f} left.",
        "A shop has {a} {f}. On {d} half of them are sold, and on {d2} {b} more are sold. How many {f} are left?",
        "{n1} gives half of {a} {f} away on {d} and eats {b} others. How many {f} does {n1} still have?",
    ),
    _scenario(
        "age_later",
        "a 5 40, b 2 20, y 2 20",
        "x = a + b | Now {n2} is {eq} years old.\ny = x + y | In the future {n2} will be {eq} years old.",
        "{n1} is {a} years old. {n2} is {b} years older. How old will {n2} be in {y} years?",
        "{n2} is {b} years older than {n1}, who is {a}. What will be the age of {n2} after {y} years?",
    ),
    _scenario(
        "age_times",
        "a 3 12, k 2 6, b 2 12",
        "x = a * k | Now {n2} is {eq} years old.\ny = x - b | Back then {n2} was {eq} years old.",
        "{n2} is {k} times as old as {n1}. {n1} is {a} years old. How old was {n2} {b} years ago?",
        "{n1} is {a}. {n2} is {k} times as old. What was the age of {n2} {b} years ago?",
    ),
    _scenario(
        "minutes",
        "a 5 50, b 5 50, g 100 180",
        "x = a + b | So far {n1} used {eq} minutes.\ny = g - x | There are {eq} minutes left.",
        "{n1} has {g} minutes. {n1} cleans for {a} minutes and cooks for {b} minutes. How many minutes are left?",
        "A lesson at the {place} lasts {g} minutes. It starts with {a} minutes of reading and {b} minutes of writing. "
        "How many minutes remain?",
    ),
    _scenario(
        "tickets",
        "k 2 9, p 3 12, m 2 9, q 2 8",
        "x = k * p | The adults pay {eq} dollars.\ny = m * q | The children pay {eq} dollars.\n"
        "z = x - y | The adults pay {eq} dollars more.",
        "A ticket to the {place} costs {p} dollars for adults and {q} dollars for children. How many dollars more do "
        "{k} adults pay than {m} children?",
    ),
    _scenario(
        "profit",
        "k 3 12, p 4 12, c 3 50",
        "x = k * p | {n1} takes in {eq} dollars.\ny = x - c | The profit is {eq} dollars.",
        "{n1} spends {c} dollars on wool and makes {k} hats. Each hat sells for {p} dollars. "
        "What is the profit in dollars?",
        "{n1} sells {k} cups of lemonade at {p} dollars each. The lemons cost {c} dollars. "
        "How many dollars does {n1} gain?",
    ),
    _scenario(
        "shelves",
        "s 2 9, k 3 12, m 2 9",
        "x = s * k | All shelves hold {eq} {t}.\ny = x / m | Each child gets {eq} {t}.",
        "There are {s} shelves with {k} {t} each. {n1} deals them out equally to {m} children. "
        "How many {t} does each get?",
        "{n1} has {s} bags of {k} {t} and divides all of them equally among {m} friends. "
        "How many {t} does a friend get?",
    ),
    _scenario(
        "packs_needed",
        "a 4 30, b 4 30, k 2 12",
        "x = a + b | {n1} needs {eq} {f}.\ny = x / k | That is {eq} packs.",
        "{n1} needs {a} {f} for {d} and {b} {f} for {d2}. A pack has {k} {f}. How many packs must {n1} buy?",
    ),
    _scenario(
        "shared_cost",
        "a 10 90, b 10 90, k 2 9",
        "x = a + b | The whole bill is {eq} dollars.\ny = x / k | Each person pays {eq} dollars.",
        "A dinner costs {a} dollars and the drinks cost {b} dollars. {k} friends split the bill equally. "
        "How many dollars does each pay?",
        "{k} people rent a boat for {a} dollars and a van for {b} dollars and share the cost equally. "
        "What does one person pay in dollars?",
    ),
    _scenario(
        "water_tank",
        "a 60 190, r 2 12, k 2 12",
        "x = r * k | {eq} liters flow out.\ny = a - x | There are {eq} liters left.",
        "A tank holds {a} liters of water. Every minute {r} liters flow out. "
        "How many liters are left after {k} minutes?",
        "{n1} waters the garden with {r} liters a day from a barrel of {a} liters. "
        "How many liters are in the barrel after {k} days?",
    ),
    _scenario(
        "perimeter",
        "a 3 40, b 3 40",
        "x = a + b | Length and width together are {eq} feet.\ny = x * 2 | The fence is {eq} feet long.",
        "A garden is {a} feet long and {b} feet wide. How many feet of fence does {n1} need to go around it?",
        "{n1} walks once around a rectangle that is {a} feet long and {b} feet wide. How many feet does {n1} walk?",
    ),
    _scenario(
        "area_minus",
        "a 4 12, b 4 12, c 2 40",
        "x = a * b | The floor has {eq} square feet.\ny = x - c | {eq} square feet are free.",
        "A room is {a} feet long and {b} feet wide. A rug covers {c} square feet. "
        "How many square feet are not covered?",
    ),
    _scenario(
        "three_days",
        "a 5 50, b 3 20, k 2 3",
        "x = a + b | On {d2} {n1} sells {eq} {f}.\ny = x * k | On {d3} {n1} sells {eq} {f}.",
        "{n1} sells {a} {f} on {d}, {b} more than that on {d2}, and on {d3} {k} times as many as on {d2}. "
        "How many {f} does {n1} sell on {d3}?",
    ),
    _scenario(
        "difference_boxes",
        "k 3 12, a 3 12, m 3 12, b 3 12",
        "x = k * a | {n1} has {eq} {t}.\ny = m * b | {n2} has {eq} {t}.\nz = x - y | {n1} has {eq} more {t}.",
        "{n1} has {k} boxes of {a} {t}. {n2} has {m} boxes of {b} {t}. How many more {t} does {n1} have than {n2}?",
    ),
    _scenario(
        "two_gifts",
        "a 30 120, b 3 30, c 3 30",
        "x = b + c | {n1} gives away {eq} {t}.\ny = a - x | {n1} has {eq} {t} left.",
        "{n1} has {a} {t} and gives {b} to {n2} and {c} to {n3}. How many {t} does {n1} have left?",
        "From {a} {t}, {n1} hands {b} to {n2} and {c} to {n3}. How many {t} are left for {n1}?",
    ),
    _scenario(
        "eggs",
        "h 3 12, e 2 7, k 2 9",
        "x = h * e | The hens lay {eq} eggs.\ny = x / k | {n1} fills {eq} cartons.",
        "{n1} keeps {h} hens, and each lays {e} eggs a week. A carton holds {k} eggs. "
        "How many cartons does {n1} fill in a week?",
    ),
    _scenario(
        "team_points",
        "g 2 9, p 2 9, b 3 40, c 2 30",
        "x = g * p | The goals give {eq} points.\ny = x + b | With the bonus it is {eq} points.\n"
        "z = y - c | After the penalty it is {eq} points.",
        "In a game each goal is worth {p} points. {n1} scores {g} goals, gets a bonus of {b} points and a penalty of "
        "{c} points. What is the score of {n1}?",
    ),
    _scenario(
        "temperature",
        "a 30 90, b 3 20, c 3 20",
        "x = a + b | At noon it is {eq} degrees.\ny = x - c | In the evening it is {eq} degrees.",
        "On {d} morning it is {a} degrees. "
        "It gets {b} degrees warmer until noon and then {c} degrees colder until evening. "
        "How many degrees is it in the evening?",
    ),
    _scenario(
        "parking",
        "a 20 90, b 5 40, k 2 9",
        "x = a - b | There are {eq} free places.\ny = x / k | There are {eq} free places on each floor.",
        "A car park has {a} places, of which {b} are taken. The free places are spread evenly over {k} floors. "
        "How many free places are on each floor?",
    ),
)


def _value(token: str, numbers: dict[str, int]) -> int:
    return int(token) if token.isdigit() else numbers[token]


def _compute(equation: str, numbers: dict[str, int]) -> tuple[int, str] | None:
    """Value and text of an equation, or None where it is too hard for a tiny model."""
    left_token, operator, right_token = equation.split()
    left, right = _value(left_token, numbers), _value(right_token, numbers)
    if operator == "+":
        value = left + right
    elif operator == "-":
        value = left - right
    elif operator == "*":
        value = left * right
        if min(left, right) < 2 or (min(left, right) > 3 and max(left, right) > 12):
            return None
    elif operator == "/":
        if left % right:
            return None
        value = left // right
        if value < 2 or (right > 2 and value > 20):
            return None
    else:
        raise ValueError(f"unknown operator {operator!r} in {equation!r}; choose one of + - * /")
    return (value, f"{left} {operator} {right} = {value}") if 2 <= value <= 200 else None


def _draw_numbers(scenario: Scenario, rng: random.Random) -> tuple[dict[str, int], list[str]]:
    """Given numbers that make every step easy, and the equations in words order."""
    while True:
        numbers = {name: rng.randint(low, high) for name, (low, high) in scenario.ranges.items()}
        values = dict(numbers)
        equations: list[str] = []
        for step in scenario.steps:
            result = _compute(step.equation, values)
            if result is None:
                break
            values[step.name] = result[0]
            equations.append(result[1])
        else:
            return values | {f"given_{name}": value for name, value in numbers.items()}, equations


def _split_of(identity: str) -> Split:
    bucket = hashlib.sha256(identity.encode()).digest()[0]
    return "test" if bucket < 13 else "dev" if bucket < 20 else "train"


def draw(rng: random.Random) -> Problem:
    """One random problem, of any split."""
    scenario = rng.choice(SCENARIOS)
    values, equations = _draw_numbers(scenario, rng)
    given = {name: values[f"given_{name}"] for name in scenario.ranges}
    names = rng.sample(NAMES, 3)
    days = sorted(rng.sample(range(len(DAYS)), 3))
    words = {
        "n1": names[0], "n2": names[1], "n3": names[2], "t": rng.choice(THINGS), "f": rng.choice(FOODS),
        "place": rng.choice(PLACES), "d": DAYS[days[0]], "d2": DAYS[days[1]], "d3": DAYS[days[2]],
    }  # fmt: skip
    question = rng.choice(scenario.questions).format(**given, **words)
    lines = [
        step.sentence.format(eq=equation, **words) for step, equation in zip(scenario.steps, equations, strict=True)
    ]
    answer = values[scenario.steps[-1].name]
    identity = scenario.key + ":" + ",".join(f"{name}={value}" for name, value in given.items())
    return Problem(question[0].upper() + question[1:], "\n".join(lines), answer, identity)


def problems(split: Split, seed: int) -> Iterator[Problem]:
    """Endless different problems of one split."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        problem = draw(rng)
        if _split_of(problem.identity) == split and problem.question not in seen:
            seen.add(problem.question)
            yield problem

"""MT-Bench: two-turn questions of eight categories (Zheng et al., 2306.05685; data: LMSYS, Apache-2.0, 80 of them).

Example (question 81, writing):

    User: Compose an engaging travel blog post about a recent trip to Hawaii, highlighting cultural experiences and
    must-see attractions.
    Assistant: ...
    User: Rewrite your previous response. Start every sentence with the letter A.
    Assistant: ...

`load` gives the first turns; `follow_up` makes the second turn from the answer to the first.

Scoring: none without a judge. A judge reads the single-answer prompt of the paper (FastChat's `single-v1`; for math,
reasoning and coding with a reference answer `single-math-v1`; the `-multi-turn` ones for second turns) and its rating,
the last `[[n]]` of its verdict, is the value, from 1 to 10. A verdict without one leaves the answer unscored.
`metadata["temperature"]` is the sampling temperature that the paper's code uses for the category.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

from fsgen.tasks import source
from fsgen.tasks.base import Judge, Row, Score, Task, cut
from fsgen.types import Example

_WITH_REFERENCE = ("math", "reasoning", "coding")
_TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
_CHOICE = re.compile(r"\[\[([ABC])\]\]")
_RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")


def prompt(turn: str) -> str:
    """The plain prompt of a first turn; the completion begins with a space."""
    return f"User: {turn}\nAssistant:"


class MTBench(Task):
    """Two-turn questions, 0 shots, scored by a judge."""

    name: ClassVar[str] = "mt_bench"
    max_tokens: ClassVar[int] = 512
    stop: ClassVar[tuple[str, ...]] = ("\n\nUser:", "\nUser:")
    fields: ClassVar[tuple[str, ...]] = ("question_id", "category", "turns")
    bundled: ClassVar[str] = "mt_bench.jsonl.gz"

    def example(self, row: Row, number: int, shots: int) -> Example:
        """The first turn of one row."""
        turns = [str(turn) for turn in row["turns"]]
        if isinstance(row["turns"], str) or len(turns) != 2:
            raise ValueError("field 'turns' must hold two turns")
        return Example(
            id=f"{self.name}/{row['question_id']}",
            prompt=prompt(turns[0]),
            messages=(("user", turns[0]),),
            metadata={
                "category": row["category"],
                "turn": 1,
                "turns": turns,
                "references": [str(reference) for reference in row.get("reference") or ()],
                "temperature": _TEMPERATURES.get(row["category"], 0.0),
            },
        )

    def follow_up(self, example: Example, answer: str) -> Example | None:
        """The second turn, given the answer to the first; None after the second."""
        if example.metadata["turn"] != 1:
            return None
        second = example.metadata["turns"][1]
        answer = cut(answer, self.stop).strip()
        return Example(
            id=f"{example.id}/turn2",
            prompt=f"{example.prompt} {answer}\n{prompt(second)}",
            messages=(*example.messages, ("assistant", answer), ("user", second)),
            metadata={**example.metadata, "turn": 2, "first_answer": answer},
        )

    def extract(self, text: str) -> str | None:
        """The answer itself, None where it is empty."""
        return cut(text, self.stop).strip() or None

    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """The judge's rating; a value of None where there is no judge or no rating."""
        answer = self.extract(text)
        if judge is None:
            return Score(None, answer, "no judge")
        value = rating(judge(judge_prompt(example, answer or "")))
        return Score(value, answer, "" if value is not None else "the judge gave no rating")


@cache
def _judge_prompts() -> dict[str, dict[str, Any]]:
    lines = source.read_bundled("mt_bench_judge_prompts.jsonl").decode().splitlines()
    return {prompt["name"]: prompt for prompt in map(json.loads, filter(str.strip, lines))}


def judge_prompt(example: Example, answer: str) -> str:
    """What the judge reads of one answer: the system prompt, then the question and the answer."""
    return "\n\n".join(judge_messages(example, answer))


def judge_messages(example: Example, answer: str) -> tuple[str, str]:
    """The system prompt of a judge, and what it reads of one answer."""
    about = example.metadata
    values = {"question": about["turns"][0], "answer": answer, "question_1": about["turns"][0]}
    values |= {"question_2": about["turns"][1], "answer_1": about.get("first_answer", ""), "answer_2": answer}
    return _messages(f"single{'-math' if _graded(example) else ''}-v1", example, values)


def pair_messages(example: Example, answers: Sequence[str], first_answers: Sequence[str] = ("", "")) -> tuple[str, str]:
    """The system prompt of a judge, and what it reads of two answers, A and B.

    Args:
        example: the turn that they answer.
        answers: A's and B's.
        first_answers: in a second turn, those to the first one.
    """
    turns = example.metadata["turns"]
    values = {"question": turns[0], "question_1": turns[0], "question_2": turns[1]}
    for name, answer, first in zip("ab", answers, first_answers, strict=True):
        values |= {f"answer_{name}": answer, f"answer_{name}_1": first, f"answer_{name}_2": answer}
    return _messages("pair-math-v1" if _graded(example) else "pair-v2", example, values)


def _graded(example: Example) -> bool:
    """Whether the judge reads reference answers."""
    about = example.metadata
    return about["category"] in _WITH_REFERENCE and len(about["references"]) >= about["turn"]


def _messages(name: str, example: Example, values: dict[str, str]) -> tuple[str, str]:
    about = example.metadata
    chosen = _judge_prompts()[f"{name}{'-multi-turn' if about['turn'] == 2 else ''}"]
    references = {f"ref_answer_{number}": text for number, text in enumerate(about["references"], 1)}
    return chosen["system_prompt"].strip(), chosen["prompt_template"].format(**references, **values)


def rating(verdict: str) -> float | None:
    """The last rating `[[n]]` of a verdict, from 1 to 10; None where there is none."""
    found = [float(number) for number in _RATING.findall(verdict)]
    return found[-1] if found and 1 <= found[-1] <= 10 else None


def choice(verdict: str) -> str | None:
    """The last choice of a verdict on two answers: A, B, or C for a tie; None where there is none."""
    found = _CHOICE.findall(verdict)
    return str(found[-1]) if found else None

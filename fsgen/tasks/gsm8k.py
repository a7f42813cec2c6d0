r"""GSM8K: grade-school word problems (Cobbe et al., 2110.14168; data: openai/grade-school-math, MIT, 1,319 of them).

Example problem:

    Question: Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her
    friends every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg. How
    much in dollars does she make every day at the farmers' market?
    Answer: Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.
    She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer's market.
    #### 18

The few-shot examples are the eight of chain-of-thought-hub (Fu et al., 2305.17306, MIT); with
fewer shots, the first of them.

Scoring: text from a made-up `Question:` on is dropped. The answer is the last marked number (`####` as in the data,
`The answer is` as in the few-shot examples, `\boxed{}`), else the last number of the text, as in the flexible rule of
lm-evaluation-harness, and the score's note says so. It is right when it equals the reference as an exact fraction
(`fsgen.tasks.answers`): units, thousands commas and trailing zeros do not matter. A text without a number has no
answer.
"""

from typing import ClassVar

from fsgen.tasks import answers, source
from fsgen.tasks.base import Judge, Row, Score, Task, cut, match
from fsgen.types import Example

_STEP_BY_STEP = "Let's think step by step"
_ASK = 'Think step by step, and end with "The answer is" and the number.'


def prompt(question: str) -> str:
    """The plain 0-shot prompt of one question; the completion begins with a space."""
    return f"Question: {question}\nAnswer:"


def few_shot_examples() -> list[str]:
    """The eight few-shot examples, each a question, its steps and `The answer is N`."""
    return source.read_bundled("gsm8k_cot_8shot.txt").decode().strip().split("\n\n")


def few_shot_prompt(question: str, shots: int) -> str:
    """The plain prompt with few-shot examples, for 1 to 8 shots."""
    return "\n\n".join([*few_shot_examples()[:shots], f"Question: {question}\n{_STEP_BY_STEP}\n"])


class GSM8K(Task):
    """Grade-school word problems, 0 to 8 shots."""

    name: ClassVar[str] = "gsm8k"
    max_shots: ClassVar[int] = 8
    max_tokens: ClassVar[int] = 320
    stop: ClassVar[tuple[str, ...]] = ("\n\nQuestion:", "\nQuestion:")
    fields: ClassVar[tuple[str, ...]] = ("question", "answer")
    bundled: ClassVar[str] = "gsm8k_test.jsonl.gz"

    def example(self, row: Row, number: int, shots: int) -> Example:
        """The example of one row; the reference is the number after `####`."""
        question, solution = str(row["question"]), str(row["answer"])
        reference = answers.parse_number(solution.rsplit("####", 1)[-1])
        if "####" not in solution or reference is None:
            raise ValueError("field 'answer' must end in '#### ' and a number")
        messages: list[tuple[str, str]] = []
        for example in few_shot_examples()[:shots]:
            before, steps = example.split(f"\n{_STEP_BY_STEP}\n", 1)
            messages += [("user", f"{before.removeprefix('Question: ')}\n\n{_ASK}"), ("assistant", steps)]
        messages.append(("user", f"{question}\n\n{_ASK}"))
        return Example(
            id=f"{self.name}/{number}",
            prompt=few_shot_prompt(question, shots) if shots else prompt(question),
            messages=tuple(messages),
            reference=str(reference),
            metadata={key: value for key, value in row.items() if key not in self.fields},
        )

    def extract(self, text: str) -> str | None:
        """The number that the text gives as its answer, as an exact fraction: `18`, `-5`, `1/2`."""
        text = cut(text, self.stop)
        number = answers.marked_number(text)
        if number is None:
            number = answers.last_number(text)
        return None if number is None else str(number)

    def score(self, example: Example, text: str, *, judge: Judge | None = None) -> Score:
        """Score one completion."""
        answer = self.extract(text)
        unmarked = answers.marked_number(cut(text, self.stop)) is None
        return match(answer, answer == example.reference, "no marked answer: its last number taken" * unmarked)

"""Pocket math: procedural word problems that models of a few million parameters can partly solve.

Example problem:

    Question: On Tuesday morning it is 54 degrees. It gets 14 degrees warmer until noon and then 20 degrees colder until
    evening. How many degrees is it in the evening?
    Answer: At noon it is 54 + 14 = 68 degrees.
    In the evening it is 68 - 20 = 48 degrees.
    #### 48

Made by the project's own recipe with held-out seeds; nothing of it is in the training text of the pocket ladder. The
prompt and the scoring are those of `fsgen.tasks.gsm8k` without few-shot examples.
"""

from typing import ClassVar

from fsgen.tasks.gsm8k import GSM8K
from fsgen.tasks.gsm8k import prompt as prompt


class PocketMath(GSM8K):
    """Procedural word problems, 0 shots."""

    name: ClassVar[str] = "pocket_math"
    max_shots: ClassVar[int] = 0
    max_tokens: ClassVar[int] = 160
    bundled: ClassVar[str] = "pocket_math.jsonl.gz"

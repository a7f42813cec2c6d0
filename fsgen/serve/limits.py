"""What a server takes on: every queue, length and time of it has a bound."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """The bounds of a server.

    Attributes:
        rows: texts that are written at a time, at most.
        queue: texts that wait for a row, at most; a request that finds no room is refused (429).
        context: tokens of a prompt and its completion together; at most the context window of the models.
        output: tokens of a completion.
        choices: texts of one request: prompts times `n`.
        body: bytes of a request.
        seconds: of a request, from its arrival to its last token.
        drain: seconds that a server which is told to end gives to what it has accepted.
        piece: tokens of a prompt that are read between two rounds of the texts that run.
        interval: seconds between two events of a stream; the tokens between them go together, but a text's first and
            last ones do not wait, and take what other texts have with them.
        logprobs: the most likely tokens whose log-probabilities a request may ask for at a position.
    """

    rows: int = 32
    queue: int = 256
    context: int = 8192
    output: int = 4096
    choices: int = 64
    body: int = 2**20
    seconds: float = 600.0
    drain: float = 60.0
    piece: int = 256
    interval: float = 0.02
    logprobs: int = 20

    def __post_init__(self) -> None:
        least = {"queue": 0, "drain": 0, "interval": 0, "logprobs": 0, "context": 2, "piece": 16, "seconds": 0.01}
        for field in fields(self):
            value, smallest = getattr(self, field.name), least.get(field.name, 1)
            if not value >= smallest:
                raise ValueError(f"{field.name}={value!r} is impossible: at least {smallest}")

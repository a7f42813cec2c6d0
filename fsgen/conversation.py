"""A conversation with two models, whose earlier turns are not computed again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fsgen.api import method_for, stream
from fsgen.generation import Generation
from fsgen.methods.check import check
from fsgen.metrics import Counts
from fsgen.prompts import Message, require_template
from fsgen.types import SamplingParams, Token

if TYPE_CHECKING:
    from fsgen.backends import Members
    from fsgen.methods.method import Method
    from fsgen.methods.routers import Router


class Conversation:
    """Turns of a user and of the models; see `chat`.

    Attributes:
        messages: so far, the system's first.
        method: what writes the next answer; see `use`.
        sampling: of the next answer; may be set.
        generations: the answers, with their traces and counts.
    """

    def __init__(self, members: Members, system: str | None, method: Method, sampling: SamplingParams) -> None:
        require_template(members.tokenizer)
        self._members, self.method, self.sampling = members, method, sampling
        self._system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[Message] = list(self._system)
        self.generations: list[Generation] = []
        self._kept = ExitStack()
        self._kept.enter_context(members.keeping())

    def __call__(self, text: str) -> Generation:
        """Says something, and gives the answer. Raises ValueError: the conversation exceeds the context window."""
        answer = self.stream(text)
        while True:
            try:
                next(answer)
            except StopIteration as end:
                found: Generation = end.value
                return found

    def stream(self, text: str) -> Generator[Token, None, Generation]:
        """Says something, and gives the records of the answer as they come; one that is abandoned was never said."""
        said: list[Message] = [*self.messages, {"role": "user", "content": text}]
        answer = yield from stream(self._members, said, self.method, sampling=self.sampling)
        self.messages = [*said, {"role": "assistant", "content": answer.text}]
        self.generations.append(answer)
        return answer

    def use(
        self, method: str | Method, router: str | Router | None = None, draft_tokens: int | str | None = None
    ) -> None:
        """Writes the next answers with another method. Raises ValueError as `fsgen.generate`."""
        chosen = method_for(self._members, method, router, draft_tokens)
        check(self._members, chosen, [], [], measured_later=True)
        chosen.verifier_for(self.sampling)
        self.method = chosen

    @property
    def stats(self) -> Counts:
        """Counts and metrics of all answers together."""
        return Counts.total(each.stats for each in self.generations)

    def reset(self) -> None:
        """Begins again, with the system's message alone."""
        self.messages, self.generations = list(self._system), []

    def close(self) -> None:
        """Lets go of the keys and values."""
        self._kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def chat(
    members: Members,
    system: str | None = None,
    method: str | Method = "speculative",
    router: str | Router | None = None,
    draft_tokens: int | str | None = None,
    sampling: SamplingParams = SamplingParams(max_tokens=512),  # noqa: B008 - frozen
) -> Conversation:
    """A conversation with models that were tuned to chat; `chat(members)("Hi").text` is an answer.

    The keys and values of earlier turns are kept until it is closed: as a context manager, or by `close`.

    Args:
        members: the models (`fsgen.load`).
        system: what the models are told before the first turn.
        method, router, draft_tokens, sampling: as in `fsgen.generate`.

    Raises:
        ValueError: as `fsgen.generate`; models without a chat template.
    """
    return Conversation(members, system, method_for(members, method, router, draft_tokens), sampling)

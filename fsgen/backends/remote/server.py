"""A server that is connected to: what it can do is found out first, and again where it may have been restarted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fsgen.backends.alignment import PROBES
from fsgen.backends.protocol import UnavailableError
from fsgen.backends.remote.address import Address
from fsgen.backends.remote.http import BadAnswerError, Client, RefusedError
from fsgen.backends.remote.model import Asked, Keep
from fsgen.backends.remote.said import Said
from fsgen.backends.remote.wire import VLLM, WIRES, Wanted, Wire

_log = logging.getLogger(__name__)

TOLERANCE = 0.05
"""Nats by which two answers to one question may differ: servers cut work into batches as it comes."""
TOPS = (20, 5, 1)  # log-probabilities that are tried where more are refused
_PROBED = 6  # tokens that the probe has written


@dataclass(frozen=True)
class Abilities:
    """What a server was found to do.

    Attributes:
        wire: how it is asked.
        top: the most likely tokens that it tells at each position.
        token_ids: it names tokens by their ids, and not by their texts.
        rereads: log-probabilities of a prompt cost the whole prompt, whatever the server has cached.
        repeats: the same question had the same answer twice, to the last bit.
        context: tokens of the longest sequence; None where it does not say.
    """

    wire: Wire
    top: int
    token_ids: bool
    rereads: bool
    repeats: bool
    context: int | None


class Server:
    """A model behind a server (see `fsgen.backends.remote.model.Source`).

    Args:
        address: of the model.
        tokenizer: that the model is said to have.
        vocab_size: its entries.

    Raises:
        ValueError: there is no such model, its tokenizer is another one, or it gives no log-probabilities of prompts.
        UnavailableError: nobody answers.
    """

    def __init__(self, address: Address, tokenizer: Any, vocab_size: int) -> None:
        self._address, self._tokenizer = address, tokenizer
        self._client = Client(address.url, address.concurrency, address.timeout, address.patience)
        context = self._find_model()
        self.abilities, self._answer = self._probe(min(address.top, vocab_size), context)
        self._seen = self._client.interruptions
        _log.info("%s at %s: %s", address.name, address.url, self.abilities)

    @property
    def rereads(self) -> bool:
        return self.abilities.rereads

    def write(self, wanted: Sequence[Wanted], keep: Keep) -> None:
        """Texts; see `Source.write`."""
        wire = self.abilities.wire
        self._posts([wire.write(one) for one in wanted], lambda i, answer: wire.written(wanted[i], answer), keep)

    def score(self, asked: Sequence[Asked], keep: Keep) -> None:
        """Distributions; see `Source.score`."""
        wire = self.abilities.wire
        self._posts([wire.score(*one) for one in asked], lambda i, answer: wire.scored(*asked[i], answer), keep)

    def _posts(self, bodies: list[dict[str, Any]], read: Callable[[int, Any], Said], keep: Keep) -> None:
        """What is said counts only if the server is still the same, should it have been away in between."""
        found: dict[int, Said] = {}

        def add(i: int, answer: Any) -> None:
            found[i] = read(i, answer)

        try:
            self._client.read_all(self.abilities.wire.path, bodies, add)
        finally:
            if self._client.interruptions != self._seen:
                self._check_again()
            for i, said in found.items():
                keep(i, said)

    def _check_again(self) -> None:
        self._find_model()
        said = self._written(self.abilities.wire)
        if not _agree(self._answer, said):
            raise UnavailableError(f"{self._address.url} was away, and {self._address.model!r} is another model since")
        self._seen = self._client.interruptions

    def _find_model(self) -> int | None:
        """The longest sequence of the model, where the server says it. Raises ValueError: it has no such model."""
        models = {str(entry["id"]): entry for entry in self._client.get("/v1/models").get("data", ())}
        if self._address.model not in models:
            known = ", ".join(sorted(models)) or "none"
            raise ValueError(f"{self._address.url} has no model {self._address.model!r}; it has: {known}")
        entry = models[self._address.model]
        found = entry.get("max_model_len") or entry.get("context_length")
        return int(found) if found else None

    # ---- the probe

    def _probe(self, top: int, context: int | None) -> tuple[Abilities, Said]:
        kinds = [WIRES[self._address.kind]]
        if self._address.kind == "openai":
            kinds.insert(0, VLLM)  # whoever understands these names says more
        reasons = []
        for kind in kinds:
            for count in dict.fromkeys([top, *(less for less in TOPS if less < top)]):
                wire = kind(self._address.model, count, self._tokenizer)
                try:
                    found, said = self._abilities(wire, context)
                except (RefusedError, BadAnswerError) as error:
                    reasons.append(str(error))
                    continue
                return found, said
        raise ValueError(
            f"{self._address.url} cannot be a member: neither its texts nor its log-probabilities are those of token "
            f"ids: {'; '.join(dict.fromkeys(reasons))}"
        )

    def _abilities(self, wire: Wire, context: int | None) -> tuple[Abilities, Said]:
        self._check_tokenizer(wire)
        said, again = self._written(wire), self._written(wire)
        if len(said) == 0:
            raise BadAnswerError("it has written nothing")
        tokens = [*self._question(), *said.tokens[:-1]]
        scored = self._answered(
            wire, wire.score(tokens, len(said.tokens)), partial(wire.scored, tokens, len(said.tokens))
        )
        if not _agree(said, scored):
            raise BadAnswerError("its log-probabilities of a prompt are not those that it writes by")
        repeats = said.tokens == again.tokens and np.array_equal(said.logprobs, again.logprobs)
        least = int(min((said.ids >= 0).sum(-1).min(), (scored.ids >= 0).sum(-1).min()))
        rereads = wire.rereads and self._address.kind != "openai"  # of vLLM itself this is known
        return Abilities(wire, least, wire.prompts_by_text, rereads, repeats, context), said

    def _check_tokenizer(self, wire: Wire) -> None:
        """Raises ValueError where the server reads a text as other tokens."""
        for text in PROBES if wire.prompts_by_text else ():
            ids = self._answered(wire, wire.tokenize(text), wire.tokenized)
            if ids != (own := [int(token) for token in self._tokenizer.encode(text)]):
                raise ValueError(
                    f"the tokenizer of {self._address.model!r} at {self._address.url} is another one: {text!r} is "
                    f"{ids} there, and {own} here; name its own with ?tokenizer=NAME"
                )

    def _question(self) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(PROBES[0])]

    def _written(self, wire: Wire) -> Said:
        wanted = Wanted(self._question(), _PROBED)
        said: Said = self._answered(wire, wire.write(wanted), partial(wire.written, wanted))
        return said

    def _answered(self, wire: Wire, body: dict[str, Any], read: Callable[[Any], Any]) -> Any:
        """What is read of one answer, which is not asked for again where it makes no sense."""
        answer = self._client.post(wire.path, body)
        try:
            return read(answer)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise BadAnswerError(f"an answer without {type(error).__name__} {error}") from error


def _agree(one: Said, two: Said) -> bool:
    """Whether two answers are those of one model: near ties may fall either way, and then texts part."""
    for place in range(min(len(one), len(two))):
        first, second = (
            {int(i): float(p) for i, p in zip(said.ids[place], said.logprobs[place], strict=True) if i >= 0}
            for said in (one, two)
        )
        shared = first.keys() & second.keys()
        if not shared or max(abs(first[i] - second[i]) for i in shared) > TOLERANCE:
            return False
        if max(first, key=first.__getitem__) not in second:
            return False
        if one.tokens[place : place + 1] != two.tokens[place : place + 1] and place < len(two.tokens):
            return True
    return True

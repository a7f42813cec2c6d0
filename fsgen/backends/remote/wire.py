"""The requests that servers understand, and what their answers say.

vLLM's names are those of its documentation (`/v1/completions` with `prompt_logprobs`, `return_token_ids`), SGLang's
those of its `/generate`; servers that say `openai` are asked in OpenAI's own (`logprobs`, `echo`), where tokens are
texts. Each class is one way of asking.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fsgen.backends.remote.http import BadAnswerError, RefusedError
from fsgen.backends.remote.said import Said, Top, most_likely
from fsgen.backends.vocabulary import vocabulary

_MARK = "token_id:"
TIE = 1e-4
"""Nats within which two tokens count as equally likely to the server, which may then write either."""


@dataclass(frozen=True)
class Wanted:
    """A text to be written, greedily.

    Attributes:
        context: its prompt.
        max_tokens: at most.
        stop: texts that end it.
        ends: tokens that end it.
    """

    context: Sequence[int]
    max_tokens: int
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()


class Wire(ABC):
    """One way of asking.

    Args:
        model: as the server calls it.
        top: log-probabilities asked for at each position.
        tokenizer: for servers that name tokens by their texts.

    Attributes:
        path: where requests go.
        prompts_by_text: it can be asked for the token ids of a text.
        rereads: a request for log-probabilities of the prompt reads all of it, whatever the server has cached.
    """

    path: ClassVar[str] = "/v1/completions"
    prompts_by_text: ClassVar[bool] = True
    rereads: ClassVar[bool] = False

    def __init__(self, model: str, top: int, tokenizer: Any) -> None:
        self.model, self.top, self.tokenizer = model, top, tokenizer

    @abstractmethod
    def write(self, wanted: Wanted) -> dict[str, Any]:
        """A request for a text."""

    @abstractmethod
    def written(self, wanted: Wanted, answer: Any) -> Said:
        """What it answers, the token that ends the text included where the server tells it."""

    @abstractmethod
    def score(self, sequence: Sequence[int], last: int) -> dict[str, Any]:
        """A request for the distributions after the last positions of a sequence, as in `Session.score`."""

    @abstractmethod
    def scored(self, sequence: Sequence[int], last: int, answer: Any) -> Said:
        """What it answers, after the context `sequence[:-last + 1]`."""

    def tokenize(self, text: str) -> dict[str, Any]:
        """A request that tells the token ids of a text."""
        raise NotImplementedError

    def tokenized(self, answer: Any) -> list[int]:
        """What it answers."""
        raise NotImplementedError

    def _check_model(self, answer: Any) -> None:
        if (said := answer.get("model", self.model)) != self.model:
            raise BadAnswerError(f"an answer of the model {said!r} instead of {self.model!r}")


class OpenAI(Wire):
    """OpenAI's completions: tokens are texts, `echo` gives the log-probabilities of the prompt."""

    prompts_by_text = False

    def __init__(self, model: str, top: int, tokenizer: Any) -> None:
        super().__init__(model, top, tokenizer)
        self._ids = ids_by_text(tokenizer)

    def write(self, wanted: Wanted) -> dict[str, Any]:
        stop = {"stop": list(wanted.stop)} if wanted.stop else {}
        return self._body(wanted.context, wanted.max_tokens, **stop)

    def _body(self, prompt: Any, max_tokens: int, **more: Any) -> dict[str, Any]:
        prompt = prompt if isinstance(prompt, str) else [int(token) for token in prompt]
        settings = {"temperature": 0, "top_p": 1, "n": 1, "logprobs": self.top}
        return {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, **settings, **more}

    def written(self, wanted: Wanted, answer: Any) -> Said:
        choice = self._choice(answer)
        tokens, tops = _checked(wanted, *self._read(choice["logprobs"]), choice.get("finish_reason"))
        if choice["finish_reason"] == "stop" and not wanted.stop and len(wanted.ends) == 1:
            (end,) = wanted.ends  # which is no text, so it is not told how likely it was
            if tokens[-1:] != [end]:
                tokens, tops = [*tokens, end], [*tops, [(end, math.nan)]]
        return Said.of(tokens, tops)

    def score(self, sequence: Sequence[int], last: int) -> dict[str, Any]:
        return self._body(sequence, 1, echo=True)

    def scored(self, sequence: Sequence[int], last: int, answer: Any) -> Said:
        said = self._choice(answer)["logprobs"]
        start = len(sequence) - last + 1
        if len(said["top_logprobs"]) <= len(sequence):
            raise BadAnswerError(f"log-probabilities of {len(said['top_logprobs'])} tokens for {len(sequence) + 1}")
        for name, token in zip(said["tokens"], sequence, strict=False):
            if self._id(name) not in (None, token):
                raise BadAnswerError(f"the token {name!r} where {token} was sent")
        part = slice(start, len(sequence) + 1)
        tops = [self._top(entries) for entries in said["top_logprobs"][part]]
        return Said.of(sequence[start:], tops)

    def _choice(self, answer: Any) -> Any:
        self._check_model(answer)
        (choice,) = answer["choices"]
        if choice.get("finish_reason") in ("abort", "error"):
            raise BadAnswerError(f"an answer that ended with {choice['finish_reason']!r}")
        return choice

    def _read(self, logprobs: Any) -> tuple[list[int], list[Top]]:
        names, tops = logprobs["tokens"], logprobs["top_logprobs"]
        tokens = [self._id(name) for name in names]
        if (
            unknown := next((name for name, token in zip(names, tokens, strict=True) if token is None), None)
        ) is not None:
            raise BadAnswerError(f"the token {unknown!r}, which several ids or none may be")
        return [token for token in tokens if token is not None], [self._top(each) for each in tops]

    def _top(self, entries: Mapping[str, float]) -> Top:
        """Of texts those are left out that may be several ids, and what is less likely than the first of them."""
        known: list[tuple[int, float]] = []
        for name, logprob in sorted(entries.items(), key=lambda entry: -entry[1]):
            if (token := self._id(name)) is None:
                break
            known.append((token, float(logprob)))
        if not known:
            raise BadAnswerError("a most likely token that several ids or none may be")
        return known[: self.top]

    def _id(self, name: str) -> int | None:
        return int(name.removeprefix(_MARK)) if name.startswith(_MARK) else self._ids.get(name)


class VLLM(OpenAI):
    """vLLM's completions: token ids, and `prompt_logprobs`; our own server has the same names."""

    prompts_by_text = True
    rereads = True

    def _body(self, prompt: Any, max_tokens: int, **more: Any) -> dict[str, Any]:
        named = {"return_token_ids": True, "return_tokens_as_token_ids": True}
        plain = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        return super()._body(prompt, max_tokens, **named, **plain, **more)

    def write(self, wanted: Wanted) -> dict[str, Any]:
        stop = {"stop": list(wanted.stop)} if wanted.stop else {}
        more = {"ignore_eos": True, "stop_token_ids": sorted(wanted.ends), **stop}
        return self._body(wanted.context, wanted.max_tokens, **more)

    def written(self, wanted: Wanted, answer: Any) -> Said:
        choice = self._choice(answer)
        _check_prompt(choice.get("prompt_token_ids"), wanted.context)
        tops = [self._top(entries) for entries in choice["logprobs"]["top_logprobs"]]
        return Said.of(*_checked(wanted, [int(i) for i in choice["token_ids"]], tops, choice.get("finish_reason")))

    def score(self, sequence: Sequence[int], last: int) -> dict[str, Any]:
        more = {"prompt_logprobs": self.top} if last > 1 else {}
        return self._body(sequence, 1, ignore_eos=True, **more)

    def scored(self, sequence: Sequence[int], last: int, answer: Any) -> Said:
        choice = self._choice(answer)
        _check_prompt(choice.get("prompt_token_ids"), sequence)
        start = len(sequence) - last + 1
        tops: list[Top] = []
        if last > 1:
            said = choice["prompt_logprobs"]
            if len(said) != len(sequence):
                raise BadAnswerError(f"log-probabilities of {len(said)} tokens for a prompt of {len(sequence)}")
            for token, entries in zip(sequence[start:], said[start:], strict=True):
                each = ((int(i), float(entry["logprob"])) for i, entry in entries.items())
                tops.append(most_likely(each, self.top, token))
        return Said.of(sequence[start:], [*tops, self._top(choice["logprobs"]["top_logprobs"][0])])

    def tokenize(self, text: str) -> dict[str, Any]:
        return self._body(text, 1)

    def tokenized(self, answer: Any) -> list[int]:
        return [int(token) for token in self._choice(answer)["prompt_token_ids"]]


class SGLang(Wire):
    """SGLang's `/generate`, whose cache stays in use for the log-probabilities of the last positions."""

    path = "/generate"

    def _body(self, max_tokens: int, start: int, **more: Any) -> dict[str, Any]:
        sampling = {"temperature": 0, "max_new_tokens": max_tokens, **more.pop("sampling", {})}
        logprobs = {"return_logprob": True, "top_logprobs_num": self.top, "logprob_start_len": start}
        return {"sampling_params": sampling, **logprobs, **more}

    def write(self, wanted: Wanted) -> dict[str, Any]:
        sampling = {"stop_token_ids": sorted(wanted.ends), "ignore_eos": True, "skip_special_tokens": False}
        if wanted.stop:
            sampling["stop"] = list(wanted.stop)
        ids = [int(token) for token in wanted.context]
        return self._body(wanted.max_tokens, len(ids) - 1, input_ids=ids, sampling=sampling)

    def written(self, wanted: Wanted, answer: Any) -> Said:
        about = self._about(answer, wanted.context)
        tokens = [int(token) for _, token, _ in about["output_token_logprobs"]]
        tops = [_sglang_top(entries, self.top) for entries in about["output_top_logprobs"]]
        return Said.of(*_checked(wanted, tokens, tops, about["finish_reason"]["type"]))

    def score(self, sequence: Sequence[int], last: int) -> dict[str, Any]:
        ids = [int(token) for token in sequence]
        # Its first position has no log-probability, so it begins one token earlier.
        return self._body(1, len(ids) - last, input_ids=ids, sampling={"ignore_eos": True})

    def scored(self, sequence: Sequence[int], last: int, answer: Any) -> Said:
        about = self._about(answer, sequence)
        start = len(sequence) - last + 1
        tokens = [int(token) for _, token, _ in about["input_token_logprobs"]][-last:][1:]
        if tokens != [int(token) for token in sequence[start:]]:
            raise BadAnswerError("log-probabilities of other tokens than those of the prompt")
        said = about["input_top_logprobs"][len(about["input_top_logprobs"]) - last + 1 :] if last > 1 else []
        tops = [_sglang_top(entries, self.top, token) for entries, token in zip(said, tokens, strict=True)]
        return Said.of(tokens, [*tops, _sglang_top(about["output_top_logprobs"][0], self.top)])

    def tokenize(self, text: str) -> dict[str, Any]:
        return self._body(1, 0, text=text)

    def tokenized(self, answer: Any) -> list[int]:
        return [int(token) for _, token, _ in self._about(answer, None)["input_token_logprobs"]]

    def _about(self, answer: Any, prompt: Sequence[int] | None) -> Any:
        about = answer["meta_info"]
        if about["finish_reason"] is None or about["finish_reason"]["type"] == "abort":
            raise BadAnswerError("an answer that was aborted")
        if prompt is not None and (read := about.get("prompt_tokens", len(prompt))) != len(prompt):
            raise BadAnswerError(f"it has read {read} tokens of a prompt of {len(prompt)}")
        return about


WIRES: dict[str, type[Wire]] = {"vllm": VLLM, "sglang": SGLang, "openai": OpenAI}


def _sglang_top(entries: Any, count: int, first: int | None = None) -> Top:
    return most_likely(((int(token), float(logprob)) for logprob, token, _ in entries), count, first)


def _check_prompt(said: Any, sent: Sequence[int]) -> None:
    if said is not None and [int(token) for token in said] != [int(token) for token in sent]:
        raise BadAnswerError("it has read other tokens than those that were sent")


def _checked(wanted: Wanted, tokens: list[int], tops: list[Top], reason: Any) -> tuple[list[int], list[Top]]:
    """A text that is whole. Raises BadAnswerError for one that ends where nothing ends it."""
    if len(tokens) != len(tops):
        raise BadAnswerError(f"{len(tops)} distributions for {len(tokens)} tokens")
    if len(tokens) > wanted.max_tokens:
        raise BadAnswerError(f"{len(tokens)} tokens where {wanted.max_tokens} were asked for")
    if reason == "length" and len(tokens) < wanted.max_tokens:
        raise BadAnswerError(f"a text that was cut at {len(tokens)} of {wanted.max_tokens} tokens")
    if reason not in ("stop", "length"):
        raise BadAnswerError(f"a text that ended with {reason!r}")
    return tokens, [greedy_top(token, top) for token, top in zip(tokens, tops, strict=True)]


def greedy_top(token: int, top: Top) -> Top:
    """The most likely tokens with the written one first. Raises RefusedError where it is not the most likely."""
    if top[0][0] == token:
        return top
    best, own = top[0][1], dict(top).get(token, -math.inf)
    if own < best - TIE:
        raise RefusedError(
            f"the server wrote the token {token} ({own:.3f}) where {top[0][0]} ({best:.3f}) is more likely: it "
            "samples, or has penalties of its own"
        )
    return [(token, best), *((other, logprob) for other, logprob in top if other != token)]


def ids_by_text(tokenizer: Any) -> dict[str, int]:
    """The only token that writes a text, for each text that one token writes."""
    found: dict[str, int] = {}
    several = set()
    for token, text in enumerate(vocabulary(tokenizer).texts):
        try:
            shown = text.decode()
        except UnicodeDecodeError:
            continue
        if shown in found:
            several.add(shown)
        if shown:
            found[shown] = token
    return {text: token for text, token in found.items() if text not in several}

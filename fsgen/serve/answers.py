"""From jobs to answers: whole, or as events while the text is being written."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fsgen.api import finished
from fsgen.generation import finite
from fsgen.metrics import Counts
from fsgen.serve.errors import failed
from fsgen.serve.job import Job
from fsgen.serve.records import CompletionLogprobs, chat_logprobs, prompt_logprobs, source, speculative, timing
from fsgen.serve.schema import ChatRequest, CompletionRequest
from fsgen.serve.service import Service, Texts
from fsgen.types import Token

REASONS = {"eos": "stop", "stop": "stop", "length": "length"}


def as_json(value: Any) -> bytes:
    """A value as JSON; what is not finite is null, which JSON does not have."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        return json.dumps(finite(value), allow_nan=False, separators=(",", ":")).encode()


@dataclass(slots=True)
class _Given:
    """How much of a text was put into events."""

    tokens: int = 0
    offset: int = 0
    begun: bool = False
    ended: bool = False


@dataclass(eq=False)
class Answer:
    """The answer to a request.

    Attributes:
        service, request, texts: what is answered.
        id, created: of the answer.
    """

    service: Service
    request: CompletionRequest | ChatRequest
    texts: Texts
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.chat = isinstance(self.request, ChatRequest)
        self.id = self.id or f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid4().hex}"
        options = self.request.fsgen
        self._records = options is not None and options.tokens
        self._candidates = options.candidates if options is not None else 0
        if isinstance(self.request, ChatRequest):
            self._most = (self.request.top_logprobs or 0) if self.request.logprobs else None
            self._shown: list[str] | None = None
        else:
            self._most = self.request.logprobs
            self._shown = self._prompts() if self.request.echo else None

    def _prompts(self) -> list[str]:
        """The prompts as texts, where they are repeated."""
        assert isinstance(self.request, CompletionRequest)
        given: Any = self.request.prompt
        each = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        return [one if isinstance(one, str) else self.service.text(one) for one in each]

    # ---- whole

    async def whole(self) -> dict[str, Any]:
        """The answer when all is written. Raises ApiError where a text was not finished."""
        while not all(job.done for job in self.texts.jobs):
            await self.texts.changed.wait()
            self.texts.changed.clear()
            self._raise_failure()
        self._raise_failure()
        choices = [self._choice(index, _Given(), delta=False) for index in range(len(self.texts.jobs))]
        kind = "chat.completion" if self.chat else "text_completion"
        return self._around(kind, choices) | {"usage": self._usage()} | self._metrics()

    def _raise_failure(self) -> None:
        for job in self.texts.jobs:
            if job.failure is not None and job.done:
                raise failed(job.failure)

    # ---- as events

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events, one for each text and round; an error ends them."""
        given = [_Given() for _ in self.texts.jobs]
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        options = self.request.stream_options
        usage = options is not None and options.include_usage
        more = {"usage": None} if usage else {}
        while not all(each.ended for each in given):
            await self.texts.changed.wait()
            self.texts.changed.clear()
            for index, (job, each) in enumerate(zip(self.texts.jobs, given, strict=True)):
                if job.done and job.failure is not None and not each.ended:
                    yield _event(failed(job.failure).as_dict())
                    yield b"data: [DONE]\n\n"
                    return
                if self._has_news(index, job, each):
                    choice = self._choice(index, each, delta=True)
                    last = self._metrics() if all(one.ended for one in given) else {}
                    yield _event(self._around(kind, [choice]) | last | more)
        if usage:
            yield _event(self._around(kind, []) | {"usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _has_news(self, index: int, job: Job, given: _Given) -> bool:
        """A text has tokens that were not given, or has ended; what is said of its prompt is known."""
        scores = self._scores(index)
        if given.ended or (scores is not None and not scores.done):
            return False
        return job.known > given.tokens or job.done

    # ---- parts

    def _scores(self, index: int) -> Any:
        return self.texts.jobs[index - index % self.texts.n].scores

    def _choice(self, index: int, given: _Given, delta: bool) -> dict[str, Any]:
        """A text, or what of it is new."""
        job, first = self.texts.jobs[index], not given.begun
        tokens = job.tokens[given.tokens : job.known]
        done, given.begun = job.done and job.known == len(job.tokens), True
        given.tokens += len(tokens)
        given.ended = done
        choice: dict[str, Any] = {"index": index}
        text = "".join(token.text for token in tokens)
        if self.chat:
            message = {"content": text} if delta and not first else {"role": "assistant", "content": text}
            choice["delta" if delta else "message"] = message if delta else message | {"refusal": None}
            choice["logprobs"] = None
            if self._most is not None and tokens:
                as_ids = self.request.return_tokens_as_token_ids
                choice["logprobs"] = chat_logprobs(self.service, tokens, self._most, as_ids)
        else:
            choice |= self._completion(index, text, tokens, given, first)
        stop = job.sequence.stop_reason if job.sequence is not None else "length"
        choice["finish_reason"] = REASONS.get(stop or "") if done else None
        if self.request.return_token_ids:
            if first:
                choice["prompt_token_ids"] = self.texts.prompts[index // self.texts.n]
            choice["token_ids"] = [token.id for token in tokens]
        scores = self._scores(index)
        if self.request.prompt_logprobs is not None and scores is not None:
            choice["prompt_logprobs"] = prompt_logprobs(self.service, scores, self.request.prompt_logprobs)
        if self._records:
            choice["fsgen"] = {"tokens": [source(self.service, token, self._candidates) for token in tokens]}
        return choice

    def _completion(self, index: int, text: str, tokens: list[Token], given: _Given, first: bool) -> dict[str, Any]:
        """What a completion says beside what chats say too."""
        shown = self._shown[index // self.texts.n] if self._shown is not None and first else ""
        logprobs = None
        if self._most is not None:
            logprobs = CompletionLogprobs(self.service, self._most, self.request.return_tokens_as_token_ids)
            if self._shown is not None and first:
                logprobs.prompt(self._scores(index))
                given.offset = len(shown)
            given.offset = logprobs.written(tokens, given.offset)
        return {"text": shown + text, "logprobs": None if logprobs is None else logprobs.as_dict()}

    def _around(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.service.name,
            "system_fingerprint": None,
            "choices": choices,
        }

    def _counts(self) -> Counts:
        return Counts.total(finished(job.sequence, job.tokens).stats for job in self.texts.jobs if job.sequence)

    def _usage(self) -> dict[str, Any]:
        counts, prompt = self._counts(), sum(map(len, self.texts.prompts))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": counts.tokens,
            "total_tokens": prompt + counts.tokens,
            "draft_calls": counts.draft_calls,
            "target_calls": counts.target_calls,
        }

    def _metrics(self) -> dict[str, Any]:
        """What the texts cost: our metrics, and those of drafting with vLLM's names, for one text alone."""
        method, jobs = self.texts.method, self.texts.jobs
        tokens = "auto" if method.adaptive else method.draft_tokens
        return {
            "fsgen": {
                "method": method.name,
                "router": str(method.router),
                "draft_tokens": tokens,
                "metrics": self._counts().as_dict(),
            },
            "metrics": {"speculative_decoding": None}
            if len(jobs) > 1
            else {"speculative_decoding": speculative(method, jobs[0])} | timing(jobs[0]),
        }


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + as_json(value) + b"\n\n"

"""From requests to jobs: which method, which sampling, which token ids; what this server does not allow is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from secrets import randbits
from typing import Any

from fsgen.api import method_for
from fsgen.backends import Members
from fsgen.backends.codec import codec, readable
from fsgen.engine.detokenizer import decoded
from fsgen.methods.check import check, require_all_tokens
from fsgen.methods.fusions import FUSIONS
from fsgen.methods.method import PRESETS, Method
from fsgen.methods.routers import ROUTERS
from fsgen.probs import choice_seed
from fsgen.prompts import chat_text, encode
from fsgen.serve.errors import ApiError, overloaded
from fsgen.serve.job import Job, ServedSequence
from fsgen.serve.limits import Limits
from fsgen.serve.scheduler import RefusedError, Scheduler
from fsgen.serve.schema import ChatRequest, CompletionRequest, FsgenOptions, Message, Sampling
from fsgen.serve.scoring import Scores
from fsgen.types import SamplingParams

LONG = 20_000  # characters of a prompt from which on it is encoded in a thread of its own
FILES = ("learned",)  # routers that read files are the server's to choose


@dataclass(eq=False, slots=True)
class Texts:
    """The texts of one request.

    Attributes:
        jobs: by index, those of the first prompt first; prompts: token ids of each prompt.
        n: texts a prompt; changed: set whenever a job has something new; method: what writes them.
    """

    jobs: list[Job]
    prompts: list[list[int]]
    n: int
    changed: asyncio.Event
    method: Method


class Service:
    """What a server serves.

    Args:
        members: the models.
        method: what writes where a request says nothing.
        limits: how much is taken on.
        scheduler: runs the texts.
        name: of the model, as clients call it.
        choosing: requests may choose their method.
    """

    def __init__(
        self, members: Members, method: Method, limits: Limits, scheduler: Scheduler, name: str, choosing: bool = True
    ) -> None:
        self.members, self.method, self.scheduler, self.name, self.choosing = members, method, scheduler, name, choosing
        self.limits = replace(limits, context=min(limits.context, members.context))
        self.tokenizer = members.tokenizer
        self._codec = codec(self.tokenizer) if readable(self.tokenizer) else None
        self.started = int(time.time())

    # ---- tokens

    def token(self, token: int) -> str:
        """What a token writes; a special one, its name."""
        return str(self.tokenizer.decode([token]))

    def token_bytes(self, token: int) -> list[int]:
        """The bytes that it writes."""
        if self._codec is not None and token not in self._codec.special.values() and token < len(self._codec.texts):
            return list(self._codec.texts[token])
        return list(self.token(token).encode())

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones left out."""
        return str(decoded.__wrapped__(self.tokenizer, tuple(ids)))

    async def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text. Raises ValueError for one that is far too long, or no text."""
        text.encode()  # half of a character that takes two is none
        if special:
            return list(await _off_loop(len(text), encode, self.members, text))
        if len(text) > 16 * self.limits.context:
            raise ValueError(f"a prompt of {len(text):,} characters exceeds the {self.limits.context:,} tokens served")
        return list(await _off_loop(len(text), self.tokenizer.encode, text, add_special_tokens=False))

    async def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, with the beginning of the next answer."""
        text = chat_text(self.tokenizer, [message.plain() for message in messages])
        return await self.encode(text, special=False)

    # ---- requests

    def require_model(self, model: str | None) -> None:
        """Raises ApiError for a model that is not served."""
        if model is not None and model not in (self.name, *self.members.names().values()):
            raise ApiError(
                404, f"the model {model!r} does not exist; this server has {self.name!r}",
                param="model", code="model_not_found",
            )  # fmt: skip

    async def completion(self, request: CompletionRequest, client: str) -> Texts:
        """The jobs of a completion. Raises ApiError, or ValueError with what is wrong."""
        given: Any = request.prompt
        many = isinstance(given, list) and not isinstance(given[0], int)
        prompts = [
            await self.encode(one, request.add_special_tokens) if isinstance(one, str) else list(one)
            for one in (given if many else [given])
        ]
        self._check_length(prompts, request.n, request.max_tokens)
        top = request.prompt_logprobs
        if request.echo and request.logprobs is not None:
            top = max(request.logprobs, top or 0)
        self._check_logprobs("logprobs", request.logprobs)
        if request.max_tokens == 0 and not (request.echo or request.prompt_logprobs is not None):
            raise ApiError(400, "max_tokens=0 writes nothing: only with echo or prompt_logprobs", param="max_tokens")
        return self._texts(request, prompts, request.max_tokens, request.logprobs, top, client)

    async def chat(self, request: ChatRequest, client: str) -> Texts:
        """The jobs of a chat; without a bound of its own an answer may take what is left of the context."""
        ids = await self.encode_chat(request.messages)
        room = max(1, min(self.limits.output, self.limits.context - len(ids)))
        most = next((n for n in (request.max_completion_tokens, request.max_tokens) if n is not None), room)
        self._check_length([ids], request.n, most)
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        self._check_logprobs("top_logprobs", logprobs)
        return self._texts(request, [ids], most, logprobs, request.prompt_logprobs, client)

    def _check_length(self, prompts: list[list[int]], n: int, tokens: int) -> None:
        limits = self.limits
        if len(prompts) * n > limits.choices:
            message = (
                f"{len(prompts)} prompts with n={n} are more than the {limits.choices} texts that a request may have"
            )
            raise ApiError(400, message, param="n", code="too_many_choices")
        if tokens > limits.output:
            message = f"max_tokens={tokens} is more than the {limits.output} tokens that a completion may have here"
            raise ApiError(400, message, param="max_tokens", code="invalid_value")
        longest = max(map(len, prompts))
        if longest + tokens > limits.context:
            message = (
                f"this server's maximum context length is {limits.context} tokens; {longest} of the prompt and "
                f"{tokens} of the completion are more"
            )
            raise ApiError(400, message, param="prompt", code="context_length_exceeded")
        if min(map(len, prompts)) == 0:
            raise ApiError(400, "a prompt has no tokens; at least one is needed", param="prompt", code="invalid_value")

    def _check_logprobs(self, name: str, wanted: int | None) -> None:
        if wanted is not None and wanted > self.limits.logprobs:
            raise ApiError(400, f"{name}={wanted} is more than the {self.limits.logprobs} of this server", param=name)

    def _texts(
        self,
        request: Sampling,
        prompts: list[list[int]],
        tokens: int,
        logprobs: int | None,
        top: int | None,
        client: str,
    ) -> Texts:
        """Jobs for all prompts and choices; handed to the scheduler, all or none."""
        self._check_logprobs("prompt_logprobs", request.prompt_logprobs)
        method = self.method_of(request.fsgen)
        sampling = _sampling(request, max(1, tokens), logprobs)
        check(self.members, method, prompts, [sampling] * len(prompts))
        if top is not None:
            require_all_tokens(self.members, method)
        if logprobs:
            require_all_tokens(self.members, method, f"of any {logprobs}: ask for each token's own alone", written=True)
        texts = Texts([], prompts, request.n, asyncio.Event(), method)
        candidates = request.fsgen.candidates if request.fsgen is not None else 0
        deadline = time.monotonic() + self.limits.seconds
        for ids in prompts:
            scores = None if top is None else Scores(ids, method, top)
            for choice in range(request.n):
                seed = sampling.seed if sampling.greedy else choice_seed(sampling.seed, choice)
                one = ServedSequence(ids, method, replace(sampling, seed=seed), candidates) if tokens else None
                texts.jobs.append(Job(one, client, deadline, texts.changed, scores if choice == 0 else None))
        try:
            self.scheduler.submit(texts.jobs)
        except RefusedError as refused:
            raise overloaded(str(refused), refused.seconds, refused.full) from None
        return texts

    def method_of(self, options: FsgenOptions | None) -> Method:
        """The method of a request. Raises ApiError or ValueError for what this server does not allow."""
        if options is None:
            return self.method
        asked = (options.method, options.router, options.draft_tokens, options.verifier)
        if all(each is None for each in asked):
            return self.method
        if not self.choosing:
            raise ApiError(400, "this server's method is fixed", param="fsgen", code="unsupported_parameter")
        if options.method is not None:
            _require_known("method", options.method, PRESETS)
            _, _, rest = options.method.partition("fusion=")
            if rest:
                _require_known("fusion", rest.partition(",")[0], FUSIONS)
        if options.router is not None:
            _require_known("router", options.router, [name for name in ROUTERS if name not in FILES])
        tokens = None if options.draft_tokens is None else str(options.draft_tokens)
        method = method_for(self.members, options.method or self.method, options.router, tokens)
        return method if options.verifier is None else replace(method, verifier=options.verifier)


async def _off_loop(size: int, function: Any, *arguments: Any, **options: Any) -> Any:
    """A call that may take long, in a thread of its own where it will."""
    if size < LONG:
        return function(*arguments, **options)
    return await asyncio.to_thread(function, *arguments, **options)


def _require_known(kind: str, text: str, known: Any) -> None:
    """Strings of requests name parts of the package alone: others would be imported, or files read."""
    name = text.strip().partition(":")[0]
    if name not in known:
        raise ApiError(400, f"unknown {kind} {name!r}; there are {', '.join(known)}", param=f"fsgen.{kind}")


def _sampling(request: Sampling, tokens: int, logprobs: int | None) -> SamplingParams:
    """The settings of a text. Raises ValueError for what no sampling can have."""
    return SamplingParams(
        max_tokens=tokens,
        temperature=request.temperature,
        top_k=max(0, request.top_k),
        top_p=request.top_p,
        min_p=request.min_p,
        seed=randbits(63) if request.seed is None else request.seed % 2**64,
        stop=request.stop or (),
        stop_token_ids=request.stop_token_ids or (),
        ignore_eos=request.ignore_eos,
        min_tokens=request.min_tokens,
        logprobs=logprobs,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=tuple((_whole(token), bias) for token, bias in (request.logit_bias or {}).items()),
    )


def _whole(token: str) -> int:
    if not token.isdecimal():
        raise ValueError(f"logit_bias has the key {token!r:.40}, which is no token id")
    return int(token[:12])

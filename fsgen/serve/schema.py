"""What a request may say. What is not here is refused by name, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# What clients know from OpenAI and this server does not do, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
    "use_beam_search": (False,),
    "guided_json": (),
    "reasoning_effort": ("none",),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]


class UnsupportedError(ValueError):
    """A parameter that clients know from OpenAI, and that this server does not have."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name} is not supported by this server")


class Request(BaseModel):
    """Strict: a number is a number, and unknown names are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, given: Any) -> Any:
        """Leaves out what asks for nothing: null, or what this server does anyway."""
        if not isinstance(given, dict):
            return given
        kept = {name: value for name, value in given.items() if value is not None}
        for name in [name for name in kept if name in NEUTRAL and name not in cls.model_fields]:
            if kept[name] not in NEUTRAL[name]:
                raise UnsupportedError(name)
            del kept[name]
        return kept


class StreamOptions(Request):
    """Attributes: include_usage: the last event has the usage of the whole request."""

    include_usage: bool = False


class FsgenOptions(Request):
    """How this text is written; the server's own method where nothing is said.

    Attributes:
        method: a preset, with parameters behind a colon: `route:rollback=0.2`.
        router: where System 2 is consulted: `max-prob:0.5`.
        draft_tokens: tokens drafted in a round at most, or `auto`.
        verifier: `exact`, `rejection`, `coupled` or `auto`.
        tokens: the answer has the record of each token.
        candidates: how many of the most likely tokens of both systems each record has.
    """

    method: Annotated[str, Field(max_length=200)] | None = None
    router: Annotated[str, Field(max_length=200)] | None = None
    draft_tokens: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] | None = None
    verifier: Literal["auto", "exact", "rejection", "coupled"] | None = None
    tokens: bool = True
    candidates: Annotated[int, Field(ge=0, le=10)] = 0


class Sampling(Request):
    """What completions and chats have in common."""

    model: Annotated[str, Field(max_length=1000)] | None = None
    n: Annotated[int, Field(ge=1, le=1024)] = 1
    stop: str | Annotated[list[Text], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] = 0
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    stop_token_ids: Annotated[list[TokenId], Field(max_length=128)] | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    prompt_logprobs: Annotated[int, Field(ge=0)] | None = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    user: Annotated[str, Field(max_length=1000)] | None = None
    fsgen: FsgenOptions | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream=true")
        if self.prompt_logprobs is not None and self.stream:
            raise ValueError("prompt_logprobs is not given in a stream: set stream=false")
        if self.stop == "":
            raise ValueError("stop must not be empty")
        return self


class CompletionRequest(Sampling):
    """`POST /v1/completions`. A prompt is a text or token ids; several are a list of these."""

    prompt: (
        str
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    )
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool = False
    add_special_tokens: bool = True


class TextPart(Request):
    """A part of a message; texts alone."""

    type: Literal["text"]
    text: str


class Message(Request):
    """One turn; what a template knows of it beside role and content is not supported."""

    role: Annotated[str, Field(min_length=1, max_length=100)]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As the chat template reads it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text} | ({} if self.name is None else {"name": self.name})


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _logprobs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is for logprobs=true")
        return self


class TokenizeRequest(Request):
    """`POST /tokenize`: of a text, or of a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeRequest(Request):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[TokenId]

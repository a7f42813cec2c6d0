"""The HTTP interface: routes, and what they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import fsgen
from fsgen.serve import page
from fsgen.serve.answers import Answer, as_json
from fsgen.serve.errors import ApiError, ErrorAnswer, from_validation
from fsgen.serve.guard import Guard, Keys
from fsgen.serve.meters import Meters
from fsgen.serve.schema import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from fsgen.serve.service import Service, Texts

if TYPE_CHECKING:
    from fsgen.serve.tracing import Spans

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The request is not one that this server can do.",
        401: "A key is needed.",
        404: "There is no such model or path.",
        413: "The request is too large.",
        429: "Too many requests are waiting.",
        500: "The models failed.",
        503: "The server is ending.",
        504: "The time is up.",
    }.items()
}


class Json(Response):
    """JSON, without looking at its parts once more."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return as_json(content)


class Events(Response):
    """Server-sent events of an answer; `ended` is called at their end, whatever ended them."""

    media_type = "text/event-stream"

    def __init__(self, answer: Answer, ended: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._answer, self._ended = answer, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._answer.events():
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        try:
            await _unless_gone(write(), receive)
        finally:
            self._ended()


async def _unless_gone(work: Any, receive: Receive) -> Any:
    """What the work gives; None where the client goes away before."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answered(
    service: Service, body: CompletionRequest | ChatRequest, texts: Texts, request: Request, spans: Spans | None
) -> Response:
    """The answer to a request whose texts are on their way."""
    answer = Answer(service, body, texts)
    request.scope["fsgen"] |= {
        "answer": answer.id,
        "prompt_tokens": sum(map(len, texts.prompts)),
        "stream": body.stream,
    }

    def ended() -> None:
        service.scheduler.cancel(texts.jobs)  # a client that went away frees the rows of its texts
        if spans is not None:
            spans.record(answer, request.scope["request_id"], request.headers)

    if body.stream:
        return Events(answer, ended)
    try:
        whole = await _unless_gone(answer.whole(), request.receive)
    finally:
        ended()
    if whole is None:
        raise ApiError(499, "the client went away")
    request.scope["fsgen"] |= {"completion_tokens": whole["usage"]["completion_tokens"]}
    return Json(whole)


def make_app(
    service: Service,
    meters: Meters,
    keys: Collection[str] = (),
    hosts: Collection[str] = (),
    origins: Collection[str] = (),
    log_prompts: bool = False,
    spans: Spans | None = None,
) -> FastAPI:
    """The application. It starts the scheduler when it starts, and ends it when it ends.

    Args:
        service: what is served.
        meters: what is counted.
        keys, hosts, origins: see `Guard`.
        log_prompts: the log has the prompts of requests.
        spans: traces requests.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.scheduler.start(asyncio.get_running_loop())
        yield
        service.scheduler.drain()
        await asyncio.to_thread(service.scheduler.join, service.limits.drain + 10.0)
        if spans is not None:
            await asyncio.to_thread(spans.close)

    app = FastAPI(
        title="fsgen serve",
        version=fsgen.__version__,
        summary="Collaborative decoding of a small and a large language model behind the API of OpenAI.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
    )
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_middleware(Guard, limits=service.limits, keys=Keys(keys), hosts=hosts, origins=origins)
    _add_errors(app)
    _add_texts(app, service, log_prompts, spans)
    _add_state(app, service, meters)
    _add_page(app, service)
    return app


def _add_errors(app: FastAPI) -> None:
    """Every error is an object that clients of OpenAI read."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return Json(error.as_dict(), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        fault = from_validation(list(error.errors()))
        return Json(fault.as_dict(), fault.status)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        fault = ApiError(error.status_code, str(error.detail), code={404: "not_found"}.get(error.status_code))
        return Json(fault.as_dict(), fault.status, error.headers)

    @app.exception_handler(Exception)
    async def mistaken(request: Request, error: Exception) -> Response:
        fault = ApiError(500, "the server has made a mistake", "server_error", code="internal_error")
        return Json(fault.as_dict(), fault.status)


async def _client(request: Request) -> str:  # async, or it would run in a thread of its own
    return str(request.scope["fsgen"]["client"])


Client = Annotated[str, Depends(_client)]


@contextmanager
def _checking() -> Iterator[None]:
    """What a check of a request raises is the client's to mend."""
    try:
        yield
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_value") from error


def _add_texts(app: FastAPI, service: Service, log_prompts: bool, spans: Spans | None) -> None:
    """What OpenAI's clients ask for, and vLLM's tools."""

    def noted(request: Request, body: Any) -> None:
        service.require_model(body.model)
        if log_prompts:
            given = body.prompt if isinstance(body, CompletionRequest) else [m.plain() for m in body.messages]
            request.scope["fsgen"]["prompt"] = given

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request, client: Client) -> Response:
        """Writes on from prompts; a stream is server-sent events."""
        noted(request, body)
        with _checking():
            texts = await service.completion(body, client)
        return await _answered(service, body, texts, request, spans)

    @app.post("/v1/chat/completions")
    async def chats(body: ChatRequest, request: Request, client: Client) -> Response:
        """Answers a conversation."""
        noted(request, body)
        with _checking():
            texts = await service.chat(body, client)
        return await _answered(service, body, texts, request, spans)

    @app.get("/v1/models")
    async def models() -> Response:
        """The one model that is served: members that write together."""
        return Json({"object": "list", "data": [_model(service)]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        """The model, by its name."""
        service.require_model(name)
        return Json(_model(service))

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Response:
        """Token ids of a text or of a conversation."""
        service.require_model(body.model)
        with _checking():
            if body.messages is not None:
                ids = await service.encode_chat(body.messages)
            else:
                ids = await service.encode(body.prompt or "", body.add_special_tokens)
        strings = {"token_strs": [service.token(token) for token in ids]} if body.return_token_strs else {}
        return Json({"count": len(ids), "max_model_len": service.limits.context, "tokens": ids, **strings})

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Response:
        """The text of token ids."""
        service.require_model(body.model)
        if any(token >= service.members.vocab_size for token in body.tokens):
            raise ApiError(400, f"a token id is outside the vocabulary of {service.members.vocab_size}", param="tokens")
        return Json({"prompt": service.text(body.tokens)})


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.name,
        "object": "model",
        "created": service.started,
        "owned_by": "fsgen",
        "max_model_len": service.limits.context,
        "members": service.members.names(),
    }


def _add_state(app: FastAPI, service: Service, meters: Meters) -> None:
    """How the server is."""
    scheduler = service.scheduler

    @app.get("/health")
    async def health() -> Response:
        """200 as long as the engine runs."""
        if scheduler.fault is not None:
            raise ApiError(503, scheduler.fault, "server_error", code="not_available")
        return Json({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        """200 where new requests are taken."""
        if scheduler.fault is not None or scheduler.draining:
            raise ApiError(503, scheduler.fault or "the server is ending", "server_error", code="not_available")
        return Json({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(meters.text(), media_type="text/plain; version=0.0.4")

    @app.get("/fsgen/state")
    async def state() -> Response:
        """Rows, queue, and what was written over time."""
        return Json(
            {
                "model": service.name,
                "members": service.members.names(),
                "method": service.method.name,
                "router": str(service.method.router),
                "rows": service.limits.rows,
                "running": scheduler.running,
                "waiting": scheduler.waiting,
                "queue": service.limits.queue,
                "draining": scheduler.draining,
                "history": meters.state(),
            }
        )


def _add_page(app: FastAPI, service: Service) -> None:
    """The page that tries it out."""

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(page.description(app.openapi()), media_type="text/html")

    @app.get("/static/settings.json", include_in_schema=False)
    async def settings() -> Response:
        return Json(page.settings(service))

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        return _file(name)


def _file(name: str) -> Response:
    found = page.static(name)
    if found is None:
        raise ApiError(404, f"there is no file {name!r}", code="not_found")
    return Response(found[0], media_type=found[1], headers={"cache-control": "no-cache"})

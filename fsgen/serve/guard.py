"""What every request passes first: who may ask, how large and how long it may be; and a line of log at its end."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fsgen.serve.answers import as_json
from fsgen.serve.errors import ApiError
from fsgen.serve.limits import Limits

log = logging.getLogger("fsgen.serve.requests")

OPEN = ("/", "/health", "/ready")  # without a key, and what lies under /static/
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BODY_SECONDS, LAST_SECONDS = 30.0, 30.0  # to send a request; to read an answer, beyond its own time
SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


class Keys:
    """API keys, of which digests are kept and compared in constant time."""

    def __init__(self, keys: Collection[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, authorization: str) -> str | None:
        """Who sends this header, as a name that does not tell the key; None for nobody."""
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "replace")).digest()
        known = [hmac.compare_digest(digest, one) for one in self._digests]  # all of them, whichever it is
        return digest.hex()[:12] if scheme.lower() == "bearer" and any(known) else None


class Guard:
    """An ASGI application around another one.

    Args:
        app: what answers.
        limits: of a request.
        keys: who may ask; anybody where there are none.
        hosts: names under which the server may be called; any where there are none. A page of another site that has
            its own name point here is refused by it.
        origins: other sites whose pages may ask.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, keys: Keys, hosts: Collection[str] = (), origins: Collection[str] = ()
    ) -> None:
        self._app, self._limits, self._keys, self._hosts, self._origins = app, limits, keys, hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, receive, send)
        try:
            await self._pass(call)
        except ApiError as error:
            await call.refuse(error)
        except TimeoutError:
            if call.status is not None:
                raise  # the connection is closed: its reader is too slow
            await call.refuse(ApiError(504, "the time for this request is up", "server_error", code="timeout"))
        finally:
            call.log()

    async def _pass(self, call: _Call) -> None:
        headers = Headers(scope=call.scope)
        self._check_place(headers)
        call.about["client"] = self._client(call.scope, headers)
        await call.read_body(self._limits.body, headers.get("content-length"))
        async with asyncio.timeout(self._limits.seconds + LAST_SECONDS):
            await self._app(call.scope, call.receive, call.send)

    def _check_place(self, headers: Headers) -> None:
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname
            origin = urlsplit(headers.get("origin", ""))
        except ValueError:
            raise ApiError(400, "a header names no address", code="invalid_header") from None
        if self._hosts and name not in self._hosts:
            raise ApiError(421, f"this server is not {host!r}", code="unknown_host")
        site = f"{origin.scheme}://{origin.netloc}"
        if headers.get("origin") is not None and origin.netloc != host and not {site, "*"} & set(self._origins):
            raise ApiError(403, f"pages of {site!r} may not use this server", code="unknown_origin")

    def _client(self, scope: Scope, headers: Headers) -> str:
        """Who asks. Raises ApiError where a key is needed and none of them is given."""
        address = str((scope.get("client") or ("unknown",))[0])
        path, method = scope["path"], scope["method"]
        if not self._keys or path in OPEN or path.startswith("/static/") or method == "OPTIONS":
            return address
        owner = self._keys.owner(headers.get("authorization", ""))
        if owner is None:
            headers_of = {"WWW-Authenticate": "Bearer"}
            message = "incorrect API key: send one of this server's as 'Authorization: Bearer KEY'"
            raise ApiError(401, message, "authentication_error", code="invalid_api_key", headers=headers_of)
        return owner


class _Call:
    """One request, and what is logged of it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else uuid4().hex
        self.status: int | None = None
        self.about: dict[str, Any] = {}  # what routes add: token counts, and the prompt where that is wanted
        scope["fsgen"], scope["request_id"] = self.about, self.id
        self._started, self._body = time.time(), list[Message]()

    async def read_body(self, most: int, length: str | None) -> None:
        """Takes the whole request in. Raises ApiError where it is too long, or takes too long."""
        too_long = ApiError(413, f"the request has more than {most:,} bytes", code="request_too_large")
        if length is not None and length.isdecimal() and int(length) > most:
            raise too_long
        parts, size, more = list[bytes](), 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the request ended before its body did", code="incomplete")
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > most:
                        raise too_long
        except TimeoutError:
            raise ApiError(408, "the request took too long to arrive", code="timeout") from None
        self._body.append({"type": "http.request", "body": b"".join(parts), "more_body": False})

    async def receive(self) -> Message:
        return self._body.pop() if self._body else await self._receive()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            for name, value in SECURITY.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answers with an error, unless an answer has begun."""
        if self.status is None:
            body = as_json(error.as_dict())
            given = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
            # What of a request was not read would be taken for the next one.
            headers = [
                (name.lower().encode(), value.encode()) for name, value in (given | {"connection": "close"}).items()
            ]
            await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})

    def log(self) -> None:
        """One line of JSON."""
        line = {
            "time": round(self._started, 3),
            "request_id": self.id,
            "method": self.scope["method"],
            "path": self.scope["path"][:200],
            "status": self.status,
            "seconds": round(time.time() - self._started, 4),
            **self.about,
        }
        log.info(json.dumps(line))

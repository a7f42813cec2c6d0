"""Requests to one server: many at a time, repeated until it answers.

A loop of its own thread runs them, so that they can be asked for from anywhere, a notebook's running loop too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from fsgen.backends.protocol import UnavailableError

_log = logging.getLogger(__name__)

Result = TypeVar("Result")
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
MOST_FAULTS = 5  # answers of status 500, or answers without sense, to one request
UNKNOWN = 5.0  # seconds that a server which has never answered is waited for
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before another attempt, where the server does not say
KEY = "FSGEN_API_KEY"


_answered: set[str] = set()
"""Servers that have answered a process for which this one works."""


def have_answered(urls: Iterable[str]) -> None:
    """Wait for these servers with all patience, though none has answered this process."""
    _answered.update(urls)


class RefusedError(ValueError):
    """The server answers, and does not do what is asked of it."""


class BadAnswerError(Exception):
    """An answer that is not whole, or not to the question: asked for again."""


class Client:
    """A server.

    Args:
        url: of the server.
        concurrency: requests under way at a time, at most.
        timeout: seconds that one request may take.
        patience: seconds of silence, refused connections, 429s and 503s before `UnavailableError`. Of a server that has
            never answered, at most `UNKNOWN`: then its address is probably wrong.
    """

    def __init__(self, url: str, concurrency: int = 32, timeout: float = 600.0, patience: float = 600.0) -> None:
        try:
            import httpx2
        except ImportError:
            raise ValueError("models behind servers need the package httpx2: pip install 'fsgen[remote]'") from None
        self.url, self._concurrency, self._patience = url, concurrency, patience
        self._transport_error = httpx2.TransportError
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name=f"requests to {url}", daemon=True).start()
        key = os.environ.get(KEY)
        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
            limits=httpx2.Limits(max_connections=concurrency),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            trust_env=False,
        )
        self._turns = asyncio.Semaphore(concurrency)
        self._answered = url in _answered
        self.interruptions = 0
        """How often the server did not answer as it should: after that it may be another one."""

    def get(self, path: str) -> Any:
        """What a GET answers."""
        return self.all([lambda: self._ask("GET", path, None, None)])[0]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What one POST answers; see `posts`."""
        return self.posts(path, [body])[0]

    def posts(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """What several POSTs answer, in order; see `read_all`."""
        return self.read_all(path, bodies, lambda i, answer: answer)

    def read_all(self, path: str, bodies: Sequence[dict[str, Any]], read: Callable[[int, Any], Result]) -> list[Result]:
        """What is read of the answers to several POSTs, in order.

        Args:
            path: of all of them.
            bodies: of each.
            read: gives the result, from the place of the body and the answer; raises `BadAnswerError` for one that is
                asked for again.

        Raises:
            RefusedError: the server refuses one of them; the others have been made all the same.
            UnavailableError: it is away for longer than `patience`.
        """

        def asked(i: int) -> Callable[[], Awaitable[Result]]:
            return lambda: self._ask("POST", path, bodies[i], lambda answer: read(i, answer))

        return self.all([asked(i) for i in range(len(bodies))])

    def all(self, tasks: Sequence[Callable[[], Awaitable[Result]]]) -> list[Result]:
        """The results of several requests. Where some fail the others end first."""

        async def run() -> list[Result | BaseException]:
            return await asyncio.gather(*(task() for task in tasks), return_exceptions=True)

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            found = future.result()
        except BaseException:
            future.cancel()
            raise
        errors = [one for one in found if isinstance(one, BaseException)]
        for kind in (UnavailableError, BaseException):  # what is nobody's fault first
            for error in errors:
                if isinstance(error, kind):
                    raise error
        return [one for one in found if not isinstance(one, BaseException)]

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, read: Callable[[Any], Result] | None
    ) -> Any:
        async with self._turns:
            started, attempt, faults = time.monotonic(), 0, 0
            while True:
                wait: float | None = None
                try:
                    response = await self._http.request(method, self.url + path, json=body)
                    self._answered = True
                    if response.status_code not in AGAIN:
                        self._refuse(response, path)
                        return _read(response, read)
                    reason = f"status {response.status_code}: {_message(response)}"
                    wait = _retry_after(response.headers.get("retry-after"))
                    faults += response.status_code == 500
                except self._transport_error as error:
                    reason = f"{type(error).__name__}: {error}"
                except BadAnswerError as error:
                    reason, faults = str(error), faults + 1
                self.interruptions += 1
                if faults >= MOST_FAULTS:
                    raise RefusedError(f"{self.url}{path} failed {faults} times: {reason}")
                attempt += 1
                if wait is None:
                    wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
                patience = self._patience if self._answered else min(self._patience, UNKNOWN)
                if time.monotonic() - started + wait > patience:
                    raise UnavailableError(f"{self.url}{path} has not answered for {patience:g} s: {reason}")
                _log.info("%s%s: %s; again in %.1f s", self.url, path, reason, wait)
                await asyncio.sleep(wait)

    def _refuse(self, response: Any, path: str) -> None:
        if response.status_code >= 400:
            raise RefusedError(f"{self.url}{path} refuses it ({response.status_code}): {_message(response)}")


def _read(response: Any, read: Callable[[Any], Result] | None) -> Any:
    try:
        answer = response.json()
    except ValueError as error:
        raise BadAnswerError(f"an answer that is no JSON: {error}") from error
    if read is None:
        return answer
    try:
        return read(answer)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadAnswerError(f"an answer without {type(error).__name__} {error}") from error


def _message(response: Any) -> str:
    """What the server says is wrong, in a line."""
    text = response.text
    try:
        content = response.json()
        error = content.get("error", content.get("detail", content))
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:300]


def _retry_after(value: str | None) -> float | None:
    """The seconds that a `Retry-After` asks for; None where there is none, or none that can be read."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None

"""What went wrong, as clients of the OpenAI API read it: an object with a message, a type, a parameter and a code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from fsgen.serve.job import FailureError
from fsgen.serve.schema import UnsupportedError


class ErrorBody(BaseModel):
    """What is known of an error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorBody


class ApiError(Exception):
    """An error with its HTTP status.

    Attributes:
        status: of the answer; body: what it says; headers: that go with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.headers = status, dict(headers or {})
        self.body = ErrorBody(message=message, type=type, param=param, code=code)
        super().__init__(message)

    def as_dict(self) -> dict[str, Any]:
        """The body of the answer, or the data of an event in a stream."""
        return {"error": self.body.model_dump()}


def overloaded(message: str, seconds: int, full: bool) -> ApiError:
    """No room now: 429 where the queue is full, 503 where the server ends; with when to try again."""
    after = {"Retry-After": str(seconds)}
    if full:
        return ApiError(429, message, "rate_limit_error", code="queue_full", headers=after)
    return ApiError(503, message, "server_error", code="not_available", headers=after)


def failed(failure: FailureError) -> ApiError:
    """A text that was not finished."""
    status, code = {
        "model": (500, "model_failed"),
        "time": (504, "timeout"),
        "stopping": (503, "not_available"),
        "cancelled": (499, "cancelled"),
    }[failure.kind]
    return ApiError(status, str(failure), "server_error", code=code)


def from_validation(faults: list[Any]) -> ApiError:
    """The first fault that pydantic found in a request."""
    fault = faults[0]
    place = [str(step) for step in fault["loc"] if step != "body"]
    names = [step for step in place if not step.startswith(("function-", "is-instance", "list[", "str", "int"))]
    param = ".".join(names) or None
    if fault["type"] == "extra_forbidden":
        return ApiError(400, f"unrecognized request argument: {param}", param=param, code="unknown_parameter")
    if fault["type"] == "missing":
        return ApiError(400, f"missing required parameter: {param}", param=param, code="missing_required_parameter")
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, UnsupportedError):
        return ApiError(400, str(cause), param=cause.name, code="unsupported_parameter")
    where = f"{param}: " if param else ""
    message = where + fault["msg"].removeprefix("Value error, ")
    return ApiError(400, message, param=param, code="invalid_value")

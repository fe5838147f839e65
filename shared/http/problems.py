"""Errors as RFC 9457 problem details; every error of every service is one of these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
_MAX_ECHO = 100


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: its HTTP status and the title that never changes."""

    status: int
    title: str


KINDS: Mapping[str, Kind] = {
    "malformed-request": Kind(400, "The request cannot be read"),
    "idempotency-key-missing": Kind(400, "The Idempotency-Key header is missing or malformed"),
    "unauthorized": Kind(401, "A valid bearer token is needed"),
    "forbidden": Kind(403, "The token does not allow this"),
    "not-found": Kind(404, "There is nothing here"),
    "method-not-allowed": Kind(405, "The resource does not support this method"),
    "insufficient-funds": Kind(409, "The account does not have the money"),
    "account-frozen": Kind(409, "The account is frozen"),
    "account-closed": Kind(409, "The account is closed"),
    "already-reversed": Kind(409, "The transaction has been reversed already"),
    "not-reversible": Kind(409, "This kind of transaction cannot be reversed"),
    "hold-not-active": Kind(409, "The hold has been captured, voided or has expired"),
    "hold-exceeded": Kind(409, "The capture exceeds the hold"),
    "balance-not-zero": Kind(409, "The account still holds money"),
    "balance-limit": Kind(409, "The balance would exceed what an account can hold"),
    "request-in-progress": Kind(409, "A request with this key is still running"),
    "payload-too-large": Kind(413, "The request body is too large"),
    "uri-too-long": Kind(414, "The request URI is too long"),
    "unsupported-media-type": Kind(415, "The body is not plain JSON"),
    "validation-failed": Kind(422, "The request is not valid"),
    "currency-mismatch": Kind(422, "The currencies differ"),
    "same-account": Kind(422, "Both sides are the same account"),
    "idempotency-key-reused": Kind(422, "The key was used for another request"),
    "rate-limited": Kind(429, "Too many requests"),
    "headers-too-large": Kind(431, "The request headers are too large"),
    "internal-error": Kind(500, "Something went wrong on our side"),
    "unavailable": Kind(503, "The service is briefly unavailable"),
}

CODE_OF_STATUS = {
    400: "malformed-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    413: "payload-too-large",
    414: "uri-too-long",
    415: "unsupported-media-type",
    422: "validation-failed",
    429: "rate-limited",
    431: "headers-too-large",
    503: "unavailable",
}


@dataclass(slots=True, eq=False)
class Problem(Exception):
    """A problem to answer with; raise it anywhere below an endpoint."""

    code: str
    detail: str
    errors: Sequence[Mapping[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code."""
        return KINDS[self.code].status


class ProblemDocument(BaseModel):
    """The body of every error (RFC 9457)."""

    type: str = Field(description="URI path that names the kind of problem.", examples=["/problems/not-found"])
    title: str
    status: int
    detail: str
    instance: str = Field(description="Path of the request.")
    code: str = Field(description="The last part of `type`.", examples=["not-found"])
    request_id: str
    errors: list[dict[str, str]] = Field(default=[], description="JSON pointers to wrong fields, with reasons.")


def document(problem: Problem, instance: str, request_id: str) -> dict[str, Any]:
    """Return the problem's body as plain data."""
    body = {
        "type": f"/problems/{problem.code}",
        "title": KINDS[problem.code].title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        "code": problem.code,
        "request_id": request_id,
    }
    if problem.errors:
        body["errors"] = list(problem.errors[:MAX_ERRORS])
    return body


def response(problem: Problem, instance: str, request_id: str) -> Response:
    """Return the problem as an HTTP response."""
    content = orjson.dumps(document(problem, instance, request_id))
    return Response(content, problem.status, dict(problem.headers), MEDIA_TYPE)


def unavailable(detail: str, retry_after: int = 1) -> Problem:
    """Return the 503 problem with the seconds after which a retry makes sense."""
    return Problem("unavailable", detail, headers={"Retry-After": str(retry_after)})


def shortened(text: str) -> str:
    """Return a text of the client as far as an answer repeats it."""
    return text if len(text) <= _MAX_ECHO else text[:_MAX_ECHO] + "…"


def _pointer(location: Sequence[int | str]) -> str:
    """Return a JSON pointer (RFC 6901) for a pydantic location."""
    return "".join("/" + shortened(str(part)).replace("~", "~0").replace("/", "~1") for part in location)


def from_validation(errors: Sequence[ErrorDetails]) -> Problem:
    """Turn pydantic's findings into a problem: unreadable JSON is malformed, everything else invalid.

    The rejected values are not repeated: they may be what somebody must not read in a log.
    """
    if any(error["type"] == "json_invalid" for error in errors):
        return Problem("malformed-request", "The body is not valid JSON.")
    found = [{"pointer": _pointer(error["loc"]), "detail": error["msg"]} for error in errors[:MAX_ERRORS]]
    more = len(errors) - len(found)
    return Problem("validation-failed", "See `errors` for what to change" + (f"; {more} more." if more else "."), found)


def from_exception(error: Exception) -> Problem:
    """Turn any exception an endpoint may raise into the problem that the client gets."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ValidationError):
        return from_validation(error.errors(include_url=False, include_input=False, include_context=False))
    if isinstance(error, RequestValidationError):
        return from_validation(error.errors())
    if isinstance(error, HTTPException):
        code = CODE_OF_STATUS.get(error.status_code, "malformed-request" if error.status_code < 500 else "unavailable")
        return Problem(code, _detail_of(error, code), headers=error.headers or {})
    return Problem("internal-error", "The request failed and nothing is known to have changed; retry with its key.")


def _detail_of(error: HTTPException, code: str) -> str:
    if code == "not-found":
        return "No such resource; see /docs/ for what there is."
    if code == "method-not-allowed":
        return f"Use one of: {(error.headers or {}).get('Allow', 'the documented methods')}."
    return str(error.detail)

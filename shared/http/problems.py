"""Errors as problem details (RFC 9457): problem types, responses, and the conversion of exceptions."""

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
class ProblemType:
    """A problem type: its HTTP status and its fixed title."""

    status: int
    title: str


PROBLEM_TYPES: Mapping[str, ProblemType] = {
    "malformed-request": ProblemType(400, "Malformed request"),
    "idempotency-key-missing": ProblemType(400, "Idempotency-Key missing or malformed"),
    "unauthorized": ProblemType(401, "Valid bearer token required"),
    "forbidden": ProblemType(403, "Insufficient permissions"),
    "not-found": ProblemType(404, "Not found"),
    "method-not-allowed": ProblemType(405, "Method not allowed"),
    "not-acceptable": ProblemType(406, "No acceptable media type"),
    "insufficient-funds": ProblemType(409, "Insufficient funds"),
    "account-frozen": ProblemType(409, "Account frozen"),
    "account-closed": ProblemType(409, "Account closed"),
    "already-reversed": ProblemType(409, "Transaction already reversed"),
    "reversal-exceeded": ProblemType(409, "Reversal exceeds the transaction"),
    "batch-refused": ProblemType(409, "Atomic batch refused"),
    "not-reversible": ProblemType(409, "Transaction not reversible"),
    "hold-not-active": ProblemType(409, "Hold not active"),
    "hold-exceeded": ProblemType(409, "Capture exceeds the hold"),
    "balance-not-zero": ProblemType(409, "Account balance is not zero"),
    "overdraft-in-use": ProblemType(409, "Overdraft in use"),
    "daily-limit-exceeded": ProblemType(409, "Daily debit limit exceeded"),
    "balance-limit": ProblemType(409, "Balance limit exceeded"),
    "not-sealed": ProblemType(409, "Transaction not sealed yet"),
    "webhooks-disabled": ProblemType(409, "Webhooks not enabled"),
    "webhook-limit": ProblemType(409, "Too many webhooks"),
    "request-in-progress": ProblemType(409, "Request with this key in progress"),
    "events-pruned": ProblemType(410, "Events pruned"),
    "payload-too-large": ProblemType(413, "Request body too large"),
    "uri-too-long": ProblemType(414, "Request URI too long"),
    "unsupported-media-type": ProblemType(415, "Unsupported media type"),
    "validation-failed": ProblemType(422, "Validation failed"),
    "currency-mismatch": ProblemType(422, "Currency mismatch"),
    "too-many-currencies": ProblemType(422, "Too many currencies in a group"),
    "same-account": ProblemType(422, "Payer and payee are the same account"),
    "expiry-out-of-range": ProblemType(422, "Expiry of the hold out of range"),
    "idempotency-key-reused": ProblemType(422, "Idempotency-Key reused for a different request"),
    "rate-limited": ProblemType(429, "Too many requests"),
    "headers-too-large": ProblemType(431, "Request headers too large"),
    "internal-error": ProblemType(500, "Internal error"),
    "unavailable": ProblemType(503, "Service temporarily unavailable"),
}

CODE_OF_STATUS = {
    400: "malformed-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    410: "events-pruned",
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
    """An exception that becomes a problem response; endpoints and the functions they call may raise it."""

    code: str
    detail: str
    errors: Sequence[Mapping[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    # Members of the document besides the standard ones, described in ProblemDocument.
    members: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    @property
    def status(self) -> int:
        """The HTTP status of the problem type."""
        return PROBLEM_TYPES[self.code].status


class ProblemDocument(BaseModel):
    """The body of every error (RFC 9457)."""

    type: str = Field(description="URI reference of the problem type.", examples=["/problems/not-found"])
    title: str
    status: int
    detail: str
    instance: str = Field(description="Path of the request.")
    code: str = Field(description="The last part of `type`.", examples=["not-found"])
    request_id: str
    errors: list[dict[str, str]] = Field(default=[], description="JSON pointers to invalid fields, with reasons.")
    holds: list[str] = Field(
        default=[], description="Ids of active holds that prevent the closing of the account, oldest first, at most 20."
    )
    leg: int | None = Field(default=None, description="Index of the refused leg of a transaction group, from 0.")


def document(problem: Problem, instance: str, request_id: str) -> dict[str, Any]:
    """Return the problem's body as plain data."""
    body = {
        "type": f"/problems/{problem.code}",
        "title": PROBLEM_TYPES[problem.code].title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        "code": problem.code,
        "request_id": request_id,
        **problem.members,
    }
    if problem.errors:
        body["errors"] = list(problem.errors[:MAX_ERRORS])
    return body


def response(problem: Problem, instance: str, request_id: str) -> Response:
    """Return the problem as an HTTP response."""
    content = orjson.dumps(document(problem, instance, request_id))
    return Response(content, problem.status, dict(problem.headers), MEDIA_TYPE)


def code_of(body: bytes) -> str:
    """Return the code of a problem's body; empty if it is not a known problem."""
    try:
        code = orjson.loads(body)["code"]
    except (ValueError, LookupError, TypeError):
        return ""
    return code if isinstance(code, str) and code in PROBLEM_TYPES else ""


def unavailable(detail: str, retry_after: int = 1) -> Problem:
    """Return the 503 problem with a Retry-After header, in seconds."""
    return Problem("unavailable", detail, headers={"Retry-After": str(retry_after)})


def shortened(text: str) -> str:
    """Return client input truncated for use in a response."""
    return text if len(text) <= _MAX_ECHO else text[:_MAX_ECHO] + "…"


def _pointer(location: Sequence[int | str]) -> str:
    """Return a JSON pointer (RFC 6901) for a pydantic location."""
    return "".join("/" + shortened(str(part)).replace("~", "~0").replace("/", "~1") for part in location)


def from_validation(errors: Sequence[ErrorDetails]) -> Problem:
    """Convert pydantic errors into a problem: malformed-request for invalid JSON, else validation-failed.

    Rejected values are not repeated, because they may be sensitive and problems are logged.
    """
    if any(error["type"] == "json_invalid" for error in errors):
        return Problem("malformed-request", "The body is not valid JSON.")
    items = [{"pointer": _pointer(error["loc"]), "detail": error["msg"]} for error in errors[:MAX_ERRORS]]
    more = len(errors) - len(items)
    return Problem("validation-failed", "Invalid request; see `errors`" + (f"; {more} more." if more else "."), items)


def from_exception(error: Exception) -> Problem:
    """Convert any exception of an endpoint into a problem."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ValidationError):
        return from_validation(error.errors(include_url=False, include_input=False, include_context=False))
    if isinstance(error, RequestValidationError):
        return from_validation(error.errors())
    if isinstance(error, HTTPException):
        code = CODE_OF_STATUS.get(error.status_code, "malformed-request" if error.status_code < 500 else "unavailable")
        return Problem(code, _detail_of(error, code), headers=error.headers or {})
    return Problem("internal-error", "The outcome of the request is unknown; retry with the same Idempotency-Key.")


def _detail_of(error: HTTPException, code: str) -> str:
    if code == "not-found":
        return "No such resource; see /docs/ for the API."
    if code == "method-not-allowed":
        return f"Method not allowed; use one of: {(error.headers or {}).get('Allow', 'the documented methods')}."
    return str(error.detail)

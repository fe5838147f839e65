"""The connection to the bank. It repeats requests until there is a response, for a limited time."""

import random
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

# The bank responds within 20 seconds. Longer: a replica or the network hangs, and another try may meet another replica.
_TRY_SECONDS = 30.0
_FIRST_BACKOFF_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 5.0
_IDEMPOTENT_METHODS = ("GET", "HEAD", "PUT", "DELETE")


class ProblemError(Exception):
    """The bank refused a request; the attributes are the members of the problem (RFC 9457).

    `code` is the last part of `type`; the bank's docs/problems.md explains each. It is empty if the response is not one
    of the bank's, but for example of a proxy. `members` has all members, also `errors` and `holds`.
    """

    def __init__(self, status: int, members: Mapping[str, Any]) -> None:
        super().__init__(status, members)
        self.status = status
        self.members = members
        self.type: str = members.get("type", "about:blank")
        self.title: str = members.get("title", "")
        self.detail: str = members.get("detail", "")
        self.instance: str = members.get("instance", "")
        self.code: str = members.get("code", "")
        self.request_id: str = members.get("request_id", "")

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.detail or self.title}"

    @property
    def is_transient(self) -> bool:
        """Whether a later try of the same request may succeed."""
        return self.status == 429 or self.status >= 500 or self.code == "request-in-progress"


class NoResponseError(Exception):
    """There was no final response in time, so a write may have been executed or not; the cause is the last failure.

    Send the same request with `idempotency_key` later: it is executed once. The key is empty if the request had none;
    then read the state before you repeat the request.
    """

    def __init__(self, message: str, idempotency_key: str) -> None:
        super().__init__(message, idempotency_key)
        self.message = message
        self.idempotency_key = idempotency_key

    def __str__(self) -> str:
        return self.message


class BankingClient:
    """A client of the bank with one token; use it as a context manager, also from several threads.

    `timeout_seconds` limits each operation with all its tries; a response that has begun is read as long as it makes
    progress. `transport` replaces that of httpx, for example for another certificate authority. Assign `token` to use a
    new one.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        timeout_seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.token = token
        self._timeout_seconds = timeout_seconds
        self._client = httpx.Client(base_url=base_url, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> httpx.Response:
        """Return the successful response of a request; the functions of `banking_client.api` send theirs with this.

        Tries that fail to connect or get 429, 5xx or 409 request-in-progress are repeated with the same key and body,
        after a random pause that doubles, and at least Retry-After. A POST without Idempotency-Key is sent once.
        Raises ProblemError for other errors, and NoResponseError if no try succeeds in time.
        """
        headers = httpx.Headers(headers)
        key = headers.get("Idempotency-Key", "")
        repeatable = bool(key) or method in _IDEMPOTENT_METHODS
        deadline = time.monotonic() + self._timeout_seconds
        tries = 0
        while True:
            tries += 1
            seconds = max(min(_TRY_SECONDS, deadline - time.monotonic()), 0.001)
            headers["Authorization"] = f"Bearer {self.token}"
            failure: Exception
            try:
                response = self._client.request(
                    method, path, params=params, headers=headers, json=json, timeout=seconds
                )
            except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
                # The request itself is wrong.
                raise
            except httpx.TransportError as error:
                failure, pause = error, 0.0
            else:
                if response.is_success:
                    return response
                problem = _problem(response)
                if not (repeatable and problem.is_transient):
                    raise problem
                failure, pause = problem, _retry_after(response)
            backoff = min(_FIRST_BACKOFF_SECONDS * 2 ** (tries - 1), _MAX_BACKOFF_SECONDS)
            # At random, so that clients that failed at the same time do not return at the same time.
            pause = max(pause, random.uniform(backoff / 2, backoff))  # nosec B311
            if not repeatable or time.monotonic() + pause >= deadline:
                raise NoResponseError(_message(method, path, tries, failure, key), key) from failure
            time.sleep(pause)


def new_key() -> str:
    """Return a new Idempotency-Key."""
    return uuid.uuid4().hex


def _problem(response: httpx.Response) -> ProblemError:
    try:
        members = response.json()
    except ValueError:
        members = None
    if not isinstance(members, dict):
        members = {"title": response.reason_phrase, "detail": response.text[:200]}
    return ProblemError(response.status_code, members)


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds of Retry-After; 0 without it, or if it is a date, which the bank does not send."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def _message(method: str, path: str, tries: int, failure: Exception, key: str) -> str:
    last = str(failure) or type(failure).__name__
    remedy = f"repeat it with the Idempotency-Key {key}" if key else "check its effect before you repeat it"
    return f"{method} {path}: no final response in {tries} tries (last: {last}); {remedy}"

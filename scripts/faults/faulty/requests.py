"""Faults in the handling of clients' requests: wrong status, delay, death."""

import asyncio
import itertools
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

from shared.http import bodies, health
from shared.http.auth import Authenticator
from shared.http.problems import Problem
from shared.http.web import Service

from . import Patch

Handle = Callable[..., Awaitable[None]]
_DELAY_SECONDS = 0.3
_TAIL_DELAY_SECONDS = 2.0
_TAIL_SHARE = 1 / 50
_ERROR_SHARE = 1 / 20


class InjectedError(Exception):
    """The client gets 500."""


def wrap_requests(patch: Patch, change: Callable[[Handle, Any, Any, Any, Any], Awaitable[None]]) -> None:
    """Let `change` handle clients' requests, inside of what measures them."""
    handle = Service._handle  # pylint: disable=protected-access

    async def changed(self: Service, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/api/"):
            await change(handle, self, scope, receive, send)
        else:
            await handle(self, scope, receive, send)

    patch(Service, "_handle", changed)


def errors(patch: Patch, share: float = 1) -> None:
    """Fail a share of the requests; every other one of them has had its effect."""
    with_effect = itertools.cycle((False, True))

    async def fail(handle: Handle, service: Any, scope: Any, receive: Any, send: Any) -> None:
        if random.random() >= share:  # nosec B311
            await handle(service, scope, receive, send)
            return
        if next(with_effect):
            await handle(service, scope, receive, _discard)
        raise InjectedError

    wrap_requests(patch, fail)


def some_errors(patch: Patch) -> None:
    """Fail one of twenty requests."""
    errors(patch, _ERROR_SHARE)


async def _discard(_message: Any) -> None:
    return


def unauthorized(patch: Patch) -> None:
    """Reject every token, as with the keys of another issuer."""

    async def reject(_self: Authenticator, _header: str | None) -> Any:
        raise Problem("unauthorized", "The token's signature is not valid.")

    patch(Authenticator, "authenticate", reject)


def not_found(patch: Patch) -> None:
    """Lose all routes, as with another prefix of the API."""

    async def lose(handle: Handle, service: Any, scope: Any, receive: Any, send: Any) -> None:
        await handle(service, {**scope, "path": f"/v2{scope['path']}"}, receive, send)

    wrap_requests(patch, lose)


def invalid(patch: Patch) -> None:
    """Reject every body, as with a schema that requires another field."""

    async def reject(_request: Any, _model: Any) -> Any:
        missing = {"pointer": "/channel", "detail": "Field required"}
        raise Problem("validation-failed", "The request is not valid; see errors.", [missing])

    patch(bodies, "read", reject)


def _delayed(patch: Patch, seconds: float, share: float) -> None:
    async def wait(handle: Handle, service: Any, scope: Any, receive: Any, send: Any) -> None:
        if random.random() < share:  # nosec B311
            await asyncio.sleep(seconds)
        await handle(service, scope, receive, send)

    wrap_requests(patch, wait)


def slow(patch: Patch) -> None:
    """Delay every request."""
    _delayed(patch, _DELAY_SECONDS, 1)


def slow_tail(patch: Patch) -> None:
    """Delay one of fifty requests."""
    _delayed(patch, _TAIL_DELAY_SECONDS, _TAIL_SHARE)


def hang(patch: Patch) -> None:
    """Answer no request, and ignore that the client has gone."""

    async def wait(_handle: Handle, _service: Any, _scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.Event().wait()

    wrap_requests(patch, wait)


def death(patch: Patch) -> None:
    """End the process on a certain request."""

    async def die(handle: Handle, service: Any, scope: Any, receive: Any, send: Any) -> None:
        if (b"x-request-id", b"query-of-death") in scope["headers"]:
            # The first process of a container gets no signal that it sends itself.
            os._exit(137)
        await handle(service, scope, receive, send)

    wrap_requests(patch, die)


def unready(patch: Patch) -> None:
    """Fail every check of readiness."""

    async def failure(_check: Any) -> str:
        return InjectedError.__name__

    patch(health, "_failure", failure)

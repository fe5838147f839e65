"""Time limit of API requests."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from shared.http import problems

# Longer than a database statement may take, and shorter than NGINX waits for a replica: a client whose request is stuck
# behind a lock, a stalled disk or a long queue gets a 503 with Retry-After instead of NGINX's 502.
RESPONSE_SECONDS = 20.0

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


async def respond_in_time(
    handle: Callable[..., Awaitable[None]], scope: MutableMapping[str, Any], receive: Any, send: _Send
) -> None:
    """Handle a request, whose response must begin in time; the rest of it may take longer.

    Raises Problem (unavailable). A write that has been queued is still executed, and its key returns the result.
    """
    limit = asyncio.timeout(RESPONSE_SECONDS)

    async def send_without_limit(message: _Message) -> None:
        limit.reschedule(None)
        await send(message)

    try:
        async with limit:
            await handle(scope, receive, send_without_limit)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise problems.unavailable("The request takes too long; retry it with the same Idempotency-Key.") from error

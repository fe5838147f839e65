"""Graceful cancellation of background tasks: a running step finishes first."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")

_TIMEOUT_SECONDS = 5.0


async def shield(step: Awaitable[Result]) -> Result:
    """Return the result of the step; if the caller is cancelled, wait for the step to finish first.

    Cancelling a database call would leave its connection, and with SQLite its thread, in an undefined state. A step
    that does not finish within 5 seconds is cancelled as well.
    """
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_TIMEOUT_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise

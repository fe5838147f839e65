"""Graceful cancellation of background tasks: a running step finishes first."""

import asyncio
from collections.abc import Awaitable, Iterable
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


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks and return when all have ended.

    A library may answer a cancellation with an exception of its own, such as a timeout of the connection that it closes
    meanwhile, and a task that outlives errors would go on. So the tasks are cancelled again until they have ended.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        # Not before a shielded step has timed out: a second cancellation would interrupt it.
        _, pending = await asyncio.wait(pending, timeout=_TIMEOUT_SECONDS + 1)

"""Background tasks that stop between two steps, not in the middle of one."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")

_PATIENCE_SECONDS = 5.0


async def uninterrupted(step: Awaitable[Result]) -> Result:
    """Return what the step returns; when the caller is cancelled, let the step come to its end first.

    A cancelled database call leaves its connection, and with SQLite its thread, in the middle of something. A step
    that takes longer than a few seconds is cancelled as well.
    """
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_PATIENCE_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise

"""Group commit: concurrent requests become one batch, and one batch becomes one database transaction.

While one flush is in flight new requests gather; the next flush takes them all. Nothing lingers: a single request
is flushed at once, so latency at low load is that of one transaction.

What waits is bounded by how much work it is, not by how many requests bring it: one of them may bring a thousand
transfers, and memory and the time of a transaction go with those.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


class QueueFull(Exception):
    """So much is waiting already that a new request is better told to come back."""


class Closed(Exception):
    """The group commit has been drained and takes nothing more."""


class GroupCommit(Generic[Work, Result]):
    """Collects work into batches and gives every caller its own result.

    `flush` gets a batch in order of arrival and returns one result per item, in the same order, once all of them
    are durable. If it raises, the batch had no effect; where `divisible(error)` holds, its halves are tried on their
    own, so that one item that the database refuses does not fail its neighbours.

    `max_batch` and `max_waiting` count what `size` says of each item. One that is larger than a batch is a batch alone.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Work]], Awaitable[Sequence[Result]]],
        *,
        divisible: Callable[[Exception], bool],
        size: Callable[[Work], int] = lambda work: 1,
        max_batch: int = 256,
        max_waiting: int = 4096,
        on_batch: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._flush = flush
        self._divisible = divisible
        self._size = size
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._waiting: deque[tuple[Work, asyncio.Future[Result]]] = deque()
        self._waiting_size = 0
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, work: Work) -> Result:
        """Return the result of the work once it is durable.

        Raises QueueFull, Closed, or what `flush` raised for this item. A caller that is cancelled does not stop
        its work: it may have been written already.
        """
        if self._closed:
            raise Closed
        if self._waiting_size >= self._max_waiting:
            raise QueueFull
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        self._waiting_size += self._size(work)
        if self._flusher is None:
            # A batch belongs to no single request: it starts without what its first caller has in context.
            self._flusher = asyncio.create_task(self._flush_all(), context=Context())
        return await done

    async def drain(self) -> None:
        """Take no more work and return when all that was taken is settled."""
        self._closed = True
        if self._flusher is not None:
            await asyncio.shield(self._flusher)

    async def _flush_all(self) -> None:
        # Requests that are ready in this turn of the event loop join the first batch.
        await asyncio.sleep(0)
        while self._waiting:
            batch = self._take()
            self._on_batch(len(batch))
            await self._settle(batch)
        self._flusher = None

    def _take(self) -> list[tuple[Work, "asyncio.Future[Result]"]]:
        """Return the oldest work that waits, as much as a batch may have."""
        batch: list[tuple[Work, asyncio.Future[Result]]] = []
        taken = 0
        while self._waiting:
            size = self._size(self._waiting[0][0])
            if batch and taken + size > self._max_batch:
                break
            batch.append(self._waiting.popleft())
            taken += size
        self._waiting_size -= taken
        return batch

    async def _settle(self, batch: Sequence[tuple[Work, "asyncio.Future[Result]"]]) -> None:
        try:
            results = await self._flush([work for work, _ in batch])
        except Exception as error:  # pylint: disable=broad-exception-caught  # the callers get it, whatever it is
            if len(batch) > 1 and self._divisible(error):
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
                return
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, done), result in zip(batch, results, strict=True):
            if not done.done():
                done.set_result(result)

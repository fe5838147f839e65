"""Group commit: concurrent requests become one batch, and one batch becomes one database transaction.

Requests that arrive during a flush are queued for the next one. A single request is flushed immediately, so latency at
low load is that of one database transaction.

The queue is bounded by its number of operations, not of requests: one request may contain a thousand transfers, and
memory and transaction time grow with those.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFull(Exception):
    """The queue is full; retry later."""


class Closed(Exception):
    """The group commit has been drained and accepts no more items."""


class GroupCommit(Generic[Item, Result]):
    """Collects items into batches and returns each caller its own result.

    `flush` receives a batch in order of arrival and returns one result per item, in the same order, once all of them
    are durable. If it raises, the batch had no effect; if `should_split(error)` is true, its halves are flushed
    separately, so that one item that the database rejects does not fail the others.

    `max_batch` and `max_waiting` limit the sum of `size(item)`. An item larger than `max_batch` is a batch of its own.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        should_split: Callable[[Exception], bool],
        size: Callable[[Item], int] = lambda item: 1,
        max_batch: int = 256,
        max_waiting: int = 4096,
        on_batch: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._flush = flush
        self._should_split = should_split
        self._size = size
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._waiting_size = 0
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, item: Item) -> Result:
        """Return the result of the item once it is durable.

        Raises QueueFull, Closed, or the exception that `flush` raised for this item. Cancelling the caller does not
        cancel the item: it may have been written already.
        """
        if self._closed:
            raise Closed
        if self._waiting_size >= self._max_waiting:
            raise QueueFull
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        self._waiting_size += self._size(item)
        if self._flusher is None:
            # A batch belongs to no single request, so it does not inherit the context of its first caller.
            self._flusher = asyncio.create_task(self._flush_all(), context=Context())
        return await done

    async def drain(self) -> None:
        """Accept no more items and return when all accepted ones have their results."""
        self._closed = True
        if self._flusher is not None:
            await asyncio.shield(self._flusher)

    async def _flush_all(self) -> None:
        try:
            # Requests that are ready in this iteration of the event loop join the first batch.
            await asyncio.sleep(0)
            while self._waiting:
                batch = self._next_batch()
                self._on_batch(len(batch))
                await self._commit_batch(batch)
        finally:
            self._flusher = None

    def _next_batch(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        """Remove and return the oldest items of the queue, up to the maximum batch size."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        batch_size = 0
        while self._waiting:
            size = self._size(self._waiting[0][0])
            if batch and batch_size + size > self._max_batch:
                break
            batch.append(self._waiting.popleft())
            batch_size += size
        self._waiting_size -= batch_size
        return batch

    async def _commit_batch(self, batch: Sequence[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        try:
            results = await self._flush([item for item, _ in batch])
        except Exception as error:  # pylint: disable=broad-exception-caught  # raised in the callers
            if len(batch) > 1 and self._should_split(error):
                middle = len(batch) // 2
                await self._commit_batch(batch[:middle])
                await self._commit_batch(batch[middle:])
                return
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, done), result in zip(batch, results, strict=True):
            if not done.done():
                done.set_result(result)

"""The consumer task: receives events, passes them to a handler in batches, and dead-letters poison events.

The handler commits the effect of events and their positions in one database transaction. After an outage or on another
replica it is called again with the same events, so it must be idempotent.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from shared.observability import tracing
from shared.db.database import is_retryable, is_unavailable
from shared.events import CloudEvent, known_type
from shared.ids import utc_now
from shared.logging_config import request_context
from shared.messaging.batches import Batch
from shared.messaging.positions import Positions, Range
from shared.prometheus.events import CONSUMED, init_outcome
from shared.runtime.tasks import shield
from shared.messaging.transport import Delivery, EventsPruned, FeedSource, Source

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
_RETRY_SECONDS = 1.0
_POISON_RETRY_SECONDS = 0.05
# Longer than a source waits for events.
_STALLED_SECONDS = 40.0


class Handler:
    """Applies the events of one producer in a service."""

    def __init__(self) -> None:
        # Serializes consumers and recovery of a process, which may have received the same events.
        self.lock = asyncio.Lock()

    async def consumed(self) -> Positions | None:
        """Return the positions of processed events; None after an upgrade (shared.messaging.inbox)."""
        raise NotImplementedError

    async def process(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
        """Apply all events and add the positions to those consumed, or do neither, in one database transaction."""
        raise NotImplementedError

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Store a poison event in the dead-letter table; idempotent."""
        raise NotImplementedError

    async def dry_run(self, events: Sequence[CloudEvent]) -> None:
        """Process the events as `process` does with new ones, and roll back."""
        raise NotImplementedError


class Consumer:
    """A background task that consumes from one source; replicas may run it concurrently."""

    def __init__(
        self, source: Source, handler: Handler, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._source = source
        self._handler = handler
        self._pause = pause
        self._lag = 0.0
        self._last_success = time.monotonic()
        init_outcome("dead")

    def lag_seconds(self) -> float:
        """Return the age of the last event when it was processed; it grows while the consumer is stalled."""
        idle_seconds = time.monotonic() - self._last_success
        return self._lag + idle_seconds if idle_seconds > _STALLED_SECONDS else self._lag

    async def run(self) -> None:
        """Consume until cancelled; an outage of the source or the database only delays events."""
        while True:
            try:
                await self.step()
            except Exception as error:  # pylint: disable=broad-exception-caught  # keep running through every outage
                log.warning("event consumption failed, retrying in %s s: %r", _RETRY_SECONDS, error)
                await self._pause(_RETRY_SECONDS)

    async def step(self) -> int:
        """Receive and process one delivery; return its number of events."""
        consumed = await shield(self._handler.consumed())
        try:
            delivery = await self._source.receive(consumed.gapless_end if consumed else 0)
        except EventsPruned as pruned:
            return await self.catch_up(pruned.feed)
        try:
            await shield(self.consume(delivery.batches))
            await shield(delivery.ack())
        except BaseException:
            await self._nack(delivery)
            raise
        self._last_success = time.monotonic()
        return sum(len(batch.events) for batch in delivery.batches)

    async def catch_up(self, feed: FeedSource) -> int:
        """Consume the producer's snapshot instead of pruned events, then its outbox; return the number of events.

        The snapshot has the effect of all events up to the head of the outbox before the first page. What is left of
        the outbox has what no snapshot has: events without effect in the producer, such as refusals.
        """
        log.warning("the next event has been pruned, reading the producer's snapshot")
        count = pruned = 0
        head: int | None = None
        async for page in feed.snapshot():
            head = page.head if head is None else head
            pruned = page.pruned
            await shield(self.consume([Batch(page.events, None)]))
            count += len(page.events)
        position, head = pruned, head or 0
        while position < head:
            try:
                (batch,) = (await feed.receive(position, wait_seconds=0)).batches
            except EventsPruned as later:
                # Pruned since the last request; the snapshot has their effect.
                position = later.first - 1
                continue
            if not batch.events:
                break
            await shield(self.consume([batch]))
            count += len(batch.events)
            position += len(batch.events)
        if head:
            await shield(self._handler.process([], [Range(1, head)]))
        log.info("caught up from the snapshot", extra={"events": count, "position": head})
        return count

    async def _nack(self, delivery: Delivery) -> None:
        try:
            await delivery.nack()
        except Exception as error:  # pylint: disable=broad-exception-caught  # the first error is reported
            log.info("nack failed, the broker will redeliver after the ack timeout: %r", error)

    async def consume(self, batches: Sequence[Batch]) -> None:
        """Process the events that are not known to be consumed, and dead-letter poison events."""
        async with self._handler.lock:
            await self._consume(batches, await self._handler.consumed())

    async def _consume(self, batches: Sequence[Batch], consumed: Positions | None) -> None:
        events: list[CloudEvent] = []
        new: list[Range] = []
        for batch in batches:
            unseen, positions = _unseen(batch, consumed or Positions())
            new += positions
            for position, raw in unseen:
                try:
                    numbered = {**raw, "position": position} if isinstance(raw, dict) else raw
                    events.append(CloudEvent.model_validate(numbered))
                except ValidationError as error:
                    await self._dead_letter(
                        raw, f"not a CloudEvent: {error.error_count()} errors, first: {error.errors()[0]['msg']}"
                    )
        if events or new:
            await self._process(events, new)
        else:
            self._lag = 0.0

    async def _process(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
        """Process the events together or, if that fails, in halves; then add the positions."""
        try:
            await self._handle(events, positions)
            return
        except Exception as error:  # pylint: disable=broad-exception-caught  # classified below
            if is_unavailable(error) or is_retryable(error):
                raise
            log.warning("batch of %d events failed, processing it in parts: %r", len(events), error)
        if len(events) == 1:
            await self._process_alone(events[0])
        else:
            middle = len(events) // 2
            for part in (events[:middle], events[middle:]):
                await self._process(part, [])
        if positions:
            await self._handler.process([], positions)

    async def _process_alone(self, event: CloudEvent) -> None:
        with request_context(event.requestid, event.traceparent):
            for attempt in range(1, MAX_ATTEMPTS + 1):
                try:
                    await self._handle([event], [])
                    return
                except Exception as error:  # pylint: disable=broad-exception-caught  # classified below
                    if is_unavailable(error) or is_retryable(error):
                        raise
                    reason = f"{type(error).__name__}: {error}"
                    log.warning("event %s failed, attempt %d of %d: %s", event.id, attempt, MAX_ATTEMPTS, reason)
                    await self._pause(_POISON_RETRY_SECONDS * attempt)
            await self._dead_letter(event.model_dump(mode="json", exclude_none=True), reason)

    async def _dead_letter(self, raw: Any, reason: str) -> None:
        await self._handler.dead_letter(raw, reason)
        await self._source.dead_letter(raw, reason)
        CONSUMED.labels(known_type(raw) or "unknown", "dead").inc()
        log.error("event moved to the dead-letter queue: %s", reason)

    async def _handle(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
        with tracing.spans("process", SpanKind.CONSUMER, [(event.type, event.traceparent) for event in events]):
            await self._handler.process(events, positions)
        for event in events:
            CONSUMED.labels(event.type, "processed").inc()
        if events:
            self._lag = max(0.0, (utc_now() - events[-1].time).total_seconds())
            requests = list(dict.fromkeys(event.requestid for event in events))
            traces = tracing.sampled_ids(event.traceparent for event in events)
            log.info("consumed", extra={"events": len(events), "request_ids": requests, "trace_ids": traces})


def _unseen(batch: Batch, consumed: Positions) -> tuple[Sequence[tuple[int | None, Any]], Sequence[Range]]:
    """Return the events that are not known to be consumed, each with its position, and all positions as ranges."""
    if batch.positions is None:
        return [(None, raw) for raw in batch.events], []
    numbered = list(enumerate(batch.events, batch.positions.first))
    unseen = [(position, raw) for position, raw in numbered if position not in consumed]
    if len(unseen) == len(numbered):
        return unseen, [batch.positions]
    for position, raw in numbered:
        if position in consumed:
            CONSUMED.labels(known_type(raw) or "unknown", "duplicate").inc()
    return unseen, Positions().add(Range(position, position) for position, _ in unseen).ranges

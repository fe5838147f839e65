"""The consumer task: receives events, passes them to a handler in batches, and dead-letters poison events.

The handler commits the effect of a batch, its inbox rows and the offset in one database transaction. After an outage or
on another replica it is called again with the same events, so it must be idempotent.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from shared.observability import tracing
from shared.db.database import is_retryable, is_unavailable
from shared.events import CloudEvent, known_type
from shared.ids import utc_now
from shared.logging_config import request_context
from shared.prometheus.events import CONSUMED, CONSUMER_LAG, expect_failures
from shared.runtime.tasks import shield
from shared.messaging.transport import Delivery, Source

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
_RETRY_SECONDS = 1.0
_POISON_RETRY_SECONDS = 0.05
# Longer than a source waits for events.
_STALLED_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class OffsetCommit:
    """An offset in a feed and its previous value, to be committed with the effect of the events."""

    after: int
    position: int


class StaleOffset(Exception):
    """Another replica has already committed a higher offset; discard the received events."""


class Handler:
    """Applies events in a service.

    `process` applies events in one database transaction and returns the ids of the new ones.
    With `offset_commit` it also commits the offset, and raises StaleOffset if the stored one is not its `after`.
    """

    async def committed_offset(self) -> int:
        """Return the committed offset, initially 0."""
        raise NotImplementedError

    async def process(self, events: Sequence[CloudEvent], offset_commit: OffsetCommit | None) -> set[str]:
        """Apply all events or none; return the ids of those processed for the first time."""
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
        CONSUMER_LAG.set_function(self.lag_seconds)
        expect_failures("dead")

    def lag_seconds(self) -> float:
        """Return the age of the last event when it was processed; it grows while the consumer is stalled."""
        idle_seconds = time.monotonic() - self._last_success
        return self._lag + idle_seconds if idle_seconds > _STALLED_SECONDS else self._lag

    async def run(self) -> None:
        """Consume until cancelled; an outage of the source or the database only delays events."""
        while True:
            try:
                await self.step()
            except StaleOffset:
                continue
            except Exception as error:  # pylint: disable=broad-exception-caught  # keep running through every outage
                log.warning("event consumption failed, retrying in %s s: %r", _RETRY_SECONDS, error)
                await self._pause(_RETRY_SECONDS)

    async def step(self) -> int:
        """Receive and process one delivery; return its number of events."""
        delivery = await self._source.receive(await shield(self._handler.committed_offset()))
        try:
            await shield(self.consume(delivery))
        except BaseException:
            await self._nack(delivery)
            raise
        self._last_success = time.monotonic()
        return len(delivery.raw)

    async def _nack(self, delivery: Delivery) -> None:
        try:
            await delivery.nack()
        except Exception as error:  # pylint: disable=broad-exception-caught  # the first error is reported
            log.info("nack failed, the broker will redeliver after the ack timeout: %r", error)

    async def consume(self, delivery: Delivery) -> None:
        """Process a delivery as one batch or, if that fails, event by event; dead-letter poison events and ack."""
        events: list[CloudEvent] = []
        for raw in delivery.raw:
            try:
                events.append(CloudEvent.model_validate(raw))
            except ValidationError as error:
                await self._dead_letter(
                    raw, f"not a CloudEvent: {error.error_count()} errors, first: {error.errors()[0]['msg']}"
                )
        offset_commit = None if delivery.position is None else OffsetCommit(delivery.after or 0, delivery.position)
        if events or (offset_commit and offset_commit.position != offset_commit.after):
            await self._process(events, offset_commit)
        else:
            self._lag = 0.0
        await delivery.ack()

    async def _process(self, events: Sequence[CloudEvent], offset_commit: OffsetCommit | None) -> None:
        try:
            await self._handle(events, offset_commit)
            return
        except StaleOffset:
            raise
        except Exception as error:  # pylint: disable=broad-exception-caught  # classified below
            if is_unavailable(error) or is_retryable(error):
                raise
            log.warning("batch of %d events failed, processing them one by one: %r", len(events), error)
        for event in events:
            with request_context(event.requestid, event.traceparent):
                await self._process_alone(event)
        if offset_commit is not None:
            await self._handler.process([], offset_commit)

    async def _process_alone(self, event: CloudEvent) -> None:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                await self._handle([event], None)
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

    async def _handle(self, events: Sequence[CloudEvent], offset_commit: OffsetCommit | None) -> None:
        with tracing.spans("process", SpanKind.CONSUMER, [(event.type, event.traceparent) for event in events]):
            new = await self._handler.process(events, offset_commit)
        for event in events:
            CONSUMED.labels(event.type, "processed" if event.id in new else "duplicate").inc()
        if events:
            self._lag = max(0.0, (utc_now() - events[-1].time).total_seconds())
            requests = list(dict.fromkeys(event.requestid for event in events))
            traces = tracing.sampled_ids(event.traceparent for event in events)
            log.info("consumed", extra={"events": len(events), "request_ids": requests, "trace_ids": traces})

"""The consumer task: receives events, hands them to a handler in batches, and sets poison events aside.

The handler commits the effect of a batch, its inbox rows and the position in one transaction; it is called again
with the same events after an outage or on another replica, and has to be idempotent.
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
from shared.logging_config import about
from shared.prometheus.events import CONSUMED, CONSUMER_LAG, expect_failures
from shared.runtime.tasks import uninterrupted
from shared.messaging.transport import Delivery, Source

log = logging.getLogger(__name__)

TRIES = 5
_RETRY_SECONDS = 1.0
_POISON_PAUSE_SECONDS = 0.05
# Longer than a source waits for events.
_SILENCE_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Move:
    """A step of the consumer's own position in a feed, to be committed with the events' effect."""

    after: int
    position: int


class Overtaken(Exception):
    """Another replica has moved the position on already; what was received is to be dropped."""


class Handler:
    """What a service does with events.

    `process` applies events in one transaction and returns the ids of those that were new; where `move` is given it
    advances the stored position in the same transaction, and raises Overtaken if that is not at `move.after`.
    """

    async def position(self) -> int:
        """Return the stored position in the feed, 0 at first."""
        raise NotImplementedError

    async def process(self, events: Sequence[CloudEvent], move: Move | None) -> set[str]:
        """Apply the events, all or none; return the ids of those seen for the first time."""
        raise NotImplementedError

    async def bury(self, raw: Any, reason: str) -> None:
        """Store a poison event where operators find it; storing it twice is harmless."""
        raise NotImplementedError

    async def rehearse(self, events: Sequence[CloudEvent]) -> None:
        """Do with events all that `process` does with new ones, and take it back: nothing is left of it."""
        raise NotImplementedError


class Consumer:
    """A background task that consumes from one source; any number of replicas may do so at once."""

    def __init__(
        self, source: Source, handler: Handler, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._source = source
        self._handler = handler
        self._pause = pause
        self._lag = 0.0
        self._settled_at = time.monotonic()
        CONSUMER_LAG.set_function(self.lag_seconds)
        expect_failures("dead")

    def lag_seconds(self) -> float:
        """Return the age of the last event when it was processed; it grows while nothing is received or settled."""
        silence = time.monotonic() - self._settled_at
        return self._lag + silence if silence > _SILENCE_SECONDS else self._lag

    async def run(self) -> None:
        """Work until cancelled; an outage of source or database delays events and nothing else."""
        while True:
            try:
                await self.step()
            except Overtaken:
                continue
            except Exception as error:  # pylint: disable=broad-exception-caught  # must outlive every outage
                log.warning("consumer waits %s s: %r", _RETRY_SECONDS, error)
                await self._pause(_RETRY_SECONDS)

    async def step(self) -> int:
        """Receive once and settle what came; return how many events that were."""
        delivery = await self._source.receive(await uninterrupted(self._handler.position()))
        try:
            await uninterrupted(self.settle(delivery))
        except BaseException:
            await self._give_back(delivery)
            raise
        self._settled_at = time.monotonic()
        return len(delivery.raw)

    async def _give_back(self, delivery: Delivery) -> None:
        try:
            await delivery.give_back()
        except Exception as error:  # pylint: disable=broad-exception-caught  # the first error is the one to report
            log.info("could not give events back, they come again by themselves: %r", error)

    async def settle(self, delivery: Delivery) -> None:
        """Process a delivery to its end: together if possible, else one by one, and poison set aside."""
        events: list[CloudEvent] = []
        for raw in delivery.raw:
            try:
                events.append(CloudEvent.model_validate(raw))
            except ValidationError as error:
                await self._set_aside(
                    raw, f"not a CloudEvent: {error.error_count()} errors, first: {error.errors()[0]['msg']}"
                )
        move = None if delivery.position is None else Move(delivery.after or 0, delivery.position)
        if events or (move and move.position != move.after):
            await self._process(events, move)
        else:
            self._lag = 0.0
        await delivery.acknowledge()

    async def _process(self, events: Sequence[CloudEvent], move: Move | None) -> None:
        try:
            await self._handle(events, move)
            return
        except Overtaken:
            raise
        except Exception as error:  # pylint: disable=broad-exception-caught  # decided here what it means
            if is_unavailable(error) or is_retryable(error):
                raise
            log.warning("a batch of %d events failed, taking them one by one: %r", len(events), error)
        for event in events:
            with about(event.requestid, event.traceparent):
                await self._process_alone(event)
        if move is not None:
            await self._handler.process([], move)

    async def _process_alone(self, event: CloudEvent) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                await self._handle([event], None)
                return
            except Exception as error:  # pylint: disable=broad-exception-caught  # decided here what it means
                if is_unavailable(error) or is_retryable(error):
                    raise
                reason = f"{type(error).__name__}: {error}"
                log.warning("event %s failed, try %d of %d: %s", event.id, attempt, TRIES, reason)
                await self._pause(_POISON_PAUSE_SECONDS * attempt)
        await self._set_aside(event.model_dump(mode="json", exclude_none=True), reason)

    async def _set_aside(self, raw: Any, reason: str) -> None:
        await self._handler.bury(raw, reason)
        await self._source.dead_letter(raw, reason)
        CONSUMED.labels(known_type(raw) or "unknown", "dead").inc()
        log.error("event set aside as a dead letter: %s", reason)

    async def _handle(self, events: Sequence[CloudEvent], move: Move | None) -> None:
        with tracing.spans("process", SpanKind.CONSUMER, [(event.type, event.traceparent) for event in events]):
            new = await self._handler.process(events, move)
        for event in events:
            CONSUMED.labels(event.type, "processed" if event.id in new else "duplicate").inc()
        if events:
            self._lag = max(0.0, (utc_now() - events[-1].time).total_seconds())
            requests = list(dict.fromkeys(event.requestid for event in events))
            traces = tracing.sampled_ids(event.traceparent for event in events)
            log.info("consumed", extra={"events": len(events), "request_ids": requests, "trace_ids": traces})

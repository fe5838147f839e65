"""The shadow consumer of a canary: a dry run of every event, rolled back.

The stable replicas process the events. If the canary cannot, its metrics show it (outcome `failed`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic import ValidationError

from shared.messaging.consumer import Handler
from shared.db.database import is_retryable, is_unavailable
from shared.events import CloudEvent, known_type
from shared.ids import utc_now
from shared.prometheus.events import CONSUMED, CONSUMER_LAG, init_outcome
from shared.runtime.tasks import shield
from shared.messaging.transport import Delivery, EventsPruned, Source

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class ShadowConsumer:
    """A background task that performs a dry run of every event of its own source."""

    def __init__(
        self, source: Source, handler: Handler, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._source = source
        self._handler = handler
        self._pause = pause
        self._position: int | None = None
        CONSUMER_LAG.set(0)
        # A canary has no dead letters; the counter at 0 shows that the metric exists.
        for outcome in ("failed", "dead"):
            init_outcome(outcome)

    async def run(self) -> None:
        """Consume until cancelled; an outage of the source or the database only delays events."""
        while True:
            try:
                await self.step()
            except Exception as error:  # pylint: disable=broad-exception-caught  # keep running through every outage
                log.warning("event consumption failed, retrying in %s s: %r", _RETRY_SECONDS, error)
                await self._pause(_RETRY_SECONDS)

    async def step(self) -> int:
        """Receive one delivery and perform a dry run; return its number of events."""
        if self._position is None:
            # In a feed, start where stable is; a broker delivers only new events.
            consumed = await shield(self._handler.consumed())
            self._position = consumed.gapless_end if consumed else 0
        try:
            delivery = await self._source.receive(self._position)
        except EventsPruned:
            # Stable catches up; then start where it is.
            self._position = None
            raise
        await shield(self._dry_run(delivery))
        self._position = max([self._position, *(batch.positions.last for batch in delivery.batches if batch.positions)])
        return sum(len(batch.events) for batch in delivery.batches)

    async def _dry_run(self, delivery: Delivery) -> None:
        started = time.monotonic()
        events = [event for batch in delivery.batches for raw in batch.events if (event := _parse(raw)) is not None]
        failed: list[CloudEvent] = []
        if events and not await self._succeeds(events):
            failed = [event for event in events if not await self._succeeds([event])]
        for event in events:
            CONSUMED.labels(event.type, "failed" if event in failed else "dry_run").inc()
        if events:
            lag = max(0.0, (utc_now() - events[-1].time).total_seconds())
            CONSUMER_LAG.set(lag)
            counts = {"events": len(events), "failed": len(failed)}
            log.info("dry run completed", extra={**counts, "seconds": round(time.monotonic() - started, 3)})
        await delivery.ack()

    async def _succeeds(self, events: Sequence[CloudEvent]) -> bool:
        try:
            await self._handler.dry_run(events)
        except Exception as error:  # pylint: disable=broad-exception-caught  # classified below
            if is_unavailable(error) or is_retryable(error):
                raise
            log.warning("dry run of %d events failed: %r", len(events), error)
            return False
        return True


def _parse(raw: Any) -> CloudEvent | None:
    """Return the parsed event, or None and count a failure."""
    try:
        return CloudEvent.model_validate(raw)
    except ValidationError:
        CONSUMED.labels(known_type(raw) or "unknown", "failed").inc()
        return None

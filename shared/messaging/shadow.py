"""The consumer of a canary: every event is processed by the new version as well, and nothing of it stays.

Stable's consumers do the work. A canary that cannot do it shows in its metrics (outcome `failed`) and harms nobody.
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
from shared.prometheus.events import CONSUMED, CONSUMER_LAG, expect_failures
from shared.runtime.tasks import uninterrupted
from shared.messaging.transport import Delivery, Source

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class ShadowConsumer:
    """A background task that rehearses what comes from a source of its own, which gets everything."""

    def __init__(
        self, source: Source, handler: Handler, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._source = source
        self._handler = handler
        self._pause = pause
        self._position: int | None = None
        CONSUMER_LAG.set(0)
        # A canary has no dead letters; that this is measured as well shows that the name is right.
        for outcome in ("failed", "dead"):
            expect_failures(outcome)

    async def run(self) -> None:
        """Work until cancelled; an outage of source or database delays it and nothing else."""
        while True:
            try:
                await self.step()
            except Exception as error:  # pylint: disable=broad-exception-caught  # must outlive every outage
                log.warning("shadow consumer waits %s s: %r", _RETRY_SECONDS, error)
                await self._pause(_RETRY_SECONDS)

    async def step(self) -> int:
        """Receive once and rehearse what came; return how many events that were."""
        if self._position is None:
            # Of a feed, that is where stable is now; a broker begins with what is new.
            self._position = await uninterrupted(self._handler.position())
        delivery = await self._source.receive(self._position)
        await uninterrupted(self._rehearse(delivery))
        self._position = delivery.position or self._position
        return len(delivery.raw)

    async def _rehearse(self, delivery: Delivery) -> None:
        began = time.monotonic()
        events = [event for raw in delivery.raw if (event := _read(raw)) is not None]
        if events and not await self._succeeds(events):
            for event in events:
                CONSUMED.labels(event.type, "rehearsed" if await self._succeeds([event]) else "failed").inc()
        else:
            for event in events:
                CONSUMED.labels(event.type, "rehearsed").inc()
        if events:
            lag = max(0.0, (utc_now() - events[-1].time).total_seconds())
            CONSUMER_LAG.set(lag)
            log.info("rehearsed", extra={"events": len(events), "seconds": round(time.monotonic() - began, 3)})
        await delivery.acknowledge()

    async def _succeeds(self, events: Sequence[CloudEvent]) -> bool:
        try:
            await self._handler.rehearse(events)
        except Exception as error:  # pylint: disable=broad-exception-caught  # decided here what it means
            if is_unavailable(error) or is_retryable(error):
                raise
            log.warning("rehearsing %d events failed: %r", len(events), error)
            return False
        return True


def _read(raw: Any) -> CloudEvent | None:
    """Return the event; one that cannot be read is counted."""
    try:
        return CloudEvent.model_validate(raw)
    except ValidationError:
        CONSUMED.labels(known_type(raw) or "unknown", "failed").inc()
        return None

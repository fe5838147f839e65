"""Reads from the producer's feed what the broker has not delivered: events beyond the stream's limits or lost with it.

The stream is limited by age and size, the producer's outbox by a longer age; what it has pruned is in its snapshot.
"""

import logging
import time
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from shared.events import CloudEvent
from shared.ids import utc_now
from shared.messaging.consumer import Consumer, Handler
from shared.messaging.transport import EventsPruned, FeedSource
from shared.prometheus.events import RECOVERED

log = logging.getLogger(__name__)

# The broker redelivers messages after this time (shared.messaging.transport), so that they are not read twice.
OVERDUE_SECONDS = 30.0


class Recovery:
    """Compares what has been consumed with the feed; a job of every stable replica, without effect if none is missing.

    An event is overdue if no earlier one has been processed for 30 seconds, so a consumer that has a backlog but makes
    progress reads nothing twice. The first pass of a process does not wait: after a restore, the stream is empty.
    """

    def __init__(self, feed: FeedSource, handler: Handler, consumer: Consumer) -> None:
        self._feed = feed
        self._handler = handler
        self._consumer = consumer
        self._end: int | None = None
        self._since = float("-inf")

    async def run(self) -> None:
        """Process overdue events, up to the first one that has been consumed."""
        consumed = await self._handler.consumed()
        if consumed is None:
            return
        if self._end is not None and self._end != consumed.gapless_end:
            self._since = time.monotonic()
        self._end = consumed.gapless_end
        if time.monotonic() - self._since < OVERDUE_SECONDS:
            return
        gap_end = consumed.gap_end
        while gap_end is None or consumed.gapless_end < gap_end:
            try:
                (batch,) = (await self._feed.receive(consumed.gapless_end, wait_seconds=0)).batches
            except EventsPruned:
                RECOVERED.inc(await self._consumer.catch_up(self._feed))
                return
            if batch.positions is None or not _is_overdue(batch.events[0], utc_now()):
                return
            await self._consumer.consume([batch])
            count = min(batch.positions.last, gap_end or batch.positions.last) - consumed.gapless_end
            RECOVERED.inc(count)
            log.warning("%d events after position %d read from the feed", count, consumed.gapless_end)
            consumed = await self._handler.consumed() or consumed


def _is_overdue(raw: Any, now: datetime) -> bool:
    """Return whether an event should have been delivered by now; an invalid one is dead-lettered now."""
    try:
        return CloudEvent.model_validate(raw).time < now - timedelta(seconds=OVERDUE_SECONDS)
    except ValidationError:
        return True

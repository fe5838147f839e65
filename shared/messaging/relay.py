"""The relay of an outbox: gives positions to committed events and publishes them to the broker, if there is one.

One replica of a service does this at a time (advisory lock); the others stand by. A crash between publishing and
remembering publishes again, which consumers and `Nats-Msg-Id` both absorb. A broker that has lost its stream gets every
event again: what is remembered is remembered of that stream.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from zlib import crc32

from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.observability import tracing
from shared.db.database import try_advisory_lock, write_transaction
from shared.events import Event
from shared.ids import utc_now
from shared.messaging.outbox import Outbox
from shared.prometheus.events import OUTBOX_OLDEST, OUTBOX_PENDING, count_published
from shared.runtime.tasks import uninterrupted
from shared.messaging.transport import NatsBus

log = logging.getLogger(__name__)

# Begins the name under which a relay remembers how far it has published; before, this was all of it.
_PUBLISHER = "nats"
_BATCH = 500
# Several commits share one pass: a pass is a transaction of its own.
_PAUSE_SECONDS = 0.02
_IDLE_SECONDS = 0.2
_CHECK_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_MEASURE_SECONDS = 1.0


class Relay:
    """A background task that moves the events of one outbox on; without a bus, readers poll the feed."""

    def __init__(self, engine: AsyncEngine, outbox: Outbox, bus: NatsBus | None, service: str) -> None:
        self._engine = engine
        self._outbox = outbox
        self._bus = bus
        self._lock = crc32(f"{service}/relay".encode())
        self._committed = asyncio.Event()
        # Unknown until the broker has answered.
        self._publisher: str | None = None

    def committed(self, events: Sequence[Event]) -> None:
        """Take note of events that this process has just committed."""
        if events:
            self._committed.set()
            if self._bus is None:
                count_published(events)

    async def run(self) -> None:
        """Work until cancelled; an outage of database or broker delays events and nothing else."""
        while True:
            try:
                await self._lead_when_free()
            except Exception as error:  # pylint: disable=broad-exception-caught  # must outlive every outage
                log.warning("relay stopped, trying again in %s s: %r", _RETRY_SECONDS, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _lead_when_free(self) -> None:
        # The lock lives as long as this connection; if the connection dies, the next statement on it says so.
        async with self._engine.connect() as leadership:
            try:
                await self._lead(leadership)
            finally:
                # Closed for good: back in the pool it would go on holding the lock.
                await leadership.invalidate()

    async def _lead(self, leadership: AsyncConnection) -> None:
        while not await try_advisory_lock(leadership, self._lock):
            await leadership.rollback()
            # The leader measures; what this process measured while it led is over.
            _report(0, None)
            await asyncio.sleep(_RETRY_SECONDS)
        await leadership.rollback()
        # Beside the work: a relay that waits for a lock or for the broker is what the figures have to show.
        measuring = asyncio.create_task(self._measure_for_ever())
        try:
            await self._work(leadership)
        finally:
            measuring.cancel()
            await asyncio.wait([measuring])

    async def _work(self, leadership: AsyncConnection) -> None:
        loop = asyncio.get_running_loop()
        checked = loop.time()
        while True:
            busy = await uninterrupted(self.step())
            # Also while there is much to do: a relay whose lock is gone has a successor.
            if not busy or loop.time() > checked + _CHECK_SECONDS:
                await try_advisory_lock(leadership, self._lock)
                await leadership.rollback()
                checked = loop.time()
            if busy:
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                await self._wait_for_commits()

    async def _wait_for_commits(self) -> None:
        with suppress(TimeoutError):
            # Not wait_for: up to Python 3.11 it forgets a cancellation that comes with the commit.
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._committed.wait()
        self._committed.clear()

    async def step(self) -> bool:
        """Sequence and publish a batch each; tell whether there was anything to do."""
        busy = False
        async with self._engine.connect() as connection:
            unsequenced = await self._outbox.has_unsequenced(connection)
        if unsequenced:
            async with write_transaction(self._engine) as connection:
                busy = await self._outbox.sequence(connection) > 0
        if self._bus is not None:
            busy = await self._publish(self._bus) or busy
        return busy

    async def _publish(self, bus: NatsBus) -> bool:
        self._publisher = publisher = f"{_PUBLISHER} {await bus.stream()}"
        async with self._engine.connect() as connection:
            published = _position_of(publisher, await self._outbox.published(connection))
            batch = await self._outbox.read(connection, published, _BATCH)
        if not batch:
            return False
        events = [event for _, event in batch]
        with tracing.spans(
            "publish", SpanKind.PRODUCER, [(event["type"], event.get("traceparent")) for event in events]
        ):
            await bus.publish(events)
        async with write_transaction(self._engine) as connection:
            await self._outbox.set_published(connection, publisher, batch[-1][0])
        count_published(events)
        return True

    async def _measure_for_ever(self) -> None:
        while True:
            try:
                await uninterrupted(self._measure())
            except Exception as error:  # pylint: disable=broad-exception-caught  # the work meets the same outage
                log.info("cannot measure the outbox: %r", error)
            await asyncio.sleep(_MEASURE_SECONDS)

    async def _measure(self) -> None:
        async with self._engine.connect() as connection:
            if self._bus is None:
                published = await self._outbox.head(connection)
            else:
                published = _position_of(self._publisher, await self._outbox.published(connection))
            pending, since = await self._outbox.backlog(connection, published)
        _report(pending, since)


def _position_of(publisher: str | None, known: Mapping[str, int]) -> int:
    """Return how far was published to the stream there is now: 0 where it is a new one."""
    if publisher is None:
        return max(known.values(), default=0)
    if set(known) == {_PUBLISHER}:
        # By a version that knew of one stream only, which this is.
        return known[_PUBLISHER]
    return known.get(publisher, 0)


def _report(pending: int, since: datetime | None) -> None:
    OUTBOX_PENDING.set(pending)
    OUTBOX_OLDEST.set((utc_now() - since).total_seconds() if since else 0)

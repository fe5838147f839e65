"""The relay of an outbox: assigns positions to committed events and publishes them to the broker, if there is one.

One replica of a service is the leader (advisory lock); the others are on standby. After a crash between publishing and
storing the position, events are published again; consumers and `Nats-Msg-Id` deduplicate them. The position is stored
per stream, so a broker that has lost its stream receives all events again.
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
from shared.runtime.tasks import shield
from shared.messaging.transport import NatsConnection

log = logging.getLogger(__name__)

# Prefix of the publisher name; earlier versions used it as the whole name.
_PUBLISHER = "nats"
_BATCH = 500
# Several commits share one pass, because each pass is a database transaction.
_PAUSE_SECONDS = 0.02
_IDLE_SECONDS = 0.2
_CHECK_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_MEASURE_SECONDS = 1.0


class Relay:
    """A background task that relays the events of one outbox; without a broker, readers poll the feed."""

    def __init__(self, engine: AsyncEngine, outbox: Outbox, bus: NatsConnection | None, service: str) -> None:
        self._engine = engine
        self._outbox = outbox
        self._bus = bus
        self._lock = crc32(f"{service}/relay".encode())
        self._committed = asyncio.Event()
        # None until connected to the broker.
        self._publisher: str | None = None

    def committed(self, events: Sequence[Event]) -> None:
        """Wake the relay after this process has committed events."""
        if events:
            self._committed.set()
            if self._bus is None:
                count_published(events)

    async def run(self) -> None:
        """Relay until cancelled; an outage of the database or the broker only delays events."""
        while True:
            try:
                await self._run_as_candidate()
            except Exception as error:  # pylint: disable=broad-exception-caught  # keep running through every outage
                log.warning("relay failed, retrying in %s s: %r", _RETRY_SECONDS, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _run_as_candidate(self) -> None:
        # The lock is bound to this connection; if the connection is lost, the next statement on it fails.
        async with self._engine.connect() as leadership:
            try:
                await self._lead(leadership)
            finally:
                # Close it: a connection returned to the pool would keep the lock.
                await leadership.invalidate()

    async def _lead(self, leadership: AsyncConnection) -> None:
        while not await try_advisory_lock(leadership, self._lock):
            await leadership.rollback()
            # Only the leader exports a backlog.
            _report(0, None)
            await asyncio.sleep(_RETRY_SECONDS)
        await leadership.rollback()
        # Concurrently, so that the metrics also show a relay that is blocked by a lock or the broker.
        metrics = asyncio.create_task(self._measure_periodically())
        try:
            await self._relay(leadership)
        finally:
            metrics.cancel()
            await asyncio.wait([metrics])

    async def _relay(self, leadership: AsyncConnection) -> None:
        loop = asyncio.get_running_loop()
        checked = loop.time()
        while True:
            busy = await shield(self.step())
            # Also under load: if the lock is lost, another replica is the leader.
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
            # Not wait_for: up to Python 3.11 it loses a cancellation that coincides with the commit.
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._committed.wait()
        self._committed.clear()

    async def step(self) -> bool:
        """Sequence and publish one batch; return whether there was anything to do."""
        busy = False
        async with self._engine.connect() as connection:
            unsequenced = await self._outbox.has_unsequenced(connection)
        if unsequenced:
            async with write_transaction(self._engine) as connection:
                busy = await self._outbox.sequence(connection) > 0
        if self._bus is not None:
            busy = await self._publish(self._bus) or busy
        return busy

    async def _publish(self, bus: NatsConnection) -> bool:
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

    async def _measure_periodically(self) -> None:
        while True:
            try:
                await shield(self._measure())
            except Exception as error:  # pylint: disable=broad-exception-caught  # the relay itself reports the outage
                log.info("outbox metrics not available: %r", error)
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
    """Return the last position published to the current stream, 0 for a new stream."""
    if publisher is None:
        return max(known.values(), default=0)
    if set(known) == {_PUBLISHER}:
        # Stored by an earlier version, which supported only this stream.
        return known[_PUBLISHER]
    return known.get(publisher, 0)


def _report(pending: int, since: datetime | None) -> None:
    OUTBOX_PENDING.set(pending)
    OUTBOX_OLDEST.set((utc_now() - since).total_seconds() if since else 0)

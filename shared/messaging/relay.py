"""The relay of an outbox: assigns positions to committed events and publishes them to the broker, if there is one.

One replica of a service is the leader (advisory lock); the others are on standby. The last batch in the stream tells
the leader where to continue; each publication carries the expected last sequence number, so that NATS rejects a former
leader that is still publishing. Consumers ignore positions that they have processed, and read from the feed what the
stream has lost.
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
from shared.db.database import reader, try_advisory_lock, write_transaction
from shared.events import Event
from shared.ids import utc_now
from shared.messaging.batches import encode
from shared.messaging.outbox import Outbox
from shared.prometheus.events import OUTBOX_OLDEST, OUTBOX_PENDING, count_published
from shared.runtime.tasks import cancel_all, shield
from shared.messaging.transport import LastBatch, NatsConnection

log = logging.getLogger(__name__)

# Name of the stored position; earlier releases published single events under "nats" and "nats <stream>".
_PUBLISHER = "batches"
_LIMIT = 1000
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
        self._reader = reader(engine)
        self._outbox = outbox
        self._bus = bus
        self._service = service
        self._lock = crc32(f"{service}/relay".encode())
        self._committed = asyncio.Event()
        # The last batch in the stream of this name; None if it has to be looked up.
        self._last: LastBatch | None = None
        self._stream = ""

    def notify_commit(self, events: Sequence[Event]) -> None:
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
            await cancel_all([metrics])

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
        async with self._reader.connect() as connection:
            unsequenced = await self._outbox.has_unsequenced(connection)
        if unsequenced:
            async with write_transaction(self._engine) as connection:
                busy = await self._outbox.sequence(connection) > 0
        if self._bus is not None:
            busy = await self._publish(self._bus) or busy
        return busy

    async def _publish(self, bus: NatsConnection) -> bool:
        last = await self._find_last(bus)
        async with self._reader.connect() as connection:
            numbered = await self._outbox.read(connection, last.position, _LIMIT)
        if not numbered:
            return False
        events = [event for _, event in numbered]
        # Until it is known what was stored.
        self._last = None
        with tracing.spans(
            "publish", SpanKind.PRODUCER, [(event["type"], event.get("traceparent")) for event in events]
        ):
            for batch in encode(numbered):
                sequence = await bus.publish(self._service, batch, last.sequence)
                last = LastBatch(sequence, batch.positions.last)
        async with write_transaction(self._engine) as connection:
            await self._outbox.set_published(connection, _PUBLISHER, last.position)
        self._last = last
        count_published(events)
        return True

    async def _find_last(self, bus: NatsConnection) -> LastBatch:
        """Return the last batch in the stream, with the position after which to continue."""
        stream = await bus.stream()
        if self._last is None or self._stream != stream:
            found = await bus.last_batch(self._service)
            async with self._reader.connect() as connection:
                stored = _stored_position(await self._outbox.published(connection))
                head = await self._outbox.head(connection)
                pruned = await self._outbox.pruned(connection)
            # A position beyond the outbox is from before the database was restored from a backup.
            is_known = 0 < found.position <= head
            position = found.position if is_known else min(stored, head)
            # What has been pruned was published before; the stream may have lost it since.
            self._last = LastBatch(found.sequence, max(position, pruned))
            self._stream = stream
        return self._last

    async def published(self, connection: AsyncConnection) -> int:
        """Return the position of the last published event; without a broker, of the last one in the feed."""
        if self._bus is None:
            return await self._outbox.head(connection)
        return _stored_position(await self._outbox.published(connection))

    async def _measure_periodically(self) -> None:
        while True:
            try:
                await shield(self._measure())
            except Exception as error:  # pylint: disable=broad-exception-caught  # the relay itself reports the outage
                log.info("outbox metrics not available: %r", error)
            await asyncio.sleep(_MEASURE_SECONDS)

    async def _measure(self) -> None:
        async with self._reader.connect() as connection:
            pending, since = await self._outbox.backlog(connection, await self.published(connection))
        _report(pending, since)


def _stored_position(known: Mapping[str, int]) -> int:
    """Return the last published position: of batches or, right after an upgrade, of single events."""
    return known.get(_PUBLISHER, max(known.values(), default=0))


def _report(pending: int, since: datetime | None) -> None:
    OUTBOX_PENDING.set(pending)
    OUTBOX_OLDEST.set((utc_now() - since).total_seconds() if since else 0)

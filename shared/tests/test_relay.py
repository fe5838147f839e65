"""The relay: one leader sequences and publishes events, and outages only delay them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
import pytest
from nats.js.errors import BadRequestError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.messaging import relay as relay_module
from shared.db.database import create_engine, write_transaction
from shared.events import Event
from shared.prometheus.events import OUTBOX_OLDEST, OUTBOX_PENDING
from shared.messaging.batches import EncodedBatch, encode
from shared.messaging.relay import Relay
from shared.tests.support import append, event, events, metric, names, outbox, read
from shared.messaging.transport import LastBatch, NatsConnection
from shared.runtime import tasks
from shared.testing.timing import eventually


class FakeBus(NatsConnection):
    """A connection to a broker that records its batches, checks their predecessors and can be unavailable.

    `batches` are those of the broker, `own` those that were published with this connection.
    """

    def __init__(self, broker: list[EncodedBatch] | None = None) -> None:
        super().__init__("nats://nowhere")
        self.batches: list[EncodedBatch] = [] if broker is None else broker
        self.own: list[EncodedBatch] = []
        self.unavailable = False
        self.unconfirmed = False
        self.name = "first"

    @property
    def events(self) -> list[Event]:
        """The events of the broker."""
        return events_of(self.batches)

    async def stream(self) -> str:
        """Return the id of the current stream."""
        if self.unavailable:
            raise ConnectionRefusedError("no broker")
        return self.name

    async def last_batch(self, source: str) -> LastBatch:
        """Return the last batch."""
        return LastBatch(len(self.batches), self.batches[-1].positions.last if self.batches else 0)

    async def publish(self, source: str, batch: EncodedBatch, after: int) -> int:
        """Record the batch."""
        if self.unavailable:
            raise ConnectionRefusedError("no broker")
        if after != len(self.batches):
            raise BadRequestError(description="wrong last sequence")
        self.batches.append(batch)
        self.own.append(batch)
        if self.unconfirmed:
            raise TimeoutError
        return len(self.batches)


def events_of(batches: Sequence[EncodedBatch]) -> list[Event]:
    """Return the events of batches."""
    return [item for batch in batches for item in orjson.loads(batch.content)]


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the intervals of the relay."""
    monkeypatch.setattr(relay_module, "_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(relay_module, "_MEASURE_SECONDS", 0.05)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[None]:
    """Run a relay while the block runs."""
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_events_are_sequenced_and_published_once_in_order(engine: AsyncEngine) -> None:
    bus = FakeBus()
    relay = Relay(engine, outbox, bus, "test")
    before = metric("bank_events_published_total", type="bank.hold.placed")
    await append(engine, *events(3))
    await append(engine, event("e4", "bank.hold.placed"))
    while await relay.step():
        pass
    assert names(bus.events) == ["e1", "e2", "e3", "e4"]
    assert [position for position, _ in await read(engine)] == [1, 2, 3, 4]
    assert metric("bank_events_published_total", type="bank.hold.placed") == before + 1
    await append(engine, *events(1, start=5))
    assert await relay.step() and not await relay.step()
    assert names(bus.events)[4:] == ["e5"]


async def test_relay_without_broker_sequences_events_and_is_woken_by_commits(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "_IDLE_SECONDS", 3600)
    relay = Relay(engine, outbox, None, "test")
    before = metric("bank_events_published_total", type="bank.entry.posted")
    async with running(relay):
        await asyncio.sleep(0.1)
        for number in (1, 2):
            committed = events(1, start=number)
            await append(engine, *committed)
            relay.notify_commit(committed)
            await eventually(lambda: _head_is(engine, number))
    assert metric("bank_events_published_total", type="bank.entry.posted") == before + 2


async def test_broker_outage_delays_events_and_is_visible_in_metrics(engine: AsyncEngine) -> None:
    bus = FakeBus()
    bus.unavailable = True
    await append(engine, *events(5))

    async def measured() -> bool:
        return metric("bank_outbox_pending") == 5 and metric("bank_outbox_oldest_seconds") > 0

    async with running(Relay(engine, outbox, bus, "test")):
        await eventually(measured)
        await append(engine, *events(1, start=6))
        bus.unavailable = False
        await eventually(nothing_pending)
    assert names(bus.events) == names(events(6))


async def work(relay: Relay) -> None:
    """Relay until there is nothing to do."""
    while await relay.step():
        pass


async def test_relay_continues_after_the_single_events_of_an_earlier_release(engine: AsyncEngine) -> None:
    bus = FakeBus()
    async with write_transaction(engine) as connection:
        for stream, position in (("lost", 1), ("current", 2)):
            await outbox.set_published(connection, f"nats {stream}", position)
    await append(engine, *events(3))
    await work(Relay(engine, outbox, bus, "test"))
    assert names(bus.events) == ["e3"] and bus.batches[0].positions == (3, 3)
    await append(engine, *events(1, start=4))
    await work(Relay(engine, outbox, bus, "test"))
    assert names(bus.events) == ["e3", "e4"]


async def test_batch_without_confirmation_is_not_published_again(engine: AsyncEngine) -> None:
    bus = FakeBus()
    relay = Relay(engine, outbox, bus, "test")
    bus.unconfirmed = True
    await append(engine, *events(3))
    with pytest.raises(TimeoutError):
        await relay.step()
    bus.unconfirmed = False
    await append(engine, *events(1, start=4))
    await work(relay)
    assert [batch.positions for batch in bus.batches] == [(1, 3), (4, 4)]


async def test_former_leader_is_rejected(engine: AsyncEngine) -> None:
    bus = FakeBus()
    former, leader = (Relay(engine, outbox, bus, "test") for _ in range(2))
    await append(engine, *events(1))
    await work(former)
    await append(engine, *events(1, start=2))
    await work(leader)
    await append(engine, *events(1, start=3))
    with pytest.raises(BadRequestError):
        await former.step()
    await work(leader)
    await work(former)
    assert names(bus.events) == ["e1", "e2", "e3"]


async def test_stream_that_has_lost_its_last_batches_receives_them_again(engine: AsyncEngine) -> None:
    bus = FakeBus()
    relay = Relay(engine, outbox, bus, "test")
    for number in (1, 2, 3):
        await append(engine, *events(1, start=number))
        await work(relay)
    del bus.batches[1:]
    bus.name = "restored"
    await append(engine, *events(1, start=4))
    await work(relay)
    assert names(bus.events) == ["e1", "e2", "e3", "e4"]
    bus.batches, bus.name = [], "empty"
    await append(engine, *events(1, start=5))
    await work(relay)
    assert names(bus.events) == ["e5"], "consumers read the others from the feed"


async def test_restored_database_continues_after_the_last_batch_of_the_stream(engine: AsyncEngine) -> None:
    """The stream has batches at positions that the outbox will assign again."""
    bus = FakeBus()
    bus.batches = [*encode([*enumerate(events(9, start=90), 1)])]
    await append(engine, *events(2))
    await work(Relay(engine, outbox, bus, "test"))
    assert names(bus.events)[9:] == ["e1", "e2"]


async def test_large_backlog_is_published_in_batches_of_limited_size(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "_LIMIT", 30)
    bus = FakeBus()
    await append(engine, *(event(f"e{n}", text="x" * 100_000) for n in range(1, 41)))
    await work(Relay(engine, outbox, bus, "test"))
    assert names(bus.events) == names(events(40)) and max(len(batch.content) for batch in bus.batches) < 2**18


async def test_blocked_relay_is_visible_in_metrics(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = FakeBus()

    async def hang(*_arguments: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(bus, "publish", hang)
    monkeypatch.setattr(tasks, "_TIMEOUT_SECONDS", 0.05)

    async def aged() -> bool:
        return metric("bank_outbox_pending") == 3 and metric("bank_outbox_oldest_seconds") > 1

    await append(engine, *events(2))
    async with running(Relay(engine, outbox, bus, "test")):
        await append(engine, *events(1, start=3))
        await eventually(aged)


async def nothing_pending() -> bool:
    """Return whether the metrics report no backlog."""
    return metric("bank_outbox_pending") == metric("bank_outbox_oldest_seconds") == 0


async def _published(engine: AsyncEngine, position: int) -> bool:
    async with engine.connect() as connection:
        return await outbox.published(connection) == {"batches": position}


async def _head_is(engine: AsyncEngine, position: int) -> bool:
    async with engine.connect() as connection:
        return await outbox.head(connection) == position


async def _leaders(engine: AsyncEngine) -> list[tuple[str, int]]:
    """Return application name and process id of the connections that hold a relay lock."""
    statement = (
        "SELECT application_name, pid FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = 0"
        " AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    async with engine.connect() as connection:
        return [(row.application_name, row.pid) for row in await connection.execute(text(statement))]


class Candidate(Relay):
    """A relay that counts its candidacies that have ended."""

    ended = 0

    async def _run_as_candidate(self) -> None:
        try:
            await super()._run_as_candidate()
        finally:
            self.ended += 1


async def test_standby_relay_takes_over_from_the_leader(postgres_engine: AsyncEngine, postgres_url: str) -> None:
    engines = {name: create_engine(postgres_url, name=name) for name in ("a", "b")}
    broker: list[EncodedBatch] = []
    buses = {name: FakeBus(broker) for name in engines}
    relays = {name: Candidate(engine, outbox, buses[name], "test") for name, engine in engines.items()}
    leader = ("", 0)
    written = 0

    async def is_led() -> bool:
        nonlocal leader
        found = await _leaders(postgres_engine)
        assert len(found) <= 1
        if not found or found[0] == leader:
            return False
        leader = found[0]
        return True

    async def only_the_leader_works() -> None:
        nonlocal written
        before = {name: len(events_of(bus.own)) for name, bus in buses.items()}
        for _ in range(5):
            await append(postgres_engine, *events(2, start=written + 1))
            written += 2
            await eventually(lambda: _published(postgres_engine, written))
        for name, bus in buses.items():
            assert names(events_of(bus.own))[before[name] :] == (
                names(events(10, written - 9)) if name == leader[0] else []
            )

    async with running(relays["b"]):
        async with running(relays["a"]):
            await eventually(is_led)
            await only_the_leader_works()
            former = relays[leader[0]]

            async def has_noticed(ended: int = former.ended) -> bool:
                return former.ended > ended

            async with postgres_engine.connect() as connection:
                await connection.execute(text("SELECT pg_terminate_backend(:pid, 60000)"), {"pid": leader[1]})
            await eventually(is_led)
            await eventually(has_noticed)
            await only_the_leader_works()
        if leader[0] == "a":
            await eventually(is_led)
        await only_the_leader_works()
    assert [(position, item["id"]) for position, item in await read(postgres_engine)] == [
        (number, f"e{number}") for number in range(1, 31)
    ]
    for engine in engines.values():
        await engine.dispose()


async def test_stopped_or_failed_relay_releases_the_lock(postgres_engine: AsyncEngine) -> None:
    """A pooled connection must not keep the lock, which would block all relays."""
    bus = FakeBus()
    pids: set[int] = set()

    async def two_led() -> bool:
        pids.update(pid for _, pid in await _leaders(postgres_engine))
        return len(pids) > 1

    async def nobody_leads() -> bool:
        return not await _leaders(postgres_engine)

    async with running(Relay(postgres_engine, outbox, bus, "test")):
        await eventually(lambda: _head_is(postgres_engine, 0))
        bus.unavailable = True
        await append(postgres_engine, *events(1))
        await eventually(two_led)
        bus.unavailable = False
        await eventually(lambda: _published(postgres_engine, 1))
    await eventually(nobody_leads)


async def test_standby_relay_reports_no_backlog(postgres_engine: AsyncEngine, postgres_url: str) -> None:
    """Otherwise its last values as the leader would be exported forever."""
    async with postgres_engine.connect() as leadership:
        lock = Relay(postgres_engine, outbox, None, "test")._lock  # pylint: disable=protected-access
        await leadership.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": lock})
        await leadership.rollback()
        OUTBOX_PENDING.set(7)
        OUTBOX_OLDEST.set(7)

        other = create_engine(postgres_url)
        async with running(Relay(other, outbox, None, "test")):
            await eventually(nothing_pending)
        await other.dispose()

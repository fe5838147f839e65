"""Event transport over NATS JetStream, with a real server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import nats
import orjson
import pytest

from shared.messaging import transport
from shared.messaging.consumer import MAX_ATTEMPTS, Consumer, OffsetCommit
from shared.events import CloudEvent, Event
from shared.messaging.streams import DEAD_LETTERS, STREAM
from shared.testing.timing import BUSY_SECONDS, assert_prompt, eventually
from shared.tests.support import InMemoryHandler, NatsServer, event, events, names
from shared.messaging.transport import NatsConnection, NatsSource

EVENTS = "bank.>"


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[NatsConnection]:
    """A connection to the server."""
    bus = NatsConnection(nats_server.url)
    yield bus
    await bus.close()


def reader(bus: NatsConnection, limit: int = 500, durable: str | None = "reader") -> NatsSource:
    """Return a consumer with a short wait."""
    return NatsSource(bus, durable, EVENTS, limit=limit, wait_seconds=0.5)


class RecordingHandler(InMemoryHandler):
    """A handler that records events in order of arrival and fails for those with the id `poison`."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts = 0

    async def process(self, events: Sequence[CloudEvent], offset_commit: OffsetCommit | None) -> set[str]:
        """Record all events or none."""
        assert offset_commit is None
        if any(item.id == "poison" for item in events):
            self.attempts += 1
            raise ZeroDivisionError("cannot be\r\ndone")
        return self.record(events)


async def drained(source: NatsSource, count: int = 0) -> list[Event]:
    """Receive and ack until there are so many events and no more."""
    found: list[Event] = []
    # On a busy machine an empty delivery does not mean that there are no more.
    while (delivery := await source.receive(0)).raw or len(found) < count:
        found += delivery.raw
        await delivery.ack()
    return found


async def test_event_published_twice_is_delivered_once(bus: NatsConnection) -> None:
    written = events(300)
    await bus.publish(written)
    await bus.publish(written[100:])
    assert await drained(reader(bus), 300) == written
    assert await drained(reader(bus)) == []
    assert len(await drained(reader(bus, durable="another"), 300)) == 300


async def test_nacked_events_are_redelivered(bus: NatsConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_ACK_WAIT_SECONDS", 3600)
    await bus.publish(events(3))
    source, seen = reader(bus), list[str]()
    while len(seen) < 3:
        delivery = await source.receive(0)
        seen += names(list(delivery.raw))
        await delivery.nack()
    async with asyncio.timeout(BUSY_SECONDS):
        assert {"e1", "e2", "e3"} == {*names(await drained(source, 3))} >= {*seen}


async def test_replicas_compete_for_events(bus: NatsConnection, nats_server: NatsServer) -> None:
    other = NatsConnection(nats_server.url)
    await bus.publish(events(100))
    sources, found = [reader(bus, limit=5), reader(other, limit=5)], list[Event]()

    async def share(source: NatsSource, received: asyncio.Barrier) -> None:
        while not (delivery := await source.receive(0)).raw:
            pass
        await received.wait()
        found.extend(delivery.raw)
        await delivery.ack()
        while len(found) < 100:
            found.extend(await drained(source))

    received = asyncio.Barrier(2)
    await asyncio.gather(*(share(source, received) for source in sources))
    assert sorted(names(found)) == sorted(names(events(100)))
    await other.close()


async def test_ephemeral_consumer_receives_all_new_events(bus: NatsConnection) -> None:
    await bus.publish(events(2))
    watchers = [reader(bus, durable=None) for _ in range(2)]
    assert [await drained(watcher) for watcher in watchers] == [[], []]
    await bus.publish(events(3, start=3))
    for watcher in watchers:
        assert names(await drained(watcher, 3)) == ["e3", "e4", "e5"]
    assert names(await drained(reader(bus), 5)) == ["e1", "e2", "e3", "e4", "e5"]


async def dead_letters(bus: NatsConnection) -> list[tuple[str, Any, str]]:
    """Return subject, content and reason of all dead letters."""
    stream = await bus.jetstream()
    count = (await stream.stream_info(DEAD_LETTERS)).state.messages
    found = []
    for number in range(1, count + 1):
        message = await stream.get_msg(DEAD_LETTERS, number)
        found.append((message.subject, orjson.loads(message.data or b""), (message.headers or {}).get("Reason", "")))
    return found


async def test_poison_events_are_dead_lettered_and_block_nothing(bus: NatsConnection) -> None:
    poison = event("poison", "bank.hold.placed")
    await bus.publish([event("good-1"), poison, event("good-2")])
    stream = await bus.jetstream()
    await stream.publish("bank.entry.posted", b"\xff not JSON")
    await stream.publish("bank.entry.posted", orjson.dumps({"type": "bank.no such *.subject", "id": "\0"}))
    handler = RecordingHandler()
    consumer = Consumer(reader(bus), handler)
    handled = 0
    while handled < 5:
        handled += await consumer.step()
    assert handler.seen == ["good-1", "good-2"]
    assert handler.attempts == MAX_ATTEMPTS + 1, "once in the batch, then alone"
    letters = {subject: (content, reason) for subject, content, reason in await dead_letters(bus)}
    assert letters["dead.bank.hold.placed"] == (poison, "ZeroDivisionError: cannot be done")
    assert len(handler.dead_letters) == 3 and await drained(reader(bus)) == []
    assert [subject for subject, _, _ in await dead_letters(bus)].count("dead.bank.unreadable") == 2
    assert all("not a CloudEvent" in reason for subject, _, reason in await dead_letters(bus) if "unread" in subject)


async def test_server_restart_loses_no_events(
    bus: NatsConnection, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publisher and consumer reconnect; unacknowledged events are redelivered."""
    # Requests that the stopping server has not answered fail after this time, and are repeated.
    monkeypatch.setattr(transport, "_REQUEST_SECONDS", 2)
    handler = RecordingHandler()
    consumer_bus = NatsConnection(nats_server.url)
    consumer = asyncio.create_task(Consumer(reader(consumer_bus), handler).run())
    published, stopped, failed = 0, asyncio.Event(), asyncio.Event()

    async def publish_all() -> None:
        nonlocal published
        while published < 200:
            if published == 100:
                await stopped.wait()
            try:
                await bus.publish(events(10, start=published + 1))
                published += 10
            except (nats.errors.Error, OSError):
                failed.set()
            await asyncio.sleep(0.05)

    publisher = asyncio.create_task(publish_all())

    async def some_arrived() -> bool:
        return len(handler.seen) >= 30

    async def all_arrived() -> bool:
        return len(set(handler.seen)) == 200

    await eventually(some_arrived)
    await nats_server.stop()
    stopped.set()
    await failed.wait()
    assert published <= 100
    await nats_server.start()
    await eventually(all_arrived)
    await publisher
    assert len(handler.seen) == 200 and handler.dead_letters == []
    consumer.cancel()
    await asyncio.wait([consumer])
    await consumer_bus.close()
    assert (await (await bus.jetstream()).stream_info(STREAM)).state.messages == 200


async def test_unavailable_server_at_startup_is_an_error(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await nats_server.stop()
    bus = NatsConnection(nats_server.url)
    with monkeypatch.context() as patch, assert_prompt():
        patch.setattr(transport, "_CONNECT_SECONDS", 0.5)
        with pytest.raises((nats.errors.Error, OSError)):
            await bus.publish(events(1))
    await nats_server.start()
    await bus.publish(events(1))
    assert names(await drained(reader(bus), 1)) == ["e1"]
    await bus.close()


async def test_server_that_lost_its_disk_gets_a_new_stream_id(bus: NatsConnection, nats_server: NatsServer) -> None:
    """Publishers and consumers continue, and the new stream id tells publishers that the events are lost."""
    await bus.publish(events(3))
    first = await bus.stream()
    source = reader(bus)
    assert len(await drained(source, 3)) == 3
    await nats_server.stop()
    nats_server.lose_disk()
    await nats_server.start()

    async def another() -> bool:
        try:
            return await bus.stream() != first
        except (nats.errors.Error, OSError):
            return False

    await eventually(another)
    await bus.publish(events(1, start=4))

    async def received() -> bool:
        try:
            return names(await drained(source)) == ["e4"]
        except (nats.errors.Error, OSError):
            return False

    await eventually(received)


async def test_deleted_stream_is_recreated(bus: NatsConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the failed publish shall have the streams checked again.
    monkeypatch.setattr(transport, "_STREAM_CHECK_SECONDS", 3600)
    await bus.publish(events(1))
    first = await bus.stream()
    await (await bus.jetstream()).delete_stream(STREAM)
    with pytest.raises(nats.errors.Error):
        await bus.publish(events(1, start=2))
    await bus.publish(events(1, start=2))
    assert await bus.stream() != first

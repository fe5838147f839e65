"""Event transport over NATS JetStream, with a real server."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import nats
import orjson
import pytest

from shared.messaging import streams, transport
from shared.messaging.consumer import Consumer
from shared.events import CloudEvent, Event
from shared.messaging.batches import encode
from shared.messaging.positions import Range
from shared.messaging.streams import DEAD_LETTERS, STREAM
from shared.testing.ports import free_port
from shared.testing.timing import BUSY_SECONDS, assert_prompt, eventually
from shared.tests.support import InMemoryHandler, NatsServer, event, events, names
from shared.messaging.transport import Delivery, LastBatch, NatsConnection, NatsSource

SOURCE = "producer"


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[NatsConnection]:
    """A connection to the server."""
    bus = NatsConnection(nats_server.url)
    yield bus
    await bus.close()


def reader(bus: NatsConnection, limit: int = 500, durable: str | None = "reader") -> NatsSource:
    """Return a consumer of the batches with a short wait."""
    return NatsSource(bus, durable, streams.batch_subject(SOURCE), limit=limit, wait_seconds=0.5)


async def publish(bus: NatsConnection, items: Sequence[Event], after: int, size: int = 1000) -> None:
    """Publish events in batches of a size; they get the positions after `after`."""
    last = (await bus.last_batch(SOURCE)).sequence
    for start in range(0, len(items), size):
        part = items[start : start + size]
        for batch in encode([*enumerate(part, after + start + 1)]):
            last = await bus.publish(SOURCE, batch, last)


def received(delivery: Delivery) -> list[Event]:
    """Return the events of a delivery."""
    return [item for batch in delivery.batches for item in batch.events]


class RecordingHandler(InMemoryHandler):
    """A handler that records events in order of arrival and fails for those with the id `poison`."""

    async def process(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
        """Record all events or none."""
        if any(item.id == "poison" for item in events):
            raise ZeroDivisionError("cannot be\r\ndone")
        await super().process(events, positions)


async def drained(source: NatsSource, count: int = 0) -> list[Event]:
    """Receive and ack until there are so many events and no more."""
    found: list[Event] = []
    # On a busy machine an empty delivery does not mean that there are no more.
    while received(delivery := await source.receive(0)) or len(found) < count:
        found += received(delivery)
        await delivery.ack()
    return found


async def test_batch_published_twice_is_delivered_once(bus: NatsConnection) -> None:
    written = events(300)
    await publish(bus, written, 0, 100)
    (again,) = encode([*enumerate(written[200:], 201)])
    # NATS 2.10 acknowledges a duplicate with the number of the first one; later releases check the predecessor first.
    with suppress(nats.js.errors.BadRequestError):
        assert await bus.publish(SOURCE, again, 2) == 3
    source = reader(bus, limit=2)
    delivery = await source.receive(0)
    assert [batch.positions for batch in delivery.batches] in ([(1, 100)], [(1, 100), (101, 200)])
    await delivery.nack()
    assert sorted(names(await drained(source, 300))) == sorted(names(written))
    assert await drained(reader(bus)) == []
    assert len(await drained(reader(bus, durable="another"), 300)) == 300


async def test_batch_with_another_predecessor_is_rejected(bus: NatsConnection) -> None:
    assert await bus.last_batch(SOURCE) == LastBatch(0, 0)
    await publish(bus, events(5), 10, 2)
    assert await bus.last_batch(SOURCE) == LastBatch(3, 15)
    assert await bus.last_batch("another") == LastBatch(0, 0)
    (batch,) = encode([(16, event("e6"))])
    for wrong in (0, 2, 4):
        with pytest.raises(nats.js.errors.BadRequestError, match="wrong last sequence"):
            await bus.publish(SOURCE, batch, wrong)
    assert len(await drained(reader(bus), 5)) == 5


async def test_single_events_of_an_earlier_release_are_received(bus: NatsConnection) -> None:
    stream = await bus.jetstream()
    for item in events(3):
        await stream.publish("bank.entry.posted", orjson.dumps(item))
    await publish(bus, events(2, start=4), 3)
    delivery = await NatsSource(bus, "earlier", "bank.>", wait_seconds=0.5).receive(0)
    assert all(batch.positions is None for batch in delivery.batches)
    assert {*names(received(delivery))} <= {"e1", "e2", "e3"}
    assert names(await drained(reader(bus), 2)) == ["e4", "e5"]


async def test_full_stream_drops_its_oldest_batches(nats_server: NatsServer) -> None:
    bus = NatsConnection(nats_server.url, stream_bytes=2**20)
    source = reader(bus, limit=100)
    for number in range(40):
        await publish(bus, [event(f"e{number}", text="x" * 100_000)], number)
    assert await bus.last_batch(SOURCE) == LastBatch(40, 40)
    left = names(await drained(source))
    assert 5 <= len(left) <= 10 and left == [f"e{number}" for number in range(40)][-len(left) :]
    await bus.close()


async def test_nacked_events_are_redelivered(bus: NatsConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_ACK_WAIT_SECONDS", 3600)
    await publish(bus, events(3), 0, 1)
    source, seen = reader(bus), list[str]()
    while len(seen) < 3:
        delivery = await source.receive(0)
        seen += names(received(delivery))
        await delivery.nack()
    async with asyncio.timeout(BUSY_SECONDS):
        assert {"e1", "e2", "e3"} == {*names(await drained(source, 3))} >= {*seen}


async def test_replicas_compete_for_events(bus: NatsConnection, nats_server: NatsServer) -> None:
    other = NatsConnection(nats_server.url)
    await publish(bus, events(100), 0, 1)
    sources, found = [reader(bus, limit=5), reader(other, limit=5)], list[Event]()

    async def share(source: NatsSource, others: asyncio.Barrier) -> None:
        while not received(delivery := await source.receive(0)):
            pass
        await others.wait()
        found.extend(received(delivery))
        await delivery.ack()
        while len(found) < 100:
            found.extend(await drained(source))

    others = asyncio.Barrier(2)
    await asyncio.gather(*(share(source, others) for source in sources))
    assert sorted(names(found)) == sorted(names(events(100)))
    await other.close()


async def test_ephemeral_consumer_receives_all_new_events(bus: NatsConnection) -> None:
    await publish(bus, events(2), 0)
    watchers = [reader(bus, durable=None) for _ in range(2)]
    assert [await drained(watcher) for watcher in watchers] == [[], []]
    await publish(bus, events(3, start=3), 2)
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
    unreadable = {"type": "bank.no such *.subject", "id": "\0"}
    await publish(bus, [event("good-1"), poison, unreadable, event("good-2")], 0)
    stream = await bus.jetstream()
    await stream.publish(streams.batch_subject(SOURCE), b"\xff not JSON")
    handler = RecordingHandler()
    consumer = Consumer(reader(bus), handler)
    handled = 0
    while handled < 5:
        handled += await consumer.step()
    assert handler.seen == ["good-1", "good-2"] and [*handler.positions.ranges] == [(1, 4)]
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
                if failed.is_set():
                    # As the relay does: the events may have been stored.
                    published = (await bus.last_batch(SOURCE)).position
                count = 10 - published % 10
                await publish(bus, events(count, start=published + 1), published, 1)
                published += count
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


async def test_any_server_of_a_cluster_serves_and_a_silent_one_is_detected(nats_server: NatsServer) -> None:
    bus = NatsConnection(f"nats://127.0.0.1:{free_port()},{nats_server.url}")

    def silence_timeout() -> int:
        transport_of = bus._client._transport._io_writer.transport  # type: ignore[union-attr]
        with socket.socket(fileno=os.dup(transport_of.get_extra_info("socket").fileno())) as own:
            return own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    await bus.jetstream()
    assert silence_timeout() == 4000

    async def reconnected() -> bool:
        try:
            await publish(bus, events(1), 0, 1)
        except (nats.errors.Error, OSError):
            return False
        return True

    await nats_server.stop()
    await nats_server.start()
    await eventually(reconnected)
    assert silence_timeout() == 4000
    await bus.close()


async def test_unavailable_server_at_startup_is_an_error(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await nats_server.stop()
    bus = NatsConnection(nats_server.url)
    with monkeypatch.context() as patch, assert_prompt():
        patch.setattr(transport, "_CONNECT_SECONDS", 0.5)
        with pytest.raises((nats.errors.Error, OSError)):
            await publish(bus, events(1), 0)
    await nats_server.start()
    await publish(bus, events(1), 0)
    assert names(await drained(reader(bus), 1)) == ["e1"]
    await bus.close()


async def test_server_that_lost_its_disk_gets_a_new_stream_id(bus: NatsConnection, nats_server: NatsServer) -> None:
    """Publishers and consumers continue, and the new stream id tells publishers that the events are lost."""
    await publish(bus, events(3), 0)
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
    await publish(bus, events(1, start=4), 3)

    async def arrived() -> bool:
        try:
            return names(await drained(source)) == ["e4"]
        except (nats.errors.Error, OSError):
            return False

    await eventually(arrived)


async def test_deleted_stream_is_recreated(bus: NatsConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the failed publish shall have the streams checked again.
    monkeypatch.setattr(transport, "_STREAM_CHECK_SECONDS", 3600)
    await publish(bus, events(1), 0)
    first = await bus.stream()
    await (await bus.jetstream()).delete_stream(STREAM)
    (batch,) = encode([(2, event("e2"))])
    with pytest.raises(nats.errors.Error):
        await bus.publish(SOURCE, batch, 1)
    await bus.publish(SOURCE, batch, 0)
    assert await bus.stream() != first

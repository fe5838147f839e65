"""Pruning of the outbox, and consumers that lag behind what was pruned: they catch up from the producer's snapshot."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.db.database import write_all, write_transaction
from shared.events import Event
from shared.http.web import create_app
from shared.ids import utc_now
from shared.messaging import feed, retention, snapshot, transport
from shared.messaging.consumer import Consumer
from shared.messaging.positions import Positions, Range
from shared.messaging.recovery import Recovery
from shared.messaging.relay import Relay
from shared.messaging.shadow import ShadowConsumer
from shared.messaging.transport import EventsPruned, FeedSource
from shared.runtime.settings import ServiceSettings
from shared.testing.fixtures import Lab
from shared.tests.support import InMemoryHandler, event, events, metric, names, outbox, read, sequence, served
from shared.tests.test_consumer import FakeSource
from shared.tests.test_relay import FakeBus, work
from shared.tests.test_shadow import DryRunHandler

WEEK = timedelta(days=7)
OLD, RECENT = utc_now() - timedelta(days=8), utc_now()


async def append_at(engine: AsyncEngine, time: datetime, *items: Event) -> None:
    """Commit one append of that time to the outbox and assign its positions."""
    async with write_transaction(engine) as connection:
        await write_all(connection, [outbox.write(items, time)])
    await sequence(engine)


async def prune(engine: AsyncEngine, bus: FakeBus | None = None) -> int:
    """Delete events that are older than a week."""
    return await retention.prune(engine, outbox, [Relay(engine, outbox, bus, "test").published], WEEK)


async def positions(engine: AsyncEngine) -> list[int]:
    """Return the positions that are left."""
    return [number for first in (0, 5) for number, _ in await read(engine, first, 5)]


async def pruned(engine: AsyncEngine) -> int:
    """Return the last pruned position."""
    async with engine.connect() as connection:
        return await outbox.pruned(connection)


async def test_old_events_are_deleted_and_the_next_position_follows(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_MAX_ROWS", 2)
    assert await prune(engine) == await pruned(engine) == 0
    for number in range(1, 4):
        await append_at(engine, OLD, *events(2, start=2 * number - 1))
    await append_at(engine, RECENT, *events(1, start=7))
    assert await prune(engine) == 3 and await pruned(engine) == 6
    await append_at(engine, RECENT, *events(1, start=8))
    assert await positions(engine) == [7, 8] and await prune(engine) == 0


async def test_the_last_row_and_what_follows_a_recent_row_are_kept(engine: AsyncEngine) -> None:
    await append_at(engine, OLD, *events(2))
    assert await prune(engine) == 0, "the last row"
    for number, time in enumerate((RECENT, OLD, OLD), 3):
        await append_at(engine, time, *events(1, start=number))
    assert await prune(engine) == 1
    assert await positions(engine) == [3, 4, 5]


async def test_unpublished_events_are_kept(engine: AsyncEngine) -> None:
    bus = FakeBus()
    for number in range(1, 4):
        await append_at(engine, OLD, *events(1, start=number))
    assert await prune(engine, bus) == 0
    await work(Relay(engine, outbox, bus, "test"))
    await append_at(engine, OLD, *events(1, start=4))
    async with write_transaction(engine) as connection:
        await write_all(connection, [outbox.write(events(1, start=5), OLD)])
    assert await prune(engine, bus) == 3
    await work(Relay(engine, outbox, bus, "test"))
    assert names(bus.events) == names(events(5))


async def test_the_relay_continues_after_pruned_events_when_the_stream_is_older(engine: AsyncEngine) -> None:
    bus = FakeBus()
    for number in range(1, 4):
        await append_at(engine, OLD, *events(600, start=600 * number - 599))
        await work(Relay(engine, outbox, bus, "test"))
    await append_at(engine, RECENT, *events(1, start=1801))
    await work(Relay(engine, outbox, bus, "test"))
    assert await prune(engine, bus) == 6
    del bus.batches[1:]
    await work(Relay(engine, outbox, bus, "test"))
    assert names(bus.events)[-1] == "e1801"


PAGES = {"": (events(2), "more"), "more": ([event("e3"), event("e4")], None)}


async def read_page(_connection: AsyncConnection, cursor: str) -> tuple[list[Event], str | None]:
    """Return a page of a snapshot with the effects of e1 to e4; an invalid cursor is a ValueError."""
    if cursor not in PAGES:
        raise ValueError
    return PAGES[cursor]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Nothing runs in the background."""
    yield


@pytest.fixture
async def source(engine: AsyncEngine, lab: Lab) -> AsyncIterator[FeedSource]:
    """A reader of a producer whose snapshot is above."""
    settings = ServiceSettings(
        service="producer",
        database_url=str(engine.url),
        auth_jwks=str(lab.secrets.jwks),
        service_token=lab.service_token,  # type: ignore[arg-type]
    )
    routes = [
        feed.route(engine, outbox, lab.service_token),
        snapshot.route(engine, outbox, lab.service_token, read_page),
    ]
    application = create_app(settings, "", routes=[], internal_routes=routes, checks=dict, lifespan=lifespan)
    async with served(application) as url:
        source = FeedSource(url, lab.service_token, limit=2, wait_seconds=0)
        yield source
        await source.close()


@pytest.fixture
async def pruned_engine(engine: AsyncEngine) -> AsyncEngine:
    """An outbox of eight events, three of them pruned; e5 to e8 are refusals, for example."""
    await append_at(engine, OLD, *events(3))
    await append_at(engine, RECENT, *events(5, start=4))
    assert await prune(engine) == 1
    return engine


@pytest.mark.usefixtures("pruned_engine")
async def test_the_feed_names_the_first_position_that_it_has(source: FeedSource) -> None:
    for after in (0, 2):
        with pytest.raises(EventsPruned) as gone:
            await source.receive(after)
        assert (gone.value.first, gone.value.feed) == (4, source)
    (batch,) = (await source.receive(3)).batches
    assert batch.positions == (4, 5)


@pytest.mark.usefixtures("pruned_engine")
async def test_the_snapshot_is_for_services_and_rejects_invalid_cursors(source: FeedSource, lab: Lab) -> None:
    url = f"{source._addresses[0]}/internal/snapshot"  # pylint: disable=protected-access
    async with httpx.AsyncClient() as client:
        assert (await client.get(url)).status_code == 401
        own = {"Authorization": f"Bearer {lab.service_token}"}
        invalid = await client.get(url, params={"after": "x"}, headers=own)
    assert (invalid.status_code, invalid.json()["errors"][0]["pointer"]) == (422, "/query/after")


async def test_a_consumer_catches_up_from_the_snapshot_and_continues_in_the_feed(
    pruned_engine: AsyncEngine, source: FeedSource
) -> None:
    handler = InMemoryHandler()
    handler.positions = Positions((Range(1, 1), Range(6, 6)))
    consumer = Consumer(source, handler)
    await consumer.step()
    assert handler.seen == ["e1", "e2", "e3", "e4", "e5", "e7", "e8"], "e6 is known"
    assert handler.positions.ranges == ((1, 8),)
    await append_at(pruned_engine, RECENT, event("e9"))
    assert await consumer.step() == 1 and handler.seen[-1] == "e9"


async def test_what_is_pruned_while_a_consumer_catches_up_does_not_stop_it(
    pruned_engine: AsyncEngine, source: FeedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = source.snapshot

    async def slow_pages() -> AsyncIterator[transport.SnapshotPage]:
        async for page in pages():
            yield page
        await append_at(pruned_engine, RECENT, event("e9"))
        await retention.prune(pruned_engine, outbox, [Relay(pruned_engine, outbox, None, "test").published], -WEEK)

    monkeypatch.setattr(source, "snapshot", slow_pages)
    handler = InMemoryHandler()
    consumer = Consumer(source, handler)
    await consumer.step()
    assert handler.seen == names(events(4)) and handler.positions.ranges == ((1, 8),)
    await consumer.step()
    assert handler.seen[4:] == ["e9"]


@pytest.mark.usefixtures("pruned_engine")
async def test_a_snapshot_continues_after_an_outage_of_a_replica(
    source: FeedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_SNAPSHOT_RETRY_SECONDS", 0)
    requested, get = [], source._client.get  # pylint: disable=protected-access

    async def unreliable(url: str, params: dict[str, str]) -> httpx.Response:
        requested.append(params["after"])
        if len(requested) == 2:
            raise httpx.ConnectError("restarting")
        return await get(url, params=params)

    monkeypatch.setattr(source._client, "get", unreliable)  # pylint: disable=protected-access
    assert [page.pruned async for page in source.snapshot()] == [3, 3]
    assert requested == ["", "more", "more"]


@pytest.mark.usefixtures("pruned_engine")
async def test_recovery_reads_the_snapshot_instead_of_pruned_events(source: FeedSource) -> None:
    handler, before = InMemoryHandler(), metric("bank_events_recovered_total")
    handler.positions = Positions((Range(7, 8),))
    await Recovery(source, handler, Consumer(FakeSource([]), handler)).run()
    assert handler.seen == names(events(6)) and handler.positions.ranges == ((1, 8),)
    assert metric("bank_events_recovered_total") > before


@pytest.mark.usefixtures("pruned_engine")
async def test_a_canary_starts_again_where_stable_is(source: FeedSource) -> None:
    handler = DryRunHandler()
    shadow = ShadowConsumer(source, handler)
    with pytest.raises(EventsPruned):
        await shadow.step()
    handler.positions = Positions((Range(1, 3),))
    await shadow.step()
    assert handler.dry_runs == ["e4", "e5"]

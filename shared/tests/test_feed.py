"""The HTTP feed: the route of shared.messaging.feed and its client FeedSource."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.testing.ports import free_port
from shared.messaging import feed
from shared.runtime.server import ShutdownSignal
from shared.runtime.settings import ServiceSettings
from shared.testing.fixtures import Lab
from shared.testing.timing import assert_prompt
from shared.tests.support import append, events, names, outbox, sequence, served
from shared.messaging.transport import Delivery, FeedSource
from shared.http.web import Service, create_app


@pytest.fixture
def application(engine: AsyncEngine, lab: Lab) -> Service:
    """A service with only a feed."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield

    settings = ServiceSettings(
        service="producer",
        database_url=str(engine.url),
        auth_jwks=str(lab.secrets.jwks),
        service_token=lab.service_token,  # type: ignore[arg-type]
    )
    route = feed.route(engine, outbox, lab.service_token)
    return create_app(settings, "", routes=[], internal_routes=[route], checks=dict, lifespan=lifespan)


@pytest.fixture
async def url(application: Service) -> AsyncIterator[str]:
    """URL of the producer of the feed."""
    async with served(application) as address:
        yield address


@pytest.fixture(autouse=True)
def long_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a poll wait for longer than any test."""
    monkeypatch.setattr(feed, "MAX_WAIT_SECONDS", 3600)


@asynccontextmanager
async def reading(url: str, lab: Lab, limit: int = 500, wait_seconds: float = 0) -> AsyncIterator[FeedSource]:
    """A reader of the feed."""
    source = FeedSource(url, lab.service_token, limit=limit, wait_seconds=wait_seconds)
    yield source
    await source.close()


def received(delivery: Delivery) -> list[str]:
    """Return the ids of the events of a delivery."""
    return [name for batch in delivery.batches for name in names(list(batch.events))]


async def test_a_reader_gets_all_events_by_following_positions(engine: AsyncEngine, url: str, lab: Lab) -> None:
    written = events(5)
    await append(engine, *written[:3])
    await append(engine, *written[3:])
    await sequence(engine)
    async with reading(f"feed+{url}/", lab, limit=2) as source:
        found, after, positions = [], 0, []
        for _ in range(4):
            delivery = await source.receive(after)
            (batch,) = delivery.batches
            found += batch.events
            after = batch.positions.last if batch.positions else after
            positions.append(batch.positions)
            await delivery.ack()
    assert found == written
    assert positions == [(1, 2), (3, 4), (5, 5), None]


async def test_feed_that_repeats_positions_is_an_error() -> None:
    """Otherwise the reader would request them forever."""

    def repeat(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=events(3), headers={"X-Next-Position": "4"})

    source = FeedSource("http://producer", "token")
    source._client = httpx.AsyncClient(transport=httpx.MockTransport(repeat))  # pylint: disable=protected-access
    assert received(await source.receive(1))[0] == "e1"
    with pytest.raises(ValueError, match="3 events from position 2 after 2"):
        await source.receive(2)
    await source.close()


async def test_long_poll_returns_as_soon_as_there_are_events(engine: AsyncEngine, url: str, lab: Lab) -> None:
    async with reading(url, lab, wait_seconds=3600) as source:
        waiting = asyncio.create_task(source.receive(0))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await append(engine, *events(1))
        await sequence(engine)
        with assert_prompt():
            assert received(await waiting) == ["e1"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_long_poll_without_events_times_out(url: str, lab: Lab) -> None:
    async with reading(url, lab) as source:
        started = time.monotonic()
        with assert_prompt():
            delivery = await source.receive(7, wait_seconds=1)
        assert received(delivery) == []
        assert time.monotonic() - started > 0.9


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_long_polls_return_immediately_on_shutdown(url: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(url, lab, wait_seconds=3600) as source:
        waiting = asyncio.create_task(source.receive(3))
        await asyncio.sleep(0.3)
        monkeypatch.setattr(ShutdownSignal, "now", True)
        with assert_prompt():
            delivery = await waiting
        assert received(delivery) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_reader_fails_over_to_the_next_replica(
    engine: AsyncEngine, url: str, application: Service, lab: Lab
) -> None:
    await append(engine, *events(1))
    await sequence(engine)
    port = free_port()
    async with reading(f"feed+http://127.0.0.1:{port}, {url}", lab) as source:
        with pytest.raises(httpx.ConnectError):
            await source.receive(0)
        for _ in range(2):
            assert received(await source.receive(0)) == ["e1"]
    async with served(application, port), reading(f"127.0.0.1:{port}", lab) as source:
        assert received(await source.receive(0)) == ["e1"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_feed_rejects_unauthenticated_and_invalid_requests(url: str, lab: Lab) -> None:
    stranger = FeedSource(url, "x" * 20, wait_seconds=0)
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        await stranger.receive(0)
    await stranger.close()
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {lab.service_token}"}) as client:
        for query in ("after=-1", "after=x", "after=1e3", "limit=-5", "wait=٣", "after=" + "9" * 19):
            response = await client.get(f"{url}/internal/events?{query}")
            assert (response.status_code, response.json()["code"]) == (422, "validation-failed"), query
            assert response.json()["errors"][0]["pointer"] == f"/query/{query.split('=')[0]}"
        response = await client.get(f"{url}/internal/events?after={'9' * 18}&limit=0")
        assert (response.status_code, response.headers["x-next-position"]) == (200, "9" * 18)

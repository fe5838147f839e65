"""What there is not enough of: connections and room in the queue. Refusal at once, with a time to come again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.settings import AccountSettings
from shared.prometheus.registry import REGISTRY
from shared.testing.fixtures import Lab
from shared.http.web import Service
from tests.support import keyed
from tests.test_api import assert_problem, opened


@pytest.fixture
def settings(settings: AccountSettings) -> AccountSettings:
    """Little of everything. A canary has no relay, which holds a connection and gives it back at any time."""
    little = {"database_pool_size": 4, "group_commit_max_batch": 4, "group_commit_max_waiting": 8}
    return settings.model_copy(update={"app_track": "canary", **little})


@pytest.fixture
def engine_of(application: Service) -> AsyncEngine:
    """The engine of the application."""
    engine: AsyncEngine = application.app.state.runtime.engine
    return engine


@asynccontextmanager
async def all_connections(engine: AsyncEngine) -> AsyncIterator[None]:
    """Hold every connection of the pool while the block runs; others stop waiting for one after 0.2 s."""
    pool: Any = engine.pool
    async with AsyncExitStack() as held:
        # The measurements that run at the start give back what they have.
        for _ in range(pool.size()):
            await held.enter_async_context(engine.connect())
        pool._timeout = 0.2  # pylint: disable=protected-access
        yield


async def test_without_a_free_connection_everything_says_when_to_come_again(
    client: httpx.AsyncClient, engine_of: AsyncEngine
):
    account = await opened(client, 100)
    money = {"amount": 1, "currency": "USD"}
    async with all_connections(engine_of):
        # None waits until a connection is free: none will be before the answers are there.
        answers = await asyncio.gather(
            *(client.get(f"/api/v1/accounts/{account}") for _ in range(5)),
            *(client.post(f"/api/v1/accounts/{account}/withdrawals", json=money, headers=keyed()) for _ in range(5)),
            client.get("/health/ready"),
        )
    for answer in answers:
        assert_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "1"
    assert (await client.get(f"/api/v1/accounts/{account}")).json()["balance"] == 100
    paid = await client.post(f"/api/v1/accounts/{account}/withdrawals", json=money, headers=keyed())
    assert paid.status_code == 201


async def test_batches_count_for_what_they_hold(client: httpx.AsyncClient):
    """Ten batches of eight fill a queue for eight several times over, however few requests they are."""
    source, target = await opened(client, 1000), await opened(client)

    def batch(name: int) -> dict[str, object]:
        item = {"from_account": source, "to_account": target, "amount": 1, "currency": "USD"}
        return {"transfers": [{"key": f"{name}-{n}", **item} for n in range(8)]}

    async def send(name: int) -> httpx.Response:
        return await client.post("/api/v1/transfers:batch", json=batch(name), headers=keyed(f"batch-{name}"))

    answers = await asyncio.gather(*(send(name) for name in range(10)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 1 <= len(refused) <= 9
    for answer in refused:
        # Of one subject; batches of others would find the queue full.
        assert_problem(answer, 429, "rate-limited")
        assert answer.headers["retry-after"] == "1"
    moved = (await client.get(f"/api/v1/accounts/{target}")).json()["balance"]
    assert moved == 8 * (10 - len(refused)), "what was refused has no effect"
    # Once there is room, the same keys bring the rest.
    for name in range(10):
        assert (await send(name)).status_code == 200
    assert (await client.get(f"/api/v1/accounts/{target}")).json()["balance"] == 80


async def test_who_goes_away_before_the_request_is_read_is_no_failure_of_the_service(
    application: Service, lab: Lab, caplog: pytest.LogCaptureFixture
):
    def counted(status: str) -> float:
        labels = {"handler": "/api/v1/transfers", "method": "POST", "status": status}
        return REGISTRY.get_sample_value("http_requests_total", labels) or 0

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    headers = [(name.lower().encode(), value.encode()) for name, value in {**lab.headers("alice"), **keyed()}.items()]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/transfers", "query_string": b"", "headers": headers}
    failed, left = counted("500"), counted("499")
    await application({**scope, "root_path": "", "scheme": "http", "server": ("bank", 80)}, receive, send)
    assert (counted("500"), counted("499"), sent) == (failed, left + 1, [])
    assert "unhandled" not in caplog.text

"""Overload: without free connections or room in the queue, requests are rejected at once with Retry-After."""

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
from tests.support import key_header
from tests.test_api import assert_problem, create_account


@pytest.fixture
def settings(settings: AccountSettings) -> AccountSettings:
    """Settings with little capacity; a canary has no relay, which would hold a connection for its leadership."""
    capacity = {"database_pool_size": 4, "group_commit_max_batch": 4, "group_commit_max_waiting": 8}
    return settings.model_copy(update={"app_track": "canary", **capacity})


@pytest.fixture
def engine_of(application: Service) -> AsyncEngine:
    """The engine of the application."""
    engine: AsyncEngine = application.app.state.runtime.engine
    return engine


@asynccontextmanager
async def pool_exhausted(engine: AsyncEngine) -> AsyncIterator[None]:
    """Hold every connection of the pool while the block runs, with a pool timeout of 0.2 s."""
    pool: Any = engine.pool
    async with AsyncExitStack() as held:
        # Measurements that run at startup return their connections.
        for _ in range(pool.size()):
            await held.enter_async_context(engine.connect())
        pool._timeout = 0.2  # pylint: disable=protected-access
        yield


async def test_an_exhausted_pool_gets_503_with_retry_after(client: httpx.AsyncClient, engine_of: AsyncEngine):
    account = await create_account(client, 100)
    money = {"amount": 1, "currency": "USD"}
    async with pool_exhausted(engine_of):
        # No connection becomes free before the responses have arrived.
        responses = await asyncio.gather(
            *(client.get(f"/api/v1/accounts/{account}") for _ in range(5)),
            *(
                client.post(f"/api/v1/accounts/{account}/withdrawals", json=money, headers=key_header())
                for _ in range(5)
            ),
            client.get("/health/ready"),
        )
    for response in responses:
        assert_problem(response, 503, "unavailable")
        assert response.headers["retry-after"] == "1"
    assert (await client.get(f"/api/v1/accounts/{account}")).json()["balance"] == 100
    paid = await client.post(f"/api/v1/accounts/{account}/withdrawals", json=money, headers=key_header())
    assert paid.status_code == 201


async def test_a_batch_fills_the_queue_by_its_transfers(client: httpx.AsyncClient):
    """Ten batches of eight transfers exceed a queue of eight operations, although they are only ten requests."""
    source, target = await create_account(client, 1000), await create_account(client)

    def batch(name: int) -> dict[str, object]:
        item = {"from_account": source, "to_account": target, "amount": 1, "currency": "USD"}
        return {"transfers": [{"key": f"{name}-{n}", **item} for n in range(8)]}

    async def send(name: int) -> httpx.Response:
        return await client.post("/api/v1/transfers:batch", json=batch(name), headers=key_header(f"batch-{name}"))

    responses = await asyncio.gather(*(send(name) for name in range(10)))
    refused = [response for response in responses if response.status_code != 200]
    assert 1 <= len(refused) <= 9
    for response in refused:
        # The limit per subject applies first; with batches of several subjects the queue would be full.
        assert_problem(response, 429, "rate-limited")
        assert response.headers["retry-after"] == "1"
    moved = (await client.get(f"/api/v1/accounts/{target}")).json()["balance"]
    assert moved == 8 * (10 - len(refused)), "a rejected batch has no effect"
    # Retries with the same keys succeed once the queue has room.
    for name in range(10):
        assert (await send(name)).status_code == 200
    assert (await client.get(f"/api/v1/accounts/{target}")).json()["balance"] == 80


async def test_a_client_disconnect_is_counted_as_499(application: Service, lab: Lab, caplog: pytest.LogCaptureFixture):
    def counted(status: str) -> float:
        labels = {"handler": "/api/v1/transfers", "method": "POST", "status": status, "code": ""}
        return REGISTRY.get_sample_value("http_requests_total", labels) or 0

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    headers = [
        (name.lower().encode(), value.encode()) for name, value in {**lab.headers("alice"), **key_header()}.items()
    ]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/transfers", "query_string": b"", "headers": headers}
    failed, left = counted("500"), counted("499")
    await application({**scope, "root_path": "", "scheme": "http", "server": ("bank", 80)}, receive, send)
    assert (counted("500"), counted("499"), sent) == (failed, left + 1, [])
    assert "unhandled" not in caplog.text

"""Fixtures for the tests of shared."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.testing.fixtures import create_tables, opened
from shared.tests.support import NatsServer, metadata


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on a new database with outbox and inbox tables, on PostgreSQL and on SQLite."""
    await create_tables(database_url, metadata)
    async for engine in opened(database_url):
        yield engine


@pytest.fixture
async def postgres_engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    """The same, on PostgreSQL only."""
    await create_tables(postgres_url, metadata)
    async for engine in opened(postgres_url):
        yield engine


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A dedicated NATS server."""
    if NatsServer.program is None:
        pytest.skip("nats-server is not installed; on Debian: apt-get install nats-server")
    server = NatsServer(tmp_path / "jetstream")
    await server.start()
    yield server
    await server.stop()

"""Engines with several PostgreSQL hosts find the one that accepts writes, before and after a failover."""

import os
import socket
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.database import create_engine, is_unavailable, ping
from shared.runtime import sockets
from shared.testing.postgres import PostgresServer
from shared.testing.timing import BUSY_SECONDS, assert_prompt

Pair = tuple[PostgresServer, PostgresServer]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A primary with a table, and its standby."""
    with PostgresServer() as primary:
        primary.sql("postgres", "CREATE TABLE numbers (number int)")
        with PostgresServer(standby_of=primary) as standby:
            yield primary, standby


def engine_of(*ports: int) -> AsyncEngine:
    """Return an engine for a database on several ports of this host."""
    hosts = "&".join(f"host=127.0.0.1:{port}" for port in ports)
    return create_engine(f"postgresql+asyncpg://bank@/postgres?{hosts}")


async def insert(engine: AsyncEngine, number: int) -> None:
    """Insert a number."""
    async with engine.begin() as connection:
        await connection.execute(text(f"INSERT INTO numbers VALUES ({number})"))


async def insert_eventually(engine: AsyncEngine, number: int) -> int:
    """Insert a number as soon as the database is available; return the number of failed attempts."""
    deadline = time.monotonic() + BUSY_SECONDS
    failures = 0
    while True:
        try:
            await insert(engine, number)
            return failures
        except Exception as error:  # pylint: disable=broad-exception-caught
            assert is_unavailable(error) and time.monotonic() < deadline, repr(error)
            failures += 1


async def session_of(engine: AsyncEngine) -> int:
    """Return the process id of a pooled session."""
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)


async def test_writes_follow_the_primary(pair: Pair) -> None:
    primary, standby = pair
    engines = [engine_of(primary.port, standby.port), engine_of(standby.port, primary.port)]
    for number, engine in enumerate(engines):
        await insert(engine, number)
    primary.stop("immediate")
    standby.promote()
    for number, engine in enumerate(engines, 2):
        # The connection in the pool is dead, and the next attempt finds the new primary.
        assert await insert_eventually(engine, number) <= 1
        await engine.dispose()
    assert standby.sql("postgres", "SELECT count(*) FROM numbers") == "4"


async def test_a_silent_host_delays_nothing(pair: Pair) -> None:
    primary, _ = pair
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = engine_of(silent.getsockname()[1], primary.port)
        with assert_prompt():
            await insert(engine, 1)
        await engine.dispose()


async def test_without_a_primary_the_database_is_unavailable(pair: Pair) -> None:
    primary, standby = pair
    primary.stop("immediate")
    engine = engine_of(primary.port, standby.port)
    with pytest.raises(ConnectionError, match="no PostgreSQL host accepts writes: ") as raised:
        await ping(engine)
    assert is_unavailable(raised.value)
    await engine.dispose()


async def test_a_standby_behind_a_single_address_is_an_outage(pair: Pair) -> None:
    """As behind a virtual address or DNS name; once the host is the primary, connections are replaced."""
    primary, standby = pair
    engine = create_engine(standby.url("postgres"))
    session = await session_of(engine)
    with pytest.raises(Exception, match="read-only transaction") as raised:
        await insert(engine, 1)
    assert is_unavailable(raised.value) and await session_of(engine) != session
    primary.stop("immediate")
    standby.promote()
    await insert(engine, 2)
    await engine.dispose()


async def test_silent_peers_are_detected_by_the_kernel(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    async with engine.connect() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        with socket.socket(fileno=os.dup(raw._transport.get_extra_info("socket").fileno())) as own:
            assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                timeout = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                assert timeout == sockets._SILENCE_SECONDS * 1000
    await engine.dispose()

"""Database access: the same behaviour and error classes on PostgreSQL and SQLite."""

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Uuid,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.testing.postgres import PostgresServer
from shared.db import database
from shared.http import idempotency
from shared.db.database import (
    Rows,
    UtcDateTime,
    Write,
    bulk_insert_new,
    create_engine,
    is_retryable,
    is_unavailable,
    ping,
    write_all,
    write_transaction,
)
from shared.http.idempotency import StoredResponse
from shared.ids import new_id, utc_now
from shared.testing.fixtures import create_tables, opened
from shared.testing.timing import StoppedClock, assert_prompt, eventually

metadata = MetaData()
keys = idempotency.table(metadata)
things = Table(
    "things",
    metadata,
    Column("id", Uuid(as_uuid=False), primary_key=True),
    Column("name", String(10)),
    Column("number", BigInteger, nullable=False),
    Column("content", LargeBinary),
    Column("at", UtcDateTime),
    CheckConstraint("number >= 0", name="positive"),
)
counters = Table("counters", metadata, Column("id", Integer, primary_key=True), Column("value", BigInteger))


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine with tables that have columns of all types."""
    await create_tables(database_url, metadata)
    async for engine in opened(database_url):
        yield engine


def thing(number: int, **changes: Any) -> dict[str, Any]:
    """Return a row with a value in every column."""
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=number % 1_000_000)
    return {"id": new_id(), "name": f"ä{number}", "number": number, "content": b"\0\xff", "at": at, **changes}


async def stored(engine: AsyncEngine) -> list[dict[str, Any]]:
    """Return all rows sorted by number."""
    async with engine.connect() as connection:
        return [dict(row._mapping) for row in await connection.execute(select(things).order_by(things.c.number))]


def write(rows: Rows, key: str | None = None) -> Write:
    """Return the write of rows with the same columns."""
    return Write(things, tuple(rows[0]) if rows else (), [tuple(row.values()) for row in rows], key)


async def insert(engine: AsyncEngine, rows: Rows) -> None:
    """Insert and commit."""
    async with write_transaction(engine) as connection:
        await write_all(connection, [write(rows)])


async def test_rows_are_read_as_written(engine: AsyncEngine) -> None:
    rows = [thing(n) for n in range(2000)] + [thing(2**63 - 1, name=None, content=None, at=None)]
    await insert(engine, rows)
    await insert(engine, [])
    assert await stored(engine) == rows
    zoned = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    await insert(engine, [thing(5000, at=zoned)])
    back = (await stored(engine))[-2]["at"]
    assert back == zoned and back.utcoffset() == timedelta(0)


async def test_update_changes_only_the_given_columns_and_rows(engine: AsyncEngine) -> None:
    rows = [thing(n) for n in range(1500)]
    await insert(engine, rows)
    changes = [{"id": row["id"], "number": row["number"] + 10_000, "name": None} for row in rows[::2]]
    async with write_transaction(engine) as connection:
        await write_all(connection, [write([*changes, {"id": new_id(), "number": 7, "name": "nobody"}], key="id")])
        await write_all(connection, [write([], key="id")])
    by_id = {change["id"]: change for change in changes}
    expected = sorted(({**row, **by_id.get(row["id"], {})} for row in rows), key=lambda row: row["number"])
    assert await stored(engine) == expected


async def test_inserts_and_updates_are_combined(engine: AsyncEngine) -> None:
    rows = [thing(n) for n in range(3)]
    await insert(engine, rows[:2])
    async with write_transaction(engine) as connection:
        await write_all(
            connection,
            [
                write(rows[2:]),
                write([{"id": rows[0]["id"], "number": 7}], key="id"),
                Write(counters, ("id", "value"), [(1, 10), (2, 20)]),
                write([{"name": "other", "id": rows[1]["id"]}], key="id"),
            ],
        )
    async with engine.connect() as connection:
        counted = [tuple(row) for row in await connection.execute(select(counters).order_by(counters.c.id))]
    assert counted == [(1, 10), (2, 20)]
    assert await stored(engine) == [{**rows[1], "name": "other"}, rows[2], {**rows[0], "number": 7}]


# Returns once the process of the session has ended.
_TERMINATE = text("SELECT pg_terminate_backend(:pid, 60000)")


async def test_idle_connection_that_died_is_replaced(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async for engine in opened(postgres_url):
        async with engine.connect() as first, engine.connect() as second:
            victims = [await each.scalar(text("SELECT pg_backend_pid()")) for each in (first, second)]
        async for other in opened(postgres_url):
            async with other.connect() as connection:
                for victim in victims:
                    assert await connection.scalar(_TERMINATE, {"pid": victim})
        monkeypatch.setattr(database, "_PING_AFTER_SECONDS", 0.0)
        async with engine.connect() as third, engine.connect() as fourth:
            for connection in (third, fourth):
                assert await connection.scalar(text("SELECT pg_backend_pid()")) not in victims


async def test_reads_open_no_transaction_and_share_the_pool(postgres_engine: AsyncEngine) -> None:
    async def process_and_name(engine: AsyncEngine) -> tuple[Any, Any]:
        async with engine.connect() as connection:
            # Until the end of the transaction.
            await connection.execute(text("SELECT set_config('application_name', 'transaction', true)"))
            row = await connection.execute(text("SELECT pg_backend_pid(), current_setting('application_name')"))
            return tuple(row.one())

    process, name = await process_and_name(postgres_engine)
    assert name == "transaction"
    assert await process_and_name(database.reader(postgres_engine)) == (process, "bank")
    assert await process_and_name(postgres_engine) == (process, name)


async def test_only_inserted_rows_are_returned(engine: AsyncEngine) -> None:
    old = [thing(n) for n in range(3)]
    await insert(engine, old)
    new = [thing(n) for n in range(10, 2510)]
    offered = [{**old[1], "name": "changed"}, *new, {**new[0], "name": "again"}]
    async with write_transaction(engine) as connection:
        inserted = await bulk_insert_new(connection, things, offered)
        assert sorted(row.id for row in inserted) == sorted(row["id"] for row in new)
        assert await bulk_insert_new(connection, things, offered[:2]) == []
        assert await bulk_insert_new(connection, things, []) == []
    assert await stored(engine) == [*old, *new]


async def test_postgres_caches_one_statement_for_any_number_of_rows(postgres_url: str) -> None:
    await create_tables(postgres_url, metadata)
    async for engine in opened(postgres_url):
        async with write_transaction(engine) as connection:
            for count in range(1, 9):
                await bulk_insert_new(connection, things, [thing(10 * count + n) for n in range(count)])
            remembered = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%INSERT INTO things%'"
            assert await connection.scalar(text(remembered + " AND statement NOT LIKE '%prepared%'")) == 1


async def test_rejected_row_rolls_back_the_transaction(engine: AsyncEngine) -> None:
    good = thing(1)
    for bad in ({**thing(2), "number": -1}, good, {**thing(2), "number": None}):
        with pytest.raises(IntegrityError) as caught:
            await insert(engine, [good, bad])
        assert not is_unavailable(caught.value) and not is_retryable(caught.value)
        assert "ä1" not in str(caught.value), "parameters must not be logged"
    assert await stored(engine) == []


async def test_text_that_is_too_long_is_not_truncated(postgres_url: str) -> None:
    await create_tables(postgres_url, metadata)
    async for engine in opened(postgres_url):
        with pytest.raises(DBAPIError):
            await insert(engine, [thing(1, name="x" * 11)])
        await insert(engine, [thing(1)])
        with pytest.raises(DBAPIError):
            async with write_transaction(engine) as connection:
                row = (await stored(engine))[0]
                await write_all(connection, [write([{"id": row["id"], "name": "x" * 11}], key="id")])


async def test_thousands_of_keys_are_stored_and_found(engine: AsyncEngine) -> None:
    now = utc_now()
    written = [StoredResponse("alice", f"k{n}", b"h" * 16, 201, b"{}", now) for n in range(2000)]
    async with write_transaction(engine) as connection:
        await write_all(connection, [idempotency.write(keys, written)])
    wanted = [(item.subject, item.key) for item in written] * 70 + [("bob", "k1"), ("alice", "other")]
    async with engine.connect() as connection:
        found = await idempotency.find(connection, keys, wanted)
        assert await idempotency.find(connection, keys, wanted[-2:]) == {}
    assert found == {(item.subject, item.key): item for item in written}
    async with write_transaction(engine) as connection:
        assert await idempotency.purge(connection, keys, before=now, keep_subjects=[], limit=9000) == 0
        later = now + timedelta(seconds=1)
        assert await idempotency.purge(connection, keys, before=later, keep_subjects=["alice"], limit=9000) == 0
        pieces = [
            await idempotency.purge(connection, keys, before=later, keep_subjects=["bob"], limit=1500) for _ in range(3)
        ]
        assert pieces == [1500, 500, 0]


async def test_a_killed_connection_is_an_outage(postgres_engine: AsyncEngine) -> None:
    async def is_in(state: str, pid: int) -> bool:
        async with postgres_engine.connect() as connection:
            found = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
            return bool(await connection.scalar(found, {"pid": pid}) == state)

    async def killed(statement: str, state: str) -> DBAPIError:
        with pytest.raises(DBAPIError) as caught:
            async with write_transaction(postgres_engine) as victim:
                pid = await victim.scalar(text("SELECT pg_backend_pid()"))
                query = asyncio.create_task(victim.execute(text(statement)))
                await eventually(partial(is_in, state, pid))
                async with postgres_engine.connect() as killer:
                    assert await killer.scalar(_TERMINATE, {"pid": pid})
                await query
                await victim.execute(text("SELECT 1"))
        return caught.value

    for statement, state in (("SELECT 1", "idle in transaction"), ("SELECT pg_sleep(60)", "active")):
        error = await killed(statement, state)
        assert is_unavailable(error) and not is_retryable(error)
    await ping(postgres_engine)


async def test_server_without_free_connections_or_stopped_is_an_outage(
    postgres: PostgresServer, postgres_url: str
) -> None:
    postgres.sql("postgres", "DROP ROLE IF EXISTS small", "CREATE ROLE small LOGIN CONNECTION LIMIT 0")
    addresses = [
        postgres_url.replace("//bank@", "//small@"),
        postgres_url.replace(f":{postgres.port}/", ":1/"),
    ]
    for address in addresses:
        engine = create_engine(address)
        with pytest.raises(Exception) as caught:
            await ping(engine)
        assert is_unavailable(caught.value), repr(caught.value)
        assert not is_retryable(caught.value)
        await engine.dispose()


async def test_a_pool_that_is_used_up_and_a_lock_that_takes_too_long(postgres_url: str) -> None:
    await create_tables(postgres_url, metadata)
    engine = create_engine(postgres_url, pool_size=4)
    engine.pool._timeout = 0.1  # type: ignore[attr-defined]  # pylint: disable=protected-access
    held = [engine.connect() for _ in range(4)]
    for connection in held:
        await connection.start()
    with pytest.raises(Exception) as caught:
        await ping(engine)
    assert is_unavailable(caught.value) and not is_retryable(caught.value)
    one, two, *_ = held
    await one.execute(text("LOCK TABLE things"))
    await two.execute(text("SET lock_timeout = '50ms'"))
    with pytest.raises(DBAPIError) as locked:
        await two.execute(select(things))
    assert is_retryable(locked.value) and not is_unavailable(locked.value)
    for connection in held:
        await connection.close()
    await engine.dispose()


async def test_a_statement_that_takes_too_long_is_an_outage_and_the_connection_is_good_again(postgres_url: str) -> None:
    engine = create_engine(postgres_url, statement_seconds=70)
    with pytest.raises(DBAPIError) as caught:
        async with engine.connect() as connection:
            assert await connection.scalar(text("SHOW statement_timeout")) == "70s"
            await connection.execute(text("SET LOCAL statement_timeout = '50ms'"))
            await connection.execute(text("SELECT pg_sleep(60)"))
    assert is_unavailable(caught.value) and not is_retryable(caught.value)
    await ping(engine)
    await engine.dispose()


async def test_a_server_that_takes_connections_and_says_nothing_is_an_outage() -> None:
    # The kernel accepts the connections, but no process handles them.
    with socket.create_server(("127.0.0.1", 0)) as server:
        engine = create_engine(f"postgresql+asyncpg://bank@127.0.0.1:{server.getsockname()[1]}/bank")
        with assert_prompt(), pytest.raises(Exception) as caught:
            await ping(engine)
        assert is_unavailable(caught.value), repr(caught.value)
    await engine.dispose()


@pytest.mark.parametrize(
    ("isolation", "orders"), [("READ COMMITTED", [(1, 2), (2, 1)]), ("SERIALIZABLE", [(1,), (2,)])]
)
async def test_deadlock_and_serialization_failure_are_retryable(
    postgres_engine: AsyncEngine, isolation: str, orders: list[tuple[int, ...]]
) -> None:
    async with write_transaction(postgres_engine) as connection:
        await connection.execute(
            text("CREATE TABLE counted AS SELECT n AS id, 0 AS value FROM generate_series(1, 2) n")
        )

    both_have_written = asyncio.Barrier(2)

    async def update(order: tuple[int, ...]) -> None:
        async with write_transaction(postgres_engine) as connection:
            await connection.execute(text(f"SET TRANSACTION ISOLATION LEVEL {isolation}"))
            await connection.execute(text("SELECT sum(value) FROM counted"))
            for row in order:
                await connection.execute(text("UPDATE counted SET value = value + 1 WHERE id = :id"), {"id": row})
                if row == order[0]:
                    await both_have_written.wait()

    (error,) = filter(None, await asyncio.gather(*map(update, orders), return_exceptions=True))
    assert is_retryable(error) and not is_unavailable(error)


def test_other_errors_are_not_an_outage() -> None:
    assert not is_unavailable(ValueError()) and not is_retryable(ValueError())
    assert is_unavailable(ConnectionResetError()) and is_unavailable(TimeoutError())


async def test_first_connection_to_a_new_sqlite_file_waits_for_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(tmp_path / "new.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    clock = StoppedClock()
    started = clock.now

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now - started > 10 and other.in_transaction:
            other.execute("COMMIT")

    monkeypatch.setattr(clock, "sleep", sleep)
    monkeypatch.setattr(database, "time", clock)
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/new.db")
    await ping(engine)
    assert not other.in_transaction
    other.close()
    await engine.dispose()


async def test_sqlite_writers_of_two_engines_wait_for_each_other(sqlite_url: str) -> None:
    engines = [create_engine(sqlite_url) for _ in range(2)]
    await create_tables(sqlite_url, metadata)
    async with write_transaction(engines[0]) as connection:
        await connection.execute(counters.insert().values(id=1, value=0))

    async def count(engine: AsyncEngine) -> None:
        for _ in range(15):
            async with write_transaction(engine) as connection:
                value = await connection.scalar(select(counters.c.value)) or 0
                await asyncio.sleep(0.001)
                await connection.execute(counters.update().values(value=value + 1))

    await asyncio.gather(*(count(engine) for engine in engines for _ in range(3)))
    async with engines[0].connect() as reader:
        assert await reader.scalar(select(counters.c.value)) == 90
        pragmas = [await reader.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")]
        assert pragmas == ["wal", 2]
        async with write_transaction(engines[1]) as writer:
            await writer.execute(counters.update().values(value=0))
        assert await reader.scalar(select(counters.c.value)) == 90, "a reader sees one snapshot"
    for engine in engines:
        await engine.dispose()

"""One way to PostgreSQL and SQLite: engine, transactions, set-based writes and advisory locks."""

import asyncio
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from typing import Any, Self

from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Executable,
    Row,
    Table,
    any_,
    bindparam,
    event,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.types import TypeDecorator

Rows = Sequence[Mapping[str, Any]]

_SQLITE_BUSY_SECONDS = 15
# How long a connection that worked is taken to be alive.
_TRUSTED_SECONDS = 1.0
_POSTGRES_SETTINGS = {
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
    # Tables are in memory or on flash: a few look-ups in an index cost less than reading the whole.
    "random_page_cost": "1.1",
}
# PostgreSQL: serialization_failure, deadlock_detected, lock_not_available. The transaction had no effect; run it again.
_RETRYABLE_STATES = {"40001", "40P01", "55P03"}
# PostgreSQL: connection exceptions, resources, operator intervention (a server that starts or stops).
_OUTAGE_CLASSES = ("08", "53", "57")


class UtcDateTime(TypeDecorator[datetime]):  # pylint: disable=too-many-ancestors
    """A time in UTC; SQLite keeps no zone, so it is taken off on the way in and put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and dialect.name == "sqlite":
            return value.astimezone(UTC).replace(tzinfo=None)
        return value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def create_engine(url: str, *, pool_size: int = 8, name: str = "bank", statement_seconds: int = 15) -> AsyncEngine:
    """Return an engine with time limits on PostgreSQL, and with WAL and full synchronisation on SQLite.

    It opens up to `pool_size` connections and keeps them: one that is opened for a peak and closed after it costs
    more than what it is opened for.
    """
    if url.startswith("postgresql"):
        engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5,
            hide_parameters=True,  # they are names and amounts, and errors end in logs
            connect_args={
                "timeout": 5,
                # The server gives up first, and says so.
                "command_timeout": statement_seconds + 5,
                "server_settings": {
                    **_POSTGRES_SETTINGS,
                    "statement_timeout": f"{statement_seconds}s",
                    "application_name": name,
                },
            },
        )
        _ping_after_a_pause(engine)
        return engine
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=30,
        hide_parameters=True,
        connect_args={"timeout": _SQLITE_BUSY_SECONDS},
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _ping_after_a_pause(engine: AsyncEngine) -> None:
    """Check a pooled connection before it is used again, as `pool_pre_ping` does, but not while it is busy.

    A check is three round trips. The first connection found dead makes the pool replace the others as well.
    """

    def returned(_connection: Any, record: Any) -> None:
        record.info["returned"] = time.monotonic()

    def taken(connection: Any, record: Any, _proxy: Any) -> None:
        pause = time.monotonic() - record.info.get("returned", float("inf"))
        if pause > _TRUSTED_SECONDS:
            try:
                engine.sync_engine.dialect.do_ping(connection)
            except Exception as error:  # whatever it is: this connection is of no use
                raise InvalidatePoolError from error

    event.listen(engine.sync_engine, "checkin", returned)
    event.listen(engine.sync_engine, "checkout", taken)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not start transactions on its own; _begin_sqlite does
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    # The one statement that does not wait for others by itself; only the first connections to a new file meet here.
    for _ in range(100):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            time.sleep(0.02)
    raise TimeoutError("SQLite's journal could not be switched to WAL")


def _begin_sqlite(connection: Any) -> None:
    # A writer takes the write lock at once: upgrading later fails with "database is locked" without waiting.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def is_postgres(connection: AsyncConnection) -> bool:
    """Tell whether the connection leads to PostgreSQL."""
    return connection.dialect.name == "postgresql"


@asynccontextmanager
async def write_transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that writes; it commits at the end of the block and rolls back on any exception."""
    async with engine.connect() as connection:
        await connection.execution_options(writes=True)
        async with connection.begin():
            yield connection


@asynccontextmanager
async def rehearsal(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that writes and is always taken back."""
    async with engine.connect() as connection:
        await connection.execution_options(writes=True)
        transaction = await connection.begin()
        try:
            yield connection
        finally:
            await transaction.rollback()


async def ping(engine: AsyncEngine) -> None:
    """Ask the database for an answer; raises when it gives none."""
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


def is_retryable(error: BaseException) -> bool:
    """Tell whether the transaction certainly had no effect and may simply be run again."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RETRYABLE_STATES


def is_unavailable(error: BaseException) -> bool:
    """Tell whether the error says that the database cannot be used now (rather than that the request is wrong)."""
    if isinstance(error, PoolTimeoutError | OSError | asyncio.TimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None) or ""
    return (
        error.connection_invalidated
        or state.startswith(_OUTAGE_CLASSES)
        or (not state and isinstance(error, OperationalError | InterfaceError))
    )


@dataclass(frozen=True, slots=True)
class Write:
    """Rows to insert or, with a `key` column, new values for existing rows found by it."""

    table: Table
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    key: str | None = None

    @classmethod
    def of(cls, table: Table, columns: tuple[str, ...], records: Iterable[Any], key: str | None = None) -> Self:
        """Return the write of objects that have an attribute for each of the columns, which are two or more."""
        return cls(table, columns, list(map(attrgetter(*columns), records)), key)


async def write_all(connection: AsyncConnection, writes: Iterable[Write]) -> None:
    """Carry out all writes; on PostgreSQL as one statement, so that a whole batch costs one round trip.

    The parts of one statement do not see each other; only foreign keys, which are checked at its end, may.
    """
    writes = [write for write in writes if write.rows]
    if not writes:
        return
    if is_postgres(connection):
        statement = _postgres_statement(tuple((write.table, write.columns, write.key) for write in writes))
        await connection.exec_driver_sql(statement, tuple(column for write in writes for column in zip(*write.rows)))
        return
    for write in writes:
        await _write_one_by_one(connection, write)


@cache
def _postgres_statement(parts: tuple[tuple[Table, tuple[str, ...], str | None], ...]) -> str:
    """Return the statement for writes of this shape; its parameters are one array per column."""
    # Names are those of the models' columns, never input.
    statements: list[str] = []
    parameters = (f"${n}" for n in itertools.count(1))
    for table, columns, key in parts:
        if key is None:
            statement = _insert(table, columns, parameters)
        else:
            names = ", ".join(columns)
            rows = _unnest(table, columns, parameters)
            changes = ", ".join(f"{name} = new.{name}" for name in columns if name != key)
            source = f"{rows} AS new({names}) WHERE {table.name}.{key} = new.{key}"
            statement = f"UPDATE {table.name} SET {changes} FROM {source}"  # nosec B608
        statements.append(statement)
    *first, last = statements
    named = ", ".join(f"part{n} AS ({statement})" for n, statement in enumerate(first))
    return f"WITH {named} {last}" if named else last


def _insert(table: Table, columns: tuple[str, ...], parameters: Iterator[str]) -> str:
    # Names are those of the models' columns, never input.
    rows = _unnest(table, columns, parameters)
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT * FROM {rows}"  # nosec B608


def _unnest(table: Table, columns: tuple[str, ...], parameters: Iterator[str]) -> str:
    """Return `unnest(CAST(parameter AS type[]), …)` with one array per column."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    # Without the length: a cast to varchar(16) would cut off in silence what the column itself refuses.
    types = [table.c[name].type.compile(dialect).partition("(")[0] for name in columns]
    return f"unnest({', '.join(f'CAST({parameter} AS {type_}[])' for type_, parameter in zip(types, parameters))})"


async def _write_one_by_one(connection: AsyncConnection, write: Write) -> None:
    rows = [dict(zip(write.columns, row, strict=True)) for row in write.rows]
    if write.key is None:
        await connection.execute(write.table.insert(), rows)
        return
    key = write.key
    changes: dict[str, Any] = {name: bindparam(name) for name in write.columns if name != key}
    statement = update(write.table).where(write.table.c[key] == bindparam(f"old_{key}")).values(changes)
    await connection.execute(statement, [{**row, f"old_{key}": row[key]} for row in rows])


async def bulk_insert_new(connection: AsyncConnection, table: Table, rows: Rows) -> list[Row[Any]]:
    """Insert the rows whose keys are not there yet; return the primary keys of those that were inserted."""
    if not rows:
        return []
    if is_postgres(connection):
        columns = tuple(rows[0])
        arrays = {name: [row[name] for row in rows] for name in columns}
        return list((await connection.execute(_postgres_insert_new(table, columns), arrays)).all())
    statement = sqlite.insert(table).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return list((await connection.execute(statement, rows)).all())


@cache
def _postgres_insert_new(table: Table, columns: tuple[str, ...]) -> Executable:
    """Return the insert of rows given as one array per column.

    It is the same for any number of rows: connections remember each statement with its plan.
    """
    keys = table.primary_key.columns
    insert = _insert(table, columns, (f":{name}" for name in columns))
    return text(f"{insert} ON CONFLICT DO NOTHING RETURNING {', '.join(key.name for key in keys)}").columns(*keys)


def any_of(dialect: str, column: Column[Any], parameter: str) -> ColumnElement[bool]:
    """Return `column` is one of the list passed as `parameter`: one array on PostgreSQL, many values on SQLite.

    Build statements with it once: building costs more than running them.
    """
    if dialect == "postgresql":
        return column == any_(bindparam(parameter, type_=postgresql.ARRAY(column.type)))
    return column.in_(bindparam(parameter, expanding=True))


async def try_advisory_lock(connection: AsyncConnection, lock: int) -> bool:
    """Become or stay the one holder of a lock until the connection closes; SQLite, with one writer, always says yes.

    A connection that goes back to the pool stays open and keeps the lock: invalidate it instead.
    """
    if not is_postgres(connection):
        return True
    return bool(await connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": lock}))

"""Access to PostgreSQL and SQLite: engine, transactions, set-based writes and advisory locks."""

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
    TableValuedAlias,
    any_,
    bindparam,
    event,
    func,
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
# Pooled connections used within this time are not pinged before the next use.
_PING_AFTER_SECONDS = 1.0
_POSTGRES_SETTINGS = {
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
    # Tables are in memory or on flash, where a few index lookups are cheaper than a sequential scan.
    "random_page_cost": "1.1",
}
# PostgreSQL: serialization_failure, deadlock_detected, lock_not_available. The database transaction can be retried.
_RETRYABLE_STATES = {"40001", "40P01", "55P03"}
# PostgreSQL: read_only_sql_transaction, of a standby.
_READ_ONLY_STATE = "25006"
# PostgreSQL: connection exceptions, insufficient resources, operator intervention (server starting or stopping).
_OUTAGE_CLASSES = ("08", "53", "57")


class UtcDateTime(TypeDecorator[datetime]):  # pylint: disable=too-many-ancestors
    """A timestamp in UTC; SQLite stores no time zone, so it is removed when writing and restored when reading."""

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
    """Return an engine: with timeouts on PostgreSQL, with WAL and full synchronization on SQLite.

    It opens up to `pool_size` connections and keeps them open: connections opened for a peak and closed afterwards
    cost more than they save.
    """
    if url.startswith("postgresql"):
        # It imports the driver, which processes on SQLite do not need.
        from shared.db.failover import connect_to_primary  # pylint: disable=import-outside-toplevel

        engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5,
            hide_parameters=True,  # parameters are names and amounts, and errors are logged
            connect_args={
                "async_creator_fn": connect_to_primary,
                "timeout": 5,
                # Longer than statement_timeout, so that the server reports the timeout.
                "command_timeout": statement_seconds + 5,
                "server_settings": {
                    **_POSTGRES_SETTINGS,
                    "statement_timeout": f"{statement_seconds}s",
                    "application_name": name,
                },
            },
        )
        _ping_idle_connections(engine)
        _close_read_only_connections(engine)
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


def _close_read_only_connections(engine: AsyncEngine) -> None:
    """Replace all connections when a host rejects a write: after a failover behind one address, it is a standby."""

    def on_error(context: Any) -> None:
        if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY_STATE:
            context.is_disconnect = True

    event.listen(engine.sync_engine, "handle_error", on_error)


def _ping_idle_connections(engine: AsyncEngine) -> None:
    """Ping pooled connections before use, as `pool_pre_ping` does, but only after a second without use.

    A ping costs three round trips. The first dead connection makes the pool replace all others as well.
    """

    def on_checkin(_connection: Any, record: Any) -> None:
        record.info["returned"] = time.monotonic()

    def on_checkout(connection: Any, record: Any, _proxy: Any) -> None:
        idle_seconds = time.monotonic() - record.info.get("returned", float("inf"))
        if idle_seconds > _PING_AFTER_SECONDS:
            try:
                engine.sync_engine.dialect.do_ping(connection)
            except Exception as error:  # any error means a dead connection
                raise InvalidatePoolError from error

    event.listen(engine.sync_engine, "checkin", on_checkin)
    event.listen(engine.sync_engine, "checkout", on_checkout)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # _begin_sqlite starts transactions instead of the driver
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    # SQLite's busy timeout does not apply to this statement; only the first connections to a new file compete for it.
    deadline = time.monotonic() + _SQLITE_BUSY_SECONDS
    while time.monotonic() < deadline:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            time.sleep(0.02)
    raise TimeoutError("could not switch SQLite to WAL mode")


def _begin_sqlite(connection: Any) -> None:
    # Acquire the write lock immediately: upgrading a read lock fails with "database is locked" without waiting.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def is_postgres(connection: AsyncConnection) -> bool:
    """Return whether the connection is to PostgreSQL."""
    return connection.dialect.name == "postgresql"


def reader(engine: AsyncEngine) -> AsyncEngine:
    """Return an engine for reads, with the same pool.

    On PostgreSQL, each statement is executed without BEGIN and ROLLBACK, which cost two of three round trips.
    Statements of a transaction (READ COMMITTED) have different snapshots, too.
    """
    postgres = engine.dialect.name == "postgresql"
    return engine.execution_options(isolation_level="AUTOCOMMIT") if postgres else engine


@asynccontextmanager
async def write_transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a write transaction; it commits at the end of the block and rolls back on any exception."""
    async with engine.connect() as connection:
        await connection.execution_options(writes=True)
        async with connection.begin():
            yield connection


@asynccontextmanager
async def dry_run_transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a database transaction for writing that is always rolled back."""
    async with engine.connect() as connection:
        await connection.execution_options(writes=True)
        transaction = await connection.begin()
        try:
            yield connection
        finally:
            await transaction.rollback()


async def ping(engine: AsyncEngine) -> None:
    """Execute `SELECT 1`; raises when the database is not available."""
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


def is_retryable(error: BaseException) -> bool:
    """Return whether the transaction certainly had no effect and can be retried."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RETRYABLE_STATES


def is_unavailable(error: BaseException) -> bool:
    """Return whether the error means that the database is not available (and not that the request is invalid)."""
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
    """Rows to insert or, with a `key` column, new values for the existing rows with these keys."""

    table: Table
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    key: str | None = None

    @classmethod
    def of(cls, table: Table, columns: tuple[str, ...], records: Iterable[Any], key: str | None = None) -> Self:
        """Return the write of objects with an attribute for each column; there must be at least two columns."""
        return cls(table, columns, list(map(attrgetter(*columns), records)), key)


async def write_all(connection: AsyncConnection, writes: Iterable[Write]) -> None:
    """Execute all writes; on PostgreSQL as one statement, so that a batch costs one round trip.

    The parts of that statement do not see each other's rows; foreign keys are checked at its end.
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
    """Return the SQL statement for writes of these tables and columns; its parameters are one array per column."""
    # Names come from the models, never from input.
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
    # Names come from the models, never from input.
    rows = _unnest(table, columns, parameters)
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT * FROM {rows}"  # nosec B608


def _unnest(table: Table, columns: tuple[str, ...], parameters: Iterator[str]) -> str:
    """Return `unnest(CAST(parameter AS type[]), …)` with one array per column."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    # Without the length: a cast to varchar(16) silently truncates values that the column would reject.
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
    """Insert the rows whose keys do not exist yet; return the primary keys of the inserted rows."""
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
    """Return an INSERT with one array parameter per column.

    It is the same for any number of rows, because connections cache each statement with its plan.
    """
    keys = table.primary_key.columns
    insert = _insert(table, columns, (f":{name}" for name in columns))
    return text(f"{insert} ON CONFLICT DO NOTHING RETURNING {', '.join(key.name for key in keys)}").columns(*keys)


def any_of(dialect: str, column: Column[Any], parameter: str) -> ColumnElement[bool]:
    """Return the condition that `column` is in the list `parameter`: one array on PostgreSQL, many values on SQLite.

    Build statements with it once, because building them costs more than executing them.
    """
    if dialect == "postgresql":
        return column == any_(bindparam(parameter, type_=postgresql.ARRAY(column.type)))
    return column.in_(bindparam(parameter, expanding=True))


def key_rows(*columns: Column[Any]) -> TableValuedAlias:
    """Return a table of keys to join on PostgreSQL; its parameters are one array per column, with an s after its name.

    Each key is one index lookup. Conditions on lists of values would look up every combination, and parsing an IN list
    of a thousand pairs costs more than finding them.
    """
    arrays = [bindparam(f"{each.name}s", type_=postgresql.ARRAY(each.type)) for each in columns]
    named = (Column(each.name, each.type) for each in columns)
    return func.unnest(*arrays).table_valued(*named, name="keys").render_derived()


async def try_advisory_lock(connection: AsyncConnection, lock: int) -> bool:
    """Acquire or keep an advisory lock until the connection closes; always true on SQLite, which has a single writer.

    A connection returned to the pool stays open and keeps the lock; invalidate it instead.
    """
    if not is_postgres(connection):
        return True
    return bool(await connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": lock}))

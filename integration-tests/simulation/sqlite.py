"""SQLite inside the event loop, as a dialect of SQLAlchemy: `sqlite+inline://<address>/`.

aiosqlite uses a thread for each connection, whose scheduling is not deterministic. Here a statement is executed where
it is awaited. `OPENERS` maps addresses to functions that open a connection; a gate may delay, reject or interrupt each
of its statements, and waits in simulated time while another connection holds the lock.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import URL, pool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util.concurrency import await_

OPENERS: dict[str, Callable[[], "Connection"]] = {}


class ConnectionLost(sqlite3.OperationalError):
    """The database cannot be reached on this connection any more; the last statement may have been carried out."""


class Conflict(sqlite3.OperationalError):
    """The transaction was rolled back because of a conflict, as PostgreSQL reports it."""

    sqlstate = "40001"


class Gate(Protocol):
    """Injects faults between a process and its database."""

    async def before(self, connection: "Connection", statement: str) -> None:
        """Delay a statement, or raise."""

    async def blocked(self, connection: "Connection", statement: str) -> None:
        """Wait for a lock, or raise."""

    async def after(self, connection: "Connection", statement: str) -> None:
        """Delay the response, or raise."""


class Connection:
    """A DB-API connection; without a gate nothing waits."""

    def __init__(self, path: str, gate: Gate | None = None) -> None:
        self.raw: sqlite3.Connection | None = sqlite3.connect(path, timeout=0, isolation_level=None)
        self.isolation_level: Any = None
        self.reserved = 0
        self._gate = gate

    @property
    def is_open(self) -> bool:
        """Return whether the database can be reached."""
        return self.raw is not None

    def used(self) -> sqlite3.Connection:
        """Return SQLite's own connection. Raises ConnectionLost."""
        if self.raw is None:
            raise ConnectionLost("the connection is closed")
        return self.raw

    def cursor(self) -> "Cursor":
        """Return a new cursor."""
        return Cursor(self)

    def commit(self) -> None:
        """Commit, if there is a transaction."""
        if self.raw is None or self.raw.in_transaction:
            self.perform("COMMIT", lambda: self.used().execute("COMMIT"))

    def rollback(self) -> None:
        """Roll back."""
        if self.raw is not None and self.raw.in_transaction:
            self.perform("ROLLBACK", lambda: self.used().rollback())

    def close(self) -> None:
        """Close at once; SQLite rolls back the open transaction."""
        if self.raw is not None:
            self.raw.close()
            self.raw = None

    def perform(self, statement: str, action: Callable[[], Any]) -> None:
        """Execute an action as a statement."""
        await_(_at_once(action) if self._gate is None else self._pass(self._gate, statement, action))

    async def _pass(self, gate: Gate, statement: str, action: Callable[[], Any]) -> None:
        await gate.before(self, statement)
        while True:
            self.used()
            try:
                action()
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
            await gate.blocked(self, statement)
        await gate.after(self, statement)


async def _at_once(action: Callable[[], Any]) -> None:
    action()


class Cursor:
    """A DB-API cursor."""

    server_side = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cursor = connection.used().cursor()
        self.arraysize = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Execute a statement."""
        self._connection.perform(statement, lambda: self._cursor.execute(statement, parameters))

    def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Execute a statement for each set of parameters."""
        self._connection.perform(statement, lambda: self._cursor.executemany(statement, parameters))

    async def _async_soft_close(self) -> None:
        """Do nothing: all rows have been read."""


class _Driver:
    """Stands in for the driver module in SQLAlchemy."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sqlite3, name)

    def connect(self, address: str, **_options: Any) -> Connection:
        """Open a connection to an address."""
        return OPENERS[address]()


class InlineDialect(SQLiteDialect_pysqlite):
    """SQLite over connections of this module."""

    driver = "inline"
    is_async = True
    has_terminate = True
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        return _Driver()

    @classmethod
    def get_pool_class(cls, url: URL) -> type[pool.Pool]:
        del url
        return pool.AsyncAdaptedQueuePool

    def create_connect_args(self, url: URL) -> Any:
        return [], {"address": url.host}

    def on_connect(self) -> None:
        return None

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        del connection, cursor
        return isinstance(e, ConnectionLost)

    def do_terminate(self, dbapi_connection: Any) -> None:
        dbapi_connection.close()

    def get_driver_connection(self, connection: Any) -> Any:
        return connection


registry.register("sqlite.inline", __name__, "InlineDialect")

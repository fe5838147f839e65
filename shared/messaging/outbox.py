"""Transactional outbox: events leave the database in the transaction that caused them, and are never skipped.

Commit order is not id order: a transaction may take a low id and commit after a higher one has been read, so a
reader that remembers the last id skips rows. Here a sequencer gives positions to rows that are committed already
(one sequencer at a time, see `shared.messaging.relay`), and readers remember a position.

One row is one append with all its events; the events of a row share it, but each has a position of its own, and
positions have no gaps.
"""

from collections.abc import Sequence
from datetime import datetime

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.database import UtcDateTime, Write, is_postgres, write_all
from shared.events import Event

# A row stays well below the size limits of brokers and drivers, whatever the batch.
MAX_EVENTS_PER_ROW = 500
# Any number beyond 32 bits: those below are the relays' (shared.messaging.relay).
_SEQUENCER_LOCK = 0x6F7574626F78


class Outbox:
    """The outbox of one service: its tables, and what can be done with them inside a transaction."""

    def __init__(self, metadata: MetaData) -> None:
        self.rows = Table(
            "outbox",
            metadata,
            Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
            Column(
                "position", BigInteger, unique=True, comment="position of the row's last event; null until committed"
            ),
            Column("size", Integer, nullable=False, comment="number of events"),
            Column("events", LargeBinary, nullable=False, comment="JSON array of CloudEvents"),
            Column("created_at", UtcDateTime, nullable=False),
            sqlite_autoincrement=True,
        )
        # The few rows that wait for a position, found without a look at the many that have one.
        waiting = self.rows.c.position.is_(None)
        Index("outbox_unsequenced", self.rows.c.id, postgresql_where=waiting, sqlite_where=waiting)
        self.progress = Table(
            "outbox_progress",
            metadata,
            Column("name", String(64), primary_key=True),
            Column("position", BigInteger, nullable=False),
        )

    def write(self, events: Sequence[Event], now: datetime) -> Write:
        """Return the write that appends the events, in the transaction that caused them."""
        parts = [events[n : n + MAX_EVENTS_PER_ROW] for n in range(0, len(events), MAX_EVENTS_PER_ROW)]
        rows = [(len(part), orjson.dumps(part), now) for part in parts]
        return Write(self.rows, ("size", "events", "created_at"), rows)

    async def has_unsequenced(self, connection: AsyncConnection) -> bool:
        """Tell cheaply whether committed rows wait for a position."""
        return (
            await connection.scalar(select(self.rows.c.id).where(self.rows.c.position.is_(None)).limit(1)) is not None
        )

    async def sequence(self, connection: AsyncConnection, limit: int = 1000) -> int:
        """Give positions to up to `limit` committed rows; return how many."""
        if is_postgres(connection):
            # A leader that has just lost its connection may still be in a pass; two at once would move positions.
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SEQUENCER_LOCK})
        rows = self.rows
        waiting = (
            await connection.execute(
                select(rows.c.id, rows.c.size).where(rows.c.position.is_(None)).order_by(rows.c.id).limit(limit)
            )
        ).all()
        position = await self.head(connection)
        changes = []
        for row in waiting:
            position += row.size
            changes.append((row.id, position))
        await write_all(connection, [Write(rows, ("id", "position"), changes, key="id")])
        return len(changes)

    async def head(self, connection: AsyncConnection) -> int:
        """Return the position of the last sequenced event, 0 when there is none."""
        return await connection.scalar(select(func.max(self.rows.c.position))) or 0

    async def read(self, connection: AsyncConnection, after: int, limit: int) -> list[tuple[int, Event]]:
        """Return up to `limit` events after a position, each with its own position, in order."""
        rows = self.rows
        # Positions have no gaps, so the last row wanted is the one that holds position `after + limit`.
        wanted = (rows.c.position > after) & (rows.c.position - rows.c.size < after + limit)
        # Follows from it, and lets the index end the search; else whoever is far behind reads all that is to come.
        wanted &= rows.c.position < after + limit + MAX_EVENTS_PER_ROW
        statement = select(rows.c.position, rows.c.size, rows.c.events).where(wanted).order_by(rows.c.position)
        numbered: list[tuple[int, Event]] = []
        for row in await connection.execute(statement):
            numbered.extend(enumerate(orjson.loads(row.events), start=row.position - row.size + 1))
        return [(position, event) for position, event in numbered if after < position <= after + limit]

    async def published(self, connection: AsyncConnection) -> dict[str, int]:
        """Return by name of each publisher the position up to which it has published."""
        progress = self.progress
        rows = await connection.execute(select(progress.c.name, progress.c.position))
        return {row.name: row.position for row in rows}

    async def set_published(self, connection: AsyncConnection, name: str, position: int) -> None:
        """Remember the position up to which the publisher `name` has published."""
        dialect = postgresql if is_postgres(connection) else sqlite
        statement = dialect.insert(self.progress).values(name=name, position=position)
        await connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"position": position}))

    async def backlog(self, connection: AsyncConnection, after: int) -> tuple[int, datetime | None]:
        """Return how many events wait to be published after a position, and since when the oldest does."""
        rows = self.rows
        found = select(rows.c.id, rows.c.size)
        # Two lists, each by its index; PostgreSQL reads the whole table for "null or greater".
        waiting = union_all(found.where(rows.c.position.is_(None)), found.where(rows.c.position > after)).subquery()
        statement = select(func.coalesce(func.sum(waiting.c.size), 0), func.min(waiting.c.id))
        count, oldest = (await connection.execute(statement)).one()
        since = await connection.scalar(select(rows.c.created_at).where(rows.c.id == oldest)) if oldest else None
        return int(count), since

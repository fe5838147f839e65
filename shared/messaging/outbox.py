"""Transactional outbox: events are written in the database transaction that causes them, and readers never skip any.

Ids are not in commit order: a database transaction may get a low id and commit after a higher one has been read, so a
reader that stores the last id skips rows. Instead, a sequencer assigns positions to committed rows (one sequencer at
a time, see `shared.messaging.relay`), and readers store a position.

A row contains all events of one append. Each event has its own position, and positions have no gaps. Old rows are
deleted (shared.messaging.retention), always those with the lowest positions, so the rest has no gaps either.
"""

import itertools
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
    delete,
    func,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.database import UtcDateTime, Write, is_postgres, write_all
from shared.events import Event

# Keeps rows well below the size limits of brokers and drivers.
MAX_EVENTS_PER_ROW = 500
# Arbitrary, but above 32 bits: relays use the range below (shared.messaging.relay).
_SEQUENCER_LOCK = 0x6F7574626F78


class Outbox:
    """The outbox of one service: its tables, and the operations inside a database transaction."""

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
        # Finds the few rows without a position quickly.
        unsequenced = self.rows.c.position.is_(None)
        Index("outbox_unsequenced", self.rows.c.id, postgresql_where=unsequenced, sqlite_where=unsequenced)
        self.progress = Table(
            "outbox_progress",
            metadata,
            Column("name", String(64), primary_key=True),
            Column("position", BigInteger, nullable=False),
        )

    def write(self, events: Sequence[Event], now: datetime) -> Write:
        """Return the write that appends the events; execute it in the database transaction that causes them."""
        parts = [events[n : n + MAX_EVENTS_PER_ROW] for n in range(0, len(events), MAX_EVENTS_PER_ROW)]
        rows = [(len(part), orjson.dumps(part), now) for part in parts]
        return Write(self.rows, ("size", "events", "created_at"), rows)

    async def has_unsequenced(self, connection: AsyncConnection) -> bool:
        """Return whether committed rows have no position yet."""
        return (
            await connection.scalar(select(self.rows.c.id).where(self.rows.c.position.is_(None)).limit(1)) is not None
        )

    async def sequence(self, connection: AsyncConnection, limit: int = 1000) -> int:
        """Assign positions to up to `limit` committed rows; return the number of rows."""
        if is_postgres(connection):
            # A leader that has just lost its lock may still be sequencing; concurrent passes would reassign positions.
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SEQUENCER_LOCK})
        rows = self.rows
        unsequenced = (
            await connection.execute(
                select(rows.c.id, rows.c.size).where(rows.c.position.is_(None)).order_by(rows.c.id).limit(limit)
            )
        ).all()
        position = await self.head(connection)
        changes = []
        for row in unsequenced:
            position += row.size
            changes.append((row.id, position))
        await write_all(connection, [Write(rows, ("id", "position"), changes, key="id")])
        return len(changes)

    async def head(self, connection: AsyncConnection) -> int:
        """Return the position of the last sequenced event, 0 if there is none."""
        return await connection.scalar(select(func.max(self.rows.c.position))) or 0

    async def read(self, connection: AsyncConnection, after: int, limit: int) -> list[tuple[int, Event]]:
        """Return up to `limit` events after a position with their positions, in order."""
        rows = self.rows
        # Positions have no gaps, so the last row is the one with position `after + limit`.
        wanted = (rows.c.position > after) & (rows.c.position - rows.c.size < after + limit)
        # Implied by the condition above; limits the index scan for readers that are far behind.
        wanted &= rows.c.position < after + limit + MAX_EVENTS_PER_ROW
        statement = select(rows.c.position, rows.c.size, rows.c.events).where(wanted).order_by(rows.c.position)
        numbered: list[tuple[int, Event]] = []
        for row in await connection.execute(statement):
            numbered.extend(enumerate(orjson.loads(row.events), start=row.position - row.size + 1))
        return [(position, event) for position, event in numbered if after < position <= after + limit]

    async def pruned(self, connection: AsyncConnection) -> int:
        """Return the position of the last event that has been deleted, 0 if there is none."""
        rows = self.rows
        before_first = select(rows.c.position - rows.c.size).where(rows.c.position.is_not(None))
        return await connection.scalar(before_first.order_by(rows.c.position).limit(1)) or 0

    async def prune(self, connection: AsyncConnection, *, before: datetime, read: int, limit: int) -> int:
        """Delete up to `limit` rows with the lowest positions that are older than `before`; return their number.

        Rows after the position `read` are kept, and so is the last one: the next position follows from it.
        """
        rows = self.rows
        last = min(read, await self.head(connection) - 1)
        oldest = select(rows.c.position, rows.c.created_at).where(rows.c.position <= last)
        # Up to the first row that is too recent, so that positions have no gaps.
        old = itertools.takewhile(
            lambda row: row.created_at < before,
            (await connection.execute(oldest.order_by(rows.c.position).limit(limit))).all(),
        )
        positions = [row.position for row in old]
        if positions:
            await connection.execute(delete(rows).where(rows.c.position <= positions[-1]))
        return len(positions)

    async def published(self, connection: AsyncConnection) -> dict[str, int]:
        """Return the last published position of each publisher."""
        progress = self.progress
        rows = await connection.execute(select(progress.c.name, progress.c.position))
        return {row.name: row.position for row in rows}

    async def set_published(self, connection: AsyncConnection, name: str, position: int) -> None:
        """Store the last published position of the publisher `name`."""
        dialect = postgresql if is_postgres(connection) else sqlite
        statement = dialect.insert(self.progress).values(name=name, position=position)
        await connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"position": position}))

    async def backlog(self, connection: AsyncConnection, after: int) -> tuple[int, datetime | None]:
        """Return the number of events after a position and the time of the oldest one."""
        rows = self.rows
        found = select(rows.c.id, rows.c.size)
        # Two index scans: PostgreSQL would scan the whole table for "null or greater".
        waiting = union_all(found.where(rows.c.position.is_(None)), found.where(rows.c.position > after)).subquery()
        statement = select(func.coalesce(func.sum(waiting.c.size), 0), func.min(waiting.c.id))
        count, oldest = (await connection.execute(statement)).one()
        since = await connection.scalar(select(rows.c.created_at).where(rows.c.id == oldest)) if oldest else None
        return int(count), since

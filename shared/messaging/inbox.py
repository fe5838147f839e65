"""Stored state of a consumer: the positions of processed events, and dead letters."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, MetaData, String, Table, Text, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.database import UtcDateTime, bulk_insert_new
from shared.messaging.positions import Positions, Range


class Inbox:
    """The inbox of one service: the tables, and the operations inside a database transaction."""

    def __init__(self, metadata: MetaData) -> None:
        self.positions = Table(
            "consumed_positions",
            metadata,
            Column("source", String(64), primary_key=True, comment="service that has published the events"),
            Column(
                "ranges",
                Text,
                comment="JSON, [[first, last], …]; null after an upgrade, until the first event with a position",
            ),
        )
        self.dead_letters = Table(
            "dead_letters",
            metadata,
            Column("event_id", String(255), primary_key=True),
            Column("reason", String(1000), nullable=False),
            Column("event", Text, nullable=False),
            Column("created_at", UtcDateTime, nullable=False),
        )
        # Replicas of earlier releases use it during an upgrade. To be dropped with the next migration.
        Table(
            "consumer_positions",
            metadata,
            Column("name", String(64), primary_key=True),
            Column("position", BigInteger, nullable=False),
        )

    async def consumed(self, connection: AsyncConnection, source: str) -> Positions | None:
        """Return the positions of processed events; None after an upgrade, until the first event with a position."""
        row = (
            await connection.execute(select(self.positions.c.ranges).where(self.positions.c.source == source))
        ).one_or_none()
        if row is None:
            return Positions()
        return None if row.ranges is None else Positions.loads(row.ranges)

    async def add_consumed(self, connection: AsyncConnection, source: str, ranges: Sequence[Range]) -> None:
        """Add positions, in the database transaction with the effect of their events.

        It keeps the row locked until the end of the database transaction; execute it last.
        """
        if not ranges:
            return
        table = self.positions
        own = table.c.source == source
        stored = select(table.c.ranges).where(own).with_for_update()
        row = (await connection.execute(stored)).one_or_none()
        if row is None:
            await bulk_insert_new(connection, table, [{"source": source, "ranges": Positions().dumps()}])
            row = (await connection.execute(stored)).one()
        if row.ranges is None:
            # Earlier releases have processed all earlier events, and recorded their ids instead of positions.
            first = min(ranges).first
            known = Positions((Range(1, first - 1),) if first > 1 else ())
        else:
            known = Positions.loads(row.ranges)
        await connection.execute(update(table).where(own).values(ranges=known.add(ranges).dumps()))

    async def dead_letter(self, connection: AsyncConnection, raw: Any, reason: str, now: datetime) -> None:
        """Store a poison event; idempotent."""
        content = _storable(json.dumps(raw, default=repr, skipkeys=True, ensure_ascii=False))
        event_id = raw.get("id") if isinstance(raw, dict) else None
        if not isinstance(event_id, str) or not 1 <= len(event_id) <= 255:
            event_id = hashlib.sha256(content.encode()).hexdigest()
        row = {
            "event_id": _storable(event_id)[:255],
            "reason": _storable(reason)[:1000],
            "event": content,
            "created_at": now,
        }
        await bulk_insert_new(connection, self.dead_letters, [row])


def _storable(text: str) -> str:
    """Return text that every database accepts: NUL is escaped, lone surrogates are replaced."""
    return text.replace("\0", "\\0").encode("utf-8", "replace").decode()

"""Stored state of a consumer: ids of processed events, offsets in feeds, and dead letters."""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, MetaData, String, Table, Text, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.messaging.consumer import OffsetCommit, StaleOffset
from shared.db.database import UtcDateTime, bulk_insert_new


class FeedState:
    """Offsets and dead letters of one service: the tables, and the operations inside a database transaction."""

    def __init__(self, metadata: MetaData) -> None:
        self.positions = Table(
            "consumer_positions",
            metadata,
            Column("name", String(64), primary_key=True),
            Column("position", BigInteger, nullable=False),
        )
        self.dead_letters = Table(
            "dead_letters",
            metadata,
            Column("event_id", String(255), primary_key=True),
            Column("reason", String(1000), nullable=False),
            Column("event", Text, nullable=False),
            Column("created_at", UtcDateTime, nullable=False),
        )

    async def committed_offset(self, connection: AsyncConnection, name: str) -> int:
        """Return the committed offset in the feed `name`, initially 0."""
        positions = self.positions
        return await connection.scalar(select(positions.c.position).where(positions.c.name == name)) or 0

    async def commit_offset(self, connection: AsyncConnection, name: str, offset_commit: OffsetCommit) -> None:
        """Commit an offset in the feed `name`; raises StaleOffset if the stored one is not `offset_commit.after`."""
        positions = self.positions
        await bulk_insert_new(connection, positions, [{"name": name, "position": 0}])
        current = (positions.c.name == name) & (positions.c.position == offset_commit.after)
        result = await connection.execute(update(positions).where(current).values(position=offset_commit.position))
        if result.rowcount != 1:
            raise StaleOffset

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


class Inbox(FeedState):
    """Adds the ids of processed events, for services whose effects have no idempotency key."""

    def __init__(self, metadata: MetaData) -> None:
        super().__init__(metadata)
        self.seen = Table(
            "inbox",
            metadata,
            Column("event_id", String(255), primary_key=True),
            Column("received_at", UtcDateTime, nullable=False),
        )

    async def insert_new(self, connection: AsyncConnection, event_ids: Iterable[str], now: datetime) -> set[str]:
        """Insert the ids and return the new ones; in id order, so that replicas do not deadlock."""
        rows = [{"event_id": event_id, "received_at": now} for event_id in sorted(set(event_ids))]
        return {row.event_id for row in await bulk_insert_new(connection, self.seen, rows)}


def _storable(text: str) -> str:
    """Return text that every database accepts: NUL is escaped, lone surrogates are replaced."""
    return text.replace("\0", "\\0").encode("utf-8", "replace").decode()

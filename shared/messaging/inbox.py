"""What a consumer remembers: events it has seen, its position in a feed, and dead letters."""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, MetaData, String, Table, Text, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.messaging.consumer import Move, Overtaken
from shared.db.database import UtcDateTime, bulk_insert_new


class FeedState:
    """Positions and dead letters of one service: the tables, and what is done with them inside a transaction."""

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

    async def position(self, connection: AsyncConnection, name: str) -> int:
        """Return the position in the feed `name`, 0 at first."""
        positions = self.positions
        return await connection.scalar(select(positions.c.position).where(positions.c.name == name)) or 0

    async def move(self, connection: AsyncConnection, name: str, move: Move) -> None:
        """Advance the position in the feed `name`; raises Overtaken when it is not where the move starts."""
        positions = self.positions
        await bulk_insert_new(connection, positions, [{"name": name, "position": 0}])
        here = (positions.c.name == name) & (positions.c.position == move.after)
        result = await connection.execute(update(positions).where(here).values(position=move.position))
        if result.rowcount != 1:
            raise Overtaken

    async def bury(self, connection: AsyncConnection, raw: Any, reason: str, now: datetime) -> None:
        """Store a poison event, once."""
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
    """Positions and dead letters, and the events already seen, for services whose effects have no key of their own."""

    def __init__(self, metadata: MetaData) -> None:
        super().__init__(metadata)
        self.seen = Table(
            "inbox",
            metadata,
            Column("event_id", String(255), primary_key=True),
            Column("received_at", UtcDateTime, nullable=False),
        )

    async def claim(self, connection: AsyncConnection, event_ids: Iterable[str], now: datetime) -> set[str]:
        """Write the ids down and return those that were not there; in id order, so that replicas do not deadlock."""
        rows = [{"event_id": event_id, "received_at": now} for event_id in sorted(set(event_ids))]
        return {row.event_id for row in await bulk_insert_new(connection, self.seen, rows)}


def _storable(text: str) -> str:
    """Return text that no insert chokes on: a NUL is text nowhere, and half a surrogate is not UTF-8."""
    return text.replace("\0", "\\0").encode("utf-8", "replace").decode()

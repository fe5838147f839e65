"""Consumed positions and dead letters, on both databases."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.database import write_transaction
from shared.messaging.positions import Range
from shared.tests.support import inbox


async def add(engine: AsyncEngine, *ranges: tuple[int, int], source: str = "producer") -> None:
    """Add ranges to the consumed positions."""
    async with write_transaction(engine) as connection:
        await inbox.add_consumed(connection, source, [Range(*range_) for range_ in ranges])


async def consumed(engine: AsyncEngine, source: str = "producer") -> list[tuple[int, int]] | None:
    """Return the consumed positions as ranges."""
    async with engine.connect() as connection:
        found = await inbox.consumed(connection, source)
        return None if found is None else [*found.ranges]


async def dead_letter(engine: AsyncEngine, raw: Any, reason: str = "why") -> None:
    """Store a dead letter."""
    async with write_transaction(engine) as connection:
        await inbox.dead_letter(connection, raw, reason, datetime(2026, 1, 2, tzinfo=UTC))


async def test_positions_are_merged_by_source(engine: AsyncEngine) -> None:
    assert await consumed(engine) == []
    await add(engine)
    await add(engine, (1, 5), (9, 9))
    await add(engine, (4, 6), source="another")
    await add(engine, (6, 7))
    assert await consumed(engine) == [(1, 7), (9, 9)] and await consumed(engine, "another") == [(4, 6)]


async def test_concurrent_replicas_lose_no_positions(engine: AsyncEngine) -> None:
    await asyncio.gather(*(add(engine, (10 * number + 1, 10 * number + 10)) for number in range(8)))
    assert await consumed(engine) == [(1, 80)]


async def test_events_before_an_upgrade_count_as_consumed(engine: AsyncEngine) -> None:
    async with write_transaction(engine) as connection:
        rows = [{"source": "producer", "ranges": None}, {"source": "new", "ranges": None}]
        await connection.execute(inbox.positions.insert(), rows)
    assert await consumed(engine) is None
    await add(engine, (701, 800), (901, 950))
    assert await consumed(engine) == [(1, 800), (901, 950)]
    await add(engine, (1, 3), source="new")
    assert await consumed(engine, "new") == [(1, 3)]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"id": "a\0b", "data": "\0"}, "with\0NUL"),
        ({"id": "half \ud800 surrogate", "data": ["\udfff"]}, "\ud800"),
        ("\ud83d", "why"),
        ({"id": 5, 6: object(), "set": {1}}, "not even JSON"),
        ({"id": "x" * 5000}, "y" * 5000),
        (None, "why"),
        (["no", {"id": True}], "why"),
    ],
)
async def test_any_dead_letter_is_stored_once(engine: AsyncEngine, raw: Any, reason: str) -> None:
    await dead_letter(engine, raw, reason)
    await dead_letter(engine, raw, "another reason")
    async with engine.connect() as connection:
        (row,) = await connection.execute(select(inbox.dead_letters))
    assert row.reason[:3] == reason[:3].replace("\0", "\\").replace("\ud800", "?")
    assert row.event_id and row.created_at == datetime(2026, 1, 2, tzinfo=UTC)


async def test_dead_letters_without_an_id_are_distinguished(engine: AsyncEngine) -> None:
    for raw in ("x" * 300 + "1", "x" * 300 + "2", {"data": "x" * 300}, {"data": "x" * 300, "type": "y"}, {"id": ""}):
        await dead_letter(engine, raw)
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(inbox.dead_letters)) == 5

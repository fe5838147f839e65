"""Offsets, dead letters and inbox of a consumer, on both databases."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.messaging.consumer import OffsetCommit, StaleOffset
from shared.db.database import write_transaction
from shared.ids import utc_now
from shared.tests.support import inbox


async def move(engine: AsyncEngine, after: int, position: int) -> None:
    """Commit an offset of the feed."""
    async with write_transaction(engine) as connection:
        await inbox.commit_offset(connection, "feed", OffsetCommit(after, position))


async def position(engine: AsyncEngine, name: str = "feed") -> int:
    """Return the committed offset of a feed."""
    async with engine.connect() as connection:
        return await inbox.committed_offset(connection, name)


async def dead_letter(engine: AsyncEngine, raw: Any, reason: str = "why") -> None:
    """Store a dead letter."""
    async with write_transaction(engine) as connection:
        await inbox.dead_letter(connection, raw, reason, datetime(2026, 1, 2, tzinfo=UTC))


async def test_offset_is_committed_only_from_the_current_value(engine: AsyncEngine) -> None:
    assert await position(engine) == 0
    await move(engine, 0, 5)
    await move(engine, 5, 9)
    for stale in (0, 5, 10):
        with pytest.raises(StaleOffset):
            await move(engine, stale, 20)
    assert await position(engine) == 9 and await position(engine, "another") == 0


async def test_only_one_replica_commits_the_same_offset(engine: AsyncEngine) -> None:
    for after in (0, 5):
        results = await asyncio.gather(*(move(engine, after, after + 5) for _ in range(4)), return_exceptions=True)
        assert [type(result) for result in results if result is not None] == [StaleOffset] * 3
        assert await position(engine) == after + 5


async def test_event_id_is_inserted_once(engine: AsyncEngine) -> None:
    async def claim(*event_ids: str) -> set[str]:
        async with write_transaction(engine) as connection:
            return await inbox.insert_new(connection, event_ids, utc_now())

    assert await claim() == set()
    assert await claim("b", "a", "b") == {"a", "b"}
    assert await claim("a", "c") == {"c"}
    many = [f"m{n}" for n in range(3000)]
    claims = await asyncio.gather(claim(*many), claim(*reversed(many)))
    assert claims[0] | claims[1] == set(many) and not claims[0] & claims[1]


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

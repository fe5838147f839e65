"""The outbox: no event is skipped in any order of commits, and positions have no gaps."""

import asyncio
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.event import listen
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.database import write_all, write_transaction
from shared.events import Event
from shared.ids import utc_now
from shared.messaging.outbox import MAX_EVENTS_PER_ROW
from shared.testing.fixtures import create_tables, opened
from shared.tests.support import append, event, events, metadata, names, outbox, read, sequence


class NaiveReader:
    """A naive reader that stores the last id."""

    def __init__(self) -> None:
        self.last = 0
        self.seen = 0

    async def poll(self, engine: AsyncEngine) -> None:
        """Read the rows after the stored id."""
        rows = outbox.rows
        async with engine.connect() as connection:
            found = (await connection.execute(select(rows.c.id).where(rows.c.id > self.last))).scalars().all()
        self.last = max([self.last, *found])
        self.seen += len(found)


class PositionReader:
    """A reader that stores the last position."""

    def __init__(self, limit: int = 10_000) -> None:
        self.after = 0
        self.limit = limit
        self.seen: list[str] = []

    async def poll(self, engine: AsyncEngine) -> None:
        """Read the events after the stored position."""
        found = await read(engine, self.after, self.limit)
        assert [position for position, _ in found] == list(range(self.after + 1, self.after + 1 + len(found)))
        self.after += len(found)
        self.seen += names([item for _, item in found])


async def test_reader_by_id_skips_late_commits_and_reader_by_position_does_not(
    postgres_engine: AsyncEngine,
) -> None:
    naive, reader = NaiveReader(), PositionReader()
    async with write_transaction(postgres_engine) as late:
        await write_all(late, [outbox.write([event("late-1"), event("late-2")], utc_now())])
        await append(postgres_engine, event("early"))
        await sequence(postgres_engine)
        await naive.poll(postgres_engine)
        await reader.poll(postgres_engine)
        assert (naive.seen, reader.seen) == (1, ["early"])
    await sequence(postgres_engine)
    await naive.poll(postgres_engine)
    await reader.poll(postgres_engine)
    assert naive.seen == 1, "two rows were committed: the naive reader has skipped the late one for ever"
    assert reader.seen == ["early", "late-1", "late-2"]


async def test_many_writers_commit_in_any_order_and_each_event_is_read_once(postgres_engine: AsyncEngine) -> None:
    chance = random.Random(1)

    async def write(writer: int) -> None:
        for number in range(10):
            async with write_transaction(postgres_engine) as connection:
                await write_all(connection, [outbox.write([event(f"{writer}-{number}")], utc_now())])
                await asyncio.sleep(chance.random() / 50)

    reader = PositionReader(limit=7)
    writers = asyncio.gather(*(write(writer) for writer in range(6)))
    while not writers.done():
        await sequence(postgres_engine, limit=3)
        await reader.poll(postgres_engine)
        await asyncio.sleep(0)
    await writers
    while await sequence(postgres_engine):
        pass
    for _ in range(20):
        await reader.poll(postgres_engine)
    assert sorted(reader.seen) == sorted(f"{writer}-{number}" for writer in range(6) for number in range(10))


async def test_concurrent_sequencers_skip_nothing(postgres_engine: AsyncEngine) -> None:
    """A leader that has lost its connection may still be sequencing when the next leader starts."""
    reader = PositionReader()
    async with write_transaction(postgres_engine) as writer:
        await write_all(writer, [outbox.write([event("first")], utc_now())])
        await append(postgres_engine, event("second-1"), event("second-2"))
        async with write_transaction(postgres_engine) as deposed:
            await outbox.sequence(deposed)
            await writer.commit()
            successor = asyncio.create_task(sequence(postgres_engine))
            await asyncio.sleep(0.2)
        await reader.poll(postgres_engine)
        await successor
    await sequence(postgres_engine)
    await reader.poll(postgres_engine)
    assert reader.seen == ["second-1", "second-2", "first"]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    sizes=st.lists(st.integers(1, 9), max_size=8),
    pass_limit=st.integers(1, 9),
    windows=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=5, max_size=20),
)
async def test_any_window_of_positions_can_be_read(
    engine: AsyncEngine, sizes: list[int], pass_limit: int, windows: list[tuple[int, int]]
) -> None:
    written: list[Event] = []
    async with write_transaction(engine) as connection:
        await connection.execute(outbox.rows.delete())
        for size in sizes:
            row = events(size, len(written) + 1)
            await write_all(connection, [outbox.write(row, utc_now())])
            written += row
    while await sequence(engine, pass_limit):
        pass
    numbered = list(enumerate(written, start=1))
    for after, limit in windows:
        assert await read(engine, after, limit) == numbered[after : after + limit]


async def test_large_append_is_split_into_rows(engine: AsyncEngine) -> None:
    large = events(2 * MAX_EVENTS_PER_ROW + 1)
    await append(engine, *large)
    async with engine.connect() as connection:
        sizes = (await connection.execute(select(outbox.rows.c.size).order_by(outbox.rows.c.id))).scalars().all()
    assert sizes == [MAX_EVENTS_PER_ROW, MAX_EVENTS_PER_ROW, 1]
    await sequence(engine)
    assert await read(engine) == list(enumerate(large, start=1))


async def test_reader_far_behind_uses_a_bounded_index_scan(sqlite_url: str) -> None:
    async for engine in opened(sqlite_url):
        await create_tables(sqlite_url, metadata)
        asked: list[tuple[str, tuple[int, ...]]] = []
        listen(engine.sync_engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
        await read(engine, 0, 1)
        statement, parameters = next(call for call in asked if "SELECT" in call[0])
        async with engine.connect() as connection:
            plan = str((await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)).all())
    assert "position>? AND position<?" in plan


async def test_rolled_back_append_leaves_no_gap(engine: AsyncEngine) -> None:
    await append(engine, event("before"))
    try:
        async with write_transaction(engine) as connection:
            await write_all(connection, [outbox.write([event("never")], utc_now())])
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    await append(engine, event("after"))
    await append(engine)
    await sequence(engine)
    assert [(position, item["id"]) for position, item in await read(engine)] == [(1, "before"), (2, "after")]


async def test_backlog_counts_unpublished_events_with_and_without_position(engine: AsyncEngine) -> None:
    async def backlog(after: int) -> tuple[int, bool]:
        async with engine.connect() as connection:
            count, since = await outbox.backlog(connection, after)
        assert since is None or 0 <= (utc_now() - since).total_seconds() < 60
        return count, since is not None

    assert await backlog(0) == (0, False)
    await append(engine, *events(3))
    await sequence(engine)
    await append(engine, *events(2, 4))
    async with engine.connect() as connection:
        assert await outbox.has_unsequenced(connection) and await outbox.head(connection) == 3
    assert await backlog(0) == (5, True)
    assert await backlog(3) == (2, True)
    await sequence(engine)
    assert await backlog(5) == (0, False)
    async with write_transaction(engine) as connection:
        assert await outbox.published(connection) == {}
        for position in (2, 5):
            await outbox.set_published(connection, "bus", position)
            assert await outbox.published(connection) == {"bus": position}

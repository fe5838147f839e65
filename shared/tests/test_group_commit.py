"""Group commit: every item gets exactly one result, its own."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.group_commit import Closed, GroupCommit, QueueFull
from shared.testing.timing import BUSY_SECONDS


class Rejected(Exception):
    """The database rejects the batch."""


class Outage(Exception):
    """The database is not available."""


class Database:
    """A fake database that rejects some items, can be slow and records every batch."""

    def __init__(self, rejected: frozenset[int] = frozenset(), away: frozenset[int] = frozenset()) -> None:
        self.rejected = rejected
        self.away = away
        self.batches: list[list[int]] = []
        self.written: list[int] = []
        self.flushing = 0
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def flush(self, batch: Sequence[int]) -> list[str]:
        """Write the whole batch or nothing."""
        self.flushing += 1
        assert self.flushing == 1, "concurrent flushes"
        self.batches.append(list(batch))
        self.begun.set()
        await asyncio.sleep(0)
        await self.open.wait()
        self.flushing -= 1
        if self.away.intersection(batch):
            raise Outage
        if self.rejected.intersection(batch):
            raise Rejected
        self.written += batch
        return [f"result of {work}" for work in batch]


def group(database: Database, max_batch: int = 256, max_waiting: int = 4096) -> GroupCommit[int, str]:
    """Return a group commit on the database."""
    return GroupCommit(
        database.flush,
        should_split=lambda error: isinstance(error, Rejected),
        max_batch=max_batch,
        max_waiting=max_waiting,
    )


async def test_concurrent_items_are_one_batch_in_order_of_arrival() -> None:
    database = Database()
    commit = group(database)
    results = await asyncio.gather(*(commit.submit(work) for work in range(100)))
    assert results == [f"result of {work}" for work in range(100)]
    assert database.batches == [list(range(100))]
    assert await commit.submit(100) == "result of 100", "a single request is flushed immediately"


async def test_items_that_arrive_during_a_flush_are_the_next_batch() -> None:
    database, sizes = Database(), list[int]()
    commit = GroupCommit(database.flush, should_split=lambda error: False, max_batch=4, on_batch=sizes.append)
    database.open.clear()
    first = asyncio.create_task(commit.submit(0))
    await database.begun.wait()
    others = [asyncio.create_task(commit.submit(work)) for work in range(1, 7)]
    await asyncio.sleep(0)
    assert database.batches == [[0]] and not first.done()
    database.open.set()
    await asyncio.gather(first, *others)
    assert database.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert sizes == [1, 4, 2]


async def test_one_rejected_item_does_not_fail_the_others() -> None:
    database = Database(rejected=frozenset({5, 6, 20}))
    commit = group(database)
    results = await asyncio.gather(*(commit.submit(work) for work in range(32)), return_exceptions=True)
    for work, result in enumerate(results):
        if work in database.rejected:
            assert isinstance(result, Rejected)
        else:
            assert result == f"result of {work}"
    assert database.written == [work for work in range(32) if work not in database.rejected]


async def test_outage_fails_the_whole_batch() -> None:
    database = Database(away=frozenset({3}))
    commit = group(database)
    results = await asyncio.gather(*(commit.submit(work) for work in range(8)), return_exceptions=True)
    assert [type(result) for result in results] == [Outage] * 8
    assert len(database.batches) == 1 and database.written == []
    assert await commit.submit(9) == "result of 9"


async def test_full_queue_rejects_new_items_only() -> None:
    database = Database()
    commit = group(database, max_batch=2, max_waiting=3)
    database.open.clear()
    taken = [asyncio.create_task(commit.submit(work)) for work in range(3)]
    await database.begun.wait()
    taken += [asyncio.create_task(commit.submit(work)) for work in (3, 4)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await commit.submit(5)
    database.open.set()
    assert await asyncio.gather(*taken) == [f"result of {work}" for work in range(5)]
    assert await commit.submit(6) == "result of 6"


async def test_what_waits_is_bounded_by_how_much_work_it_is() -> None:
    """One request may contain a thousand transfers; sixteen of those count like sixteen thousand requests."""
    database = Database()
    commit = GroupCommit(
        database.flush, should_split=lambda error: False, size=lambda work: work, max_batch=10, max_waiting=20
    )
    database.open.clear()
    taken = [asyncio.create_task(commit.submit(5))]
    await database.begun.wait()
    sizes = (6, 4, 1, 30)
    taken += [asyncio.create_task(commit.submit(size)) for size in sizes]
    await asyncio.sleep(0)
    for size in (1, 1000):
        with pytest.raises(QueueFull):
            await commit.submit(size)
    database.open.set()
    assert await asyncio.gather(*taken) == [f"result of {size}" for size in (5, *sizes)]
    assert database.batches == [[5], [6, 4], [1], [30]], "an item larger than a batch is flushed alone"
    assert await commit.submit(20) == "result of 20", "the queue is empty again"


async def test_drain_completes_accepted_items_and_rejects_new_ones() -> None:
    database = Database()
    commit = group(database, max_batch=2)
    await group(database).drain()
    taken = [asyncio.create_task(commit.submit(work)) for work in range(5)]
    await asyncio.sleep(0)
    await commit.drain()
    assert database.written == [0, 1, 2, 3, 4]
    # The results are set; the waiting tasks only have to be scheduled.
    await asyncio.sleep(0)
    assert all(task.done() for task in taken)
    with pytest.raises(Closed):
        await commit.submit(6)


async def test_cancelled_drain_does_not_cancel_items() -> None:
    database = Database()
    commit = group(database)
    database.open.clear()
    taken = asyncio.create_task(commit.submit(1))
    await database.begun.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(commit.drain(), 0.01)
    database.open.set()
    assert await taken == "result of 1"


@pytest.mark.parametrize("flushing", [False, True])
async def test_cancelled_caller_does_not_cancel_its_item(flushing: bool) -> None:
    database = Database()
    commit = group(database)
    database.open.clear()
    tasks = [asyncio.create_task(commit.submit(work)) for work in range(3)]
    await (database.begun.wait() if flushing else asyncio.sleep(0))
    tasks[1].cancel()
    await asyncio.sleep(0)
    database.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == "result of 0" and results[2] == "result of 2"
    assert isinstance(results[1], asyncio.CancelledError)
    assert database.written == [0, 1, 2], "items may have been written already, so they are not cancelled"


async def test_a_flush_that_dies_blocks_no_later_item() -> None:
    database = Database()
    commit = group(database)
    database.open.clear()
    lost = asyncio.create_task(commit.submit(1))
    await database.begun.wait()
    assert commit._flusher is not None
    commit._flusher.cancel()
    await asyncio.sleep(0)
    database.flushing = 0
    database.open.set()
    async with asyncio.timeout(BUSY_SECONDS):
        assert await commit.submit(2) == "result of 2"
    lost.cancel()


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["submit", "cancel", "turn", "stop", "go"]), st.integers(0, 3)), max_size=40
    ),
    rejected=st.frozensets(st.integers(0, 40), max_size=6),
    away=st.frozensets(st.integers(0, 40), max_size=2),
    max_batch=st.integers(1, 8),
    max_waiting=st.integers(1, 8),
)
async def test_every_item_gets_exactly_its_own_result(
    steps: list[tuple[str, int]], rejected: frozenset[int], away: frozenset[int], max_batch: int, max_waiting: int
) -> None:
    database = Database(rejected, away)
    commit = group(database, max_batch, max_waiting)
    tasks: list[asyncio.Task[str]] = []
    cancelled: set[int] = set()
    for action, number in steps:
        if action == "submit":
            tasks += [asyncio.create_task(commit.submit(len(tasks) + more)) for more in range(number + 1)]
        elif action == "cancel" and number < len(tasks) and tasks[-1 - number].cancel():
            cancelled.add(len(tasks) - 1 - number)
        elif action == "stop":
            database.open.clear()
        elif action == "go":
            database.open.set()
        for _ in range(number if action == "turn" else 0):
            await asyncio.sleep(0)
    database.open.set()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), BUSY_SECONDS)
    await commit.drain()
    assert len(database.written) == len(set(database.written)), "something was written twice"
    assert database.written == sorted(database.written), "out of order"
    for work, result in enumerate(results):
        if isinstance(result, str):
            assert result == f"result of {work}" and work in database.written
        elif work not in cancelled:
            assert work not in database.written
            assert isinstance(result, QueueFull | Outage) or (isinstance(result, Rejected) and work in rejected)

"""Recovery of events that the broker has not delivered."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from shared.events import Event
from shared.ids import rfc3339
from shared.messaging import recovery as recovery_module
from shared.messaging.batches import Batch
from shared.messaging.consumer import Consumer
from shared.messaging.positions import Positions, Range
from shared.messaging.recovery import OVERDUE_SECONDS, Recovery
from shared.messaging.transport import Delivery, FeedSource
from shared.testing.timing import StoppedClock
from shared.tests.support import InMemoryHandler, event, metric, names
from shared.tests.test_consumer import FakeSource


class Feed(FeedSource):
    """A feed of events that counts requests."""

    def __init__(self, items: list[Event]) -> None:
        super().__init__("http://producer", "token")
        self.items = items
        self.requests: list[int] = []

    async def receive(self, after: int, *, wait_seconds: float | None = None) -> Delivery:
        assert wait_seconds == 0
        self.requests.append(after)
        batch = Batch(self.items[after : after + 4], after + 1)

        async def nothing() -> None:
            """Do nothing."""

        return Delivery([batch], nothing, nothing)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    """The clock of the recovery, stopped."""
    clock = StoppedClock()
    monkeypatch.setattr(recovery_module, "time", clock)
    monkeypatch.setattr(recovery_module, "utc_now", lambda: datetime.fromtimestamp(clock.now, UTC))
    return clock


@pytest.fixture
def at(clock: StoppedClock) -> Callable[[str, float], Event]:
    """Return an event of some seconds ago."""
    return lambda name, ago: {**event(name), "time": rfc3339(datetime.fromtimestamp(clock.now - ago, UTC))}


class Lab:
    """A recovery with its feed and handler."""

    def __init__(self, items: list[Event], consumed: Positions | None = Positions()) -> None:
        self.feed, self.handler = Feed(items), InMemoryHandler()
        self.handler.positions = consumed  # type: ignore[assignment]  # None is a value of `consumed`
        self.recovery = Recovery(self.feed, self.handler, Consumer(FakeSource([]), self.handler))


async def test_gap_is_read_from_the_feed_and_nothing_after_it(
    clock: StoppedClock, at: Callable[[str, float], Event]
) -> None:
    lab = Lab([at(f"e{n}", 99) for n in range(1, 31)], Positions((Range(1, 2), Range(9, 12))))
    before = metric("bank_events_recovered_total")
    await lab.recovery.run()
    assert lab.handler.seen == ["e3", "e4", "e5", "e6", "e7", "e8"] and lab.handler.positions.ranges == ((1, 12),)
    assert metric("bank_events_recovered_total") == before + 6 and lab.feed.requests == [2, 6]
    lab.handler.positions = lab.handler.positions.add([Range(15, 16)])
    await lab.recovery.run()
    clock.now += OVERDUE_SECONDS - 1
    await lab.recovery.run()
    assert lab.feed.requests == [2, 6], "the broker may still deliver them"
    clock.now += 1
    await lab.recovery.run()
    assert lab.feed.requests == [2, 6, 12] and lab.handler.positions.ranges == ((1, 16),)


async def test_events_that_the_broker_has_lost_are_read_to_the_first_recent_one(
    clock: StoppedClock, at: Callable[[str, float], Event]
) -> None:
    lab = Lab([*(at(f"e{n}", 99) for n in range(1, 9)), at("recent", 0)])
    await lab.recovery.run()
    assert lab.handler.seen == names(lab.feed.items)[:8] and lab.feed.requests == [0, 4, 8]
    clock.now += OVERDUE_SECONDS + 1
    await lab.recovery.run()
    assert lab.handler.seen == names(lab.feed.items)[:8], "since the last ones, 30 seconds have not passed"
    clock.now += OVERDUE_SECONDS
    await lab.recovery.run()
    assert lab.handler.seen == names(lab.feed.items)


async def test_progress_postpones_the_recovery(clock: StoppedClock, at: Callable[[str, float], Event]) -> None:
    lab = Lab([])
    await lab.recovery.run()
    lab.feed.items = [at(f"e{n}", 99) for n in range(1, 9)]
    for position in range(1, 5):
        lab.handler.positions = lab.handler.positions.add([Range(position, position)])
        await lab.recovery.run()
        clock.now += OVERDUE_SECONDS - 1
    assert lab.feed.requests == [0]


@pytest.mark.usefixtures("clock")
async def test_poison_event_does_not_block_the_recovery(at: Callable[[str, float], Event]) -> None:
    lab = Lab([{"no": "event"}, at("e2", 99)])
    await lab.recovery.run()
    assert lab.handler.seen == ["e2"] and lab.handler.dead_letters == [{"no": "event"}]


async def test_nothing_is_recovered_before_the_first_event_after_an_upgrade(
    clock: StoppedClock, at: Callable[[str, float], Event]
) -> None:
    lab = Lab([at("e1", 99)], None)
    for _ in range(3):
        await lab.recovery.run()
        clock.now += OVERDUE_SECONDS
    assert lab.feed.requests == []

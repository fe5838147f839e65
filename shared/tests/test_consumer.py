"""The consumer: poison events, outages, known events, outcomes and lag."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.messaging import consumer as consumer_module
from shared.messaging.consumer import MAX_ATTEMPTS, Consumer
from shared.events import CloudEvent, Event
from shared.ids import rfc3339
from shared.messaging.batches import Batch
from shared.messaging.positions import Positions, Range
from shared.prometheus.registry import REGISTRY
from shared.runtime import tasks
from shared.testing.timing import StoppedClock
from shared.tests.support import InMemoryHandler, event, events, metric
from shared.messaging.transport import Delivery

TYPE = "bank.entry.posted"


class FakeSource:
    """A feed of events or, with `feed=False`, a broker that tracks acknowledgements."""

    def __init__(self, raw: Sequence[Any], *, feed: bool = True) -> None:
        self.raw = list(raw)
        self.feed = feed
        self.failures = 0
        self.outcomes: list[str] = []
        self.dead: list[tuple[Any, str]] = []

    async def receive(self, after: int) -> Delivery:
        """Deliver all events."""
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise ConnectionRefusedError("no source")
        batch = Batch(self.raw[after:], after + 1) if self.feed else Batch(list(self.raw), None)
        return Delivery([batch], self._record("acknowledged"), self._record("nacked"))

    def _record(self, outcome: str) -> Any:
        async def record() -> None:
            self.outcomes.append(outcome)
            if outcome == "acknowledged" and not self.feed:
                self.raw.clear()

        return record

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Store the dead letter."""
        self.dead.append((raw, reason))

    async def close(self) -> None:
        """Nothing to close."""


class FakeHandler(InMemoryHandler):
    """A handler in memory; `errors` are the exceptions to raise by event id."""

    def __init__(self, errors: dict[str, list[Exception]] | None = None) -> None:
        super().__init__()
        self.errors = errors or {}
        self.attempts: list[str] = []

    async def process(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
        """Apply all events or none, like a database transaction."""
        self.attempts += [item.id for item in events]
        for item in events:
            if self.errors.get(item.id):
                raise self.errors[item.id].pop()
        await super().process(events, positions)


async def no_pause(seconds: float) -> None:
    """Do not wait."""
    assert seconds > 0
    await asyncio.sleep(0)


def consumer(source: FakeSource, handler: FakeHandler) -> Consumer:
    """Return a consumer that does not wait between attempts."""
    return Consumer(source, handler, pause=no_pause)


@pytest.mark.parametrize("feed", [True, False])
async def test_poison_event_is_dead_lettered_and_the_others_are_processed(feed: bool) -> None:
    good = events(4)
    source = FakeSource([*good[:2], event("bad", secret=1), *good[2:]], feed=feed)
    handler = FakeHandler({"bad": [ZeroDivisionError(f"try {n}") for n in range(99)]})
    dead, processed = (metric("bank_events_consumed_total", type=TYPE, outcome=o) for o in ("dead", "processed"))
    assert await consumer(source, handler).step() == 5
    assert handler.seen == ["e1", "e2", "e3", "e4"]
    assert handler.attempts.count("bad") == 3 + MAX_ATTEMPTS, "in ever smaller parts, then alone"
    assert handler.attempts.count("e1") == 2
    assert handler.dead_letters == [raw for raw, _ in source.dead] and len(handler.dead_letters) == 1
    assert handler.dead_letters[0]["id"] == "bad" and handler.dead_letters[0]["data"] == {"secret": 1}
    assert source.dead[0][1].startswith("ZeroDivisionError: try ")
    assert handler.positions.gapless_end == (5 if feed else 0) and source.outcomes == ["acknowledged"]
    assert metric("bank_events_consumed_total", type=TYPE, outcome="dead") == dead + 1
    assert metric("bank_events_consumed_total", type=TYPE, outcome="processed") == processed + 4


async def test_dead_letters_of_unknown_types_share_one_counter() -> None:
    source = FakeSource([{**event("odd"), "type": f"bank.made.up.{number}", "specversion": "9"} for number in range(3)])
    before = metric("bank_events_consumed_total", type="unknown", outcome="dead")
    await consumer(source, FakeHandler({})).step()
    assert len(source.dead) == 3
    assert metric("bank_events_consumed_total", type="unknown", outcome="dead") == before + 3


async def test_event_that_fails_temporarily_is_not_dead_lettered() -> None:
    source = FakeSource(events(2))
    handler = FakeHandler({"e1": [ValueError() for _ in range(MAX_ATTEMPTS)]})
    await consumer(source, handler).step()
    assert sorted(handler.seen) == ["e1", "e2"] and source.dead == []


def changed(**changes: Any) -> Event:
    """Return an event with changed attributes; None removes one."""
    item = {**event("odd"), **changes}
    return {name: value for name, value in item.items() if value is not None}


@pytest.mark.parametrize(
    "raw",
    [
        "not JSON",
        None,
        7,
        [],
        {},
        changed(specversion="0.3"),
        changed(specversion=1.0),
        changed(id=""),
        changed(id="x" * 256),
        changed(id=5),
        changed(data="text"),
        changed(data=None),
        changed(time="yesterday"),
        changed(time="2026-11-23T10:00:00"),
        changed(subject=None),
        changed(type=""),
    ],
)
async def test_invalid_cloud_event_is_dead_lettered_immediately(raw: Any) -> None:
    source = FakeSource([event("e1"), raw, event("e2")])
    handler = FakeHandler()
    await consumer(source, handler).step()
    assert (handler.seen, handler.positions.gapless_end) == (["e1", "e2"], 3)
    assert handler.dead_letters == [raw] and source.dead[0][0] == raw
    assert "not a CloudEvent" in source.dead[0][1]


async def test_unknown_types_and_attributes_reach_the_handler() -> None:
    handler = FakeHandler()
    await consumer(FakeSource([changed(type="bank.new", extension="x")]), handler).step()
    assert handler.seen == ["odd"]


@pytest.mark.parametrize("alone", [False, True])
async def test_outage_is_retried_and_dead_letters_nothing(alone: bool) -> None:
    outage: list[Exception] = [ConnectionRefusedError(), PoolTimeoutError(), TimeoutError()] * 5
    poison = {"e1": [ValueError() for _ in range(999)]} if alone else {}
    source = FakeSource(events(3), feed=False)
    handler = FakeHandler({"e2": outage, **poison})
    source.failures = 3
    running = asyncio.create_task(consumer(source, handler).run())
    while "acknowledged" not in source.outcomes:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert handler.seen == (["e2", "e3"] if alone else ["e1", "e2", "e3"])
    assert set(source.outcomes[: source.outcomes.index("acknowledged")]) == {"nacked"}
    # Dead-lettering is repeated if the outage affects later events of the delivery; it is idempotent.
    assert {raw["id"] for raw, _ in source.dead} == ({"e1"} if alone else set())
    assert outage == []


async def test_known_positions_are_skipped_and_only_new_ones_are_added() -> None:
    """Positions that another replica has just removed, for a rebuild, must not return with those of the batch."""
    known = Positions((Range(1, 2), Range(4, 4)))

    class Cleared(FakeHandler):
        """A handler whose positions are removed as soon as they have been read."""

        async def consumed(self) -> Positions:
            return known

    handler = Cleared()
    await consumer(FakeSource([]), handler).consume([Batch(events(5), 1)])
    assert handler.seen == ["e3", "e5"] and [*handler.positions.ranges] == [(3, 3), (5, 5)]


async def test_consumers_of_a_process_take_turns() -> None:
    """An event that is still being processed must not fail for another one that has received it, too."""

    class Exclusive(FakeHandler):
        """A handler that fails if it is called during a call."""

        busy = False

        async def process(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
            assert not self.busy
            self.busy = True
            await asyncio.sleep(0.01)
            self.busy = False
            await super().process(events, positions)

    handler = Exclusive()
    await asyncio.gather(*(consumer(FakeSource([]), handler).consume([Batch(events(3), 1)]) for _ in range(3)))
    assert handler.attempts == ["e1", "e2", "e3"] and handler.dead_letters == []


async def test_batches_of_a_delivery_are_processed_together() -> None:
    handler = FakeHandler()
    batches = [Batch(events(2, 3), 3), Batch(events(2), 1), Batch(events(1, 9), None)]
    await consumer(FakeSource([]), handler).consume(batches)
    assert handler.attempts == ["e3", "e4", "e1", "e2", "e9"] and [*handler.positions.ranges] == [(1, 4)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    """The clock of the consumer, stopped."""
    clock = StoppedClock()
    monkeypatch.setattr(consumer_module, "time", clock)
    monkeypatch.setattr(consumer_module, "utc_now", lambda: datetime.fromtimestamp(clock.now, UTC))
    return clock


def event_at(name: str, timestamp: float) -> Event:
    """Return an event of this time."""
    return {**event(name), "time": rfc3339(datetime.fromtimestamp(timestamp, UTC))}


async def test_duplicates_are_counted_and_the_lag_is_measured(clock: StoppedClock) -> None:
    item = event_at("once", clock.now - 40)
    duplicates = metric("bank_events_consumed_total", type=TYPE, outcome="duplicate")
    source, handler = FakeSource([item]), FakeHandler()
    measured = consumer(source, handler)
    await measured.step()
    assert metric("bank_events_consumed_total", type=TYPE, outcome="duplicate") == duplicates
    assert measured.lag_seconds() == 40
    source.raw.append(event_at("new", clock.now - 2))
    await measured.consume([Batch(source.raw, 1)])
    assert metric("bank_events_consumed_total", type=TYPE, outcome="duplicate") == duplicates + 1
    assert handler.attempts == ["once", "new"] and measured.lag_seconds() == 2
    source.raw.append(event_at("later", clock.now + 100))
    await measured.step()
    assert measured.lag_seconds() == 0, "a clock that is ahead is not a lag"


async def test_lag_grows_while_the_consumer_is_stalled(clock: StoppedClock) -> None:
    source = FakeSource([event_at("e1", clock.now)], feed=False)
    away = consumer(source, FakeHandler())
    await away.step()
    source.failures = 9
    clock.now += 100
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await away.step()
    assert away.lag_seconds() == 100
    source.failures = 0
    await away.step()
    assert away.lag_seconds() == 0, "an empty delivery counts as success"


def test_dead_letter_counters_start_at_zero() -> None:
    consumer(FakeSource([]), FakeHandler())
    for type_ in (TYPE, "unknown"):
        assert REGISTRY.get_sample_value("bank_events_consumed_total", {"type": type_, "outcome": "dead"}) is not None


async def test_empty_delivery_is_ignored_and_invalid_events_advance_the_offset() -> None:
    source, handler = FakeSource([]), FakeHandler()
    assert await consumer(source, handler).step() == 0
    assert handler.positions.ranges == () and source.outcomes == ["acknowledged"]
    source.raw = ["junk", "junk"]
    await consumer(source, handler).step()
    assert handler.positions.gapless_end == 2 and len(handler.dead_letters) == 2


async def test_delivery_in_progress_is_nacked_on_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_TIMEOUT_SECONDS", 0.05)

    class Stuck(FakeHandler):
        """A handler that never finishes."""

        async def process(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
            processing.set()
            await asyncio.Event().wait()

    source, processing = FakeSource(events(1), feed=False), asyncio.Event()
    running = asyncio.create_task(consumer(source, Stuck()).run())
    await processing.wait()
    running.cancel()
    await asyncio.wait([running])
    assert source.outcomes == ["nacked"] and running.cancelled()

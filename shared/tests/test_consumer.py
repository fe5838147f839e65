"""The consumer: poison blocks nobody, an outage buries nothing, and every event is counted for what became of it."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.messaging.consumer import MAX_ATTEMPTS, Consumer, Handler, Move, Overtaken
from shared.events import CloudEvent, Event
from shared.ids import rfc3339, utc_now
from shared.prometheus.registry import REGISTRY
from shared.tests.support import event, events, metric
from shared.messaging.transport import Delivery

TYPE = "bank.entry.posted"


class FakeSource:
    """A feed of events, or with `feed=False` a broker that remembers what was acknowledged."""

    def __init__(self, raw: Sequence[Any], *, feed: bool = True) -> None:
        self.raw = list(raw)
        self.feed = feed
        self.away = 0
        self.settled: list[str] = []
        self.dead: list[tuple[Any, str]] = []

    async def receive(self, after: int) -> Delivery:
        """Deliver all that is there."""
        await asyncio.sleep(0)
        if self.away:
            self.away -= 1
            raise ConnectionRefusedError("no source")
        position, start = (len(self.raw), after) if self.feed else (None, None)
        raw = self.raw[after:] if self.feed else list(self.raw)
        return Delivery(raw, position, start, self._settle("acknowledged"), self._settle("given back"))

    def _settle(self, how: str) -> Any:
        async def settle() -> None:
            self.settled.append(how)
            if how == "acknowledged" and not self.feed:
                self.raw.clear()

        return settle

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Remember the dead."""
        self.dead.append((raw, reason))

    async def close(self) -> None:
        """Nothing to let go of."""


class FakeHandler(Handler):
    """A handler that keeps everything in memory; `errors` says how an event id fails, and how often."""

    def __init__(self, errors: dict[str, list[Exception]] | None = None) -> None:
        self.errors = errors or {}
        self.at = 0
        self.seen: list[str] = []
        self.tries: list[str] = []
        self.buried: list[Any] = []

    async def position(self) -> int:
        """Return the position."""
        return self.at

    async def process(self, events: Sequence[CloudEvent], move: Move | None) -> set[str]:
        """Apply all or nothing, as a transaction does."""
        self.tries += [item.id for item in events]
        for item in events:
            if self.errors.get(item.id):
                raise self.errors[item.id].pop()
        if move is not None:
            if move.after != self.at:
                raise Overtaken
            self.at = move.position
        new = {item.id for item in events} - set(self.seen)
        self.seen += [item.id for item in events if item.id in new]
        return new

    async def bury(self, raw: Any, reason: str) -> None:
        """Remember the dead."""
        self.buried.append(raw)


async def no_pause(seconds: float) -> None:
    """Do not wait."""
    assert seconds > 0
    await asyncio.sleep(0)


def consumer(source: FakeSource, handler: FakeHandler) -> Consumer:
    """Return a consumer in a hurry."""
    return Consumer(source, handler, pause=no_pause)


@pytest.mark.parametrize("feed", [True, False])
async def test_a_poison_event_is_set_aside_and_the_others_are_processed(feed: bool) -> None:
    good = events(4)
    source = FakeSource([*good[:2], event("bad", secret=1), *good[2:]], feed=feed)
    handler = FakeHandler({"bad": [ZeroDivisionError(f"try {n}") for n in range(99)]})
    dead, processed = (metric("bank_events_consumed_total", type=TYPE, outcome=o) for o in ("dead", "processed"))
    assert await consumer(source, handler).step() == 5
    assert handler.seen == ["e1", "e2", "e3", "e4"]
    assert handler.tries.count("bad") == 1 + MAX_ATTEMPTS, "once together with the others, then alone"
    assert handler.buried == [raw for raw, _ in source.dead] and len(handler.buried) == 1
    assert handler.buried[0]["id"] == "bad" and handler.buried[0]["data"] == {"secret": 1}
    assert source.dead[0][1].startswith("ZeroDivisionError: try ")
    assert handler.at == (5 if feed else 0) and source.settled == ["acknowledged"]
    assert metric("bank_events_consumed_total", type=TYPE, outcome="dead") == dead + 1
    assert metric("bank_events_consumed_total", type=TYPE, outcome="processed") == processed + 4


async def test_dead_letters_of_types_that_nobody_knows_are_counted_together() -> None:
    source = FakeSource([{**event("odd"), "type": f"bank.made.up.{number}", "specversion": "9"} for number in range(3)])
    before = metric("bank_events_consumed_total", type="unknown", outcome="dead")
    await consumer(source, FakeHandler({})).step()
    assert len(source.dead) == 3
    assert metric("bank_events_consumed_total", type="unknown", outcome="dead") == before + 3


async def test_an_event_that_fails_for_a_while_is_not_set_aside() -> None:
    source = FakeSource(events(2))
    handler = FakeHandler({"e1": [ValueError() for _ in range(MAX_ATTEMPTS)]})
    await consumer(source, handler).step()
    assert sorted(handler.seen) == ["e1", "e2"] and source.dead == []


def changed(**changes: Any) -> Event:
    """Return an event with some attributes changed; None takes one away."""
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
async def test_what_is_not_a_cloud_event_is_set_aside_at_once(raw: Any) -> None:
    source = FakeSource([event("e1"), raw, event("e2")])
    handler = FakeHandler()
    await consumer(source, handler).step()
    assert (handler.seen, handler.at) == (["e1", "e2"], 3)
    assert handler.buried == [raw] and source.dead[0][0] == raw
    assert "not a CloudEvent" in source.dead[0][1]


async def test_unknown_types_and_attributes_reach_the_handler() -> None:
    handler = FakeHandler()
    await consumer(FakeSource([changed(type="bank.new", extension="x")]), handler).step()
    assert handler.seen == ["odd"]


@pytest.mark.parametrize("alone", [False, True])
async def test_an_outage_is_waited_for_and_buries_nothing(alone: bool) -> None:
    outage: list[Exception] = [ConnectionRefusedError(), PoolTimeoutError(), TimeoutError()] * 5
    poison = {"e1": [ValueError() for _ in range(99)]} if alone else {}
    source = FakeSource(events(3), feed=False)
    handler = FakeHandler({"e2": outage, **poison})
    source.away = 3
    running = asyncio.create_task(consumer(source, handler).run())
    while "acknowledged" not in source.settled:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert handler.seen == (["e2", "e3"] if alone else ["e1", "e2", "e3"])
    assert set(source.settled[: source.settled.index("acknowledged")]) == {"given back"}
    # Setting aside is repeated when the outage hits later events of the delivery; that is harmless (see `bury`).
    assert {raw["id"] for raw, _ in source.dead} == ({"e1"} if alone else set())
    assert outage == []


async def test_who_was_overtaken_drops_what_it_has_and_goes_on_from_the_new_position() -> None:
    class OvertakenOnce(FakeHandler):
        """Another replica is faster between receiving and processing, once."""

        async def process(self, events: Sequence[CloudEvent], move: Move | None) -> set[str]:
            if self.at == 0:
                self.at = 2
            return await super().process(events, move)

    source, handler = FakeSource(events(3)), OvertakenOnce()
    running = asyncio.create_task(consumer(source, handler).run())
    while handler.at != 3:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert (handler.seen, source.dead, source.settled[0]) == (["e3"], [], "given back")


async def test_duplicates_are_counted_and_the_lag_is_measured() -> None:
    item = event("once")
    item["time"] = rfc3339(utc_now() - timedelta(seconds=40))
    duplicates = metric("bank_events_consumed_total", type=TYPE, outcome="duplicate")
    source, handler = FakeSource([item], feed=False), FakeHandler()
    await consumer(source, handler).step()
    assert metric("bank_events_consumed_total", type=TYPE, outcome="duplicate") == duplicates
    assert 40 <= metric("bank_consumer_lag_seconds") < 50
    source.raw = [item, event("new")]
    await consumer(source, handler).step()
    assert metric("bank_events_consumed_total", type=TYPE, outcome="duplicate") == duplicates + 1
    assert handler.seen == ["once", "new"]
    assert 0 <= metric("bank_consumer_lag_seconds") < 10
    source.raw = [{**item, "time": rfc3339(datetime(2100, 1, 1, tzinfo=UTC))}]
    await consumer(source, handler).step()
    assert metric("bank_consumer_lag_seconds") == 0, "a clock that goes ahead is no lag"


async def test_the_lag_grows_while_nothing_gets_done(monkeypatch: pytest.MonkeyPatch) -> None:
    source = FakeSource(events(1), feed=False)
    away = consumer(source, FakeHandler())
    await away.step()
    source.away = 9
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 100)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await away.step()
    assert 100 <= metric("bank_consumer_lag_seconds") < 110
    source.away = 0
    await away.step()
    assert metric("bank_consumer_lag_seconds") == 0, "received, though nothing was there"


def test_dead_letters_are_counted_from_zero() -> None:
    consumer(FakeSource([]), FakeHandler())
    for type_ in (TYPE, "unknown"):
        assert REGISTRY.get_sample_value("bank_events_consumed_total", {"type": type_, "outcome": "dead"}) is not None


async def test_an_empty_delivery_touches_nothing_and_an_empty_part_of_a_feed_is_moved_over() -> None:
    source, handler = FakeSource([]), FakeHandler()
    assert await consumer(source, handler).step() == 0
    assert handler.at == 0 and source.settled == ["acknowledged"]
    source.raw = ["junk", "junk"]
    await consumer(source, handler).step()
    assert handler.at == 2 and len(handler.buried) == 2


async def test_what_is_in_hand_at_the_end_is_given_back() -> None:
    class Stuck(FakeHandler):
        """Never finishes."""

        async def process(self, events: Sequence[CloudEvent], move: Move | None) -> set[str]:
            await asyncio.Event().wait()
            return set()

    source = FakeSource(events(1), feed=False)
    running = asyncio.create_task(consumer(source, Stuck()).run())
    await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert source.settled == ["given back"] and running.cancelled()

"""A canary's consumer: everything is rehearsed, failures are counted one by one, and nothing else happens."""

from collections.abc import Sequence

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.events import CloudEvent
from shared.messaging.shadow import ShadowConsumer
from shared.tests.support import event, metric
from shared.tests.test_consumer import TYPE, FakeHandler, FakeSource


class Rehearsing(FakeHandler):
    """Fails as its `errors` say, and remembers what was rehearsed."""

    def __init__(self, errors: dict[str, list[Exception]] | None = None, broken: str = "") -> None:
        super().__init__(errors)
        self.broken = broken
        self.rehearsed: list[str] = []

    async def rehearse(self, events: Sequence[CloudEvent]) -> None:
        for item in events:
            if self.errors.get(item.id):
                raise self.errors[item.id].pop()
            if item.id == self.broken:
                raise ValueError("a bug")
        self.rehearsed += [item.id for item in events]


def counted(outcome: str, type_: str = TYPE) -> float:
    return metric("bank_events_consumed_total", type=type_, outcome=outcome)


async def no_pause(_seconds: float) -> None:
    return


async def test_events_are_rehearsed_and_acknowledged_and_leave_nothing() -> None:
    source, handler = FakeSource([event("1"), event("2")], feed=False), Rehearsing()
    shadow = ShadowConsumer(source, handler, no_pause)
    before = counted("rehearsed"), counted("failed")
    assert await shadow.step() == 2
    assert (handler.rehearsed, handler.seen, handler.buried) == (["1", "2"], [], [])
    assert source.settled == ["acknowledged"]
    assert (counted("rehearsed"), counted("failed")) == (before[0] + 2, before[1])


async def test_a_bug_is_counted_for_the_event_that_has_it_and_buries_nothing() -> None:
    source, handler = FakeSource([event("1"), event("2"), event("3")], feed=False), Rehearsing(broken="2")
    before = counted("rehearsed"), counted("failed")
    await ShadowConsumer(source, handler, no_pause).step()
    assert (counted("rehearsed"), counted("failed")) == (before[0] + 2, before[1] + 1)
    assert (source.settled, source.dead, handler.buried) == (["acknowledged"], [], [])


async def test_what_is_no_event_is_a_failure() -> None:
    before = counted("failed", "unknown")
    await ShadowConsumer(FakeSource(["nonsense"], feed=False), Rehearsing(), no_pause).step()
    assert counted("failed", "unknown") == before + 1


async def test_an_outage_is_no_failure_and_a_feed_is_read_on_from_where_stable_is() -> None:
    handler = Rehearsing({"2": [PoolTimeoutError()]})
    handler.at = 1
    source = FakeSource([event("1"), event("2"), event("3")])
    shadow = ShadowConsumer(source, handler, no_pause)
    before = counted("failed")
    with pytest.raises(PoolTimeoutError):
        await shadow.step()
    await shadow.step()
    assert handler.rehearsed == ["2", "3"] and counted("failed") == before
    assert handler.at == 1, "the position is stable's"
    source.raw.append(event("4"))
    await shadow.step()
    assert handler.rehearsed == ["2", "3", "4"]

"""The shadow consumer of a canary: a dry run of every event; failures are counted per event."""

from collections.abc import Sequence

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.events import CloudEvent
from shared.messaging.positions import Positions, Range
from shared.messaging.shadow import ShadowConsumer
from shared.tests.support import event, metric
from shared.tests.test_consumer import TYPE, FakeHandler, FakeSource


class DryRunHandler(FakeHandler):
    """A handler that raises its `errors` and records the events of dry runs."""

    def __init__(self, errors: dict[str, list[Exception]] | None = None, broken: str = "") -> None:
        super().__init__(errors)
        self.broken = broken
        self.dry_runs: list[str] = []

    async def dry_run(self, events: Sequence[CloudEvent]) -> None:
        for item in events:
            if self.errors.get(item.id):
                raise self.errors[item.id].pop()
            if item.id == self.broken:
                raise ValueError("a bug")
        self.dry_runs += [item.id for item in events]


def counted(outcome: str, type_: str = TYPE) -> float:
    return metric("bank_events_consumed_total", type=type_, outcome=outcome)


async def no_pause(_seconds: float) -> None:
    return


async def test_dry_run_acknowledges_events_without_effect() -> None:
    source, handler = FakeSource([event("1"), event("2")], feed=False), DryRunHandler()
    shadow = ShadowConsumer(source, handler, no_pause)
    before = counted("dry_run"), counted("failed")
    assert await shadow.step() == 2
    assert (handler.dry_runs, handler.seen, handler.dead_letters) == (["1", "2"], [], [])
    assert source.outcomes == ["acknowledged"]
    assert (counted("dry_run"), counted("failed")) == (before[0] + 2, before[1])


async def test_failure_is_counted_for_its_event_and_not_dead_lettered() -> None:
    source, handler = FakeSource([event("1"), event("2"), event("3")], feed=False), DryRunHandler(broken="2")
    before = counted("dry_run"), counted("failed")
    await ShadowConsumer(source, handler, no_pause).step()
    assert (counted("dry_run"), counted("failed")) == (before[0] + 2, before[1] + 1)
    assert (source.outcomes, source.dead, handler.dead_letters) == (["acknowledged"], [], [])


async def test_invalid_event_counts_as_failure() -> None:
    before = counted("failed", "unknown")
    await ShadowConsumer(FakeSource(["nonsense"], feed=False), DryRunHandler(), no_pause).step()
    assert counted("failed", "unknown") == before + 1


async def test_outage_is_not_a_failure_and_shadow_starts_at_the_offset_of_stable() -> None:
    handler = DryRunHandler({"2": [PoolTimeoutError()]})
    handler.positions = Positions((Range(1, 1),))
    source = FakeSource([event("1"), event("2"), event("3")])
    shadow = ShadowConsumer(source, handler, no_pause)
    before = counted("failed")
    with pytest.raises(PoolTimeoutError):
        await shadow.step()
    await shadow.step()
    assert handler.dry_runs == ["2", "3"] and counted("failed") == before
    assert handler.positions.gapless_end == 1, "the positions of stable are unchanged"
    source.raw.append(event("4"))
    await shadow.step()
    assert handler.dry_runs == ["2", "3", "4"]

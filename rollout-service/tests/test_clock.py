"""The time of a rollout: the wall clock may be set at any moment, and hosts restart."""

from dataclasses import replace
from pathlib import Path

import pytest

from app import state_machine
from app.clock import Clock
from app.state_machine import Rollout
from tests.fake_stack import LEASE, NOW, FakeStack, at_step, done, others, started, verdict

HOUR = 3600.0


class Host:
    """A host with a wall clock and a boot."""

    def __init__(self) -> None:
        self.wall = NOW
        self.up = 50.0
        self.boot = "first"

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.up, self.boot)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds


@pytest.mark.parametrize("error", [-HOUR, HOUR])
def test_a_wall_clock_that_is_set_changes_no_interval(error: float) -> None:
    host = Host()
    state = host.clock().adjust_to_boot(started(), LEASE)
    assert host.clock().now(state) == NOW
    host.wait(10)
    host.wall += error
    assert host.clock().now(state) == NOW + 10, "another process agrees"
    assert host.clock().adjust_to_boot(state, LEASE) is state


@pytest.mark.parametrize("error", [-HOUR, 0, HOUR])
@pytest.mark.parametrize("make", [started, at_step])
def test_a_reboot_extends_a_lease_by_at_most_its_duration(error: float, make: "object") -> None:
    host = Host()
    state = host.clock().adjust_to_boot(make(), LEASE)  # type: ignore[operator]
    host.wait(40)
    state = state_machine.renew(state, "one", host.clock().now(state), LEASE)
    host.boot, host.up = "second", 3.0
    host.wall += 20 + error
    state = host.clock().adjust_to_boot(state, LEASE)
    now = host.clock().now(state)
    assert now >= max(state.changed_at, state.step_started_at) and state.lease_until <= now + LEASE
    host.wait(LEASE + 1)
    assert state_machine.expire(state, host.clock().now(state)).phase == "rolling-back"


def test_the_scale_down_delay_lasts_no_longer_after_a_reboot_with_an_old_clock() -> None:
    host = Host()
    state = host.clock().adjust_to_boot(done(), LEASE)
    host.boot, host.wall = "second", NOW - HOUR
    state = host.clock().adjust_to_boot(state, LEASE)
    host.wait(1801)
    assert state_machine.expire(state, host.clock().now(state)).phase == "idle"


def test_a_state_without_a_rollout_has_no_anchor() -> None:
    assert Host().clock().adjust_to_boot(Rollout(), LEASE) == Rollout()
    assert Host().clock().now(Rollout()) == NOW


def test_the_host_has_a_boot_id_and_a_boot_time() -> None:
    state = Clock().adjust_to_boot(replace(started(), changed_at=0), LEASE)
    assert state.boot_id and abs(Clock().now(state) - Clock().wall()) < 60


@pytest.mark.parametrize("error", [-HOUR, HOUR])
async def test_the_analysis_is_neither_delayed_nor_shortened_by_a_wrong_clock(tmp_path: Path, error: float) -> None:
    stack = FakeStack(tmp_path, at_step())
    stack.served = "canary-10"
    stack.containers += others("canary", "b")
    analyzed: list[tuple[float, float]] = []

    async def analyze(state: Rollout, now: float) -> dict[str, object]:
        analyzed.append((now, now - state.step_started_at))
        return verdict("hold", "baking")

    stack.analyze = analyze  # type: ignore[method-assign,assignment]
    stack.controller = stack.process()
    await stack.ticks(2)
    stack.clock_error = error
    await stack.ticks(2)
    assert [age for _, age in analyzed] == [0, 2, 4, 6], "the age of the step"
    assert [now - NOW for now, _ in analyzed] == [0, 2, error + 4, error + 6], "Prometheus' time"
    assert stack.file.load().phase == "canary", "the lease has not expired"
    stack.now = NOW + LEASE + 1
    assert (await stack.ticks(1)).outcome == "rolled-back"

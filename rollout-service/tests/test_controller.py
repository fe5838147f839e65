"""The control loop: the order of its NGINX and Docker operations, and its behaviour after restarts and failures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import state_machine
from app.containers import DockerError
from app.controller import containers_to_remove
from app.nginx import NginxError
from app.prometheus import FAILURES, STATE, WEIGHT
from app.rollout_request import SERVICES
from app.state_machine import Rollout, Version
from tests.fake_stack import (
    AFTER,
    BEFORE,
    NOW,
    SETTINGS,
    FakeStack,
    at_step,
    started,
    done,
    others,
    promoting,
    stable,
    verdict,
)

MakeStack = Callable[[Rollout], FakeStack]


@pytest.fixture
def fake_stack(tmp_path: Path) -> MakeStack:
    """Make a stack with a stored state."""
    return lambda state: FakeStack(tmp_path, state)


async def test_a_healthy_canary_advances_step_by_step_and_waits_for_its_driver(fake_stack: MakeStack) -> None:
    stack = fake_stack(state_machine.complete_provisioning(started(), "one", NOW))
    stack.containers += others("canary", "b")
    await stack.ticks(2)
    assert stack.log == ["serve canary-10"] and WEIGHT._value.get() == 10  # pylint: disable=protected-access
    stack.verdict = verdict("promote")
    state = await stack.ticks(4)
    assert stack.log == ["serve canary-10", "serve canary-50"] and state.phase == "promoting"
    stack.file.change(lambda state: state_machine.complete_promotion(state, "one", stack.now))
    state = await stack.ticks(2)
    assert state.phase == "done"
    assert stack.log[2:] == ["serve stable", *(f"remove {service}-canary" for service in SERVICES)]
    assert stack.notifications[-1] == "done: promotion complete: stable runs the new version"


async def test_a_bad_canary_receives_no_traffic_before_it_is_removed(fake_stack: MakeStack) -> None:
    stack = fake_stack(at_step())
    stack.served, stack.verdict = "canary-10", verdict("rollback", "errors")
    stack.containers += others("canary", "b")
    state = await stack.ticks(2)
    assert (state.phase, state.outcome, state.reason) == ("idle", "rolled-back", "errors")
    assert stack.log[0] == "serve stable" and len(stack.log) == 3
    assert {container.track for container in stack.containers} == {"stable"}


@pytest.mark.parametrize("make", [started, at_step, lambda: at_step(1), promoting])
async def test_an_expired_lease_returns_all_traffic_to_stable(
    fake_stack: MakeStack, make: Callable[[], Rollout]
) -> None:
    stack = fake_stack(make())
    stack.served = state_machine.nginx_configuration(make())
    stack.containers += others("canary", "b") + [stable(service, 3, "b") for service in SERVICES]
    stack.now = NOW + 31
    state = await stack.ticks(3)
    assert (state.phase, stack.served) == ("idle", "stable")
    assert {(container.track, container.image) for container in stack.containers} == {("stable", "a")}


async def test_a_restart_continues_from_the_stored_state(fake_stack: MakeStack) -> None:
    stack = fake_stack(at_step())
    stack.served, stack.verdict = "canary-10", verdict("rollback", "errors")
    stack.containers += others("canary", "b")
    stack.nginx_error = NginxError("NGINX does not answer")
    state = await stack.ticks(1)
    assert state.phase == "rolling-back" and len(stack.containers) == 6, "canaries still receive traffic"
    stack.nginx_error, stack.controller = None, stack.process()
    state = await stack.ticks(2)
    assert state.phase == "idle" and len(stack.containers) == 4


async def test_failed_operations_are_counted_and_retried(
    fake_stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = fake_stack(state_machine.abort(at_step(), "one", "an operator", NOW))
    stack.containers += others("canary", "b")
    failures = FAILURES.labels("docker")._value  # pylint: disable=protected-access
    before = failures.get()

    def refuse(_containers: object) -> None:
        raise DockerError("remove: no")

    with monkeypatch.context() as patched:
        patched.setattr(stack, "remove", refuse)
        state = await stack.ticks(2)
    assert state.phase == "rolling-back" and failures.get() == before + 2
    assert (await stack.ticks(1)).phase == "idle"


async def test_a_rollback_after_promotion_switches_to_the_previous_version_once_it_is_ready(
    fake_stack: MakeStack,
) -> None:
    stack = fake_stack(state_machine.abort(done(), "one", "an operator", NOW))
    await stack.ticks(1)
    assert stack.served == "stable", "no replica would respond"
    stack.containers += others("previous", "a", healthy=False)
    await stack.ticks(1)
    assert stack.served == "stable"
    stack.containers[-2:] = others("previous", "a")
    state = await stack.ticks(2)
    assert (stack.served, state.phase) == ("previous", "rolling-back")
    stack.file.change(lambda state: state_machine.complete_restore(state, "one", stack.now))
    state = await stack.ticks(2)
    assert (stack.served, state.phase, len(stack.containers)) == ("stable", "rolling-back", 6), "old workers ask them"
    state = await stack.ticks(5)
    assert (stack.served, state.phase, len(stack.containers)) == ("stable", "idle", 4)


@pytest.mark.parametrize("during", ["revision", "observe"])
async def test_replicas_that_nginx_still_routes_to_outlive_a_command_during_a_pass(
    fake_stack: MakeStack, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    """An abort of a canary, and the end of a restore: both change what NGINX has to serve."""

    def restored(state: Rollout) -> Rollout:
        return state_machine.complete_restore(state, "one", NOW)

    def aborted(state: Rollout) -> Rollout:
        return state if state.phase == "rolling-back" else state_machine.abort(state, "one", "an operator", NOW)

    restoring = state_machine.abort(done(), "one", "an operator", NOW)
    for state, track, command in ((at_step(), "canary", aborted), (restoring, "previous", restored)):
        stack = fake_stack(state)
        stack.containers += others(track, "a")
        stack.served = served = state_machine.nginx_configuration(state)
        # Long after the last reload.
        stack.now = NOW + 20
        look = getattr(stack, during)

        def change(stack: FakeStack = stack, look: Any = look, command: Any = command) -> Any:
            """The driver's command arrives meanwhile."""
            stack.file.change(command)
            return look()

        with monkeypatch.context() as patched:
            patched.setattr(stack, during, change)
            found = await stack.controller.tick()
        assert found.phase != "idle" and stack.served == served
        assert {container.track for container in stack.containers} == {"stable", track}, "NGINX still routes to them"
        assert (await stack.ticks(10)).phase == "idle" and {one.track for one in stack.containers} == {"stable"}


async def test_previous_replicas_are_removed_after_the_scale_down_delay(fake_stack: MakeStack) -> None:
    stack = fake_stack(done())
    stack.containers += others("previous", "a") + [stable(service, 3, "b") for service in SERVICES]
    await stack.ticks(2)
    assert len(stack.containers) == 8, "the driver drains the old ones"
    stack.now = NOW + 60
    await stack.ticks(1)
    assert {(one.track, one.image) for one in stack.containers} == {("stable", "b"), ("previous", "a")}
    stack.now = NOW + 1801
    state = await stack.ticks(2)
    assert (state.phase, {container.track for container in stack.containers}) == ("idle", {"stable"})


def test_the_last_healthy_replicas_are_kept_whatever_their_image() -> None:
    unwanted = {service: Version("b", frozenset({""})) for service in SERVICES}
    only = [stable(SERVICES[0], 1, "b"), stable(SERVICES[1], 1, "b"), stable(SERVICES[1], 2, "a", healthy=False)]
    assert containers_to_remove(only, frozenset({"stable"}), unwanted) == []
    both = [*only, stable(SERVICES[0], 2, "a")]
    assert containers_to_remove(both, frozenset({"stable"}), unwanted) == [only[0]]


async def test_withdrawn_settings_leave_the_replicas_with_the_former_ones(fake_stack: MakeStack) -> None:
    """Both versions have the same image: a promotion that was interrupted leaves a mix of revisions."""
    stack = fake_stack(promoting(**SETTINGS))
    before, after = BEFORE["account-service"], AFTER["account-service"]
    stack.containers = [stable(service, number, revision=before) for service in SERVICES for number in (1, 2)]
    stack.containers += others("canary", "a") + [stable(service, 3, revision=after) for service in SERVICES]
    stack.file.change(lambda state: state_machine.abort(state, "one", "no", stack.now))
    state = await stack.ticks(3)
    assert state.phase == "idle" and {(one.track, one.revision) for one in stack.containers} == {("stable", before)}
    assert len(stack.containers) == 4


async def test_former_settings_are_removed_after_a_promotion(fake_stack: MakeStack) -> None:
    stack = fake_stack(done(**SETTINGS))
    before, after = BEFORE["account-service"], AFTER["account-service"]
    # Of an earlier release, whose replicas have no revision.
    stack.containers = [
        stable(service, number, revision=("", before)[number]) for service in SERVICES for number in (0, 1)
    ]
    stack.containers += others("previous", "a") + [stable(service, 3, revision=after) for service in SERVICES]
    stack.now = NOW + 60
    await stack.ticks(1)
    assert {(one.track, one.revision) for one in stack.containers} == {("stable", after), ("previous", "")}


async def test_each_event_is_notified_once_and_metrics_show_the_phase(fake_stack: MakeStack) -> None:
    stack = fake_stack(Rollout())
    await stack.ticks(1)
    stack.file.change(lambda _state: started())
    await stack.ticks(3)
    assert stack.notifications == ["provisioning: started by ansible"]
    stack.controller = stack.process()
    await stack.ticks(2)
    assert stack.notifications == ["provisioning: started by ansible"], "a restart repeats nothing"
    shown = {
        phase: STATE.labels(phase)._value.get() for phase in state_machine.PHASES
    }  # pylint: disable=protected-access
    assert shown == {phase: float(phase == "provisioning") for phase in state_machine.PHASES}

"""The guard: what it does to NGINX and containers, in which order, and that a restart or a failure changes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app import state_machine
from app.containers import DockerFailed
from app.controller import superfluous
from app.edge import EdgeFailed
from app.prometheus import FAILURES, STATE, WEIGHT
from app.state_machine import SERVICES, Rollout
from tests.world import NOW, World, at_step, begun, done, others, promoting, stable, verdict

Make = Callable[[Rollout], World]


@pytest.fixture
def world(tmp_path: Path) -> Make:
    """A world in which a state was written."""
    return lambda state: World(tmp_path, state)


async def test_a_good_canary_is_served_step_by_step_and_waits_for_its_driver(world: Make) -> None:
    here = world(state_machine.provisioned(begun(), "one", NOW))
    here.containers += others("canary", "b")
    await here.ticks(2)
    assert here.log == ["serve canary-10"] and WEIGHT._value.get() == 10  # pylint: disable=protected-access
    here.verdict = verdict("promote")
    state = await here.ticks(4)
    assert here.log == ["serve canary-10", "serve canary-50"] and state.phase == "promoting"
    here.file.change(lambda state: state_machine.promoted(state, "one", here.now))
    state = await here.ticks(2)
    assert state.phase == "done"
    assert here.log[2:] == ["serve stable", *(f"remove {service}-canary" for service in SERVICES)]
    assert here.told[-1] == "done: stable runs the new version"


async def test_a_bad_canary_loses_its_clients_before_it_is_removed(world: Make) -> None:
    here = world(at_step())
    here.served, here.verdict = "canary-10", verdict("rollback", "errors")
    here.containers += others("canary", "b")
    state = await here.ticks(2)
    assert (state.phase, state.outcome, state.reason) == ("idle", "rolled-back", "errors")
    assert here.log[0] == "serve stable" and len(here.log) == 3
    assert {one.track for one in here.containers} == {"stable"}


@pytest.mark.parametrize("make", [begun, at_step, lambda: at_step(1), promoting])
async def test_without_a_driver_stable_has_everything_again(world: Make, make: Callable[[], Rollout]) -> None:
    here = world(make())
    here.served = state_machine.configuration(make())
    here.containers += others("canary", "b") + [stable(service, 3, "b") for service in SERVICES]
    here.now = NOW + 31
    state = await here.ticks(3)
    assert (state.phase, here.served) == ("idle", "stable")
    assert {(one.track, one.image) for one in here.containers} == {("stable", "a")}


async def test_a_restart_goes_on_where_the_state_says(world: Make) -> None:
    here = world(at_step())
    here.served, here.verdict = "canary-10", verdict("rollback", "errors")
    here.containers += others("canary", "b")
    here.refuses = EdgeFailed("NGINX does not answer")
    state = await here.ticks(1)
    assert state.phase == "rolling-back" and len(here.containers) == 6, "they still have clients"
    here.refuses, here.controller = None, here.process()
    state = await here.ticks(2)
    assert state.phase == "idle" and len(here.containers) == 4


async def test_what_fails_is_counted_and_tried_again(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = world(state_machine.abort(at_step(), "an operator", NOW))
    here.containers += others("canary", "b")
    failures = FAILURES.labels("docker")._value  # pylint: disable=protected-access
    before = failures.get()

    def refuse(_containers: object) -> None:
        raise DockerFailed("remove: no")

    with monkeypatch.context() as patched:
        patched.setattr(here, "remove", refuse)
        state = await here.ticks(2)
    assert state.phase == "rolling-back" and failures.get() == before + 2
    assert (await here.ticks(1)).phase == "idle"


async def test_after_a_promotion_the_version_before_serves_when_it_is_there(world: Make) -> None:
    here = world(state_machine.abort(done(), "an operator", NOW))
    await here.ticks(1)
    assert here.served == "stable", "nobody would answer"
    here.containers += others("previous", "a", healthy=False)
    await here.ticks(1)
    assert here.served == "stable"
    here.containers[-2:] = others("previous", "a")
    state = await here.ticks(2)
    assert (here.served, state.phase) == ("previous", "rolling-back")
    here.file.change(lambda state: state_machine.restored(state, here.now))
    state = await here.ticks(2)
    assert (here.served, state.phase, len(here.containers)) == ("stable", "rolling-back", 6), "old workers ask them"
    state = await here.ticks(5)
    assert (here.served, state.phase, len(here.containers)) == ("stable", "idle", 4)


async def test_what_was_warm_goes_and_what_a_dead_driver_left_over(world: Make) -> None:
    here = world(done())
    here.containers += others("previous", "a") + [stable(service, 3, "b") for service in SERVICES]
    await here.ticks(2)
    assert len(here.containers) == 8, "the driver drains the old ones"
    here.now = NOW + 60
    await here.ticks(1)
    assert {(one.track, one.image) for one in here.containers} == {("stable", "b"), ("previous", "a")}
    here.now = NOW + 1801
    state = await here.ticks(2)
    assert (state.phase, {one.track for one in here.containers}) == ("idle", {"stable"})


def test_the_last_healthy_replicas_stay_whatever_their_image() -> None:
    unwanted = {service: "b" for service in SERVICES}
    only = [stable(SERVICES[0], 1, "b"), stable(SERVICES[1], 1, "b"), stable(SERVICES[1], 2, "a", healthy=False)]
    assert superfluous(only, frozenset({"stable"}), unwanted) == []
    both = [*only, stable(SERVICES[0], 2, "a")]
    assert superfluous(both, frozenset({"stable"}), unwanted) == [only[0]]


async def test_people_are_told_once_and_metrics_show_the_phase(world: Make) -> None:
    here = world(Rollout())
    await here.ticks(1)
    here.file.change(lambda _state: begun())
    await here.ticks(3)
    assert here.told == ["provisioning: ansible begins"]
    here.controller = here.process()
    await here.ticks(2)
    assert here.told == ["provisioning: ansible begins"], "a restart repeats nothing"
    shown = {
        phase: STATE.labels(phase)._value.get() for phase in state_machine.PHASES
    }  # pylint: disable=protected-access
    assert shown == {phase: float(phase == "provisioning") for phase in state_machine.PHASES}

"""A driver acts on its own rollout only, whenever it wakes up; a person acts on the current one."""

from collections.abc import Callable

import pytest

from app import state_machine
from app.state_machine import InvalidTransition, Rollout
from tests.fake_stack import LEASE, NEW, NOW, OLD, at_step, done, images_to_remove, promoting, request, started

# Commands of the driver of rollout `another`, while `one` is current.
COMMANDS: dict[str, Callable[[Rollout], Rollout]] = {
    "renew": lambda state: state_machine.renew(state, "another", NOW, LEASE),
    "provisioned": lambda state: state_machine.complete_provisioning(state, "another", NOW),
    "approve": lambda state: state_machine.approve(state, "another", 10, "me", NOW),
    "promoted": lambda state: state_machine.complete_promotion(state, "another", NOW),
    "abort": lambda state: state_machine.abort(state, "another", "its driver failed", NOW),
    "restoring": lambda state: state_machine.check_restoring(state, "another"),
    "restored": lambda state: state_machine.complete_restore(state, "another", NOW),
}
STATES: dict[str, Callable[[], Rollout]] = {
    "provisioning": started,
    "canary": at_step,
    "promoting": promoting,
    "done": done,
    "rolling back": lambda: state_machine.abort(at_step(), "one", "no", NOW),
    "restoring": lambda: state_machine.abort(done(), "one", "no", NOW),
    "rolled back": lambda: state_machine.complete_cleanup(state_machine.abort(at_step(), "one", "no", NOW), NOW),
    "over": lambda: state_machine.expire(done(), NOW + 1801),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_a_command_for_another_rollout_is_rejected_in_every_state(
    command: Callable[[Rollout], Rollout], make: Callable[[], Rollout]
) -> None:
    with pytest.raises(InvalidTransition, match=r"another is not the current one \(one of v2 by ansible.*rollback"):
        command(make())


def test_a_person_names_the_current_rollout() -> None:
    assert state_machine.abort(at_step(), "current", "a person", NOW).phase == "rolling-back"
    assert state_machine.abort(done(), "current", "a person", NOW).serving == "previous"


def test_stable_is_restored_only_for_the_rollback_that_needs_it() -> None:
    restoring = STATES["restoring"]()
    assert state_machine.check_restoring(restoring, "one") is restoring
    for name in STATES.keys() - {"restoring"}:
        with pytest.raises(InvalidTransition, match="does not restore"):
            state_machine.check_restoring(STATES[name](), "one")
    with pytest.raises(InvalidTransition, match="no longer in progress"):
        state_machine.renew(restoring, "one", NOW, LEASE)


def test_a_rollout_based_on_outdated_images_cannot_start() -> None:
    over = STATES["over"]()
    with pytest.raises(InvalidTransition, match="one of v2 by ansible has run since this deployment started"):
        state_machine.start(over, request(observed="before"), "two", NOW, LEASE)
    assert state_machine.start(over, request(observed="one"), "two", NOW, LEASE).id == "two"
    assert state_machine.start(Rollout(), request(observed=""), "two", NOW, LEASE).id == "two"


def test_replicas_that_a_late_command_starts_stay_unwanted() -> None:
    assert images_to_remove(STATES["rolled back"](), NOW) == NEW
    assert images_to_remove(STATES["over"](), NOW + 1801) == OLD
    same = state_machine.start(Rollout(), request(images=OLD), "two", NOW, LEASE)
    back = state_machine.complete_cleanup(state_machine.abort(same, "two", "no", NOW), NOW)
    assert images_to_remove(back, NOW) == {}

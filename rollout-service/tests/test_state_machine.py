"""The state machine: the way through, the ways back, and that whatever is asked twice happens once."""

import json
from collections.abc import Callable

import pytest

from app import state_machine
from app.state_machine import Refused, Rollout, from_json, to_dict
from tests.world import LEASE, NEW, NOW, OLD, at_step, begun, done, promoting, request, verdict

EVERY = {
    "provisioning": begun,
    "canary, before its share is served": lambda: state_machine.provisioned(begun(), "one", NOW),
    "canary 10 %": at_step,
    "canary 50 %": lambda: at_step(1),
    "promoting": promoting,
    "done": done,
}
DRIVEN = {name: make for name, make in EVERY.items() if name != "done"}


def test_the_way_through() -> None:
    state = begun()
    assert (state.phase, state_machine.configuration(state), state.weight) == ("provisioning", "stable", 0)
    state = state_machine.provisioned(state, "one", NOW)
    assert (state.phase, state_machine.configuration(state), state.weight) == ("canary", "canary-10", 0)
    state = state_machine.shifted(state, "canary-10", NOW + 1)
    assert (state.weight, state.shifted_at) == (10, NOW + 1)
    state = state_machine.judged(state, 0, verdict("promote"), NOW + 20)
    assert (state.step, state_machine.configuration(state), state.shifted_at) == (1, "canary-50", 0)
    state = state_machine.shifted(state, "canary-50", NOW + 21)
    state = state_machine.judged(state, 1, verdict("promote"), NOW + 40)
    assert (state.phase, state_machine.configuration(state), state.weight) == ("promoting", "canary-50", 50)
    state = state_machine.promoted(state, "one", NOW + 60)
    assert (state.phase, state_machine.configuration(state), state.outcome) == ("done", "stable", "promoted")
    assert state_machine.shifted(state, "stable", NOW + 61).weight == 0
    state = state_machine.on_time(state, NOW + 60 + 1801)
    assert (state.phase, state.outcome) == ("idle", "promoted")
    assert [note["phase"] for note in state.history] == [
        *("provisioning", "canary", "canary", "canary", "canary", "promoting", "done", "idle")
    ]


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_abort_wins_from_every_state_and_is_asked_twice_without_harm(make: Callable[[], Rollout]) -> None:
    state = state_machine.abort(make(), "an operator", NOW + 1)
    assert (state.phase, state.reason, state.outcome) == ("rolling-back", "an operator", "rolled-back")
    assert state_machine.abort(state, "again", NOW + 2) is state
    for driver in (
        lambda: state_machine.renew(state, "one", NOW, LEASE),
        lambda: state_machine.provisioned(state, "one", NOW),
        lambda: state_machine.promoted(state, "one", NOW),
        lambda: state_machine.begin(state, request(), "two", NOW, LEASE),
    ):
        with pytest.raises(Refused):
            driver()
    assert state_machine.judged(state, state.step, verdict("promote"), NOW) is state


@pytest.mark.parametrize("make", DRIVEN.values(), ids=DRIVEN)
def test_whoever_is_not_heard_of_is_not_in_charge_any_more(make: Callable[[], Rollout]) -> None:
    state = make()
    assert state_machine.on_time(state, NOW + LEASE) == state
    late = state_machine.on_time(state, NOW + LEASE + 1)
    assert (late.phase, late.serving, state_machine.configuration(late)) == ("rolling-back", "stable", "stable")
    assert "ansible" in late.reason
    renewed = state_machine.renew(state, "one", NOW + LEASE, LEASE)
    assert state_machine.on_time(renewed, NOW + 2 * LEASE) == renewed
    with pytest.raises(Refused):
        state_machine.renew(state, "another", NOW, LEASE)


def test_before_the_promotion_everything_new_goes_and_after_it_the_version_before_serves() -> None:
    early = state_machine.abort(promoting(), "no", NOW)
    assert (early.serving, state_machine.wanted_tracks(early)) == ("stable", {"stable"})
    assert state_machine.unwanted_images(early, NOW) == NEW
    assert state_machine.settled(early, NOW).phase == "idle"

    late = state_machine.abort(done(), "no", NOW)
    assert (late.serving, state_machine.configuration(late)) == ("previous", "previous")
    assert (
        state_machine.wanted_tracks(late) == {"stable", "previous"} and state_machine.unwanted_images(late, NOW) == {}
    )
    assert state_machine.settled(late, NOW) is late, "somebody has to bring stable back first"
    restored = state_machine.restored(late, NOW)
    assert (restored.phase, restored.serving, restored.images) == ("rolling-back", "stable", OLD)
    assert state_machine.unwanted_images(restored, NOW) == {}, "stable is of the version before again"
    assert state_machine.settled(restored, NOW).phase == "idle"


def test_an_old_replica_is_unwanted_once_the_driver_of_a_promotion_is_gone() -> None:
    assert state_machine.unwanted_images(done(), NOW) == {}
    assert state_machine.unwanted_images(done(), NOW + LEASE + 1) == OLD
    assert state_machine.renew(done(), "one", NOW + 20, LEASE).lease_until == NOW + 20 + LEASE


def test_a_verdict_counts_for_the_step_it_is_about_and_not_before_its_share_is_served() -> None:
    waiting = state_machine.provisioned(begun(), "one", NOW)
    assert state_machine.judged(waiting, 0, verdict("rollback", "errors"), NOW) is waiting
    first = at_step()
    assert state_machine.judged(first, 1, verdict("rollback", "errors"), NOW) is first
    back = state_machine.judged(first, 0, verdict("rollback", "errors"), NOW)
    assert (back.phase, back.reason) == ("rolling-back", "errors")


def test_waiting_has_an_end() -> None:
    first = at_step()
    held = state_machine.judged(first, 0, verdict("hold", "no-data"), NOW + 100)
    assert (held.phase, held.verdict["reason"]) == ("canary", "no-data")
    over = state_machine.judged(first, 0, verdict("hold", "no-data"), NOW + 101)
    assert over.phase == "rolling-back" and "no-data" in over.reason
    slow = state_machine.renew(begun(), "one", NOW + 100, LEASE)
    assert state_machine.on_time(slow, NOW + 101).phase == "rolling-back"


def test_what_is_said_twice_happens_once() -> None:
    canary = state_machine.provisioned(begun(), "one", NOW)
    assert state_machine.provisioned(canary, "one", NOW + 1) is canary
    assert state_machine.promoted(done(), "one", NOW + 1) == done()
    served = at_step()
    assert state_machine.shifted(served, "canary-10", NOW + 5) == served, "the step began once"
    assert state_machine.shifted(served, "stable", NOW + 5) is served


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": [50, 10]},
        {"steps": [10, 10]},
        {"steps": [0, 50]},
        {"steps": [101]},
        {"bake_seconds": 100, "budget_seconds": 100},
    ],
)
def test_a_rollout_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Refused):
        state_machine.begin(Rollout(), request(**wrong), "one", NOW, LEASE)


def test_both_services_have_to_be_named() -> None:
    with pytest.raises(ValueError, match="transaction-service"):
        request(images={"account-service": "x"})


def test_refusals_say_why() -> None:
    with pytest.raises(Refused, match="deploy the version you want"):
        state_machine.abort(Rollout(), "no", NOW)
    with pytest.raises(Refused, match="provisioning"):
        state_machine.promoted(begun(), "one", NOW)
    with pytest.raises(Refused, match="canary"):
        state_machine.restored(at_step(), NOW)
    with pytest.raises(Refused, match="v2 is under way"):
        state_machine.begin(begun(), request(), "two", NOW, LEASE)
    assert state_machine.begin(done(), request(version="v3"), "two", NOW, LEASE).version == "v3"


@pytest.mark.parametrize("make", [Rollout, *EVERY.values()])
def test_the_state_is_read_as_it_was_written(make: Callable[[], Rollout]) -> None:

    assert from_json(json.dumps(to_dict(make()))) == make()
    with pytest.raises(ValueError, match="phase"):
        from_json('{"phase": "dancing"}')

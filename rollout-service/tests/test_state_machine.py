"""The state machine: promotion, rollbacks, timeouts and idempotence."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from app import state_machine
from app.state_machine import InvalidTransition, Rollout, from_json, to_dict
from tests.fake_stack import (
    AFTER,
    BEFORE,
    LEASE,
    NEW,
    NOW,
    OLD,
    SETTINGS,
    at_step,
    done,
    images_to_remove,
    promoting,
    request,
    started,
    verdict,
)

EVERY = {
    "provisioning": started,
    "canary, before its share is served": lambda: state_machine.complete_provisioning(started(), "one", NOW),
    "canary 10 %": at_step,
    "canary 50 %": lambda: at_step(1),
    "promoting": promoting,
    "done": done,
}
DRIVEN = {name: make for name, make in EVERY.items() if name != "done"}


def test_a_successful_rollout_passes_all_phases() -> None:
    state = started()
    assert (state.phase, state_machine.nginx_configuration(state), state.weight) == ("provisioning", "stable", 0)
    state = state_machine.complete_provisioning(state, "one", NOW)
    assert (state.phase, state_machine.nginx_configuration(state), state.weight) == ("canary", "canary-10", 0)
    state = state_machine.record_traffic(state, "canary-10", NOW + 1)
    assert (state.weight, state.step_started_at) == (10, NOW + 1)
    state = state_machine.apply_verdict(state, 0, verdict("promote"), NOW + 20)
    assert (state.step, state_machine.nginx_configuration(state), state.step_started_at) == (1, "canary-50", 0)
    state = state_machine.record_traffic(state, "canary-50", NOW + 21)
    state = state_machine.apply_verdict(state, 1, verdict("promote"), NOW + 40)
    assert (state.phase, state_machine.nginx_configuration(state), state.weight) == ("promoting", "canary-50", 50)
    state = state_machine.complete_promotion(state, "one", NOW + 60)
    assert (state.phase, state_machine.nginx_configuration(state), state.outcome) == ("done", "stable", "promoted")
    assert state_machine.record_traffic(state, "stable", NOW + 61).weight == 0
    state = state_machine.expire(state, NOW + 60 + 1801)
    assert (state.phase, state.outcome) == ("idle", "promoted")
    assert [note["phase"] for note in state.history] == [
        *("provisioning", "canary", "canary", "canary", "canary", "promoting", "done", "idle")
    ]


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_abort_rolls_back_from_every_phase_and_is_idempotent(make: Callable[[], Rollout]) -> None:
    state = state_machine.abort(make(), "one", "an operator", NOW + 1)
    assert (state.phase, state.reason, state.outcome) == ("rolling-back", "an operator", "rolled-back")
    assert state_machine.abort(state, "one", "again", NOW + 2) is state
    for driver in (
        lambda: state_machine.renew(state, "one", NOW, LEASE),
        lambda: state_machine.complete_provisioning(state, "one", NOW),
        lambda: state_machine.complete_promotion(state, "one", NOW),
        lambda: state_machine.start(state, request(), "two", NOW, LEASE),
    ):
        with pytest.raises(InvalidTransition):
            driver()
    assert state_machine.apply_verdict(state, state.step, verdict("promote"), NOW) is state


@pytest.mark.parametrize("make", DRIVEN.values(), ids=DRIVEN)
def test_an_expired_lease_rolls_back(make: Callable[[], Rollout]) -> None:
    state = make()
    assert state_machine.expire(state, NOW + LEASE) == state
    late = state_machine.expire(state, NOW + LEASE + 1)
    assert (late.phase, late.serving, state_machine.nginx_configuration(late)) == ("rolling-back", "stable", "stable")
    assert "ansible" in late.reason
    renewed = state_machine.renew(state, "one", NOW + LEASE, LEASE)
    assert state_machine.expire(renewed, NOW + 2 * LEASE) == renewed
    with pytest.raises(InvalidTransition):
        state_machine.renew(state, "another", NOW, LEASE)


def test_a_rollback_keeps_stable_before_promotion_and_restores_the_previous_version_after_it() -> None:
    early = state_machine.abort(promoting(), "one", "no", NOW)
    assert (early.serving, state_machine.tracks_to_keep(early)) == ("stable", {"stable"})
    assert images_to_remove(early, NOW) == NEW
    assert state_machine.complete_cleanup(early, NOW).phase == "idle"

    late = state_machine.abort(done(), "one", "no", NOW)
    assert (late.serving, state_machine.nginx_configuration(late)) == ("previous", "previous")
    assert state_machine.tracks_to_keep(late) == {"stable", "previous"} and images_to_remove(late, NOW) == {}
    assert state_machine.complete_cleanup(late, NOW) is late, "stable has to be restored first"
    restored = state_machine.complete_restore(late, "one", NOW)
    assert (restored.phase, restored.serving) == ("rolling-back", "stable")
    assert images_to_remove(restored, NOW) == NEW, "stable runs the previous version again"
    assert state_machine.complete_cleanup(restored, NOW).phase == "idle"


def test_old_images_are_removed_once_the_lease_of_a_promotion_expires() -> None:
    assert images_to_remove(done(), NOW) == {}
    assert images_to_remove(done(), NOW + LEASE + 1) == OLD
    assert state_machine.renew(done(), "one", NOW + 20, LEASE).lease_until == NOW + 20 + LEASE


def test_a_verdict_applies_only_to_its_step_and_only_while_traffic_is_shifted() -> None:
    waiting = state_machine.complete_provisioning(started(), "one", NOW)
    assert state_machine.apply_verdict(waiting, 0, verdict("rollback", "errors"), NOW) is waiting
    first = at_step()
    assert state_machine.apply_verdict(first, 1, verdict("rollback", "errors"), NOW) is first
    back = state_machine.apply_verdict(first, 0, verdict("rollback", "errors"), NOW)
    assert (back.phase, back.reason) == ("rolling-back", "errors")


def test_a_step_times_out() -> None:
    first = at_step()
    held = state_machine.apply_verdict(first, 0, verdict("hold", "no-data"), NOW + 100)
    assert (held.phase, held.verdict["reason"]) == ("canary", "no-data")
    over = state_machine.apply_verdict(first, 0, verdict("hold", "no-data"), NOW + 101)
    assert over.phase == "rolling-back" and "no-data" in over.reason
    slow = state_machine.renew(started(), "one", NOW + 100, LEASE)
    assert state_machine.expire(slow, NOW + 101).phase == "rolling-back"


def test_commands_are_idempotent() -> None:
    canary = state_machine.complete_provisioning(started(), "one", NOW)
    assert state_machine.complete_provisioning(canary, "one", NOW + 1) is canary
    assert state_machine.complete_promotion(done(), "one", NOW + 1) == done()
    served = at_step()
    assert state_machine.record_traffic(served, "canary-10", NOW + 5) == served, "the step began once"
    assert state_machine.record_traffic(served, "stable", NOW + 5) is served


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": [50, 10]},
        {"steps": [10, 10]},
        {"steps": [0, 50]},
        {"steps": [101]},
        {"bake_seconds": 100, "step_timeout_seconds": 100},
    ],
)
def test_an_invalid_rollout_is_rejected(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidTransition):
        state_machine.start(Rollout(), request(**wrong), "one", NOW, LEASE)


def test_both_services_are_required() -> None:
    with pytest.raises(ValueError, match="transaction-service"):
        request(images={"account-service": "x"})


def test_rejections_give_the_reason() -> None:
    with pytest.raises(InvalidTransition, match="deploy the version you want"):
        state_machine.abort(Rollout(), "current", "no", NOW)
    with pytest.raises(InvalidTransition, match="provisioning"):
        state_machine.complete_promotion(started(), "one", NOW)
    with pytest.raises(InvalidTransition, match="canary"):
        state_machine.complete_restore(at_step(), "one", NOW)
    with pytest.raises(InvalidTransition, match="v2 is in progress"):
        state_machine.start(started(), request(), "two", NOW, LEASE)
    assert state_machine.start(done(), request(version="v3"), "two", NOW, LEASE).version == "v3"


@pytest.mark.parametrize("make", [Rollout, *EVERY.values()])
def test_the_state_survives_serialization(make: Callable[[], Rollout]) -> None:

    assert from_json(json.dumps(to_dict(make()))) == make()
    with pytest.raises(ValueError, match="phase"):
        from_json('{"phase": "dancing"}')


def test_a_state_of_an_earlier_release_is_read_under_the_old_names() -> None:
    old = {
        "step_timeout_seconds": "budget_seconds",
        "scale_down_delay_seconds": "warm_seconds",
        "step_started_at": "shifted_at",
    }
    stored = {old.get(name, name): value for name, value in to_dict(at_step()).items()}
    assert from_json(json.dumps(stored)) == at_step() and at_step().step_started_at


def test_the_previous_version_stays_while_a_driver_is_still_draining() -> None:
    state = replace(done(), scale_down_delay_seconds=0, lease_until=NOW + LEASE)
    assert state_machine.expire(state, NOW + LEASE).phase == "done"
    assert state_machine.expire(state, NOW + LEASE + 1).phase == "idle"


def test_a_version_is_an_image_and_a_revision() -> None:
    withdrawn = state_machine.abort(promoting(**SETTINGS), "one", "no", NOW)
    found = state_machine.versions_to_remove(withdrawn, NOW)["account-service"]
    image = OLD["account-service"]
    # Replicas without a revision are those of an earlier release, and so not of the new version.
    assert [found.includes(image, one) for one in ("2" * 64, "1" * 64, "")] == [True, False, False]
    assert not found.includes(NEW["account-service"], "2" * 64)
    assert state_machine.versions_to_remove(done(**SETTINGS), NOW + LEASE + 1)["account-service"].revisions == {
        "1" * 64,
        "",
    }
    same = done(**{**SETTINGS, "revisions": BEFORE})
    assert state_machine.versions_to_remove(same, NOW + LEASE + 1) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"revisions": AFTER},
        {"revisions": AFTER, "previous_revisions": {"account-service": "1" * 64}},
        *(
            {"revisions": AFTER | {"account-service": bad}, "previous_revisions": BEFORE}
            for bad in ("", "1" * 63, "1" * 65, "A" * 64, "1" * 64 + "\n", "../" + "1" * 61, 1)
        ),
    ],
)
def test_revisions_have_a_strict_form_and_are_given_for_both_services(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="revisions"):
        request(**changes)
    assert started(**SETTINGS).revisions == AFTER

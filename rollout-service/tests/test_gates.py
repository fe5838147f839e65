"""Approvals between steps, and the rollout that skips the analysis."""

import pytest

from app import state_machine
from app.api import public_view
from app.notify import message
from app.readiness import missing_canaries
from app.state_machine import InvalidTransition, Rollout
from tests.fake_stack import LEASE, NOW, at_step, others, request, started, verdict


def waiting() -> Rollout:
    return state_machine.apply_verdict(at_step(gates=[10]), 0, verdict("promote"), NOW + 20)


def test_a_healthy_step_waits_for_its_approval() -> None:
    state = waiting()
    assert (state.phase, state.step, state.waiting_since) == ("canary", 0, NOW + 20)
    assert state.history[-1]["reason"] == "waiting for approval at 10 %"
    assert public_view(state)["waiting_for_approval"] is True
    assert message(state, state.history[-1])["attachments"][0]["color"] == "danger"
    held = state_machine.apply_verdict(state, 0, verdict("promote"), NOW + 30)
    assert (held.waiting_since, len(held.history)) == (NOW + 20, len(state.history)), "notified once"
    # Stable's lack of traffic at night is no reason to roll back what has been found healthy.
    assert state_machine.apply_verdict(held, 0, verdict("hold", "no-data"), NOW + 500).phase == "canary"
    approved = state_machine.approve(held, "one", 10, "alice", NOW + 600)
    assert approved.history[-1]["reason"] == "approved at 10 % by alice"
    assert state_machine.approve(approved, "one", 10, "bob", NOW + 601) is approved
    assert state_machine.apply_verdict(approved, 0, verdict("hold", "no-data"), NOW + 690).phase == "canary"
    assert state_machine.apply_verdict(approved, 0, verdict("hold", "no-data"), NOW + 701).phase == "rolling-back"
    left = state_machine.apply_verdict(approved, 0, verdict("promote"), NOW + 602)
    assert (left.step, left.waiting_since, left.approved_at) == (1, 0, 0)


def test_a_gate_at_the_last_step_holds_the_promotion() -> None:
    state = state_machine.apply_verdict(at_step(1, gates=[50]), 1, verdict("promote"), NOW)
    assert (state.phase, state.waiting_since) == ("canary", NOW)
    state = state_machine.approve(state, "current", 50, "alice", NOW)
    assert state_machine.apply_verdict(state, 1, verdict("promote"), NOW).phase == "promoting"


def test_a_canary_that_turns_bad_at_a_gate_is_rolled_back() -> None:
    state = state_machine.apply_verdict(waiting(), 0, verdict("rollback", "errors"), NOW + 100)
    assert (state.phase, state.waiting_since) == ("rolling-back", 0)


def test_an_approval_that_never_comes_is_a_rollback() -> None:
    state = state_machine.renew(waiting(), "one", NOW + 4000, LEASE)
    assert state_machine.expire(state, NOW + 20 + 3600) is state
    late = state_machine.expire(state, NOW + 20 + 3601)
    assert (late.phase, late.reason) == ("rolling-back", "not approved within 3600 s")


@pytest.mark.parametrize(("state", "weight"), [(at_step(gates=[10]), 10), (waiting(), 50), (at_step(), 10)])
def test_only_the_gate_that_waits_is_approved(state: Rollout, weight: int) -> None:
    with pytest.raises(InvalidTransition, match=f"not waiting for approval at {weight} %"):
        state_machine.approve(state, "one", weight, "alice", NOW)


@pytest.mark.parametrize("wrong", [{"gates": [20]}, {"gates": [10], "skip_analysis": "outage"}])
def test_gates_without_a_step_are_rejected(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidTransition, match="gates"):
        started(**wrong)


def test_an_emergency_deployment_skips_the_analysis_loudly_but_not_the_health_checks() -> None:
    state = started(skip_analysis="login is down")
    canaries = others("canary", "b", healthy=False)
    assert len(missing_canaries(state, canaries, state.canaries)) == 2
    state = state_machine.complete_provisioning(state, "one", NOW)
    assert (state.phase, state_machine.nginx_configuration(state)) == ("promoting", "stable")
    assert state_machine.record_traffic(state, "stable", NOW).weight == 0
    event = state.history[-1]
    assert event["reason"] == "WITHOUT ANALYSIS: login is down" and event["urgent"]
    assert message(state, event)["attachments"][0]["color"] == "danger"
    assert public_view(state)["analysis_skipped"] is True
    assert state_machine.expire(state, NOW + LEASE + 1).phase == "rolling-back", "it is driven as any other"
    done = state_machine.complete_promotion(state, "one", NOW)
    assert (done.phase, done.skip_analysis) == ("done", "login is down")
    assert request(skip_analysis=" ").skip_analysis.strip() == ""

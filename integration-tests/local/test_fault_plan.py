"""The plan of the drill `faults`."""

from drills.chaos.fault_plan import KINDS, make_plan


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    plan, same, other = (make_plan(seed, 50, 1000, list(KINDS)) for seed in (7, 7, 8))
    assert plan == same and plan.digest == same.digest
    assert plan.faults != other.faults and plan.requests != other.requests


def test_a_plan_has_the_requested_size():
    plan = make_plan(1, 60, 1001, list(KINDS))
    assert (len(plan.faults), plan.transfers) == (60, 1001)
    assert {fault.kind for fault in plan.faults} == set(KINDS)
    assert {request.kind for client in plan.requests for request in client} > {"transfer", "batch", "hold", "reversal"}
    assert not plan.faults[-1].overlaps, "the last one would never be repaired"
    for first, second in zip(plan.faults, plan.faults[1:]):
        if first.overlaps:
            assert not {first.target, first.peer} & {second.target, second.peer} - {""}


def test_unavailable_kinds_of_faults_are_not_planned():
    assert {fault.kind for fault in make_plan(1, 40, 10, ["kill", "freeze"]).faults} == {"kill", "freeze"}

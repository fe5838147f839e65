"""A short fault drill on the composed stack; the long one, with disks and clocks, is `make drills DRILL=faults`."""

import pytest
from harness.composed_stack import ComposedBank
from drills.chaos.fault_injector import FaultInjector
from drills.chaos.fault_plan import make_plan
from drills.chaos.faults import REPAIR_TIMEOUT_SECONDS, print_plan, print_result, run

pytestmark = pytest.mark.usefixtures("autoscaler_rests")


def test_random_faults_lose_and_duplicate_no_transfer(bank: ComposedBank):
    injector = FaultInjector(bank)
    plan = make_plan(3, 8, 600, injector.kinds)
    print_plan(plan, injector)
    # The time of a recovery is a threshold of the drill.
    result = run(injector, plan, max_recovery_seconds=REPAIR_TIMEOUT_SECONDS)
    print_result(plan, result)
    assert result.violations == []

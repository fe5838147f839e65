"""A short fault drill on the composed stack; the long one, with disks and clocks, is `make drills DRILL=faults`."""

import pytest
from harness.composed_stack import ComposedBank
from drills.chaos.faults import PATIENCE_SECONDS, FaultInjector, conclude, make_plan, run, show

pytestmark = pytest.mark.usefixtures("autoscaler_rests")


def test_random_faults_lose_and_duplicate_no_transfer(bank: ComposedBank):
    lab = FaultInjector(bank)
    plan = make_plan(3, 8, 600, lab.kinds)
    show(plan, lab)
    # The time of a recovery is a threshold of the drill.
    result = run(lab, plan, recovery_seconds=PATIENCE_SECONDS)
    conclude(plan, result)
    assert result.findings == []

"""The autoscaling drill reports a missed threshold as a result, not as a crash."""

import math

import pytest
from drills.autoscaling.autoscale import REPLICAS_NEEDED, becomes_true, milestones, missed


@pytest.mark.parametrize("before", range(REPLICAS_NEEDED + 2))
@pytest.mark.parametrize("new", range(REPLICAS_NEEDED + 2))
def test_milestones_for_any_number_of_replicas_at_the_load_step(before: int, new: int) -> None:
    started = [float(n) for n in range(new)]
    served = [float(n) for n in range(before + new)]
    found = milestones(before, started, served)
    assert found["first new container started"] == (0.0 if new else None)
    assert found["first request served by a new replica"] == (float(before) if new else None)
    assert found[f"{REPLICAS_NEEDED} replicas serving"] == (
        REPLICAS_NEEDED - 1.0 if before + new >= REPLICAS_NEEDED else None
    )


def test_missed_thresholds_are_reported() -> None:
    assert missed(19, True, 0) == []
    late, high, failed = missed(math.inf, False, 2)
    assert "never within 180 s, threshold 20 s" in late and "did not scale down" in high and failed.startswith("2 ")
    assert missed(20.3, True, 0) == ["enough replicas served after 20.3 s, threshold 20 s"]


def test_a_condition_that_times_out_is_no_error() -> None:
    assert not becomes_true(0, lambda: False)
    assert becomes_true(1, lambda: True)

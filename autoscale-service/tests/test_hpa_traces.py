"""The policy decides like Kubernetes' HorizontalPodAutoscaler in its own unit tests.

Each trace names its test in kubernetes/kubernetes, pkg/controller/podautoscaler: R is replica_calculator_test.go, H is
horizontal_test.go. Not included: scaling from zero, and the rule for CPU that an unmeasured pod counts as using its
whole request when scaling down; here it counts as loaded to the target, as for the other metrics.
"""

import pytest

from app.policy import (
    History,
    MetricValue,
    Observation,
    ScaleEvent,
    ScalingPolicy,
    ScalingSpec,
    TimestampedRecommendation,
    decide,
    propose,
    stabilize,
)

NOW = 10_000.0
TOLERANCE = 0.1


@pytest.mark.parametrize(
    ("trace", "current", "ready", "levels", "target", "expected"),
    [
        ("R ScaleUp", 3, 3, [300, 500, 700], 300, 5),
        ("R ScaleUpUnreadyLessScale", 3, 2, [500, 700], 300, 4),
        ("R ScaleUpHotCpuLessScale", 3, 2, [500, 700], 300, 4),
        ("R ScaleUpUnreadyNoScale", 3, 1, [400], 300, 3),
        ("R ScaleHotCpuNoScale", 3, 1, [400], 300, 3),
        ("R ScaleUpIgnoresFailedPods", 2, 2, [500, 700], 300, 4),
        ("R ScaleUpCM", 3, 3, [20000, 10000, 30000], 15000, 4),
        ("R ScaleUpCMUnreadyHotCpuNoLessScale (measured, so it counts)", 3, 2, [50000, 10000, 30000], 15000, 6),
        ("R ScaleUpCMUnreadyHotCpuScaleWouldScaleDown", 3, 1, [50000, 15000, 30000], 15000, 7),
        ("R ScaleUpCMObject", 3, 3, [20000] * 3, 15000, 4),
        ("R ScaleUpCMExternal", 1, 1, [8600], 4400, 2),
        ("R ScaleDown", 5, 5, [100, 300, 500, 250, 250], 500, 3),
        ("R ScaleDownCM", 5, 5, [12000] * 5, 20000, 3),
        ("R ScaleDownIncludeUnreadyPods", 5, 3, [100, 300, 500], 500, 2),
        ("R ScaleDownExcludeUnscheduledPods", 5, 1, [100], 500, 1),
        ("R ScaleDownIgnoreHotCpuPods", 5, 3, [100, 300, 500], 500, 2),
        ("R Tolerance", 3, 3, [1010, 1030, 1020], 1000, 3),
        ("R ToleranceCM", 3, 3, [20000, 21000, 21000], 20000, 3),
        ("R ToleranceCMExternal", 3, 3, [8600] * 3, 8888, 3),
        ("R MissingMetrics", 4, 4, [400, 95], 1000, 3),
        ("R MissingMetricsNoChangeEq", 2, 2, [1000], 1000, 2),
        ("R MissingMetricsNoChangeGt", 2, 2, [1900], 1000, 2),
        ("R MissingMetricsNoChangeLt", 2, 2, [600], 1000, 2),
        ("R MissingMetricsUnreadyChange", 3, 2, [450], 500, 3),
        ("R MissingMetricsUnreadyScaleUp", 3, 2, [2000], 500, 4),
        ("R ComputedToleranceAlgImplementation, just over the tolerance", 10, 10, [150] * 10, 0.565 * 300, 9),
        ("R ComputedToleranceAlgImplementation, just within", 10, 10, [150] * 10, 0.5 * 1.11 * 300, 10),
    ],
)
def test_proposals(trace: str, current: int, ready: int, levels: list[float], target: float, expected: int) -> None:
    load = MetricValue(sum(levels) / len(levels), target)
    assert propose(load, current, ready, len(levels), TOLERANCE) == expected, trace


@pytest.mark.parametrize(
    ("trace", "earlier", "current", "proposal", "windows", "expected"),
    [
        ("H Normalize empty log", [], 100, 5, (0, 300), 5),
        ("H Normalize stabilize", [(4, 120), (5, 60)], 100, 3, (0, 300), 5),
        ("H Normalize no stabilize", [(1, 120), (2, 60)], 100, 3, (0, 300), 3),
        ("H Normalize old recommendations", [(10, 600), (9, 540)], 100, 3, (0, 300), 3),
        ("H Normalize some are old", [(10, 600), (4, 60), (5, 120), (9, 540)], 100, 3, (0, 300), 5),
        ("H Behavior simple scale down", [(4, 120), (5, 60)], 100, 3, (0, 180), 5),
        ("H Behavior simple scale up", [(4, 120), (5, 60)], 1, 7, (300, 0), 4),
        ("H Behavior no scale down window", [(1, 120), (2, 60)], 100, 3, (300, 0), 3),
        ("H Behavior no scale up window", [(4, 120), (5, 60)], 1, 3, (0, 300), 3),
        ("H Behavior scale down, some obsolete", [(10, 600), (4, 60), (5, 120), (9, 540)], 100, 3, (0, 180), 5),
        ("H Behavior scale up, some obsolete", [(10, 6000), (6, 60), (5, 120), (9, 180)], 1, 100, (300, 0), 5),
    ],
)
def test_stabilization(
    trace: str,
    earlier: list[tuple[int, int]],
    current: int,
    proposal: int,
    windows: tuple[int, int],
    expected: int,
) -> None:
    spec = ScalingSpec(1, 1000, scale_up_stabilization_seconds=windows[0], scale_down_stabilization_seconds=windows[1])
    history = [TimestampedRecommendation(NOW - age, replicas) for replicas, age in earlier]
    assert stabilize(proposal, current, history, spec, NOW) == expected, trace


def spread(changes: list[int], period: int) -> tuple[ScaleEvent, ...]:
    """Return changes at the centres of equal parts of the period, as generateEventsUniformDistribution does."""
    part = period / len(changes)
    return tuple(ScaleEvent(NOW - (period - part * (index + 0.5)), change) for index, change in enumerate(changes))


@pytest.mark.parametrize(
    ("trace", "bounds", "rate", "changes", "current", "wanted", "expected", "reason"),
    [
        ("H within range", (3, 8), ScalingPolicy(4, 100, 60), [], 5, 7, 7, "above-target"),
        ("H < minReplicas", (2, 8), ScalingPolicy(0, 100, 60), [], 3, 1, 2, "at-minimum"),
        ("H more than maxReplicas", (1, 10), ScalingPolicy(4, 100, 60), [], 20, 1000, 10, "above-maximum"),
        ("H desired over the maximum", (100, 150), ScalingPolicy(4, 100, 60), [], 100, 1000, 150, "at-maximum"),
        ("H scaleUpLimit < maxReplicas", (1, 2000), ScalingPolicy(0, 1, 60), [], 3, 1000, 4, "rate-limited"),
        ("H scaleDownLimit > minReplicas", (3, 2000), ScalingPolicy(20, 0, 60), [], 1000, 3, 980, "rate-limited"),
        ("H default behavior", (1, 1000), ScalingPolicy(4, 100, 60), [], 10, 50, 20, "rate-limited"),
        ("H pods larger than percent", (1, 1000), ScalingPolicy(100, 100, 60), [], 10, 500, 110, "rate-limited"),
        ("H percent larger than pods", (1, 1000), ScalingPolicy(2, 100, 60), [], 10, 500, 20, "rate-limited"),
        ("H large pod policy", (1, 1000), ScalingPolicy(100, 0, 60), [], 10, 50, 50, "above-target"),
        ("H pod policy limitation", (1, 1000), ScalingPolicy(30, 0, 60), [], 10, 50, 40, "rate-limited"),
        ("H percent policy limitation", (1, 1000), ScalingPolicy(0, 200, 60), [], 10, 50, 30, "rate-limited"),
        ("H down: pods larger than percent", (1, 1000), ScalingPolicy(20, 1, 60), [], 100, 2, 80, "rate-limited"),
        ("H down: percent policy of 1", (1, 1000), ScalingPolicy(2, 1, 60), [], 100, 2, 98, "rate-limited"),
        ("H down: to the minimum of 1", (1, 1000), ScalingPolicy(100, 0, 60), [], 10, 0, 1, "at-minimum"),
        ("H down: minimum with large percent", (5, 1000), ScalingPolicy(0, 100, 60), [], 10, 2, 5, "at-minimum"),
        ("H down: pod policy limitation", (1, 1000), ScalingPolicy(5, 0, 60), [], 10, 2, 5, "rate-limited"),
        ("H down: percent policy fits", (1, 1000), ScalingPolicy(0, 50, 60), [], 10, 5, 5, "below-target"),
        ("H events, maximum with pods", (1, 200), ScalingPolicy(300, 0, 60), [1, 5, 9], 100, 500, 200, "at-maximum"),
        ("H events, too many already", (1, 1000), ScalingPolicy(5, 0, 120), [1, 5, 9], 100, 500, 100, "rate-limited"),
        ("H events, pod policy", (1, 1000), ScalingPolicy(150, 0, 120), [1, 5, 9], 100, 500, 235, "rate-limited"),
        ("H events, percent policy", (1, 1000), ScalingPolicy(0, 200, 120), [1, 5, 9], 100, 500, 255, "rate-limited"),
        ("H down events, minimum", (5, 1000), ScalingPolicy(130, 0, 120), [-1, -5, -9], 100, 0, 5, "at-minimum"),
        ("H down events, pod policy", (1, 1000), ScalingPolicy(5, 0, 120), [-1, -5, -9], 100, 2, 100, "rate-limited"),
        (
            "H down events, percent policy",
            (1, 1000),
            ScalingPolicy(0, 50, 120),
            [-2, -4, -6],
            100,
            0,
            56,
            "rate-limited",
        ),
        (
            "H down events prevent more",
            (1, 1000),
            ScalingPolicy(0, 10, 120),
            [-10, -10, -10],
            100,
            0,
            100,
            "rate-limited",
        ),
        ("H down events below zero", (1, 1000), ScalingPolicy(0, 1000, 120), [-10, -10, -10], 10, 5, 5, "below-target"),
        (
            "H events partly outdated",
            (1, 1000),
            ScalingPolicy(1000, 0, 60),
            [8, 12, 9, 11],
            100,
            200,
            200,
            "above-target",
        ),
    ],
)
def test_bounds_and_rates(
    trace: str,
    bounds: tuple[int, int],
    rate: ScalingPolicy,
    changes: list[int],
    current: int,
    wanted: int,
    expected: int,
    reason: str,
) -> None:
    spec = ScalingSpec(*bounds, scale_down_stabilization_seconds=0, up=rate, down=rate)
    history = History((), spread(changes, 120) if changes else ())
    observation = Observation(current, current, current, {"requests_per_second": MetricValue(wanted / current, 1)})
    decision = decide(observation, spec, history, NOW)
    assert (decision.proposal, decision.desired, decision.reason) == (wanted, expected, reason), trace

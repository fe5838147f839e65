"""The policy beyond Kubernetes' traces: missing metrics, alerts without metrics, and bounds."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.policy import (
    Decision,
    History,
    MetricValue,
    Observation,
    ScaleEvent,
    ScalingPolicy,
    ScalingSpec,
    TimestampedRecommendation,
    decide,
    up_limit,
)

NOW = 10_000.0
SPEC = ScalingSpec(2, 8)
LOW, HIGH = MetricValue(10, 100), MetricValue(400, 100)


def decided(observation: Observation, history: History = History(), spec: ScalingSpec = SPEC) -> Decision:
    return decide(observation, spec, history, NOW)


def test_the_largest_of_several_proposals_wins() -> None:
    metrics = {"requests_per_second": MetricValue(50, 100), "cpu_cores": MetricValue(0.9, 0.6)}
    assert decided(Observation(4, 4, 4, metrics)).desired == 6


@pytest.mark.parametrize(
    "missing", [None, MetricValue(math.nan, 1), MetricValue(math.inf, 1), MetricValue(1, 0), MetricValue(-1, 1)]
)
def test_a_missing_metric_never_scales_down(missing: MetricValue | None) -> None:
    decision = decided(Observation(4, 4, 4, {"requests_per_second": LOW, "cpu_cores": missing}))
    assert (decision.desired, decision.reason) == (4, "metric-missing")


def test_a_missing_metric_does_not_prevent_scaling_up() -> None:
    assert decided(Observation(2, 2, 2, {"requests_per_second": HIGH, "cpu_cores": None})).desired == 6


def test_without_metrics_only_an_alert_scales_up_one_at_a_time() -> None:
    blind: dict[str, MetricValue | None] = {"requests_per_second": None, "cpu_cores": None}
    assert decided(Observation(4, 4, 0, blind)).reason == "no-metrics"
    decision = decided(Observation(4, 4, 0, blind, alert=True))
    assert (decision.desired, decision.reason) == (5, "alert-without-metrics")
    just = History((), (ScaleEvent(NOW - 59, 1),))
    assert decided(Observation(5, 5, 0, blind, alert=True), just).desired == 5
    assert decided(Observation(5, 5, 0, blind, alert=True), History((), (ScaleEvent(NOW - 61, 1),))).desired == 6
    assert decided(Observation(5, 4, 0, blind, alert=True)).desired == 5, "the last one is not ready yet"
    assert decided(Observation(8, 8, 0, blind, alert=True)).reason == "at-maximum"
    assert decided(Observation(12, 12, 0, blind)).desired == 12, "not even over the maximum"


def test_a_stopped_service_stays_stopped() -> None:
    assert decided(Observation(0, 0, 0, {"requests_per_second": HIGH}, alert=True)) == Decision(0, 0, "stopped")


@pytest.mark.parametrize(
    ("current", "metrics", "alert", "proposal"),
    [
        (4, {"requests_per_second": HIGH}, True, 16),
        (4, {"requests_per_second": LOW}, False, 1),
        # What is unknown is not proposed to go, cluster as elsewhere.
        (4, {"requests_per_second": LOW, "cpu_cores": None}, False, 4),
        (4, {"requests_per_second": None}, True, None),
        (1, {"requests_per_second": None}, False, None),
        (12, {"requests_per_second": LOW}, False, 2),
    ],
)
def test_during_an_update_nothing_changes(
    current: int, metrics: dict[str, MetricValue | None], alert: bool, proposal: int | None
) -> None:
    decision = decided(Observation(current, current, current, metrics, alert, updating=True))
    assert decision == Decision(current, current, "updating", proposal) and decision.pending


def test_the_minimum_applies_without_metrics() -> None:
    assert decided(Observation(1, 1, 0, {"requests_per_second": None})).desired == 2


def test_starting_replicas_are_not_requested_twice() -> None:
    # Two replicas at four times the target with six starting: the same load requests no more.
    assert decided(Observation(2, 2, 2, {"requests_per_second": HIGH})).desired == 6
    waiting = decided(Observation(8, 2, 2, {"requests_per_second": HIGH}))
    assert (waiting.desired, waiting.reason) == (8, "on-target")


counts = st.integers(0, 30)
numbers = st.one_of(st.floats(), st.floats(0, 1e6))
histories = st.builds(
    History,
    st.lists(st.builds(TimestampedRecommendation, st.floats(NOW - 400, NOW), counts), max_size=5).map(tuple),
    st.lists(st.builds(ScaleEvent, st.floats(NOW - 400, NOW), st.integers(-9, 9)), max_size=5).map(tuple),
    st.just(-math.inf) | st.floats(NOW - 400, NOW),
)
specs = st.builds(
    ScalingSpec,
    st.integers(1, 5),
    st.integers(5, 12),
    scale_up_stabilization_seconds=st.sampled_from([0.0, 120.0]),
    scale_down_stabilization_seconds=st.sampled_from([0.0, 300.0]),
)
sights = st.builds(
    Observation,
    counts,
    counts,
    counts,
    st.dictionaries(
        st.sampled_from(["requests_per_second", "cpu_cores"]), st.none() | st.builds(MetricValue, numbers, numbers)
    ),
    st.booleans(),
    st.booleans(),
    st.lists(st.builds(MetricValue, numbers, numbers), max_size=2).map(tuple),
)


def test_an_overload_of_the_panic_window_scales_at_once() -> None:
    # The stable metric lags behind, and lower proposals are in a scale-up stabilization window.
    steady, burst = {"requests_per_second": MetricValue(70, 100)}, (MetricValue(280, 100),)
    spec = ScalingSpec(2, 8, scale_up_stabilization_seconds=120)
    earlier = History((TimestampedRecommendation(NOW - 60, 2),))
    assert decided(Observation(2, 2, 2, steady), earlier, spec).desired == 2
    decision = decided(Observation(2, 2, 2, steady, panic=burst), earlier, spec)
    assert (decision.desired, decision.reason, decision.proposal, decision.pending) == (6, "panic", 6, True)
    # Starting replicas are not requested twice, and policies and bounds still apply.
    assert decided(Observation(6, 2, 2, steady, panic=burst), earlier, spec).desired == 6
    slow = ScalingSpec(2, 8, up=ScalingPolicy(1, 0, 60))
    assert decided(Observation(2, 2, 2, steady, panic=burst), spec=slow) == Decision(2, 3, "rate-limited", 6)
    assert decided(Observation(2, 2, 2, steady, panic=(MetricValue(2000, 100),)), spec=ScalingSpec(2, 5)).desired == 5


@pytest.mark.parametrize(("level", "threshold", "desired"), [(199, 2, 2), (200, 2, 4), (400, 0, 2), (math.nan, 2, 2)])
def test_panic_mode_starts_at_its_threshold(level: float, threshold: float, desired: int) -> None:
    observation = Observation(2, 2, 2, {"requests_per_second": MetricValue(100, 100)}, panic=(MetricValue(level, 100),))
    assert decided(observation, spec=ScalingSpec(2, 8, panic_threshold=threshold)).desired == desired


def test_nothing_is_scaled_down_until_the_load_has_been_lower_for_a_while() -> None:
    spec = ScalingSpec(2, 8, scale_down_stabilization_seconds=0)
    observation = Observation(6, 6, 6, {"requests_per_second": LOW}, panic=(LOW,))
    held = decided(observation, History().with_overload(NOW - 59), spec)
    assert (held.desired, held.reason, held.pending) == (6, "panic", True)
    assert decided(observation, History().with_overload(NOW - 60), spec).direction == "down"


@given(sights, histories, specs)
def test_panic_mode_never_scales_down_and_exceeds_neither_policy_nor_maximum(
    observation: Observation, history: History, spec: ScalingSpec
) -> None:
    decision = decide(observation, spec, history, NOW)
    if observation.overload(spec) is not None or history.overloaded_at > NOW - spec.panic_duration_seconds:
        assert decision.direction != "down"
    if decision.direction == "up" and decision.reason == "panic":
        assert decision.desired <= up_limit(observation.current, history.changes, spec.up, NOW)
        assert decision.desired <= spec.maximum


@given(sights, histories, specs)
def test_without_an_overload_the_decision_is_that_of_kubernetes(
    observation: Observation, history: History, spec: ScalingSpec
) -> None:
    calm = replace(history, overloaded_at=-math.inf)
    decision = decide(replace(observation, panic=()), spec, calm, NOW)
    if observation.overload(spec) is None:
        assert decide(observation, spec, calm, NOW) == decision
    assert decide(observation, replace(spec, panic_threshold=0), calm, NOW) == decision
    if decision.reason != "alert-without-metrics":
        assert decide(observation, spec, calm, NOW).desired >= decision.desired


@given(sights, histories, st.integers(1, 5), st.integers(5, 12))
def test_every_decision_is_within_bounds_and_never_scales_down_without_metrics(
    observation: Observation, history: History, minimum: int, maximum: int
) -> None:
    decision = decide(observation, ScalingSpec(minimum, maximum), history, NOW)
    if decision.direction == "up":
        assert decision.desired <= maximum and observation.current > 0
    elif decision.direction == "down":
        assert decision.desired >= minimum
        assert (
            all(load is not None and load.usable for load in observation.metrics.values())
            or observation.current > maximum
        )
        assert any(load is not None and load.usable for load in observation.metrics.values())

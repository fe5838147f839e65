"""What the policy promises beyond Kubernetes' traces: missing metrics, alerts alone, and every decision in bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.policy import Decision, Entry, History, Load, Rules, Sight, decide

NOW = 10_000.0
RULES = Rules(2, 8)
LOW, HIGH = Load(10, 100), Load(400, 100)


def decided(sight: Sight, history: History = History(), rules: Rules = RULES) -> Decision:
    return decide(sight, rules, history, NOW)


def test_the_largest_of_several_proposals_wins() -> None:
    loads = {"requests_per_second": Load(50, 100), "cpu_cores": Load(0.9, 0.6)}
    assert decided(Sight(4, 4, 4, loads)).desired == 6


@pytest.mark.parametrize("missing", [None, Load(math.nan, 1), Load(math.inf, 1), Load(1, 0), Load(-1, 1)])
def test_a_missing_metric_never_takes_replicas_away(missing: Load | None) -> None:
    decision = decided(Sight(4, 4, 4, {"requests_per_second": LOW, "cpu_cores": missing}))
    assert (decision.desired, decision.reason) == (4, "metric-missing")


def test_a_missing_metric_does_not_keep_the_other_from_bringing_replicas() -> None:
    assert decided(Sight(2, 2, 2, {"requests_per_second": HIGH, "cpu_cores": None})).desired == 6


def test_without_metrics_only_an_alert_raises_the_number_and_one_by_one() -> None:
    blind: dict[str, Load | None] = {"requests_per_second": None, "cpu_cores": None}
    assert decided(Sight(4, 4, 0, blind)).reason == "no-metrics"
    decision = decided(Sight(4, 4, 0, blind, alert=True))
    assert (decision.desired, decision.reason) == (5, "alert-without-metrics")
    just = History((), (Entry(NOW - 59, 1),))
    assert decided(Sight(5, 5, 0, blind, alert=True), just).desired == 5
    assert decided(Sight(5, 5, 0, blind, alert=True), History((), (Entry(NOW - 61, 1),))).desired == 6
    assert decided(Sight(5, 4, 0, blind, alert=True)).desired == 5, "the last one is not ready yet"
    assert decided(Sight(8, 8, 0, blind, alert=True)).reason == "at-maximum"
    assert decided(Sight(12, 12, 0, blind)).desired == 12, "not even over the maximum"


def test_a_service_that_somebody_stopped_stays_stopped() -> None:
    assert decided(Sight(0, 0, 0, {"requests_per_second": HIGH}, alert=True)) == Decision(0, 0, "stopped")


@pytest.mark.parametrize(
    ("current", "loads", "alert", "proposal"),
    [
        (4, {"requests_per_second": HIGH}, True, 16),
        (4, {"requests_per_second": LOW}, False, 1),
        # What is unknown is not proposed to go, here as elsewhere.
        (4, {"requests_per_second": LOW, "cpu_cores": None}, False, 4),
        (4, {"requests_per_second": None}, True, None),
        (1, {"requests_per_second": None}, False, None),
        (12, {"requests_per_second": LOW}, False, 2),
    ],
)
def test_while_a_new_version_comes_in_nothing_changes(
    current: int, loads: dict[str, Load | None], alert: bool, proposal: int | None
) -> None:
    decision = decided(Sight(current, current, current, loads, alert, rolling=True))
    assert decision == Decision(current, current, "rolling", proposal) and decision.pending


def test_the_minimum_holds_without_metrics_too() -> None:
    assert decided(Sight(1, 1, 0, {"requests_per_second": None})).desired == 2


def test_replicas_that_start_are_not_capacity_and_are_not_asked_for_twice() -> None:
    # Two carry four times their target: six more are on the way, and the same load asks for no more.
    assert decided(Sight(2, 2, 2, {"requests_per_second": HIGH})).desired == 6
    waiting = decided(Sight(8, 2, 2, {"requests_per_second": HIGH}))
    assert (waiting.desired, waiting.reason) == (8, "on-target")


counts = st.integers(0, 30)
numbers = st.one_of(st.floats(), st.floats(0, 1e6))
histories = st.builds(
    History,
    st.lists(st.builds(Entry, st.floats(NOW - 400, NOW), counts), max_size=5).map(tuple),
    st.lists(st.builds(Entry, st.floats(NOW - 400, NOW), st.integers(-9, 9)), max_size=5).map(tuple),
)
sights = st.builds(
    Sight,
    counts,
    counts,
    counts,
    st.dictionaries(
        st.sampled_from(["requests_per_second", "cpu_cores"]), st.none() | st.builds(Load, numbers, numbers)
    ),
    st.booleans(),
)


@given(sights, histories, st.integers(1, 5), st.integers(5, 12))
def test_every_decision_is_in_bounds_and_never_falls_blindly(
    sight: Sight, history: History, minimum: int, maximum: int
) -> None:
    decision = decide(sight, Rules(minimum, maximum), history, NOW)
    if decision.direction == "up":
        assert decision.desired <= maximum and sight.current > 0
    elif decision.direction == "down":
        assert decision.desired >= minimum
        assert all(load is not None and load.usable for load in sight.loads.values()) or sight.current > maximum
        assert any(load is not None and load.usable for load in sight.loads.values())

"""The verdict on plain counts."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.analysis.model import INVARIANTS, REASONS, Policy, Samples, ServiceCounts, TrackCounts, Verdict
from app.analysis.verdict import evaluate

POLICY = Policy()
BOUNDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "+Inf")
CONSISTENT: Mapping[str, float | None] = dict.fromkeys(INVARIANTS, 0.0)
UNUSABLE = (math.nan, math.inf, -math.inf, -1.0)

FAST = (0, 60, 30, 10)
SLOWER = (0, 0, 0, 0, 0, 100)


def track(requests: float, errors: float = 0, shares: tuple[float, ...] = FAST) -> TrackCounts:
    """Return counts whose requests are distributed over the first buckets in percent."""
    reached, buckets = 0.0, {}
    for index, bound in enumerate(BOUNDS):
        reached += requests * (shares[index] if index < len(shares) else 0) / 100
        buckets[bound] = reached
    return TrackCounts(requests, errors, buckets)


def samples(
    canary: TrackCounts | None, stable: TrackCounts | None, before: TrackCounts | None = None, **changes: object
) -> Samples:
    """Return samples of a service, next to a healthy second one."""
    other = ServiceCounts("other", track(9000), track(1000))
    values = {"seconds": 120.0, "services": (ServiceCounts("service", stable, canary, before), other)}
    return Samples(**{**values, "invariants": CONSISTENT, **changes})  # type: ignore[arg-type]


HEALTHY = samples(track(1000, 1), track(9000, 9))


def answer(given_samples: Samples, policy: Policy = POLICY) -> tuple[str, str]:
    """Return verdict and reason."""
    verdict = evaluate(given_samples, policy)
    assert verdict.reason in REASONS
    return verdict.verdict, verdict.reason


def test_equal_tracks_are_promoted_after_the_bake_time() -> None:
    assert answer(HEALTHY) == ("promote", "healthy")
    assert answer(replace(HEALTHY, seconds=60.0)) == ("promote", "healthy")
    assert answer(replace(HEALTHY, seconds=59.9)) == ("hold", "baking")


# Errors ---------------------------------------------------------------------------------------------------------------


def test_a_canary_that_always_fails_is_rolled_back_within_a_few_requests() -> None:
    assert answer(samples(track(4, 4), track(40))) == ("rollback", "errors")


def test_errors_shared_with_stable_do_not_count() -> None:
    assert answer(samples(track(1000, 50), track(9000, 450))) == ("promote", "healthy")
    assert answer(samples(track(1000, 50), track(9000, 9))) == ("rollback", "errors")


def test_errors_shared_only_in_this_step_do_not_count() -> None:
    calm = track(50_000, 50)
    assert answer(samples(track(100, 5), track(900, 50), calm))[0] != "rollback"
    # That stable was bad before the step takes the proof unreachable, and does not promote either.
    assert answer(samples(track(150, 7), track(1350, 1), track(50_000, 2500))) == ("hold", "errors")


def test_stable_before_the_step_is_part_of_the_evidence() -> None:
    canary, stable = track(150, 3), track(1350, 1)
    assert answer(samples(canary, stable))[0] == "hold"
    assert answer(samples(canary, stable, track(30_000, 30))) == ("rollback", "errors")
    broken = replace(track(30_000, 30), errors=math.nan)
    assert evaluate(samples(canary, stable, broken), POLICY) == evaluate(samples(canary, stable), POLICY)


def test_errors_below_the_floor_are_accepted() -> None:
    # 10 of 20,000 against none is significant, but half of the floor.
    assert answer(samples(track(20_000, 10), track(180_000))) == ("promote", "healthy")


def test_retries_on_stable_do_not_hide_errors() -> None:
    assert answer(samples(track(30, 30), track(270 + 30))) == ("rollback", "errors")
    assert answer(samples(track(30, 30), track(30 + 30))) == ("rollback", "errors")


def test_a_suspicion_holds() -> None:
    assert answer(samples(track(110, 1), track(990))) == ("hold", "errors")


# Latency --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [9, 1])
def test_a_canary_300_ms_slower_is_detected_within_36_requests(ratio: int) -> None:
    assert answer(samples(track(36, 0, SLOWER), track(36 * ratio))) == ("rollback", "latency")


def test_five_requests_are_not_significant() -> None:
    assert answer(samples(track(5, 0, SLOWER), track(45))) == ("hold", "not-enough-samples")


def test_an_irrelevant_difference_is_accepted_even_if_significant() -> None:
    slower = track(100_000, 0, (0, 40, 50, 10))
    figures = evaluate(samples(slower, track(900_000)), POLICY).figures["service"]
    assert figures["latency_z"] > figures["latency_z_limit"]  # type: ignore[operator]
    assert answer(samples(slower, track(900_000))) == ("promote", "healthy")
    picky = replace(POLICY, min_superiority=0.55, min_slower_seconds=0.001)
    assert answer(samples(slower, track(900_000)), picky) == ("rollback", "latency")


def test_a_faster_canary_is_promoted() -> None:
    assert answer(samples(track(1000), track(9000, 0, SLOWER))) == ("promote", "healthy")


def test_an_insignificant_slowdown_holds() -> None:
    slower = samples(track(120, 0, (0, 40, 20, 10, 0, 0, 30)), track(120))
    assert answer(slower, replace(POLICY, latency_alpha=1e-12)) == ("hold", "latency")
    assert answer(slower, replace(POLICY, latency_alpha=0.01)) == ("rollback", "latency")


def test_a_slow_tail_is_detected_by_the_ceiling() -> None:
    tail = (0, 55, 28, 7, 0, 0, 0, 0, 10)
    assert answer(samples(track(300, 0, tail), track(2700))) == ("rollback", "latency-ceiling")
    # Stable is as slow: not caused by the canary.
    assert answer(samples(track(300, 0, tail), track(2700, 0, tail)))[0] != "rollback"


def test_a_ceiling_above_all_buckets_uses_the_last_bucket() -> None:
    tail = (0, 55, 28, 7, 0, 0, 0, 0, 0, 10)
    high = replace(POLICY, ceiling_seconds=30)
    assert answer(samples(track(300, 0, tail), track(2700)), high) == ("rollback", "latency-ceiling")


def test_z_matches_the_mann_whitney_formula_with_ties() -> None:
    # Computed manually: ranks 1.5, 1.5 | 4 (three times) in two buckets; U = 2, n = (2, 3).
    canary = TrackCounts(2, 0, {"1": 1, "2": 2, "+Inf": 2})
    stable = TrackCounts(3, 0, {"1": 1, "2": 3, "+Inf": 3})
    figures = evaluate(samples(canary, stable), POLICY).figures["service"]
    u, variance = 2.5, 2 * 3 / 12 * (6 - (8 - 2 + 27 - 3) / (5 * 4))
    assert figures["superiority"] == pytest.approx(u / 6)
    assert figures["latency_z"] == pytest.approx((u - 3) / math.sqrt(variance))


# Invariants -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INVARIANTS)
def test_a_violated_invariant_rolls_back_immediately(name: str) -> None:
    broken = {**CONSISTENT, name: POLICY.lag_seconds + 1}
    expected = ("rollback", name.removesuffix("-lag"))
    assert answer(replace(HEALTHY, invariants=broken)) == expected
    assert answer(Samples(1, (), broken)) == expected
    assert answer(Samples(1, (ServiceCounts("service", None, None),), {name: 61.0})) == expected


def test_a_confirmed_difference_of_the_contract_rolls_back_even_without_metrics() -> None:
    for unmeasured in (Samples(1, (), {}), HEALTHY):
        verdict = evaluate(replace(unmeasured, contract="body/balance: missing"), POLICY)
        assert (verdict.verdict, verdict.reason, verdict.detail) == ("rollback", "contract", "body/balance: missing")


def test_consumer_lag_is_tolerated_up_to_the_threshold() -> None:
    assert answer(replace(HEALTHY, invariants={**CONSISTENT, "consumer-lag": 60.0})) == ("promote", "healthy")


# Unknown values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INVARIANTS)
@pytest.mark.parametrize("value", [None, *UNUSABLE])
def test_an_unknown_invariant_holds(name: str, value: float | None) -> None:
    assert answer(replace(HEALTHY, invariants={**CONSISTENT, name: value})) == ("hold", "no-data")
    assert answer(replace(HEALTHY, invariants={key: 0.0 for key in INVARIANTS if key != name})) == ("hold", "no-data")


def test_a_step_without_services_or_age_holds() -> None:
    assert answer(replace(HEALTHY, services=())) == ("hold", "no-data")
    for seconds in UNUSABLE:
        assert answer(replace(HEALTHY, seconds=seconds)) == ("hold", "no-data")


@pytest.mark.parametrize("value", UNUSABLE)
@pytest.mark.parametrize("name", ["requests", "errors"])
def test_an_invalid_count_holds(name: str, value: float) -> None:
    good = track(1000, 1)
    for canary, stable in ((replace(good, **{name: value}), good), (good, replace(good, **{name: value}))):
        assert answer(samples(canary, stable)) == ("hold", "no-data")


@pytest.mark.parametrize(
    "buckets",
    [
        {},
        {"+Inf": 1000.0},
        {"0.1": 1000.0, "+Inf": 1000.0},
        {**track(1000).buckets, "0.01": 2000.0},
        {**track(1000).buckets, "0.01": math.nan},
        {**track(1000).buckets, "+Inf": math.inf},
        {**track(1000).buckets, "nan": 1000.0},
        {**track(1000).buckets, "-1": 0.0},
        {**track(1000).buckets, "soon": 1.0},
        {le: count for le, count in track(1000).buckets.items() if le != "+Inf"},
        {"0.03": 10.0, "3": 20.0, "+Inf": 1000.0},
    ],
    ids=["none", "only all", "two", "falling", "nan", "infinite", "at nan", "negative", "word", "no all", "others"],
)
def test_incomparable_buckets_hold(buckets: dict[str, float]) -> None:
    assert answer(samples(replace(track(1000), buckets=buckets), track(9000))) == ("hold", "no-data")


def test_a_release_may_change_some_buckets() -> None:
    kept = {le: count for le, count in track(1000).buckets.items() if le != "0.01"}
    assert answer(samples(replace(track(1000), buckets=kept), track(9000))) == ("promote", "healthy")


def test_more_errors_than_requests_are_invalid() -> None:
    assert answer(samples(track(1000, 1001), track(9000))) == ("hold", "no-data")


def test_a_missing_track_holds_and_hides_no_other_service() -> None:
    assert answer(samples(None, track(9000))) == ("hold", "no-data")
    assert answer(samples(track(1000), None)) == ("hold", "no-data")
    bad = ServiceCounts("bad", track(900), track(100, 50))
    assert answer(replace(HEALTHY, services=(ServiceCounts("gone", None, None), bad))) == ("rollback", "errors")


@pytest.mark.parametrize("canary, stable", [(99, 9000), (1000, 99), (0, 9000), (0, 0), (1000, 0)])
def test_few_samples_hold(canary: float, stable: float) -> None:
    assert answer(samples(track(canary), track(stable))) == ("hold", "not-enough-samples")


def test_requests_without_latencies_are_not_enough_samples() -> None:
    assert answer(samples(replace(track(1000), buckets=track(10).buckets), track(9000)))[1] == "not-enough-samples"


@pytest.mark.parametrize("change", [{"alpha": 0}, {"alpha": 0.7}, {"ratio": 1}, {"bake_seconds": math.nan}])
@pytest.mark.parametrize("more", [{}, {"error_limit": 0.0001}, {"ceiling_floor": 0.5}, {"beta": math.inf}])
def test_an_invalid_policy_is_rejected(change: dict[str, float], more: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="invalid policy"):
        replace(POLICY, **change, **more)


# Properties -----------------------------------------------------------------------------------------------------------

# The machine may be busy, so there is no deadline.
_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_odd = st.one_of(st.none(), st.sampled_from(UNUSABLE), st.just(1e18), st.just(1e308))
_count = st.one_of(st.integers(0, 2000).map(float), st.floats(0, 1e17))


@st.composite
def _tracks(draw: st.DrawFn) -> TrackCounts:
    widths = draw(st.lists(st.integers(0, 300), min_size=len(BOUNDS), max_size=len(BOUNDS)))
    requests = sum(widths)
    buckets = {le: float(sum(widths[: index + 1])) for index, le in enumerate(BOUNDS)}
    return TrackCounts(requests, draw(st.integers(0, requests)), buckets)


@_patient
@given(_tracks(), _tracks(), st.one_of(st.none(), _tracks()), st.data())
def test_more_errors_never_improve_the_verdict(
    canary: TrackCounts, stable: TrackCounts, before: TrackCounts | None, data: st.DataObject
) -> None:
    worse = replace(canary, errors=data.draw(st.integers(int(canary.errors), int(canary.requests))))
    order = ["promote", "hold", "rollback"]
    first, second = (evaluate(samples(one, stable, before), POLICY).verdict for one in (canary, worse))
    assert order.index(first) <= order.index(second)


@_patient
@given(_tracks(), _tracks(), st.integers(1, 10))
def test_the_order_of_services_and_buckets_is_irrelevant(canary: TrackCounts, stable: TrackCounts, turn: int) -> None:
    def turned(counts: TrackCounts) -> TrackCounts:
        items = list(counts.buckets.items())
        return replace(counts, buckets=dict(items[turn:] + items[:turn]))

    one = samples(canary, stable)
    other = samples(turned(canary), turned(stable))
    assert evaluate(one, POLICY) == evaluate(other, POLICY)
    swapped = evaluate(replace(one, services=one.services[::-1]), POLICY)
    assert swapped.verdict == evaluate(one, POLICY).verdict


@_patient
@given(st.sampled_from(["requests", "errors", "buckets", "invariant", "seconds"]), _odd, st.booleans(), st.data())
def test_invalid_samples_are_never_promoted(
    where: str, value: float | None, of_canary: bool, data: st.DataObject
) -> None:
    good = track(1000, 1)
    if where == "buckets":
        bad = replace(good, buckets={**good.buckets, data.draw(st.sampled_from(BOUNDS)): value})
    elif where in ("requests", "errors"):
        bad = replace(good, **{where: value})
    else:
        bad = good
    invalid = samples(bad, good) if of_canary else samples(good, bad)
    if where == "invariant":
        invalid = replace(invalid, invariants={**CONSISTENT, data.draw(st.sampled_from(INVARIANTS)): value})
    elif where == "seconds":
        invalid = replace(invalid, seconds=value)
    assert evaluate(invalid, POLICY).verdict != "promote"


@_patient
@given(_count, _count, _count, st.dictionaries(st.sampled_from(BOUNDS), _count), st.floats(), _count)
def test_any_counts_yield_a_verdict(
    requests: float, errors: float, seconds: float, buckets: dict[str, float], invariant: float, other: float
) -> None:
    invalid = TrackCounts(requests, errors, buckets)
    verdict = evaluate(samples(invalid, replace(invalid, errors=other), invalid, seconds=seconds), POLICY)
    assert isinstance(verdict, Verdict)
    assert answer(samples(invalid, track(9000), invariants={**CONSISTENT, "reconciliation": invariant}))[1] in REASONS

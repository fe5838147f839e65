"""Decides whether a canary is promoted: tests of canary against stable on plain counts, without clock or network.

A step is analyzed every few seconds, each time on the counts since its start. The tests therefore allow any number of
looks: the probability that an equal canary is *ever* rolled back by a test is below the test's `alpha`.

Errors, and requests slower than the ceiling, are rates. A canary is rolled back when its rate is significantly above
stable's *and* above a floor; the tests accept it once either is refuted. (Both have to reject, so the smaller level
holds: an intersection-union test, Berger 1982, Technometrics 24.)
- Against the floor: Wald's sequential probability ratio test of a binomial rate (1945, Ann. Math. Statist. 16).
- Against stable: if both are equal, a failed request was the canary's with the probability of the canary's share of
  requests, and with a higher one if the canary fails `ratio` times as often. This does not depend on the rate that both
  share. (Wald on double dichotomies, as above; for rates: Kulldorff et al. 2011, Sequential Analysis 30.)
  There are two such tests: against stable in the same step, at a weak level, so that a fault of both tracks does not
  count against the canary; and against stable including the time before the step, at a strict level, because the step's
  requests alone are too few to estimate a rate of 0.1 %.
Wald's bounds hold at every look: the likelihood ratio of an equal canary is a martingale (Ville 1939).

Latency: the Mann-Whitney U test with a boundary for any number of looks (ranks.py). With very many samples any
difference is significant, so the canary must also be slower by a relevant amount.

A canary that hangs does not count its requests: NGINX aborts each after a time limit and retries it on stable, which
counts it as unanswered. These requests are compared like errors, with the requests for which stable took longer than
the same limit, so that a disk that stalls both versions does not count against the canary.

Outcomes and retries: outcomes.py. CPU, memory, open files, threads and event-loop lag: resources.py.
Operators' own criteria: criteria.py.

NGINX retries the canary's failed requests on stable. This adds requests to stable only if the canary fails, and errors
only if stable fails as well, which is in favour of the canary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeGuard

from app.analysis import ranks
from app.analysis.criteria import compare_criterion
from app.analysis.model import INVARIANTS, Finding, OutcomeCounts, Policy, Samples, ServiceCounts, TrackCounts, Verdict
from app.analysis.outcomes import compare_outcomes, compare_retries
from app.analysis.resources import compare_resources

# Exceeded by equal tracks in 1 % of looks: not significant, but too high for a promotion.
_SUSPICIOUS_Z = 2.33
# A canary with at most this ratio of stable's rate is accepted, if stable's rate is known from this many requests.
_COMPARABLE_RATIO = 3
_MIN_FAILURES = 5
# Minimum number of bucket bounds for comparing latencies: two finite ones and infinity.
_MIN_BOUNDS = 3
# Far above any count; its cube still fits in a float.
_MAX_COUNT = 1e18


def evaluate(samples: Samples, policy: Policy) -> Verdict:
    """Return the verdict on the samples of a step."""
    tracks = {counts.service: _validated_tracks(counts) for counts in samples.services}
    tests = [
        (service, reason, result)
        for service, validated in tracks.items()
        if validated
        for reason, result in _test_requests(validated, policy).items()
    ]
    tests += _test_other_samples(samples, policy)
    figures: dict[str, dict[str, float | None]] = {}
    for group, _, result in tests:
        figures.setdefault(group, {}).update(result.figures)
    figures["invariants"] = dict(samples.invariants)

    if violated := "contract" if samples.contract else _violated_invariant(samples, policy):
        return Verdict("rollback", violated, figures, samples.contract)
    if worse := next((test for test in tests if test[2].worse), None):
        return Verdict("rollback", worse[1], figures, worse[2].detail)
    if not samples.services or None in tracks.values() or not _is_measured(samples):
        return Verdict("hold", "no-data", figures)
    if any(track.sample_size < policy.min_requests for pair in tracks.values() if pair for track in pair[:2]):
        return Verdict("hold", "not-enough-samples", figures)
    if inconclusive := next((test for test in tests if not test[2].acceptable), None):
        return Verdict("hold", inconclusive[1], figures, inconclusive[2].detail)
    baked = samples.seconds >= policy.bake_seconds
    return Verdict("promote", "healthy", figures) if baked else Verdict("hold", "baking", figures)


def _test_other_samples(samples: Samples, policy: Policy) -> list[tuple[str, str, Finding]]:
    """Test outcomes, resources and criteria; return the findings with group and reason."""
    tests = []
    for counts in samples.outcomes or ():
        tests.append((counts.name, "retries", compare_retries(counts, policy)))
        tests.append((counts.name, "no-response", _compare_unanswered(counts, policy)))
        tests.append((counts.name, "outcomes", compare_outcomes(counts, policy)))
    for use in samples.resources or ():
        tests += [(use.service, reason, result) for reason, result in compare_resources(use, policy).items()]
    tests += [("criteria", "criterion", compare_criterion(values)) for values in samples.criteria]
    return tests


def _violated_invariant(samples: Samples, policy: Policy) -> str | None:
    """Return the reason of the first violated invariant; None if no violation is known."""
    for name in INVARIANTS:
        value = samples.invariants.get(name)
        if _is_count(value) and value > (policy.lag_seconds if name == "consumer-lag" else 0):
            return name.removesuffix("-lag")
    return None


def _is_measured(samples: Samples) -> bool:
    """Return whether all samples and the age of the step are measured."""
    return (
        _is_count(samples.seconds)
        and all(_is_count(samples.invariants.get(name)) for name in INVARIANTS)
        and None not in (samples.outcomes, samples.resources)
    )


@dataclass(frozen=True, slots=True)
class _Track:
    """Validated counts, with the buckets by numeric bound."""

    requests: float
    errors: float
    buckets: Mapping[float, float]

    @property
    def sample_size(self) -> float:
        """The smallest number of samples of any test on this track."""
        return min(self.requests, self.buckets[math.inf])


_Buckets = Mapping[float, float]
# Canary, stable, and stable before the step.
_Tracks = tuple[_Track, _Track, _Track]
_NO_COUNTS = _Track(0.0, 0.0, {})


def _test_requests(tracks: _Tracks, policy: Policy) -> dict[str, Finding]:
    """Test errors and latencies of a service; return the findings by reason."""
    canary, stable, _ = tracks
    bounds = _shared_bounds(canary, stable)
    finite = bounds[:-1]
    # If no bound is above the ceiling, the last one is used, which is stricter.
    ceiling = min((bound for bound in finite if bound >= policy.ceiling_seconds), default=finite[-1])
    errors = [(track.errors, track.requests) for track in tracks]
    slow = [_count_slow(track.buckets, ceiling) for track in tracks]
    return {
        "errors": _compare_rates("errors", errors, policy.error_floor, policy.error_limit, policy),
        "latency-ceiling": _compare_rates("slow", slow, policy.ceiling_floor, policy.ceiling_limit, policy),
        "latency": _compare_latencies(canary.buckets, stable.buckets, bounds, policy),
    }


def _compare_rates(name: str, counts: list[tuple[float, float]], floor: float, limit: float, policy: Policy) -> Finding:
    """Compare rates, given as (failed, total) of canary, stable, and stable before the step."""
    (failed, total), (stable_failed, stable_total), (before_failed, before_total) = counts
    above_floor = failed * math.log(limit / floor) + (total - failed) * math.log((1 - limit) / (1 - floor))
    in_step = _log_likelihood_ratio(failed, total, stable_failed, stable_total, policy.ratio)
    with_before = _log_likelihood_ratio(
        failed, total, stable_failed + before_failed, stable_total + before_total, policy.ratio
    )
    tolerated = _log_likelihood_ratio(failed, total, stable_failed, stable_total, policy.tolerated_ratio)
    comparable = stable_failed >= _MIN_FAILURES and failed * stable_total <= _COMPARABLE_RATIO * stable_failed * total
    return Finding(
        worse=above_floor >= -math.log(policy.floor_alpha)
        and in_step >= -math.log(policy.step_alpha)
        and with_before >= -math.log(policy.alpha),
        acceptable=min(above_floor, tolerated) <= math.log(policy.beta) or comparable,
        figures={
            **{f"canary_{name}": failed, f"stable_{name}": stable_failed},
            **({"canary_requests": total, "stable_requests": stable_total} if name == "errors" else {}),
            **{f"{name}_against_floor": above_floor, f"{name}_against_step": in_step},
            f"{name}_against_stable": with_before,
        },
    )


def _compare_unanswered(counts: OutcomeCounts, policy: Policy) -> Finding:
    """Compare the canary's unanswered requests with those for which stable exceeded the time limit."""
    canary = (counts.unanswered, counts.canary_total + counts.unanswered)
    stable = (counts.stable_slow, max(counts.stable_total, counts.stable_slow))
    finding = _compare_rates("unanswered", [canary, stable, (0, 0)], policy.error_floor, policy.error_limit, policy)
    return finding if counts.unanswered else replace(finding, acceptable=True)


def _log_likelihood_ratio(
    failed: float, total: float, stable_failed: float, stable_total: float, ratio: float
) -> float:
    """Return the log-likelihood ratio of a canary that fails `ratio` times as often against an equal one."""
    both = total + stable_total
    share = total / both if both else 0
    expected = math.log1p(share * (ratio - 1))
    return failed * (math.log(ratio) - expected) - stable_failed * expected


def _count_slow(buckets: Mapping[float, float], ceiling: float) -> tuple[float, float]:
    """Return the requests above a bound, and the total; (0, 0) if the bound is unknown."""
    if ceiling not in buckets:
        return 0.0, 0.0
    return buckets[math.inf] - buckets[ceiling], buckets[math.inf]


def _compare_latencies(canary: _Buckets, stable: _Buckets, bounds: list[float], policy: Policy) -> Finding:
    """Compare latencies, given as cumulative counts by bound."""
    counts = [ranks.counts_per_bucket([buckets[bound] for bound in bounds]) for buckets in (canary, stable)]
    comparison = ranks.compare(counts[0], counts[1], bounds, policy.latency_alpha)
    if comparison is None:
        return Finding(False, False, {"superiority": None, "latency_z": None, "slower_seconds": None})
    slower = comparison.mean - comparison.other_mean
    relevant = comparison.superiority >= policy.min_superiority and slower >= policy.min_slower_seconds
    figures = {"superiority": comparison.superiority, "latency_z": comparison.z, "latency_z_limit": comparison.boundary}
    return Finding(
        worse=relevant and comparison.z >= comparison.boundary,
        acceptable=not relevant or comparison.z < _SUSPICIOUS_Z,
        figures={**figures, "slower_seconds": slower},
    )


def _shared_bounds(canary: _Track, stable: _Track) -> list[float]:
    """Return the bucket bounds that both tracks have; a release may change them."""
    return sorted(canary.buckets.keys() & stable.buckets.keys())


def _validated_tracks(counts: ServiceCounts) -> _Tracks | None:
    """Return the tracks for the tests; None unless both are measured and have enough buckets in common."""
    canary, stable = _validated(counts.canary), _validated(counts.stable)
    if canary is None or stable is None or len(_shared_bounds(canary, stable)) < _MIN_BOUNDS:
        return None
    return canary, stable, _validated(counts.before) or _NO_COUNTS


def _validated(track: TrackCounts | None) -> _Track | None:
    """Return the validated counts of a track; None if they are invalid."""
    if track is None or not (_is_count(track.requests) and _is_count(track.errors) and track.errors <= track.requests):
        return None
    try:
        buckets = {float(le): count for le, count in track.buckets.items()}
    except ValueError:
        return None
    counts = [buckets[bound] for bound in sorted(buckets)]
    valid = (
        all(map(_is_count, counts))
        and counts == sorted(counts)
        and math.inf in buckets
        and all(bound > 0 for bound in buckets)
    )
    return _Track(float(track.requests), float(track.errors), buckets) if valid else None


def _is_count(value: float | None) -> TypeGuard[float]:
    """Return whether a value is a valid count: finite and not negative."""
    return value is not None and 0 <= value < _MAX_COUNT

"""Whether a canary may stay: tests of canary against stable on plain counts. No clock, no network.

A step is judged again every few seconds, on the counts since it began. So each test is one that may be looked at as
often as one likes: the chance that an equal canary is *ever* rolled back by it stays below its `alpha`.

Errors, and answers slower than the ceiling, are rates. A canary is rolled back when its rate is found to be above
stable's *and* above a floor; the tests are content when it is found not to be, for one of the two. (Both have to
reject, so the smaller level holds: an intersection-union test, Berger 1982, Technometrics 24.)
- Against the floor: Wald's sequential probability-ratio test of a binomial rate (1945, Ann. Math. Statist. 16).
- Against stable: a failed request was the canary's with the probability of its share of the requests if both are
  equal, and with a larger one if it fails `ratio` times as often. That needs no knowledge of the rate that both
  share. (Wald on double dichotomies, as above; for rates: Kulldorff et al. 2011, Sequential Analysis 30.)
  It is asked twice: of stable in the same step alone, at a weak level, so that trouble that both share is nobody's
  fault; and of stable with its time before the step, at a strict one, because nine times the canary's requests are
  too few to know a rate of 0.1 % by.
Wald's bounds hold at every look: the likelihood ratio of an equal canary is a martingale (Ville 1939).

Latency: Mann and Whitney's test (1947, Ann. Math. Statist. 18) corrected for ties (Kruskal and Wallis 1952, JASA 47),
each bucket of the histogram being one large tie. Its z is held against the mixture boundary of Robbins (1970, Ann.
Math. Statist. 41), which a Brownian motion ever crosses with a chance below `alpha`. Very many samples make the
smallest difference significant, so the canary must also be slower by an amount that matters.

NGINX asks stable again what the canary failed. Stable's requests grow by that only as far as the canary fails, and
its errors only if stable fails them as well, which speaks for the canary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from app.analysis.model import INVARIANTS, Policy, Samples, ServiceCounts, TrackCounts, Verdict

# What z of equal tracks exceeds in one look of a hundred: no proof, but no time to promote either.
_SUSPICIOUS_Z = 2.33
# How many pairs of requests the boundary is narrowest for: a few dozen.
_PAIRS = 20.0
# Of buckets, to tell latencies apart: two and the rest.
_FEWEST_BOUNDS = 3
# Far above any count, with a cube that a float can hold.
_MOST = 1e18


@dataclass(frozen=True, slots=True)
class _Finding:
    """What a test says: that the canary is worse, that it is not (neither: more is needed), and its figures."""

    worse: bool
    content: bool
    figures: Mapping[str, float | None]


def judge(samples: Samples, policy: Policy) -> Verdict:
    """Return the verdict on a step so far."""
    tracks = {one.service: _usable(one) for one in samples.services}
    measured = {service: _findings(usable, policy) for service, usable in tracks.items() if usable}
    figures: dict[str, Mapping[str, float | None]] = {
        service: {name: value for finding in tests.values() for name, value in finding.figures.items()}
        for service, tests in measured.items()
    }
    figures["invariants"] = dict(samples.invariants)

    tests = [(reason, finding) for findings in measured.values() for reason, finding in findings.items()]
    if harm := _breach(samples, policy) or next((reason for reason, finding in tests if finding.worse), None):
        return Verdict("rollback", harm, figures)
    if not samples.services or None in tracks.values() or not _known(samples):
        return Verdict("hold", "no-data", figures)
    if any(track.fewest < policy.least_requests for usable in tracks.values() if usable for track in usable[:2]):
        return Verdict("hold", "not-enough-samples", figures)
    if doubt := next((reason for reason, finding in tests if not finding.content), None):
        return Verdict("hold", doubt, figures)
    if samples.seconds < policy.bake_seconds:
        return Verdict("hold", "baking", figures)
    return Verdict("promote", "healthy", figures)


def _breach(samples: Samples, policy: Policy) -> str | None:
    """Return the reason that the first broken invariant gives; None while none is known to be broken."""
    for name in INVARIANTS:
        value = samples.invariants.get(name)
        if _is_count(value) and value > (policy.lag_seconds if name == "consumer-lag" else 0):
            return name.removesuffix("-lag")
    return None


def _known(samples: Samples) -> bool:
    """Tell whether every invariant and the age of the step are known."""
    return _is_count(samples.seconds) and all(_is_count(samples.invariants.get(name)) for name in INVARIANTS)


@dataclass(frozen=True, slots=True)
class _Track:
    """Counts that can be counts, with buckets by the number that `le` is."""

    requests: float
    errors: float
    buckets: Mapping[float, float]

    @property
    def fewest(self) -> float:
        """The fewest samples that a test of it rests on."""
        return min(self.requests, self.buckets[math.inf])


# Canary, stable, and stable before the step.
_Tracks = tuple[_Track, _Track, _Track]
_NOTHING = _Track(0.0, 0.0, {})


def _findings(tracks: _Tracks, policy: Policy) -> dict[str, _Finding]:
    """Return what the tests say of a service, by the reason that they would give."""
    canary, stable, _ = tracks
    bounds = _shared_bounds(canary, stable)
    finite = bounds[:-1]
    # Without a bound above the ceiling the last one is stricter than asked for, not laxer.
    ceiling = min((bound for bound in finite if bound >= policy.ceiling_seconds), default=finite[-1])
    errors = [(track.errors, track.requests) for track in tracks]
    slow = [_slow(track.buckets, ceiling) for track in tracks]
    return {
        "errors": _rate("errors", errors, policy.error_floor, policy.error_limit, policy),
        "latency-ceiling": _rate("slow", slow, policy.ceiling_floor, policy.ceiling_limit, policy),
        "latency": _latency(_widths(canary.buckets, bounds), _widths(stable.buckets, bounds), bounds, policy),
    }


def _rate(name: str, counts: list[tuple[float, float]], floor: float, limit: float, policy: Policy) -> _Finding:
    """Compare rates, given as bad ones and all for canary, stable, and stable before the step."""
    (bad, total), (stable_bad, stable_total), (before_bad, before_total) = counts
    above_floor = bad * math.log(limit / floor) + (total - bad) * math.log((1 - limit) / (1 - floor))
    in_step = _against(bad, total, stable_bad, stable_total, policy.ratio)
    with_before = _against(bad, total, stable_bad + before_bad, stable_total + before_total, policy.ratio)
    tolerated = _against(bad, total, stable_bad, stable_total, policy.tolerated_ratio)
    return _Finding(
        worse=above_floor >= -math.log(policy.floor_alpha)
        and in_step >= -math.log(policy.step_alpha)
        and with_before >= -math.log(policy.alpha),
        content=min(above_floor, tolerated) <= math.log(policy.beta),
        figures={
            **{f"canary_{name}": bad, f"stable_{name}": stable_bad},
            **({"canary_requests": total, "stable_requests": stable_total} if name == "errors" else {}),
            **{f"{name}_against_floor": above_floor, f"{name}_against_step": in_step},
            f"{name}_against_stable": with_before,
        },
    )


def _against(bad: float, total: float, stable_bad: float, stable_total: float, ratio: float) -> float:
    """Return the logarithm of the likelihood ratio of a canary that fails `ratio` times as often to an equal one."""
    both = total + stable_total
    share = total / both if both else 0
    expected = math.log1p(share * (ratio - 1))
    return bad * (math.log(ratio) - expected) - stable_bad * expected


def _slow(buckets: Mapping[float, float], ceiling: float) -> tuple[float, float]:
    """Return how many took longer than a bound, and all; none of none where the bound is unknown."""
    if ceiling not in buckets:
        return 0.0, 0.0
    return buckets[math.inf] - buckets[ceiling], buckets[math.inf]


def _latency(own: list[float], other: list[float], bounds: list[float], policy: Policy) -> _Finding:
    """Compare canary's and stable's latencies, given as how many lie in each bucket."""
    first, second = sum(own), sum(other)
    everything = first + second
    if not first or not second:
        return _Finding(False, False, {"superiority": None, "latency_z": None, "slower_seconds": None})
    below = wins = ties = 0.0
    for mine, theirs in zip(own, other):
        wins += mine * (below + theirs / 2)
        below += theirs
        ties += (mine + theirs) ** 3 - (mine + theirs)
    pairs = first * second / everything
    variance = first * second / 12 * (everything + 1 - ties / (everything * max(everything - 1, 1)))
    z = (wins - first * second / 2) / math.sqrt(variance) if variance > 0 else 0.0
    boundary = math.sqrt((1 + _PAIRS / pairs) * math.log((pairs + _PAIRS) / _PAIRS / policy.latency_alpha**2))
    slower = _mean(own, bounds) - _mean(other, bounds)
    superiority = wins / (first * second)
    matters = superiority >= policy.least_superiority and slower >= policy.least_slower_seconds
    return _Finding(
        worse=matters and z >= boundary,
        content=not matters or z < _SUSPICIOUS_Z,
        figures={"superiority": superiority, "latency_z": z, "latency_z_limit": boundary, "slower_seconds": slower},
    )


def _shared_bounds(canary: _Track, stable: _Track) -> list[float]:
    """Return the bounds of buckets that both tracks have; a release may change them."""
    return sorted(canary.buckets.keys() & stable.buckets.keys())


def _widths(buckets: Mapping[float, float], bounds: list[float]) -> list[float]:
    """Return how many lie between two bounds, from cumulative counts."""
    counts = [buckets[bound] for bound in bounds]
    return [upper - lower for lower, upper in zip([0.0, *counts], counts)]


def _mean(widths: list[float], bounds: list[float]) -> float:
    """Return the mean in seconds as if each lay in the middle of its bucket; beyond the last bound, at it."""
    edges = [0.0, *bounds]
    middles = [(lower + upper) / 2 if upper < math.inf else lower for lower, upper in zip(edges, bounds)]
    return sum(map(math.prod, zip(widths, middles))) / sum(widths)


def _usable(counts: ServiceCounts) -> _Tracks | None:
    """Return what the tests work on; None unless both tracks are measured, with buckets to compare."""
    canary, stable = _sound(counts.canary), _sound(counts.stable)
    if canary is None or stable is None or len(_shared_bounds(canary, stable)) < _FEWEST_BOUNDS:
        return None
    return canary, stable, _sound(counts.before) or _NOTHING


def _sound(track: TrackCounts | None) -> _Track | None:
    """Return the counts of a track; None if they cannot be counts."""
    if track is None or not (_is_count(track.requests) and _is_count(track.errors) and track.errors <= track.requests):
        return None
    try:
        buckets = {float(le): count for le, count in track.buckets.items()}
    except ValueError:
        return None
    counts = [buckets[bound] for bound in sorted(buckets)]
    sound = (
        all(map(_is_count, counts))
        and counts == sorted(counts)
        and math.inf in buckets
        and all(bound > 0 for bound in buckets)
    )
    return _Track(float(track.requests), float(track.errors), buckets) if sound else None


def _is_count(value: float | None) -> TypeGuard[float]:
    """Tell whether this can be a count: NaN, infinity and what is below 0 cannot."""
    return value is not None and 0 <= value < _MOST

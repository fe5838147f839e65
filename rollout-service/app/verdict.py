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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeGuard

Answer = Literal["promote", "rollback", "hold"]
Figures = Mapping[str, Mapping[str, float | None]]

# By reason, the invariants (all 0 when sound) whose breach rolls back at once.
INVARIANTS = ("ledger-imbalance", "ledger-violation", "reconciliation", "dead-letters", "consumer", "consumer-lag")
# Every reason of a verdict: values of a metric's label. With `hold`, one of the first group is a suspicion.
REASONS = (
    *("errors", "latency-ceiling", "latency"),
    *("ledger-imbalance", "ledger-violation", "reconciliation", "dead-letters", "consumer"),
    *("no-data", "not-enough-samples", "baking", "healthy"),
)

# What z of equal tracks exceeds in one look of a hundred: no proof, but no time to promote either.
_SUSPICIOUS_Z = 2.33
# How many pairs of requests the boundary is narrowest for: a few dozen.
_PAIRS = 20.0
# Of buckets, to tell latencies apart: two and the rest.
_FEWEST_BOUNDS = 3
# Far above any count, with a cube that a float can hold.
_MOST = 1e18


@dataclass(frozen=True, slots=True)
class TrackCounts:
    """What one track of a service has answered: all, those with a 5xx, and by `le` those that took so many seconds."""

    requests: float
    errors: float
    buckets: Mapping[str, float]


_NOTHING = TrackCounts(0, 0, {})


@dataclass(frozen=True, slots=True)
class ServiceCounts:
    """Both tracks of a service in a step, and stable in some time before it; None is what is not measured."""

    service: str
    stable: TrackCounts | None
    canary: TrackCounts | None
    before: TrackCounts | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """What is known of a step: its age in seconds, the requests, and by invariant how far it is broken (None: unknown).

    Of the invariants, `consumer-lag` is how many seconds the canary's consumer is behind stable's; the others count.
    """

    seconds: float
    services: tuple[ServiceCounts, ...]
    invariants: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may set. Rates are shares of requests. Raises ValueError for what cannot be judged by."""

    bake_seconds: float = 60
    # Of each track of each service, before it is promoted; proof of harm needs no minimum.
    least_requests: float = 100
    # How often a test may roll an equal canary back: against stable, against stable of the same step only, the floor.
    alpha: float = 0.003
    step_alpha: float = 0.05
    floor_alpha: float = 0.05
    # How often it may find that a canary at a limit, or failing `tolerated_ratio` times as often, is no worse.
    beta: float = 0.05
    error_floor: float = 0.001
    error_limit: float = 0.03
    ceiling_seconds: float = 1
    ceiling_floor: float = 0.01
    ceiling_limit: float = 0.1
    ratio: float = 15
    tolerated_ratio: float = 5
    latency_alpha: float = 0.001
    # The share of pairs of requests in which the canary is the slower one (0.5 is no difference), and by how much.
    least_superiority: float = 0.6
    least_slower_seconds: float = 0.025
    lag_seconds: float = 60

    def __post_init__(self) -> None:
        """Refuse what no test can work with."""
        chances = (self.alpha, self.step_alpha, self.floor_alpha, self.beta, self.latency_alpha)
        limits = (self.error_floor, self.error_limit, self.ceiling_floor, self.ceiling_limit)
        sound = (
            all(0 < value < math.inf for value in asdict(self).values())
            and all(chance < 0.5 for chance in chances)
            and all(limit < 1 for limit in (*limits, self.least_superiority))
            and self.error_floor < self.error_limit
            and self.ceiling_floor < self.ceiling_limit
            and min(self.ratio, self.tolerated_ratio) > 1
        )
        if not sound:
            raise ValueError(f"not a policy to judge by: {self}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do and why (one of REASONS), and what that rests on: figures by service or `invariants`."""

    verdict: Answer
    reason: str
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Finding:
    """What a test says: that the canary is worse, that it is not (neither: more is needed), and its figures."""

    worse: bool
    content: bool
    figures: Mapping[str, float | None]


def judge(samples: Samples, policy: Policy) -> Verdict:
    """Return the verdict on a step so far."""
    measured = {one.service: _findings(one, policy) for one in samples.services if _usable(one)}
    figures: dict[str, Mapping[str, float | None]] = {
        service: {name: value for finding in tests.values() for name, value in finding.figures.items()}
        for service, tests in measured.items()
    }
    figures["invariants"] = dict(samples.invariants)

    def verdict(answer: Answer, reason: str) -> Verdict:
        return Verdict(answer, reason, figures)

    for name in INVARIANTS:
        value = samples.invariants.get(name)
        if _is_count(value) and value > (policy.lag_seconds if name == "consumer-lag" else 0):
            return verdict("rollback", name.removesuffix("-lag"))
    tests = [(reason, finding) for findings in measured.values() for reason, finding in findings.items()]
    for reason, finding in tests:
        if finding.worse:
            return verdict("rollback", reason)
    known = all(_is_count(samples.invariants.get(name)) for name in INVARIANTS) and _is_count(samples.seconds)
    if not known or not samples.services or len(measured) < len(samples.services):
        return verdict("hold", "no-data")
    if any(_fewest(one) < policy.least_requests for one in samples.services):
        return verdict("hold", "not-enough-samples")
    for reason, finding in tests:
        if not finding.content:
            return verdict("hold", reason)
    if samples.seconds < policy.bake_seconds:
        return verdict("hold", "baking")
    return verdict("promote", "healthy")


def _findings(counts: ServiceCounts, policy: Policy) -> dict[str, _Finding]:
    """Return what the tests say of a service whose counts are usable, by the reason that they would give."""
    stable, canary = _tracks(counts)
    before = counts.before if counts.before and _sound(counts.before) else _NOTHING
    errors = [(float(track.errors), float(track.requests)) for track in (canary, stable, before)]
    bounds = _shared_bounds(counts)
    finite = bounds[:-1]
    # Without a bound above the ceiling the last one is stricter than asked for, not laxer.
    ceiling = min((bound for bound in finite if bound >= policy.ceiling_seconds), default=finite[-1])
    slow = [_slow(_by_bound(track), ceiling) for track in (canary, stable, before)]
    widths = [_widths(_by_bound(track), bounds) for track in (canary, stable)]
    return {
        "errors": _rate("errors", errors, policy.error_floor, policy.error_limit, policy),
        "latency-ceiling": _rate("slow", slow, policy.ceiling_floor, policy.ceiling_limit, policy),
        "latency": _latency(widths[0], widths[1], bounds, policy),
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


def _by_bound(track: TrackCounts) -> dict[float, float]:
    return {float(le): count for le, count in track.buckets.items()}


def _shared_bounds(counts: ServiceCounts) -> list[float]:
    """Return the bounds of buckets that both tracks have; a release may change them."""
    first, second = (_by_bound(track).keys() for track in _tracks(counts))
    return sorted(first & second)


def _widths(buckets: Mapping[float, float], bounds: list[float]) -> list[float]:
    """Return how many lie between two bounds, from cumulative counts."""
    counts = [buckets[bound] for bound in bounds]
    return [upper - lower for lower, upper in zip([0.0, *counts], counts)]


def _mean(widths: list[float], bounds: list[float]) -> float:
    """Return the mean in seconds as if each lay in the middle of its bucket; beyond the last bound, at it."""
    edges = [0.0, *bounds]
    middles = [(lower + upper) / 2 if upper < math.inf else lower for lower, upper in zip(edges, bounds)]
    return sum(map(math.prod, zip(widths, middles))) / sum(widths)


def _tracks(counts: ServiceCounts) -> Iterator[TrackCounts]:
    return (track for track in (counts.stable, counts.canary) if track is not None)


def _usable(counts: ServiceCounts) -> bool:
    """Tell whether both tracks are measured, with counts that can be counts and buckets to compare."""
    sound = [_sound(track) for track in _tracks(counts)]
    return len(sound) == 2 and all(sound) and len(_shared_bounds(counts)) >= _FEWEST_BOUNDS


def _sound(track: TrackCounts) -> bool:
    if not (_is_count(track.requests) and _is_count(track.errors) and track.errors <= track.requests):
        return False
    try:
        bounds = _by_bound(track)
    except ValueError:
        return False
    counts = [bounds[bound] for bound in sorted(bounds)]
    return (
        all(map(_is_count, counts))
        and counts == sorted(counts)
        and math.inf in bounds
        and all(bound > 0 for bound in bounds)
    )


def _fewest(counts: ServiceCounts) -> float:
    """Return the fewest samples that a test of a service rests on."""
    return min(min(track.requests, _by_bound(track)[math.inf]) for track in _tracks(counts))


def _is_count(value: float | None) -> TypeGuard[float]:
    """Tell whether this can be a count: NaN, infinity and what is below 0 cannot."""
    return value is not None and 0 <= value < _MOST

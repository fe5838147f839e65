"""Simulate rollouts and measure how often the verdict on a canary is correct.

    make drills DRILL=verdict [ARGS="--rollouts 1000 --seed 1"]

No stack is started: the counts that Prometheus would return are random, and analyzed after each scrape. Equal versions
must be promoted before a step times out; faulty ones must be rolled back within few requests. Exits 1 when a threshold
is missed.
"""

import argparse
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from app.analysis.model import INVARIANTS, Policy, Samples, ServiceCounts, TrackCounts, Verdict
from app.analysis.verdict import evaluate
from harness.commands import check
from tests.simulated_rollouts import Population, roll_out, seconds_to_roll_back

POLICY = Policy()
STEPS = (0.1, 0.5)
STEP_TIMEOUT_SECONDS = 600
SCRAPE_SECONDS = 5
BEFORE_SECONDS = 600
# Simulated rollouts per task of a worker.
_CHUNK = 10
# The buckets of shared/prometheus/http.py.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, math.inf)
NO_VIOLATIONS = dict.fromkeys(INVARIANTS, 0.0)


def lognormal(median: float, sigma: float) -> Callable[[float], float]:
    """Return the distribution function of a latency."""
    return lambda x: 0.5 * math.erfc(-math.log(x / median) / sigma / math.sqrt(2)) if x > 0 else 0.0


def mixture(*parts: tuple[float, Callable[[float], float]]) -> Callable[[float], float]:
    """Return the distribution function of a mixture, given as shares and parts."""
    return lambda x: sum(share * part(x) for share, part in parts)


def pareto(minimum: float, exponent: float) -> Callable[[float], float]:
    """Return the distribution function of a heavy-tailed latency."""
    return lambda x: 1 - (minimum / x) ** exponent if x > minimum else 0.0


LATENCIES = {
    "narrow": lognormal(0.006, 0.4),
    "wide": lognormal(0.03, 1.2),
    "heavy tail": mixture((0.9, lognormal(0.008, 0.6)), (0.1, pareto(0.05, 0.9))),
    "two modes": mixture((0.7, lognormal(0.003, 0.3)), (0.3, lognormal(0.12, 0.5))),
}


@dataclass(frozen=True, slots=True)
class Version:
    """How a version of a service responds: error rate, distribution of latencies, and a factor on them."""

    errors: float
    latencies: str
    slower: float = 0

    def shares(self) -> list[float]:
        """Return the share of requests in each bucket."""
        reached = [LATENCIES[self.latencies](bound - self.slower) if bound < math.inf else 1.0 for bound in BOUNDS]
        return [upper - lower for lower, upper in zip([0.0, *reached], reached)]


@dataclass(frozen=True, slots=True)
class Case:
    """A rollout: requests per second of each of two services, and both versions of the first; the second is healthy."""

    rate: float
    stable: Version
    canary: Version


class Track:
    """Counts of one version under load."""

    def __init__(self, version: Version, rng: random.Random) -> None:
        self._version, self._rng, self._shares = version, rng, version.shares()
        self.requests = self.errors = 0
        self._buckets = [0] * len(BOUNDS)

    def serve(self, requests: int) -> int:
        """Serve some requests; return how many failed."""
        failed = binomial(self._rng, requests, self._version.errors)
        self.requests += requests
        self.errors += failed
        remaining, share_remaining = requests, 1.0
        for index, share in enumerate(self._shares):
            if not remaining:
                break
            is_last = index == len(BOUNDS) - 1
            count = remaining if is_last else binomial(self._rng, remaining, min(1.0, share / share_remaining))
            self._buckets[index] += count
            remaining, share_remaining = remaining - count, max(share_remaining - share, 1e-12)
        return failed

    def counts(self) -> TrackCounts:
        """Return the counts as Prometheus returns them."""
        total, buckets = 0, {}
        for bound, count in zip(BOUNDS, self._buckets):
            total += count
            buckets["+Inf" if bound == math.inf else str(bound)] = float(total)
        return TrackCounts(self.requests, self.errors, buckets)


def binomial(rng: random.Random, trials: int, share: float) -> int:
    """Draw from a binomial distribution: by inversion if few are expected, otherwise from the normal approximation."""
    if share > 0.5:
        return trials - binomial(rng, trials, 1 - share)
    spread = trials * share * (1 - share)
    if spread > 25:
        return min(trials, max(0, round(rng.gauss(trials * share, math.sqrt(spread)))))
    point, successes, term = rng.random(), 0, (1 - share) ** trials
    while point > term and successes < trials:
        point -= term
        term *= (trials - successes) / (successes + 1) * share / (1 - share)
        successes += 1
    return successes


class Step:
    """A step of a rollout under load: traffic by cohort, and the canary's failed requests are retried on stable."""

    def __init__(self, case: Case, share: float, rng: random.Random, has_history: bool = True) -> None:
        self._case, self._share, self._rng = case, share, rng
        versions = [(case.stable, case.canary), (case.stable, case.stable)]
        self.tracks = [(Track(stable, rng), Track(canary, rng)) for stable, canary in versions]
        self._before: list[TrackCounts | None] = [None, None]
        if has_history:
            earlier = [Track(case.stable, rng) for _ in versions]
            for track in earlier:
                track.serve(round(case.rate * BEFORE_SECONDS))
            self._before = [track.counts() for track in earlier]
        self.seconds = 0.0

    @property
    def canary_requests(self) -> int:
        """Number of requests that the first service's canary has served."""
        return self.tracks[0][1].requests

    def run(self, seconds: float) -> Verdict:
        """Simulate some seconds and analyze."""
        self.seconds += seconds
        expected = self._case.rate * seconds
        for stable, canary in self.tracks:
            requests = math.floor(expected) + (self._rng.random() < expected % 1)
            to_canary = binomial(self._rng, requests, self._share)
            stable.serve(requests - to_canary + canary.serve(to_canary))
        services = tuple(
            ServiceCounts(name, stable.counts(), canary.counts(), before)
            for name, (stable, canary), before in zip(("first", "second"), self.tracks, self._before)
        )
        return evaluate(Samples(self.seconds, services, NO_VIOLATIONS), POLICY)


def rollout(case: Case, seed: str) -> tuple[str, float]:
    """Roll out step by step; return `promoted` or the reason for the rollback, and the duration in seconds."""
    rng = random.Random(seed)
    duration = 0.0
    for share in STEPS:
        step = Step(case, share, rng)
        verdict = step.run(SCRAPE_SECONDS)
        while verdict.verdict == "hold" and step.seconds < STEP_TIMEOUT_SECONDS:
            verdict = step.run(SCRAPE_SECONDS)
        duration += step.seconds
        if verdict.verdict != "promote":
            return f"{verdict.verdict} ({verdict.reason})", duration
    return "promoted", duration


def requests_needed(case: Case, share: float, seed: str, max_requests: int, has_history: bool = True) -> float:
    """Return the number of canary requests until the first step rolls back a faulty version; infinity if it does not.

    The analysis runs every five canary requests on average, or forty times in total.
    """
    step = Step(case, share, random.Random(seed), has_history)
    while step.canary_requests < max_requests:
        verdict = step.run(max(5, max_requests / 40) / share / case.rate)
        if verdict.verdict == "rollback":
            return step.canary_requests if step.canary_requests <= max_requests else math.inf
    return math.inf


def equal_cases() -> dict[str, Case]:
    """Return rollouts of equal versions by description."""
    cases = {}
    for rate in (10, 200):
        for number, errors in enumerate((0, 0.001, 0.01)):
            names = list(LATENCIES)
            for latencies in (names[number], names[3 if rate == 10 else 2]):
                version = Version(errors, latencies)
                cases[f"{rate:3} requests/s, {errors:5.1%} errors, {latencies}"] = Case(rate, version, version)
    return cases


FAULTY = {
    "5 % errors": (Version(0.05, "wide"), 150, 0.95),
    "500 to everything": (Version(1, "wide"), 30, 0.95),
    "1 % errors": (Version(0.01, "wide"), 1000, None),
    **{f"+300 ms, {name}": (Version(0.001, name, 0.3), 60, 0.95) for name in LATENCIES},
}


def run_equal(job: tuple[str, int, int]) -> list[tuple[str, float]]:
    """Simulate all rollouts of one case of equal versions."""
    name, rollouts, seed = job
    return [rollout(equal_cases()[name], f"{seed} {name} {number}") for number in range(rollouts)]


def run_faulty(job: tuple[str, float, bool, int, int]) -> list[float]:
    """Simulate all rollouts of one faulty version, and return the canary requests that each needed."""
    name, share, has_history, rollouts, seed = job
    version, max_requests, _ = FAULTY[name]
    case = Case(50, Version(0.001, version.latencies), version)
    seeds = [f"{seed} {name} {number}" for number in range(rollouts)]
    return [requests_needed(case, share, seed_, max_requests, has_history) for seed_ in seeds]


def report_equal(pool: ProcessPoolExecutor, rollouts: int, seed: int) -> int:
    """Roll out equal versions; return the number of missed thresholds."""
    print(f"equal versions, steps {STEPS}, {rollouts} rollouts each (threshold: at most 1 % not promoted)", flush=True)
    missed = total_not_promoted = 0
    names = list(equal_cases())
    for name, outcomes in zip(names, pool.map(run_equal, [(name, rollouts, seed) for name in names])):
        not_promoted = [outcome for outcome, _ in outcomes if outcome != "promoted"]
        total_not_promoted += len(not_promoted)
        reasons = ", ".join(f"{not_promoted.count(outcome)} {outcome}" for outcome in sorted(set(not_promoted)))
        seconds = statistics.median(duration for _, duration in outcomes)
        line = f"{name:46} {len(not_promoted) / rollouts:6.2%} not promoted; {seconds:4.0f} s (median)  {reasons}"
        missed += not check(len(not_promoted) <= rollouts / 100, line)
    share = total_not_promoted / rollouts / len(names)
    return missed + (not check(share <= 0.01, f"{'total':46} {share:6.2%} of {rollouts * len(names)} not promoted"))


def report_faulty(pool: ProcessPoolExecutor, rollouts: int, seed: int) -> int:
    """Roll out faulty versions; return the number of missed thresholds."""
    print(f"faulty versions against 0.1 % errors, {rollouts} first steps each", flush=True)
    # At 10 %, with and without samples of stable from before the step, and at 50 %.
    conditions = [(0.1, True), (0.1, False), (0.5, True)]
    jobs = [(name, share, has_history, rollouts, seed) for name in FAULTY for share, has_history in conditions]
    return sum(_report_case(job, needed) for job, needed in zip(jobs, pool.map(run_faulty, jobs)))


def _report_case(job: tuple[str, float, bool, int, int], needed: Sequence[float]) -> bool:
    name, share, has_history, rollouts, _ = job
    _, max_requests, threshold = FAULTY[name]
    rolled_back = sorted(requests for requests in needed if requests < math.inf)
    # Thresholds apply to the first step, with samples of stable from before it.
    bound = threshold if share == STEPS[0] and has_history else None
    median = f"{statistics.median(rolled_back):.0f}" if rolled_back else "-"
    slowest = f"{quantile(needed, 0.95):.0f}"
    line = (
        f"{name:22} {share:4.0%}{'' if has_history else ', stable new':13} {len(rolled_back) / rollouts:6.1%}"
        f" rolled back within {max_requests} canary requests (median {median}, 95 % within {slowest})"
        + (f"; threshold {bound:.0%}" if bound else "")
    )
    return not check(None if bound is None else len(rolled_back) >= bound * rollouts, line)


# Populations of clients that stay on their version (sticky), by description.
POPULATIONS = {
    "10 requests/s": Population(10),
    "50 requests/s": Population(50),
    "200 requests/s": Population(200),
    "50 requests/s, few unusual heavy clients": Population(50, 200, 1.5, "unusual"),
    "50 requests/s, a disk that stalls": Population(50, stalls=0.1),
    "50 requests/s, most clients fail often": Population(50, 200, 1.1, "mostly failing"),
}
# At five canary requests per second (10 % of 50): the share that must be rolled back within these seconds or, without
# seconds, before promotion.
FAULT_THRESHOLDS: dict[str, tuple[float | None, float]] = {
    "401-all": (10, 0.95),
    "404-all": (10, 0.95),
    "422-valid": (30, 0.95),
    "409-half": (30, 0.95),
    "409-half, stored": (60, 0.9),
    "no-events": (30, 0.95),
    "cpu-x3": (30, 0.95),
    "hang": (30, 0.95),
    "hang-1-in-20": (None, 0.99),
    "leak": (None, 0.99),
    "slow-1-in-50": (None, 0.97),
}


def run_sticky_equal(job: tuple[str, int, int]) -> list[str]:
    """Simulate some rollouts of equal versions to one population."""
    name, seed, number = job
    return [roll_out(POPULATIONS[name], f"{seed} {name} {number + offset}") for offset in range(_CHUNK)]


def run_sticky_fault(job: tuple[str, int, int]) -> list[tuple[float, int, str]]:
    """Simulate some rollouts of one faulty version."""
    name, seed, number = job
    return [seconds_to_roll_back(name, Population(50), f"{seed} {name} {number + offset}") for offset in range(_CHUNK)]


def report_sticky(pool: ProcessPoolExecutor, rollouts: int, seed: int) -> int:
    """Roll out equal and faulty versions to sticky clients; return the number of missed thresholds."""
    print(
        "equal versions, sticky clients by Zipf's law, all tests together (threshold: at most 1 % not promoted)",
        flush=True,
    )
    missed = 0
    starts = range(0, rollouts, _CHUNK)
    for name in POPULATIONS:
        jobs = [(name, seed, start) for start in starts]
        outcomes = list(itertools.chain(*pool.map(run_sticky_equal, jobs)))
        not_promoted = [outcome for outcome in outcomes if outcome != "promoted"]
        reasons = ", ".join(f"{not_promoted.count(outcome)} {outcome}" for outcome in sorted(set(not_promoted)))
        share = len(not_promoted) / len(outcomes)
        missed += not check(share <= 0.01, f"{name:46} {share:6.2%}  {reasons}")
    print("faulty versions, 1,000 sticky clients, 5 canary requests/s in the first step", flush=True)
    for name, (max_seconds, share) in FAULT_THRESHOLDS.items():
        jobs = [(name, seed, start) for start in starts]
        results = list(itertools.chain(*pool.map(run_sticky_fault, jobs)))
        seconds = [seconds_taken for seconds_taken, _, _ in results]
        within = sum(duration <= (max_seconds or STEP_TIMEOUT_SECONDS * 2) for duration in seconds) / len(results)
        first = sum(step == 0 for _, step, _ in results) / len(results)
        reasons = ", ".join(sorted({reason for _, _, reason in results if reason}))
        threshold = f"within {max_seconds:.0f} s" if max_seconds else "before promotion"
        line = (
            f"{name:18} {within:6.1%} {threshold:16} (threshold {share:.0%}); {first:6.1%} in the first step; "
            f"median {statistics.median(seconds):.0f} s, 95 % within {quantile(seconds, 0.95):.0f} s; {reasons}"
        )
        missed += not check(within >= share, line)
    return missed


def quantile(needed: Sequence[float], share: float) -> float:
    """Return the quantile at a share."""
    return sorted(needed)[math.ceil(len(needed) * share) - 1]


def main() -> int:
    """Run all simulations; return 0 only if every threshold is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=1000, help="rollouts of each case (default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default 1)")
    options = parser.parse_args()
    started = time.monotonic()
    with ProcessPoolExecutor() as pool:
        missed = report_equal(pool, options.rollouts, options.seed)
        missed += report_faulty(pool, options.rollouts, options.seed)
        missed += report_sticky(pool, options.rollouts, options.seed)
    print(f"{missed} thresholds missed; {time.monotonic() - started:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

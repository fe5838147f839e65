"""Simulate rollouts and measure how often the canary's verdict is correct.

    make drills DRILL=verdict [ARGS="--rollouts 1000 --seed 1"]

Nothing is started: counts are drawn as Prometheus would return them, and analyzed after each scrape. Equal versions
must not be rolled back (a step still on hold at its timeout counts as rolled back), bad ones must be rolled back
within few requests. Exits 1 when a threshold is missed.
"""

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from app.analysis.model import (
    INVARIANTS,
    Policy,
    Samples,
    ServiceCounts,
    TrackCounts,
    Verdict,
)
from app.analysis.verdict import evaluate
from harness.commands import check
from tests.simulated_rollouts import Population, roll_out, seconds_to_roll_back

POLICY = Policy()
STEPS = (0.1, 0.5)
BUDGET_SECONDS = 600
# Between two scrapes Prometheus has no new samples.
LOOK_SECONDS = 5
BEFORE_SECONDS = 600
# Simulated rollouts per task of a worker.
_CHUNK = 10
# Those of shared/prometheus/http.py.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, math.inf)
SOUND = dict.fromkeys(INVARIANTS, 0.0)


def lognormal(median: float, sigma: float) -> Callable[[float], float]:
    """Return the distribution function of a latency."""
    return lambda x: 0.5 * math.erfc(-math.log(x / median) / sigma / math.sqrt(2)) if x > 0 else 0.0


def mixed(*parts: tuple[float, Callable[[float], float]]) -> Callable[[float], float]:
    """Return the distribution function of a mixture, given as shares and parts."""
    return lambda x: sum(share * part(x) for share, part in parts)


def pareto(least: float, exponent: float) -> Callable[[float], float]:
    """Return the distribution function of a heavy tail."""
    return lambda x: 1 - (least / x) ** exponent if x > least else 0.0


LATENCIES = {
    "narrow": lognormal(0.006, 0.4),
    "wide": lognormal(0.03, 1.2),
    "heavy tail": mixed((0.9, lognormal(0.008, 0.6)), (0.1, pareto(0.05, 0.9))),
    "two modes": mixed((0.7, lognormal(0.003, 0.3)), (0.3, lognormal(0.12, 0.5))),
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

    def __init__(self, version: Version, chance: random.Random) -> None:
        self._version, self._chance, self._shares = version, chance, version.shares()
        self.requests = self.errors = 0
        self._buckets = [0] * len(BOUNDS)

    def answer(self, requests: int) -> int:
        """Serve some requests; return how many failed."""
        failed = binomial(self._chance, requests, self._version.errors)
        self.requests += requests
        self.errors += failed
        left, share_left = requests, 1.0
        for index, share in enumerate(self._shares):
            if not left:
                break
            hit = left if index == len(BOUNDS) - 1 else binomial(self._chance, left, min(1.0, share / share_left))
            self._buckets[index] += hit
            left, share_left = left - hit, max(share_left - share, 1e-12)
        return failed

    def counts(self) -> TrackCounts:
        """Return the counts as Prometheus returns them."""
        total, buckets = 0, {}
        for bound, count in zip(BOUNDS, self._buckets):
            total += count
            buckets["+Inf" if bound == math.inf else str(bound)] = float(total)
        return TrackCounts(self.requests, self.errors, buckets)


def binomial(chance: random.Random, tries: int, share: float) -> int:
    """Draw from a binomial distribution: by inversion if few are expected, otherwise from the normal approximation."""
    if share > 0.5:
        return tries - binomial(chance, tries, 1 - share)
    spread = tries * share * (1 - share)
    if spread > 25:
        return min(tries, max(0, round(chance.gauss(tries * share, math.sqrt(spread)))))
    point, hit, term = chance.random(), 0, (1 - share) ** tries
    while point > term and hit < tries:
        point -= term
        term *= (tries - hit) / (hit + 1) * share / (1 - share)
        hit += 1
    return hit


class Step:
    """A step of a rollout under load: traffic by cohort, and the canary's failed requests are retried on stable."""

    def __init__(self, case: Case, share: float, chance: random.Random, known: bool = True) -> None:
        self._case, self._share, self._chance = case, share, chance
        versions = [(case.stable, case.canary), (case.stable, case.stable)]
        self.tracks = [(Track(stable, chance), Track(canary, chance)) for stable, canary in versions]
        self._before: list[TrackCounts | None] = [None, None]
        if known:
            earlier = [Track(case.stable, chance) for _ in versions]
            for track in earlier:
                track.answer(round(case.rate * BEFORE_SECONDS))
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
            requests = math.floor(expected) + (self._chance.random() < expected % 1)
            to_canary = binomial(self._chance, requests, self._share)
            stable.answer(requests - to_canary + canary.answer(to_canary))
        services = tuple(
            ServiceCounts(name, stable.counts(), canary.counts(), before)
            for name, (stable, canary), before in zip(("first", "second"), self.tracks, self._before)
        )
        return evaluate(Samples(self.seconds, services, SOUND), POLICY)


def rollout(case: Case, seed: str) -> tuple[str, float]:
    """Roll out step by step; return `promoted` or the reason for the rollback, and the duration in seconds."""
    chance = random.Random(seed)
    took = 0.0
    for share in STEPS:
        step = Step(case, share, chance)
        verdict = step.run(LOOK_SECONDS)
        while verdict.verdict == "hold" and step.seconds < BUDGET_SECONDS:
            verdict = step.run(LOOK_SECONDS)
        took += step.seconds
        if verdict.verdict != "promote":
            return f"{verdict.verdict} ({verdict.reason})", took
    return "promoted", took


def requests_needed(case: Case, share: float, seed: str, most: int, known: bool = True) -> float:
    """Return the number of canary requests until the first step rolls a bad version back; infinity beyond `most`.

    The analysis runs every five canary requests on average, or forty times in total.
    """
    step = Step(case, share, random.Random(seed), known)
    while step.canary_requests < most:
        verdict = step.run(max(5, most / 40) / share / case.rate)
        if verdict.verdict == "rollback":
            return step.canary_requests if step.canary_requests <= most else math.inf
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


BAD = {
    "5 % errors": (Version(0.05, "wide"), 150, 0.95),
    "500 to everything": (Version(1, "wide"), 30, 0.95),
    "1 % errors": (Version(0.01, "wide"), 1000, None),
    **{f"+300 ms, {name}": (Version(0.001, name, 0.3), 60, 0.95) for name in LATENCIES},
}


def run_equal(job: tuple[str, int, int]) -> list[tuple[str, float]]:
    """Simulate all rollouts of one case of equal versions."""
    name, rollouts, seed = job
    return [rollout(equal_cases()[name], f"{seed} {name} {number}") for number in range(rollouts)]


def run_bad(job: tuple[str, float, bool, int, int]) -> list[float]:
    """Simulate all rollouts of one bad version, and return the canary requests that each needed."""
    name, share, known, rollouts, seed = job
    version, most, _ = BAD[name]
    case = Case(50, Version(0.001, version.latencies), version)
    return [requests_needed(case, share, f"{seed} {name} {number}", most, known) for number in range(rollouts)]


def report_equal(pool: ProcessPoolExecutor, rollouts: int, seed: int) -> int:
    """Roll out equal versions; return the number of missed thresholds."""
    print(f"equal versions, steps {STEPS}, {rollouts} rollouts each (threshold: at most 1 % not promoted)", flush=True)
    missed = wrong_in_all = 0
    names = list(equal_cases())
    for name, outcomes in zip(names, pool.map(run_equal, [(name, rollouts, seed) for name in names])):
        wrong = [outcome for outcome, _ in outcomes if outcome != "promoted"]
        wrong_in_all += len(wrong)
        why = ", ".join(f"{wrong.count(one)} {one}" for one in sorted(set(wrong)))
        seconds = statistics.median(took for _, took in outcomes)
        line = f"{name:46} {len(wrong) / rollouts:6.2%} not promoted; {seconds:4.0f} s (median)  {why}"
        missed += not check(len(wrong) <= rollouts / 100, line)
    share = wrong_in_all / rollouts / len(names)
    return missed + (not check(share <= 0.01, f"{'total':46} {share:6.2%} of {rollouts * len(names)} not promoted"))


def report_bad(pool: ProcessPoolExecutor, rollouts: int, seed: int) -> int:
    """Roll out bad versions; return the number of missed thresholds."""
    print(f"bad versions against 0.1 % errors, {rollouts} first steps each", flush=True)
    # With 10 % on a service that has run for a while or is new to Prometheus, and with 50 %.
    ways = [(0.1, True), (0.1, False), (0.5, True)]
    jobs = [(name, share, known, rollouts, seed) for name in BAD for share, known in ways]
    return sum(_report_case(job, needed) for job, needed in zip(jobs, pool.map(run_bad, jobs)))


def _report_case(job: tuple[str, float, bool, int, int], needed: Sequence[float]) -> bool:
    name, share, known, rollouts, _ = job
    _, most, threshold = BAD[name]
    caught = sorted(one for one in needed if one < math.inf)
    # Thresholds are for a rollout's first step, on a service that has run for a while.
    bound = threshold if share == STEPS[0] and known else None
    middle = f"{statistics.median(caught):.0f}" if caught else "-"
    slowest = f"{needed_by(needed, 0.95):.0f}"
    line = (
        f"{name:22} {share:4.0%}{'' if known else ', stable new':13} {len(caught) / rollouts:6.1%} caught within "
        f"{most} canary requests (median {middle}, 95 % within {slowest})"
        + (f"; threshold {bound:.0%}" if bound else "")
    )
    return not check(None if bound is None else len(caught) >= bound * rollouts, line)


# Rollouts with sticky clients and all tests together: population by name, and whether the threshold of 1 % is for it.
POPULATIONS = {
    "10 requests/s": Population(10),
    "50 requests/s": Population(50),
    "200 requests/s": Population(200),
    "50 requests/s, few unusual heavy clients": Population(50, 200, 1.5, "unusual"),
    "50 requests/s, a disk that stalls": Population(50, stalls=0.1),
    "50 requests/s, most clients fail often": Population(50, 200, 1.1, "mostly failing"),
}
# Five canary requests per second, as 10 % of 50: seconds, and the share that must be rolled back within them. Without
# seconds, the share that must be rolled back before promotion.
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
    return [roll_out(POPULATIONS[name], f"{seed} {name} {number + one}") for one in range(_CHUNK)]


def run_sticky_fault(job: tuple[str, int, int]) -> list[tuple[float, int, str]]:
    """Simulate some rollouts of one faulty version."""
    name, seed, number = job
    return [seconds_to_roll_back(name, Population(50), f"{seed} {name} {number + one}") for one in range(_CHUNK)]


def report_sticky(pool: ProcessPoolExecutor, rollouts: int, seed: int) -> int:
    """Roll out equal and faulty versions to sticky clients; return the number of missed thresholds."""
    print(
        "equal versions, sticky clients by Zipf's law, all tests together (threshold: at most 1 % not promoted)",
        flush=True,
    )
    missed = 0
    starts = range(0, rollouts, _CHUNK)
    for name in POPULATIONS:
        results = [
            one for part in pool.map(run_sticky_equal, [(name, seed, start) for start in starts]) for one in part
        ]
        wrong = [one for one in results if one != "promoted"]
        why = ", ".join(f"{wrong.count(one)} {one}" for one in sorted(set(wrong)))
        missed += not check(len(wrong) <= len(results) / 100, f"{name:46} {len(wrong) / len(results):6.2%}  {why}")
    print("faulty versions, 1,000 sticky clients, 5 canary requests/s in the first step", flush=True)
    for name, (most, share) in FAULT_THRESHOLDS.items():
        found = [one for part in pool.map(run_sticky_fault, [(name, seed, start) for start in starts]) for one in part]
        seconds = [one for one, _, _ in found]
        within = sum(one <= (most or BUDGET_SECONDS * 2) for one in seconds) / len(found)
        first = sum(step == 0 for _, step, _ in found) / len(found)
        reasons = ", ".join(sorted({reason for _, _, reason in found if reason}))
        threshold = f"within {most:.0f} s" if most else "before promotion"
        line = (
            f"{name:18} {within:6.1%} {threshold:16} (threshold {share:.0%}); {first:6.1%} in the first step; "
            f"median {statistics.median(seconds):.0f} s, 95 % within {needed_by(seconds, 0.95):.0f} s; {reasons}"
        )
        missed += not check(within >= share, line)
    return missed


def needed_by(needed: Sequence[float], share: float) -> float:
    """Return the quantile of the needed requests."""
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
        missed += report_bad(pool, options.rollouts, options.seed)
        missed += report_sticky(pool, options.rollouts, options.seed)
    print(f"{missed} thresholds missed; {time.monotonic() - started:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Simulated rollouts with sticky clients: all tests of the analysis together on drawn samples.

Clients send by Zipf's law, each has its own shares of 404 and 409, and stays with the version of its cohort. Samples
are analyzed once per scrape interval, as in production; the drill `verdict` runs thousands of rollouts, a test a few.
"""

import random
from bisect import bisect
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from app.analysis import model
from app.analysis.verdict import evaluate

SCRAPE_SECONDS = 5.0
# Until the next analysis has run and NGINX has reloaded.
REACTION_SECONDS = 3.0
BUDGET_SECONDS = 600.0
_BEFORE_REQUESTS = 20_000
_WARM_UP_SECONDS = 10.0
# NGINX's time limit for a canary.
_LIMIT_SECONDS = 5.0
# Share of the requests in an interval that a stalling disk affects.
_STALLED = 0.3
_BUCKETS = 64
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, float("inf"))
_CPU = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.128, float("inf"))
_POLICY = model.Policy()

Kind = Literal["usual", "unusual", "mostly failing"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What a faulty canary does to a share of its requests (`writes` only: to POSTs).

    `hangs`: it does not answer a share of them, and stable does after NGINX's time limit.
    `stored`: stable repeats the response instead of answering with success, because the ledger has stored it.
    """

    status: str = ""
    share: float = 0
    writes: bool = False
    stored: bool = False
    cpu: float = 1
    leaked_bytes: float = 0
    slow_share: float = 0
    events: bool = True
    hangs: float = 0


FAULTS = {
    "401-all": Fault("401", 1),
    "404-all": Fault("404", 1),
    "422-valid": Fault("422", 1, writes=True),
    "409-half": Fault("409", 0.5, writes=True),
    "409-half, stored": Fault("409", 0.5, writes=True, stored=True),
    "no-events": Fault(events=False),
    "cpu-x3": Fault(cpu=3),
    "hang": Fault(hangs=1),
    "hang-1-in-20": Fault(hangs=0.05),
    "leak": Fault(leaked_bytes=20_000),
    "slow-1-in-50": Fault(slow_share=0.02),
}


@dataclass(frozen=True, slots=True)
class Population:
    """Clients: how many, how unequal, and of which kind; requests per second of all of them.

    In a share of the intervals (`stalls`) the disk stalls both versions beyond NGINX's time limit.
    """

    rate: float
    clients: int = 1000
    zipf: float = 1.1
    kind: Kind = "usual"
    stalls: float = 0


def _shares(kind: Kind, chance: random.Random) -> tuple[float, float]:
    """Return a client's shares of 404 and 409."""
    if kind == "unusual":
        return chance.betavariate(0.1, 0.9), chance.betavariate(0.1, 0.9) / 2
    if kind == "mostly failing":
        return 0.0, 0.4 if chance.random() < 0.8 else 0.0
    return chance.betavariate(0.2, 6), chance.betavariate(0.2, 4)


class _Track:
    """Counts of one version."""

    def __init__(self) -> None:
        self.requests = self.measured = self.slow = 0
        self.outcomes: Counter[str] = Counter()
        self.clients: Counter[tuple[str, str]] = Counter()
        self.latencies, self.cpu = [0] * len(_LATENCIES), [0] * len(_CPU)
        self.resident = 90e6
        self.memory: list[tuple[float, float]] = []

    def by_client(self) -> dict[str, dict[str, float]]:
        """Return the outcomes by bucket."""
        found: dict[str, dict[str, float]] = {}
        for (outcome, bucket), count in self.clients.items():
            found.setdefault(outcome, {})[bucket] = count
        return found

    def counts(self) -> model.TrackCounts:
        return model.TrackCounts(self.requests, 0, _cumulative(self.latencies, _LATENCIES))

    def use(self) -> model.ResourceUse:
        return model.ResourceUse({"POST /x": _cumulative(self.cpu, _CPU)}, {}, 0.1, 50, 9, (tuple(self.memory),))


def _cumulative(counts: list[int], bounds: tuple[float, ...]) -> dict[str, float]:
    """Return cumulative counts by `le`."""
    names = ("+Inf" if bound == float("inf") else str(bound) for bound in bounds)
    return dict(zip(names, map(float, accumulate(counts))))


class SimulatedRollout:
    """One rollout; a fault is the canary's."""

    def __init__(self, population: Population, seed: str, fault: Fault = Fault()) -> None:
        self._chance = chance = random.Random(seed)
        self._rate, self._stalls, self._fault = population.rate, population.stalls, fault
        numbers = range(population.clients)
        self._weights = list(accumulate((number + 1) ** -population.zipf for number in numbers))
        self._clients = [
            (chance.random(), str(chance.randrange(_BUCKETS)), *_shares(population.kind, chance)) for _ in numbers
        ]
        self._before = _Track()
        for _, bucket, missing, refused in self._requests(_BEFORE_REQUESTS):
            self._before.clients[self._usual(missing, refused), bucket] += 1
        self._before_counts = model.TrackCounts(
            _BEFORE_REQUESTS, 0, {"1.0": _BEFORE_REQUESTS, "+Inf": _BEFORE_REQUESTS}
        )

    def step(self, share: float) -> Iterator[tuple[float, model.Verdict]]:
        """Yield the seconds since the start of a step, and the verdict, at each analysis."""
        canary, stable = _Track(), _Track()
        retried, seconds, hung = 0, 0.0, deque([0], maxlen=round(_LIMIT_SECONDS / SCRAPE_SECONDS) + 1)
        while seconds < BUDGET_SECONDS:
            seconds += SCRAPE_SECONDS
            # Of requests that the canary has got in this interval, NGINX ends the first ones in the next.
            hung.append(hung[-1])
            stalled = _STALLED if self._chance.random() < self._stalls else 0.0
            for position, bucket, missing, refused in self._requests(round(self._rate * SCRAPE_SECONDS)):
                outcome = self._usual(missing, refused)
                if position >= share:
                    stable.slow += self._chance.random() < stalled
                    self._answer(stable, outcome, bucket, seconds, Fault())
                    continue
                if self._chance.random() < max(self._fault.hangs, stalled):
                    hung[-1] += 1
                    continue
                if faulty := self._is_faulty():
                    retried += outcome == "2xx" and not self._fault.stored
                self._answer(canary, self._fault.status if faulty else outcome, bucket, seconds, self._fault)
            for track in (canary, stable):
                self._grow(track, seconds)
            yield seconds, evaluate(self._samples(seconds, canary, stable, retried, hung[0]), _POLICY)

    def _requests(self, count: int) -> Iterator[tuple[float, str, float, float]]:
        total = self._weights[-1]
        for _ in range(count):
            yield self._clients[bisect(self._weights, self._chance.random() * total)]

    def _usual(self, missing: float, refused: float) -> str:
        point = self._chance.random()
        return "404" if point < missing else "409" if point < missing + refused else "2xx"

    def _is_faulty(self) -> bool:
        writes = not self._fault.writes or self._chance.random() < 2 / 3
        return writes and self._chance.random() < self._fault.share

    def _answer(self, track: _Track, outcome: str, bucket: str, seconds: float, fault: Fault) -> None:
        chance = self._chance
        track.requests += 1
        track.clients[outcome, bucket] += 1
        if outcome != "2xx":
            track.outcomes[f"{outcome} POST /x"] += 1
        track.resident += fault.leaked_bytes
        if seconds > _WARM_UP_SECONDS:
            latency = 2.0 if chance.random() < fault.slow_share else chance.lognormvariate(-4, 0.8)
            track.latencies[bisect(_LATENCIES, latency)] += 1
            track.cpu[bisect(_CPU, chance.lognormvariate(-7, 0.4) * fault.cpu)] += 1

    def _grow(self, track: _Track, seconds: float) -> None:
        """Let a process grow in jumps, less and less."""
        track.resident += self._chance.choice((0, 0, 131_072, 1_048_576)) * (1 if seconds < 60 else 0.1)
        if seconds >= _WARM_UP_SECONDS:
            track.memory.append((track.requests, track.resident))

    def _samples(self, seconds: float, canary: _Track, stable: _Track, retried: int, unanswered: int) -> model.Samples:
        known = Counter(stable.clients)
        known.update(self._before.clients)
        both = _Track()
        both.clients = known
        outcomes = model.OutcomeCounts(
            *("service", canary.requests, stable.requests, dict(canary.outcomes), dict(stable.outcomes)),
            *(canary.by_client(), both.by_client(), retried, unanswered, stable.slow),
        )
        invariants = dict.fromkeys(model.INVARIANTS, 0.0)
        if not self._fault.events:
            invariants["events"] = float(canary.requests)
        return model.Samples(
            seconds,
            (model.ServiceCounts("service", stable.counts(), canary.counts(), None),),
            invariants,
            outcomes=(outcomes,),
            resources=(model.ResourceCounts("service", canary.use(), stable.use(), True),),
        )


def roll_out(population: Population, seed: str, steps: tuple[float, ...] = (0.1, 0.5)) -> str:
    """Roll an equal version out; return `promoted`, or why not."""
    rollout = SimulatedRollout(population, seed)
    for share in steps:
        verdict = next((one for _, one in rollout.step(share) if one.verdict != "hold"), None)
        if verdict is None or verdict.verdict == "rollback":
            return f"rollback ({verdict.reason} {verdict.detail})" if verdict else "timed out"
    return "promoted"


def seconds_to_roll_back(
    name: str, population: Population, seed: str, steps: tuple[float, ...] = (0.1, 0.5)
) -> tuple[float, int, str]:
    """Return after how many seconds, and in which step, a faulty version is rolled back, and the reason.

    The seconds are infinite, and the reason empty, if it is promoted.
    """
    rollout, before = SimulatedRollout(population, seed, FAULTS[name]), 0.0
    for number, share in enumerate(steps):
        seconds, verdict = next(
            (one for one in rollout.step(share) if one[1].verdict != "hold"), (BUDGET_SECONDS, None)
        )
        if verdict is None or verdict.verdict == "rollback":
            return before + seconds + REACTION_SECONDS, number, verdict.reason if verdict else "time-out"
        before += seconds
    return float("inf"), len(steps), ""

"""Plain data of a canary analysis: samples, the policy they are judged by, and the verdict."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

Answer = Literal["promote", "rollback", "hold"]
Figures = Mapping[str, Mapping[str, float | None]]

# All 0 when sound; a breach of one rolls back at once.
INVARIANTS = ("ledger-imbalance", "ledger-violation", "reconciliation", "dead-letters", "consumer", "consumer-lag")
# Every reason of a verdict: values of a metric's label. With `hold`, one of the first group is a suspicion.
REASONS = (
    *("errors", "latency-ceiling", "latency"),
    *("ledger-imbalance", "ledger-violation", "reconciliation", "dead-letters", "consumer"),
    *("no-data", "not-enough-samples", "baking", "healthy"),
)


@dataclass(frozen=True, slots=True)
class TrackCounts:
    """What one track of a service has answered: all, those with a 5xx, and by `le` those that took so many seconds."""

    requests: float
    errors: float
    buckets: Mapping[str, float]


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
    tolerated_ratio: float = 8
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

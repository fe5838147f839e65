"""Plain data of a canary analysis: samples, policy and verdict."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

Decision = Literal["promote", "rollback", "hold"]
Figures = Mapping[str, Mapping[str, float | None]]

# All 0 when consistent; a violation of any one rolls back immediately.
INVARIANTS = (
    *("ledger-imbalance", "ledger-violation", "reconciliation", "dead-letters", "consumer", "consumer-lag"),
    *("events", "restart"),
)
# All reasons of a verdict, which are label values of a metric. With `hold`, the first group means a suspicion.
REASONS = (
    *("errors", "latency-ceiling", "latency", "retries", "outcomes", "cpu", "memory", "files", "threads", "event-loop"),
    *("ledger-imbalance", "ledger-violation", "reconciliation", "dead-letters", "consumer", "events", "restart"),
    *("contract-probe", "criterion"),
    *("no-data", "not-enough-samples", "baking", "healthy"),
)


@dataclass(frozen=True, slots=True)
class TrackCounts:
    """Requests of one track of a service: total, with a 5xx, and cumulative by duration (`le`, in seconds)."""

    requests: float
    errors: float
    buckets: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ServiceCounts:
    """Both tracks of a service in a step, and stable before it; None means not measured."""

    service: str
    stable: TrackCounts | None
    canary: TrackCounts | None
    before: TrackCounts | None = None


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Outcomes of a service's requests, or of its transactions, in a step.

    `canary` and `stable` count the unsuccessful ones by a text that begins with the outcome (`409 account-frozen POST
    /api/v1/transfers`). The clients' counts are of all outcomes by bucket, stable's including the time before the step.
    `retried` are the requests that stable has answered with success after the canary had not.
    """

    name: str
    canary_total: float
    stable_total: float
    canary: Mapping[str, float]
    stable: Mapping[str, float]
    canary_clients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stable_clients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    retried: float = 0


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a step: its age in seconds, requests, and the extent of each invariant's violation (None: unknown).

    `consumer-lag` is in seconds, the canary's consumer behind stable's; the other invariants are counts. None instead
    of a tuple means that Prometheus did not answer.
    """

    seconds: float
    services: tuple[ServiceCounts, ...]
    invariants: Mapping[str, float | None]
    outcomes: tuple[OutcomeCounts, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds of the analysis; error and latency rates are fractions of requests. Raises ValueError if invalid."""

    bake_seconds: float = 60
    # Minimum per service and track before a promotion; a rollback needs no minimum.
    least_requests: float = 100
    # Type I error (an equal canary is rolled back) of the tests against stable, stable in the same step, and the floor.
    alpha: float = 0.003
    step_alpha: float = 0.05
    floor_alpha: float = 0.05
    # Type II error: a canary at a limit, or failing `tolerated_ratio` times as often, is accepted.
    beta: float = 0.05
    error_floor: float = 0.001
    error_limit: float = 0.03
    ceiling_seconds: float = 1
    ceiling_floor: float = 0.01
    ceiling_limit: float = 0.1
    ratio: float = 15
    tolerated_ratio: float = 8
    latency_alpha: float = 0.001
    # Probability that the canary is slower in a random pair of requests (0.5: no difference), and the mean difference.
    least_superiority: float = 0.6
    least_slower_seconds: float = 0.025
    lag_seconds: float = 60
    # Outcomes: level of the tests of requests and of clients, and by how much a canary's share must be larger.
    outcome_alpha: float = 0.003
    client_alpha: float = 0.01
    outcome_floor: float = 0.02
    outcome_ratio: float = 1.5
    # Requests that only stable answered with success: level, tolerated share (two replicas race), and minimum number.
    retry_alpha: float = 0.003
    retry_floor: float = 0.01
    least_retries: float = 5

    def __post_init__(self) -> None:
        """Reject values that the tests cannot work with."""
        error_rates = (
            *(self.alpha, self.step_alpha, self.floor_alpha, self.beta, self.latency_alpha),
            *(self.outcome_alpha, self.client_alpha, self.retry_alpha, self.retry_floor),
        )
        limits = (self.error_floor, self.error_limit, self.ceiling_floor, self.ceiling_limit, self.outcome_floor)
        valid = (
            all(0 < value < math.inf for value in asdict(self).values())
            and all(rate < 0.5 for rate in error_rates)
            and all(limit < 1 for limit in (*limits, self.least_superiority))
            and self.error_floor < self.error_limit
            and self.ceiling_floor < self.ceiling_limit
            and min(self.ratio, self.tolerated_ratio, self.outcome_ratio) > 1
        )
        if not valid:
            raise ValueError(f"invalid policy: {self}")


@dataclass(frozen=True, slots=True)
class TestResult:
    """Result of a test: the canary is worse, or acceptable, or neither (more samples are needed); and its figures.

    `detail` names what differs, if the test compares several things.
    """

    worse: bool
    acceptable: bool
    figures: Mapping[str, float | None]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision, its reason (one of REASONS), and the figures that led to it, by service or `invariants`.

    `detail` names what differs: an outcome, a resource, a probe or a criterion.
    """

    verdict: Decision
    reason: str
    figures: Figures = field(default_factory=dict)
    detail: str = ""

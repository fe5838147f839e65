"""Plain data of a canary analysis: samples, policy and verdict."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

Decision = Literal["promote", "rollback", "hold"]
Figures = Mapping[str, Mapping[str, float | None]]

# All 0 when consistent; a violation of any one rolls back immediately.
INVARIANTS = tuple(
    "ledger-imbalance ledger-violation reconciliation dead-letters consumer consumer-lag events holds history"
    " restart".split()
)
# All reasons of a verdict, which are label values of a metric. With `hold`, the first group means a suspicion.
REASONS = tuple(
    "errors latency-ceiling latency retries outcomes no-response cpu memory files threads event-loop"
    " ledger-imbalance ledger-violation reconciliation dead-letters consumer events holds history restart"
    " criterion contract no-data not-enough-samples baking healthy".split()
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

    `canary` and `stable` count the unsuccessful ones; a key begins with the outcome (`409 account-frozen POST
    /api/v1/transfers`). Those by client count all outcomes by client bucket, for stable also before the step.
    `retried` are requests that failed on the canary and succeeded on stable. `unanswered` are those to which a
    connected canary did not respond in time, or not with valid HTTP, and stable did. `stable_slow` are requests for
    which stable took longer than NGINX's time limit for a canary.
    """

    name: str
    canary_total: float
    stable_total: float
    canary: Mapping[str, float]
    stable: Mapping[str, float]
    canary_clients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stable_clients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    retried: float = 0
    unanswered: float = 0
    stable_slow: float = 0


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """Resources of a track's replicas of a service in a step, after the warm-up; None means not measured.

    CPU time per request by `METHOD handler`, and event-loop lag, are cumulative counts by duration (`le`, in seconds).
    `cores` is the highest CPU use of a replica, `files` and `threads` are the highest numbers of one. `memory` has the
    requests served and the resident bytes of each replica at each scrape.
    """

    cpu: Mapping[str, Mapping[str, float]]
    lag: Mapping[str, float]
    cores: float | None = None
    files: float | None = None
    threads: float | None = None
    memory: tuple[tuple[tuple[float, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class ResourceCounts:
    """Resources of both tracks of a service.

    With `baseline`, those of stable are of the replicas that were started in this rollout, and are as old as the
    canary; otherwise of all its replicas, whose memory is not comparable.
    """

    service: str
    canary: ResourceUse
    stable: ResourceUse
    baseline: bool


@dataclass(frozen=True, slots=True)
class Criterion:
    """An operator's own criterion: PromQL for canary and stable, each with one value as result.

    The canary is worse if it is more than `tolerance` (a ratio) above stable (`higher_is_worse`), or below it
    (`lower_is_worse`), for `analyses` analyses in a row; a value that is not measured is `hold`.
    """

    name: str
    canary: str
    stable: str
    direction: Literal["higher_is_worse", "lower_is_worse"] = "higher_is_worse"
    tolerance: float = 0.1
    analyses: int = 3

    def is_worse(self, canary: float, stable: float) -> bool:
        """Return whether a value of the canary is worse than stable's."""
        change = canary - stable if self.direction == "higher_is_worse" else stable - canary
        return change > self.tolerance * abs(stable)


@dataclass(frozen=True, slots=True)
class CriterionValues:
    """The values of an operator's criterion in the last analyses, the latest one last; None means not measured."""

    criterion: Criterion
    canary: tuple[float | None, ...]
    stable: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a step: its age in seconds, requests, and the extent of each invariant's violation (None: unknown).

    `consumer-lag` is in seconds, the canary's consumer behind stable's; the other invariants are counts. None instead
    of a tuple means that Prometheus did not answer. `contract` is the difference that the contract probe has confirmed.
    """

    seconds: float
    services: tuple[ServiceCounts, ...]
    invariants: Mapping[str, float | None]
    outcomes: tuple[OutcomeCounts, ...] | None = ()
    resources: tuple[ResourceCounts, ...] | None = ()
    criteria: tuple[CriterionValues, ...] = ()
    contract: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds of the analysis; error and latency rates are fractions of requests. Raises ValueError if invalid."""

    bake_seconds: float = 60
    # Minimum per service and track before a promotion; a rollback needs no minimum.
    min_requests: float = 100
    # Type I error (an equal canary is rolled back) of the tests against stable, stable in the same step, and the floor.
    alpha: float = 0.003
    step_alpha: float = 0.05
    floor_alpha: float = 0.05
    # Type II error: a canary at a limit, or failing `tolerated_ratio` times as often, is accepted.
    beta: float = 0.05
    error_floor: float = 0.001
    error_limit: float = 0.03
    ceiling_seconds: float = 1
    ceiling_floor: float = 0.002
    ceiling_limit: float = 0.04
    ratio: float = 15
    tolerated_ratio: float = 8
    latency_alpha: float = 0.001
    # Probability that the canary is slower in a random pair of requests (0.5: no difference), and the mean difference.
    min_superiority: float = 0.6
    min_slower_seconds: float = 0.025
    lag_seconds: float = 60
    # Outcomes: levels of the tests of requests and of clients, and how much larger the canary's share must be.
    outcome_alpha: float = 0.003
    client_alpha: float = 0.01
    outcome_floor: float = 0.02
    outcome_ratio: float = 1.5
    # Requests that succeeded only on stable: level, tolerated share (because of races), and minimum number.
    retry_alpha: float = 0.003
    retry_floor: float = 0.01
    min_retries: float = 5
    # CPU time per request and of the process: ratio to stable's; the process must use this many cores more.
    cpu_ratio: float = 2
    cpu_cores: float = 0.5
    # Memory: level, growth per request, and by how much the canary must have grown more than the baseline.
    memory_alpha: float = 0.003
    leak_bytes: float = 10_000
    min_growth_bytes: float = 3_000_000
    # Open files and threads: ratio to stable's, and by how many more.
    handle_ratio: float = 2
    min_handles: float = 50

    def __post_init__(self) -> None:
        """Reject values that the tests cannot work with."""
        error_rates = (
            *(self.alpha, self.step_alpha, self.floor_alpha, self.beta, self.latency_alpha),
            *(self.outcome_alpha, self.client_alpha, self.retry_alpha, self.retry_floor, self.memory_alpha),
        )
        limits = (self.error_floor, self.error_limit, self.ceiling_floor, self.ceiling_limit, self.outcome_floor)
        valid = (
            all(0 < value < math.inf for value in asdict(self).values())
            and all(rate < 0.5 for rate in error_rates)
            and all(limit < 1 for limit in (*limits, self.min_superiority))
            and self.error_floor < self.error_limit
            and self.ceiling_floor < self.ceiling_limit
            and min(self.ratio, self.tolerated_ratio, self.outcome_ratio) > 1
        )
        if not valid:
            raise ValueError(f"invalid policy: {self}")


@dataclass(frozen=True, slots=True)
class Finding:
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

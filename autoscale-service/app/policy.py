"""The desired number of replicas: the algorithm of Kubernetes' HorizontalPodAutoscaler on plain data.

Without clock, network or Docker. Sources: kubernetes/kubernetes, pkg/controller/podautoscaler, replica_calculator.go
(calcPlainMetricReplicas) for the proposal and horizontal.go (stabilizeRecommendationWithBehaviors,
convertDesiredReplicasWithBehaviorRate) for windows and policies. The panic mode is that of Knative's autoscaler
(knative/serving, pkg/autoscaler/scaling/autoscaler.go): a load of twice the target, measured over a few seconds, counts
as it is, and nothing is scaled down until the load has stayed below that for a minute. Times are seconds of any one
clock.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

# Values beyond this are invalid; replica counts stay exact in a float.
_MAX_VALUE = 1e12
# Far below a relevant difference, far above the rounding error of a few float operations.
_EPSILON = 1e-9


class MetricValue(NamedTuple):
    """Average value of a metric per ready replica, and its target, in the same unit."""

    value: float
    target: float

    @property
    def usable(self) -> bool:
        """Whether the value is valid; a division by zero replicas yields NaN or infinity."""
        return 0 <= self.value < _MAX_VALUE and 1 / _MAX_VALUE < self.target < _MAX_VALUE


class TimestampedRecommendation(NamedTuple):
    """A recommended number of replicas and its time."""

    when: float
    replicas: int


class ScaleEvent(NamedTuple):
    """A change of the number of replicas (negative: fewer) and its time."""

    when: float
    change: int


class ScalingPolicy(NamedTuple):
    """Maximum change per period: the larger of a number of replicas and a percentage of those at its start."""

    number: int
    percent: int
    period: float


@dataclass(frozen=True, slots=True)
class ScalingSpec:
    """Scaling configuration of a service."""

    minimum: int
    maximum: int
    tolerance: float = 0.1
    scale_up_stabilization_seconds: float = 0
    scale_down_stabilization_seconds: float = 300
    up: ScalingPolicy = ScalingPolicy(4, 100, 15)
    down: ScalingPolicy = ScalingPolicy(1, 50, 60)
    # Ratio of the load over the panic window to its target that starts panic mode (0: never), and how long it lasts.
    panic_threshold: float = 2
    panic_duration_seconds: float = 60
    # Without metrics, a firing alert adds at most one replica per this many seconds.
    fallback_period_seconds: float = 60


@dataclass(frozen=True, slots=True)
class Observation:
    """A service at one time: its replicas, those ready and those with metrics, and the metrics by name (None: missing).

    `alert`: a scale-out alert is firing. `updating`: a new version is replacing an old one. `panic`: the metrics that
    are also measured over the panic window.
    """

    current: int
    ready: int
    with_metrics: int
    metrics: Mapping[str, MetricValue | None]
    alert: bool = False
    updating: bool = False
    panic: tuple[MetricValue, ...] = ()

    def overload(self, spec: ScalingSpec) -> MetricValue | None:
        """Return the highest load over the panic window if it reaches the threshold of the panic mode."""
        usable = [load for load in self.panic if load.usable and spec.panic_threshold]
        highest = max(usable, key=lambda load: load.value / load.target, default=None)
        if highest is None or highest.value / highest.target < spec.panic_threshold - _EPSILON:
            return None
        return highest


@dataclass(frozen=True, slots=True)
class History:
    """Recommendations and changes, as far back as the longest window or period, and the last overload."""

    recommendations: tuple[TimestampedRecommendation, ...] = ()
    changes: tuple[ScaleEvent, ...] = ()
    overloaded_at: float = -math.inf

    def with_recommendation(self, now: float, replicas: int) -> "History":
        """Return the history with a recommendation added."""
        return replace(self, recommendations=(*self.recommendations, TimestampedRecommendation(now, replicas)))

    def with_change(self, now: float, by: int) -> "History":
        """Return the history with a change added."""
        return replace(self, changes=(*self.changes, ScaleEvent(now, by)))

    def with_overload(self, now: float) -> "History":
        """Return the history with an overload, which starts or prolongs the panic mode."""
        return replace(self, overloaded_at=now)

    def since(self, timestamp: float) -> "History":
        """Return the part after a time."""
        return replace(
            self,
            recommendations=tuple(entry for entry in self.recommendations if entry.when > timestamp),
            changes=tuple(entry for entry in self.changes if entry.when > timestamp),
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """The desired number of replicas and the reason; `proposal` is that of the metrics alone, None without metrics."""

    current: int
    desired: int
    reason: str
    proposal: int | None = None

    @property
    def direction(self) -> str:
        """`up`, `down` or `none`."""
        return "up" if self.desired > self.current else "down" if self.desired < self.current else "none"

    @property
    def pending(self) -> bool:
        """Whether it will change with time: an operation is due, or a window or period is running."""
        return self.direction != "none" or self.reason in ("stabilized", "rate-limited", "updating", "panic")


def propose(load: MetricValue, current: int, ready: int, with_metrics: int, tolerance: float) -> int:
    """Return the number of replicas that one metric asks for.

    When scaling up, replicas that are not ready or without metrics count as idle; when scaling down, those
    without metrics count as loaded to the target. If this would reverse the direction, the number does not change.
    """
    with_metrics = min(with_metrics, current)
    missing = max(0, ready - with_metrics)
    unready = current - with_metrics - missing
    ratio = load.value / load.target
    counted, total = with_metrics, ratio * with_metrics
    if missing:
        counted += missing
        total += missing if ratio <= 1 else 0
    if unready and ratio > 1:
        counted += unready
    if not counted:
        return current
    corrected = total / counted
    if abs(1 - corrected) <= tolerance + _EPSILON or (ratio < 1 < corrected) or (ratio > 1 > corrected):
        return current
    return math.ceil(total - _EPSILON)


def stabilize(
    proposal: int, current: int, history: Iterable[TimestampedRecommendation], spec: ScalingSpec, now: float
) -> int:
    """Return the stabilized proposal: at most the lowest of the up window, at least the highest of the down window."""
    recent = list(history)
    up = min(
        [proposal, *(entry.replicas for entry in recent if entry.when > now - spec.scale_up_stabilization_seconds)]
    )
    down = max(
        [proposal, *(entry.replicas for entry in recent if entry.when > now - spec.scale_down_stabilization_seconds)]
    )
    return min(max(current, up), down)


def up_limit(current: int, changes: Iterable[ScaleEvent], policy: ScalingPolicy, now: float) -> int:
    """Return the maximum number of replicas that the policy allows now."""
    at_start = _replicas_at_period_start(current, changes, policy, now)
    by_percent = math.ceil(at_start * (1 + policy.percent / 100) - _EPSILON) if policy.percent else 0
    return max(current, at_start + policy.number if policy.number else 0, by_percent)


def down_limit(current: int, changes: Iterable[ScaleEvent], policy: ScalingPolicy, now: float) -> int:
    """Return the minimum number of replicas that the policy allows now."""
    at_start = _replicas_at_period_start(current, changes, policy, now)
    by_percent = int(at_start * (1 - policy.percent / 100) + _EPSILON) if policy.percent else at_start
    return min(current, at_start - policy.number if policy.number else at_start, by_percent)


def _replicas_at_period_start(current: int, changes: Iterable[ScaleEvent], policy: ScalingPolicy, now: float) -> int:
    return current - sum(event.change for event in changes if event.when > now - policy.period)


def decide(observation: Observation, spec: ScalingSpec, history: History, now: float) -> Decision:
    """Decide the desired number of replicas.

    The largest proposal of several metrics wins; an overload in the panic window is one of them. A missing metric
    prevents scaling down; without any metric only an alert scales up, one replica at a time. A service without replicas
    was stopped manually and stays stopped. During an update the number does not change; proposals are still recorded
    for the stabilization windows.
    """
    current = observation.current
    if current == 0:
        return Decision(0, 0, "stopped")
    usable = [load for load in observation.metrics.values() if load is not None and load.usable]
    overload = observation.overload(spec)
    loads = usable if overload is None else [*usable, overload]
    proposals = [propose(load, current, observation.ready, observation.with_metrics, spec.tolerance) for load in loads]
    proposal = max(proposals, default=None)
    missing = proposal is not None and proposal < current and len(usable) < len(observation.metrics)
    if observation.updating:
        return Decision(current, current, "updating", current if missing else proposal)
    if current < spec.minimum:
        return Decision(current, spec.minimum, "below-minimum")
    if proposal is None:
        return _without_metrics(observation, spec, history, now)
    if missing:
        return Decision(current, current, "metric-missing", current)
    panicking = overload is not None or history.overloaded_at > now - spec.panic_duration_seconds
    return _limited(proposal, current, spec, history, now, panicking)


def _limited(proposal: int, current: int, spec: ScalingSpec, history: History, now: float, panicking: bool) -> Decision:
    """Apply windows, policies and bounds to a proposal; panic mode bypasses the windows and never scales down."""
    if panicking:
        stabilized, window = max(proposal, current), "panic"
    else:
        stabilized, window = stabilize(proposal, current, history.recommendations, spec, now), "stabilized"
    upper = up_limit(current, history.changes, spec.up, now)
    lower = down_limit(current, history.changes, spec.down, now)
    if current > spec.maximum:
        return Decision(current, *((current, "panic") if panicking else (spec.maximum, "above-maximum")), proposal)
    desired = min(max(stabilized, lower, spec.minimum), upper, spec.maximum)
    if desired == stabilized:
        if stabilized != proposal:
            reason = window
        elif desired > current:
            reason = "panic" if panicking else "above-target"
        else:
            reason = "on-target" if desired == current else "below-target"
    elif desired in (spec.maximum, spec.minimum):
        reason = "at-maximum" if desired < stabilized else "at-minimum"
    else:
        reason = "rate-limited"
    return Decision(current, desired, reason, proposal)


def _without_metrics(observation: Observation, spec: ScalingSpec, history: History, now: float) -> Decision:
    current = observation.current
    # Wait until the last added replica is ready and had time to take effect.
    waiting = observation.ready < current or any(
        entry.when > now - spec.fallback_period_seconds for entry in history.changes
    )
    if not observation.alert or waiting:
        return Decision(current, current, "no-metrics")
    if current >= spec.maximum:
        return Decision(current, current, "at-maximum")
    return Decision(current, current + 1, "alert-without-metrics")

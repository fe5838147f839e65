"""How many replicas there should be: the algorithm of Kubernetes' HorizontalPodAutoscaler on plain data.

No clock, network or Docker here. Sources: kubernetes/kubernetes, pkg/controller/podautoscaler, replica_calculator.go
(calcPlainMetricReplicas) for the proposal and horizontal.go (stabilizeRecommendationWithBehaviors,
convertDesiredReplicasWithBehaviorRate) for windows and rates. Times are seconds on any one clock.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

# What is beyond is no load, and no number of replicas that a float could not count.
_MOST = 1e12
# Far below what a load can be told apart by, far above the error of a few float operations.
_EPSILON = 1e-9


class Load(NamedTuple):
    """What one ready replica carries on average, and what it should carry, in one unit."""

    value: float
    target: float

    @property
    def usable(self) -> bool:
        """Tell whether a decision can rest on it; a division by no replicas gives NaN or infinity."""
        return 0 <= self.value < _MOST and 1 / _MOST < self.target < _MOST


class Entry(NamedTuple):
    """A number of replicas at a time: one that was recommended, or by how many it changed (negative: fewer)."""

    when: float
    replicas: int


class Rate(NamedTuple):
    """Most replicas that may come or go in a period: the larger of a number and a share of those at its start."""

    number: int
    percent: int
    period: float


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator has set for a service."""

    minimum: int
    maximum: int
    tolerance: float = 0.1
    up_window: float = 0
    down_window: float = 300
    up: Rate = Rate(4, 100, 15)
    down: Rate = Rate(1, 50, 60)
    # Without metrics an alert brings at most one replica in so many seconds.
    fallback_period: float = 60


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known at one moment: replicas that exist, of those ready, of those measured, and the loads.

    A load of None is one whose metric is missing. `alert` says that an alert asks for more replicas, `rolling` that a
    new version is replacing an old one.
    """

    current: int
    ready: int
    measured: int
    loads: Mapping[str, Load | None]
    alert: bool = False
    rolling: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """Earlier recommendations and changes, as far back as any window or period reaches."""

    recommendations: tuple[Entry, ...] = ()
    changes: tuple[Entry, ...] = ()

    def recommended(self, now: float, replicas: int) -> "History":
        """Return the history with one recommendation more."""
        return History((*self.recommendations, Entry(now, replicas)), self.changes)

    def changed(self, now: float, by: int) -> "History":
        """Return the history with one change more."""
        return History(self.recommendations, (*self.changes, Entry(now, by)))

    def since(self, moment: float) -> "History":
        """Return the part of it that is younger."""
        return History(
            tuple(entry for entry in self.recommendations if entry.when > moment),
            tuple(entry for entry in self.changes if entry.when > moment),
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there shall be and why; `proposal` is what the metrics alone ask for, None without any."""

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
        """Tell whether time alone will change it: it is to be carried out, or a window or period has to end."""
        return self.direction != "none" or self.reason in ("stabilized", "rate-limited", "rolling")


def propose(load: Load, current: int, ready: int, measured: int, tolerance: float) -> int:
    """Return the replicas that one metric asks for.

    Going up, replicas that are not ready or not measured count as idle: they will take their share. Going down, those
    not measured count as loaded to the target. What would turn the direction round by this changes nothing.
    """
    measured = min(measured, current)
    missing = max(0, ready - measured)
    unready = current - measured - missing
    ratio = load.value / load.target
    counted, total = measured, ratio * measured
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


def stabilize(proposal: int, current: int, history: Iterable[Entry], rules: Rules, now: float) -> int:
    """Return the proposal held back by younger ones: the lowest of the up window, the highest of the down window."""
    recent = list(history)
    up = min([proposal, *(entry.replicas for entry in recent if entry.when > now - rules.up_window)])
    down = max([proposal, *(entry.replicas for entry in recent if entry.when > now - rules.down_window)])
    return min(max(current, up), down)


def up_limit(current: int, changes: Iterable[Entry], rate: Rate, now: float) -> int:
    """Return the most replicas that the rate allows now."""
    begun_with = _begun_with(current, changes, rate, now)
    by_percent = math.ceil(begun_with * (1 + rate.percent / 100) - _EPSILON) if rate.percent else 0
    return max(current, begun_with + rate.number if rate.number else 0, by_percent)


def down_limit(current: int, changes: Iterable[Entry], rate: Rate, now: float) -> int:
    """Return the fewest replicas that the rate allows now."""
    begun_with = _begun_with(current, changes, rate, now)
    by_percent = int(begun_with * (1 - rate.percent / 100) + _EPSILON) if rate.percent else begun_with
    return min(current, begun_with - rate.number if rate.number else begun_with, by_percent)


def _begun_with(current: int, changes: Iterable[Entry], rate: Rate, now: float) -> int:
    return current - sum(entry.replicas for entry in changes if entry.when > now - rate.period)


def decide(sight: Sight, rules: Rules, history: History, now: float) -> Decision:
    """Return how many replicas there shall be.

    The largest proposal of several metrics wins. A missing metric never lets the number fall, and without any metric
    only an alert raises it, one by one. A service without replicas was stopped by somebody and stays so. While a new
    version replaces an old one nothing changes; what the load asks for is still proposed, so that the windows know it.
    """
    current = sight.current
    if current == 0:
        return Decision(0, 0, "stopped")
    usable = [load for load in sight.loads.values() if load is not None and load.usable]
    wanted = [propose(load, current, sight.ready, sight.measured, rules.tolerance) for load in usable]
    proposal = max(wanted, default=None)
    missing = proposal is not None and proposal < current and len(usable) < len(sight.loads)
    if sight.rolling:
        return Decision(current, current, "rolling", current if missing else proposal)
    if current < rules.minimum:
        return Decision(current, rules.minimum, "below-minimum")
    if proposal is None:
        return _without_metrics(sight, rules, history, now)
    if missing:
        return Decision(current, current, "metric-missing", current)
    return _limited(proposal, current, rules, history, now)


def _limited(proposal: int, current: int, rules: Rules, history: History, now: float) -> Decision:
    """Return the decision that windows, rates and bounds make of a proposal."""
    wanted = stabilize(proposal, current, history.recommendations, rules, now)
    most = up_limit(current, history.changes, rules.up, now)
    fewest = down_limit(current, history.changes, rules.down, now)
    if current > rules.maximum:
        return Decision(current, rules.maximum, "above-maximum", proposal)
    desired = min(max(wanted, fewest, rules.minimum), most, rules.maximum)
    if desired == wanted:
        if wanted != proposal:
            reason = "stabilized"
        else:
            reason = "on-target" if desired == current else "above-target" if desired > current else "below-target"
    elif desired in (rules.maximum, rules.minimum):
        reason = "at-maximum" if desired < wanted else "at-minimum"
    else:
        reason = "rate-limited"
    return Decision(current, desired, reason, proposal)


def _without_metrics(sight: Sight, rules: Rules, history: History, now: float) -> Decision:
    current = sight.current
    # The last replica has to show first whether it helps.
    waiting = sight.ready < current or any(entry.when > now - rules.fallback_period for entry in history.changes)
    if not sight.alert or waiting:
        return Decision(current, current, "no-metrics")
    if current >= rules.maximum:
        return Decision(current, current, "at-maximum")
    return Decision(current, current + 1, "alert-without-metrics")

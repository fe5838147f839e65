"""Reads the samples of a canary analysis from Prometheus.

Latencies exclude a warm-up: the first requests of a new process open connections and prepare statements, and NGINX has
just been reloaded. A pause that affects both tracks must not count for the canary alone, so stable's latencies start
one scrape interval earlier and the canary's end one scrape interval earlier.

A value that is not measured *now* is None, never 0: a canary with a target that is down, a stale `up` (Prometheus
returns the last value for five minutes), a series that no replica exports under the expected name and labels.
"""

import asyncio
import math
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import httpx

from app.analysis.criterion_samples import read_criteria
from app.analysis.model import (
    Criterion,
    CriterionValues,
    OutcomeCounts,
    ResourceCounts,
    Samples,
    ServiceCounts,
    TrackCounts,
)
from app.analysis.outcome_samples import read_outcomes
from app.analysis.queries import AnalysisWindow, Key, MetricsUnavailable, Prometheus, Values
from app.analysis.resource_samples import read_resources

# Four scrapes: an older sample is stale.
_STALE_SECONDS = 20.0
_ACCOUNT, _TRANSACTION = "account-service", "transaction-service"
Result = TypeVar("Result")

# Each of them adds one entry to the history.
_ENTRY_EVENTS = "bank.entry.posted|bank.transaction.refused"
_REQUEST = 'handler!~"/health/.*|/metrics|/internal/.*|/docs.*"'


@dataclass(frozen=True, slots=True)
class MetricNames:
    """Names of the series that the services export."""

    requests: str = "http_requests_total"
    durations: str = "http_request_duration_seconds_bucket"
    imbalance: str = "bank_ledger_imbalance"
    violations: str = "bank_ledger_violations_total"
    mismatches: str = "bank_reconciliation_mismatches"
    consumed: str = "bank_events_consumed_total"
    lag: str = "bank_consumer_lag_seconds"
    events: str = "bank_event_mismatches_total"
    holds: str = "bank_hold_mismatches_total"
    entries: str = "bank_history_entries_total"
    started: str = "process_start_time_seconds"
    checked: str = "bank_check_completed_timestamp_seconds"


class PrometheusSamples:
    """Samples from a Prometheus server."""

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        services: Iterable[str] = (_ACCOUNT, _TRANSACTION),
        metrics: MetricNames = MetricNames(),
        criteria: Iterable[Criterion] = (),
    ) -> None:
        self._prometheus = Prometheus(url, client)
        self._services = tuple(services)
        self._metrics = metrics
        self._criteria = tuple(criteria)

    async def read(self, window: AnalysisWindow) -> Samples:
        """Return the samples of a step. Never raises: a value that is not available is None."""
        (up, services, invariants), (outcomes, resources, criteria) = await asyncio.gather(
            asyncio.gather(self._tracks_up(window.now), self._counts(window), self._invariants(window)),
            self._other_samples(window),
        )
        return Samples(
            seconds=window.now - window.step,
            services=tuple(
                ServiceCounts(
                    service,
                    stable=services.get((service, "stable")) if (service, "stable") in up else None,
                    canary=services.get((service, "canary")) if (service, "canary") in up else None,
                    before=services.get((service, "before")),
                )
                for service in self._services
            ),
            invariants=invariants,
            outcomes=outcomes,
            resources=resources,
            criteria=criteria,
        )

    async def _other_samples(
        self, window: AnalysisWindow
    ) -> tuple[tuple[OutcomeCounts, ...] | None, tuple[ResourceCounts, ...] | None, tuple[CriterionValues, ...]]:
        """Return outcomes, resources and own criteria."""
        return await asyncio.gather(
            _or_none(read_outcomes(self._prometheus, window, self._services)),
            _or_none(read_resources(self._prometheus, window, self._services)),
            read_criteria(self._prometheus, window, self._criteria),
        )

    async def _tracks_up(self, now: float) -> set[tuple[str, str]]:
        """Return the (service, track) pairs that are up: all canaries, or at least one stable replica."""
        selector = 'up{job="services"}'
        try:
            ups, times = await asyncio.gather(
                self._prometheus.query(selector, now, "service", "track", "instance"),
                self._prometheus.query(f"timestamp({selector})", now, "service", "track", "instance"),
            )
        except MetricsUnavailable:
            return set()
        targets: dict[tuple[str, str], list[bool]] = {}
        for key, value in ups.items():
            fresh = now - times.get(key, -math.inf) <= _STALE_SECONDS
            targets.setdefault((key[0], key[1]), []).append(value == 1 and fresh)
        return {pair for pair, states in targets.items() if (all(states) if pair[1] == "canary" else any(states))}

    async def _counts(self, window: AnalysisWindow) -> Mapping[tuple[str, str], TrackCounts]:
        """Return the counts of the step by service and track; track `before` is stable before the step."""
        earlier = window.before
        warm = window.step + window.warm_up
        counts_by_track: dict[tuple[str, str], TrackCounts] = {}
        for name, start, end, slow_from, slow_to in (
            ("stable", window.step, window.now, warm - window.scrape, window.now),
            ("canary", window.step, window.now, warm, window.now - window.scrape),
            ("before", earlier, window.step, earlier, window.step),
        ):
            # During the warm-up there are no latencies yet, but errors count from the first request on.
            latencies = (slow_from, slow_to) if slow_from < slow_to else (end, end)
            labels = f'job="services", track="{"canary" if name == "canary" else "stable"}", {_REQUEST}'
            try:
                requests, errors, buckets = await asyncio.gather(
                    self._prometheus.increase(f"{self._metrics.requests}{{{labels}}}", start, end),
                    self._prometheus.increase(f'{self._metrics.requests}{{{labels}, status=~"5.."}}', start, end),
                    self._prometheus.increase(f"{self._metrics.durations}{{{labels}}}", *latencies, "le"),
                )
            except MetricsUnavailable:
                continue
            for service in self._services:
                if counts := _track_counts(service, requests, errors, buckets):
                    counts_by_track[service, name] = counts
        return counts_by_track

    async def _invariants(self, window: AnalysisWindow) -> Mapping[str, float | None]:
        """Return by invariant the extent of its violation since the start of the rollout."""
        names = self._metrics
        canary = 'job="services", track="canary"'
        queries: Mapping[str, Awaitable[float | None]] = {
            # A violation from before the rollout has its own alert, and the canary did not cause it.
            # A ledger without accounts exports no currency; the check's timestamp shows that it is measured.
            "ledger-imbalance": self._gauge_change(
                f'{names.imbalance}{{job="services"}}',
                window,
                "currency",
                checked=f'{names.checked}{{job="services", check="ledger"}}',
            ),
            "reconciliation": self._gauge_change(f'{names.mismatches}{{job="services"}}', window),
            "ledger-violation": self._total_increase(f"{names.violations}{{{canary}}}", window),
            "dead-letters": self._total_increase(f'{names.consumed}{{{canary}, outcome="dead"}}', window),
            # Exported from the first failure on; that of dead letters, which starts at 0, shows that the metric exists.
            "consumer": self._total_increase(f'{names.consumed}{{{canary}, outcome="failed"}}', window, missing=0.0),
            "events": self._violations_found_by_stable(names.events, window),
            "holds": self._violations_found_by_stable(names.holds, window),
            "history": self._missing_entries(window.now),
            "restart": self._restarts(window),
            "consumer-lag": self._lag(f'{names.lag}{{job="services"}}', window.now),
        }
        return dict(zip(queries, await asyncio.gather(*map(_or_none, queries.values()))))

    async def _gauge_change(self, selector: str, window: AnalysisWindow, *labels: str, checked: str = "") -> float:
        """Return a gauge's largest change to a value other than 0; raises MetricsUnavailable.

        A gauge without any value counts as unchanged if the series `checked` exists.
        """
        now, start = await asyncio.gather(
            self._prometheus.query(selector, window.now, *labels, "instance"),
            self._prometheus.query(selector, window.rollout, *labels, "instance"),
        )
        if not now and not (checked and await self._prometheus.query(checked, window.now, "instance")):
            raise MetricsUnavailable(f"no series {selector}")
        before = _worst(start)
        changes = [abs(value - before.get(key, 0.0)) if value else 0.0 for key, value in _worst(now).items()]
        return _largest(changes)

    async def _total_increase(
        self, selector: str, window: AnalysisWindow, missing: float | None = None
    ) -> float | None:
        """Return the increase of counters since the start of the rollout; raises MetricsUnavailable."""
        increase = await self._prometheus.increase(selector, window.rollout, window.now)
        return sum(increase.values()) if increase else missing

    async def _violations_found_by_stable(self, counter: str, window: AnalysisWindow) -> float | None:
        """Return the violations that stable has found in the ledger since the start of the rollout.

        None if no replica exports the counter; 0 if only canaries do, because stable is an older version that does not
        check.
        """
        increases = await self._prometheus.increase(f'{counter}{{job="services"}}', window.rollout, window.now)
        return sum(value for key, value in increases.items() if key[3] == "stable") if increases else None

    async def _missing_entries(self, now: float) -> float | None:
        """Return the events that canaries have processed in a dry run without their entry in the history.

        None if no canary counts entries. Raises MetricsUnavailable.
        """
        labels = f'job="services", track="canary", service="{_TRANSACTION}", type=~"{_ENTRY_EVENTS}"'
        entries = f"sum by (instance) ({self._metrics.entries}{{{labels}}})"
        events = f'sum by (instance) ({self._metrics.consumed}{{{labels}, outcome="dry_run"}})'
        # One query sees both counters in the same scrape, which never has more events than entries.
        missing = await self._prometheus.query(f"{events} - {entries}", now, "instance")
        if not missing and not await self._prometheus.query(entries, now, "instance"):
            return None
        return sum(max(0.0, count) for count in missing.values())

    async def _restarts(self, window: AnalysisWindow) -> float | None:
        """Return how often canaries were restarted in the step; raises MetricsUnavailable."""
        selector = f'{self._metrics.started}{{job="services", track="canary"}}'
        period = max(1, round((window.now - window.step) * 1000))
        restarts = await self._prometheus.query(f"changes({selector}[{period}ms])", window.now, "instance")
        return sum(restarts.values()) if restarts else None

    async def _lag(self, selector: str, now: float) -> float | None:
        """Return by how many seconds the canary's consumers lag behind stable's; raises MetricsUnavailable."""
        lags = await self._prometheus.query(f"max by (service, track) ({selector})", now, "service", "track")
        both = [(lags.get((service, "canary")), lags.get((service, "stable"))) for service in self._services]
        behind = [canary - stable for canary, stable in both if canary is not None and stable is not None]
        return max(0.0, _largest(behind)) if len(behind) == len(both) else None


async def _or_none(value: Awaitable[Result]) -> Result | None:
    try:
        return await value
    except MetricsUnavailable:
        return None


def _track_counts(service: str, requests: Values, errors: Values, buckets: Values) -> TrackCounts | None:
    """Return the counts of a service; None unless all three are measured."""
    measured = [
        {key: value for key, value in values.items() if key[2] == service} for values in (requests, errors, buckets)
    ]
    if not all(measured):
        return None
    own_requests, own_errors, durations = measured
    by_bound: dict[str, float] = {}
    for key, value in durations.items():
        by_bound[key[4]] = by_bound.get(key[4], 0.0) + value
    return TrackCounts(sum(own_requests.values()), sum(own_errors.values()), by_bound)


def _worst(values: Values) -> Values:
    """Return the value furthest from 0 among the replicas, by the labels without the last one (instance)."""
    worst: dict[Key, float] = {}
    for key, value in values.items():
        worst[key[:-1]] = max(value, worst.get(key[:-1], 0.0), key=_distance)
    return worst


def _distance(value: float) -> float:
    return math.inf if math.isnan(value) else abs(value)


def _largest(values: Iterable[float]) -> float:
    """Return the largest value; NaN if one of them is NaN."""
    numbers = list(values)
    return math.nan if any(map(math.isnan, numbers)) else max(numbers, default=0.0)

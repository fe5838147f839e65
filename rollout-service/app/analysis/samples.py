"""Reads what a canary is judged by from Prometheus' HTTP API.

Counters are differences of two instant queries, one at the beginning and one now: what was counted, where `increase`
would extrapolate. A series that is missing at the beginning counts from 0, and one that is lower than it was has been
reset and counts whole. What a replica answered before it left still counts. Prometheus sees a replica every scrape
interval (5 s), so both ends are as old as that.

Latencies count from a warm-up on: the first requests of a new process open connections and prepare statements, and
NGINX has just been reloaded. And what holds everything up for a moment must have been measured of stable when it is of
the canary, so stable's latencies begin an interval earlier and the canary's end an interval earlier.

What is not measured *now* is None, never 0: a canary of which one target does not answer, an old `up` (Prometheus
would go on telling it for five minutes), a series that nobody exports under the expected name and labels.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass

import httpx

from app.analysis.model import Samples, ServiceCounts, TrackCounts

log = logging.getLogger(__name__)

_SECONDS = 2.0
# Four scrapes: older than that is not measured any more.
_STALE_SECONDS = 20.0
_ACCOUNT, _TRANSACTION = "account-service", "transaction-service"
_REQUEST = 'handler!~"/health/.*|/metrics|/internal/.*|/docs.*"'
_BY = "instance, version, service, track"

Key = tuple[str, ...]
Values = Mapping[Key, float]


class Unmeasured(Exception):
    """Prometheus gives no usable answer."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The names of the series, as the services export them."""

    requests: str = "http_requests_total"
    durations: str = "http_request_duration_seconds_bucket"
    imbalance: str = "bank_ledger_imbalance"
    violations: str = "bank_ledger_violations_total"
    mismatches: str = "bank_reconciliation_mismatches"
    consumed: str = "bank_events_consumed_total"
    lag: str = "bank_consumer_lag_seconds"
    checked: str = "bank_check_completed_timestamp_seconds"


@dataclass(frozen=True, slots=True)
class Moments:
    """When a step and its rollout began, and what now is; in seconds since 1970.

    Invariants count since the rollout began: a breach is measured some time after it was caused, maybe in the next
    step. Stable's requests of `before_seconds` before the rollout, and since, are what is known of it before the step.
    Latencies count from `warm_up` seconds of a step on; `scrape` is how often Prometheus looks, in seconds.
    """

    step: float
    now: float
    rollout: float
    before_seconds: float = 600
    warm_up: float = 10
    scrape: float = 5


class PrometheusSamples:
    """Samples from a Prometheus server."""

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        services: Iterable[str] = (_ACCOUNT, _TRANSACTION),
        metrics: Metrics = Metrics(),
    ) -> None:
        self._url = url.rstrip("/")
        self._client = client
        self._services = tuple(services)
        self._metrics = metrics

    async def read(self, moments: Moments) -> Samples:
        """Return what is known of a step. Never raises: what cannot be had is None."""
        alive, services, invariants = await asyncio.gather(
            self._alive(moments.now), self._counts(moments), self._invariants(moments)
        )
        return Samples(
            seconds=moments.now - moments.step,
            services=tuple(
                ServiceCounts(
                    service,
                    stable=services.get((service, "stable")) if (service, "stable") in alive else None,
                    canary=services.get((service, "canary")) if (service, "canary") in alive else None,
                    before=services.get((service, "before")),
                )
                for service in self._services
            ),
            invariants=invariants,
        )

    async def _alive(self, now: float) -> set[tuple[str, str]]:
        """Return service and track where every canary, or a stable replica, has answered Prometheus of late."""
        selector = 'up{job="services"}'
        try:
            ups, times = await asyncio.gather(
                self._query(selector, now, "service", "track", "instance"),
                self._query(f"timestamp({selector})", now, "service", "track", "instance"),
            )
        except Unmeasured:
            return set()
        answers: dict[tuple[str, str], list[bool]] = {}
        for key, value in ups.items():
            fresh = now - times.get(key, -math.inf) <= _STALE_SECONDS
            answers.setdefault((key[0], key[1]), []).append(value == 1 and fresh)
        return {pair for pair, up in answers.items() if (all(up) if pair[1] == "canary" else any(up))}

    async def _counts(self, moments: Moments) -> Mapping[tuple[str, str], TrackCounts]:
        """Return what was answered in the step by service and track; track `before` is stable's time before it."""
        earlier = min(moments.rollout, moments.step) - moments.before_seconds
        warm = moments.step + moments.warm_up
        found: dict[tuple[str, str], TrackCounts] = {}
        for name, start, end, slow_from, slow_to in (
            ("stable", moments.step, moments.now, warm - moments.scrape, moments.now),
            ("canary", moments.step, moments.now, warm, moments.now - moments.scrape),
            ("before", earlier, moments.step, earlier, moments.step),
        ):
            # Not begun: it is measured that nothing has grown, for errors count from the first one on.
            latencies = (slow_from, slow_to) if slow_from < slow_to else (end, end)
            of = f'job="services", track="{"canary" if name == "canary" else "stable"}", {_REQUEST}'
            try:
                everything, errors, buckets = await asyncio.gather(
                    self._grown(f"{self._metrics.requests}{{{of}}}", start, end),
                    self._grown(f'{self._metrics.requests}{{{of}, status=~"5.."}}', start, end),
                    self._grown(f"{self._metrics.durations}{{{of}}}", *latencies),
                )
            except Unmeasured:
                continue
            for service in self._services:
                if counts := _counted(service, everything, errors, buckets):
                    found[service, name] = counts
        return found

    async def _invariants(self, moments: Moments) -> Mapping[str, float | None]:
        """Return by invariant how far it is broken since the rollout began."""
        names = self._metrics
        canary = 'job="services", track="canary"'
        looked: Mapping[str, Awaitable[float | None]] = {
            # What was broken before the rollout is a page to somebody, and not the canary's doing.
            # A ledger without accounts has no currencies; that it is checked shows that it is measured.
            "ledger-imbalance": self._changed(
                f'{names.imbalance}{{job="services"}}',
                moments,
                "currency",
                checked=f'{names.checked}{{job="services", check="ledger"}}',
            ),
            "reconciliation": self._changed(f'{names.mismatches}{{job="services"}}', moments),
            "ledger-violation": self._since(f"{names.violations}{{{canary}}}", moments),
            "dead-letters": self._since(f'{names.consumed}{{{canary}, outcome="dead"}}', moments),
            # There from the first failure on; that the name is right is seen by the dead letters, which begin at 0.
            "consumer": self._since(f'{names.consumed}{{{canary}, outcome="failed"}}', moments, missing=0.0),
            "consumer-lag": self._lag(f'{names.lag}{{job="services"}}', moments.now),
        }
        return dict(zip(looked, await asyncio.gather(*map(_or_none, looked.values()))))

    async def _changed(self, selector: str, moments: Moments, *labels: str, checked: str = "") -> float:
        """Return the largest of a gauge's values that are neither 0 nor what they were; raises Unmeasured.

        Where the series `checked` is there, a gauge without any value is sound.
        """
        now, start = await asyncio.gather(
            self._query(selector, moments.now, *labels, "instance"),
            self._query(selector, moments.rollout, *labels, "instance"),
        )
        if not now and not (checked and await self._query(checked, moments.now, "instance")):
            raise Unmeasured(f"no series {selector}")
        known = _worst(start)
        changes = [abs(value - known.get(key, 0.0)) if value else 0.0 for key, value in _worst(now).items()]
        return _largest(changes)

    async def _since(self, selector: str, moments: Moments, missing: float | None = None) -> float | None:
        """Return by how much counters have grown since the rollout began; raises Unmeasured."""
        grown = await self._grown(selector, moments.rollout, moments.now)
        return sum(grown.values()) if grown else missing

    async def _lag(self, selector: str, now: float) -> float | None:
        """Return how many seconds the canary's consumers are behind stable's; raises Unmeasured."""
        lags = await self._query(f"max by (service, track) ({selector})", now, "service", "track")
        both = [(lags.get((service, "canary")), lags.get((service, "stable"))) for service in self._services]
        behind = [canary - stable for canary, stable in both if canary is not None and stable is not None]
        return max(0.0, _largest(behind)) if len(behind) == len(both) else None

    async def _grown(self, selector: str, start: float, end: float) -> Values:
        """Return by how much counters have grown, by the labels of _BY and `le`; raises Unmeasured.

        All counters of a replica are reset together, so what each replica counted in all is enough.
        """
        labels = [*_BY.split(", "), "le"]
        if start == end:
            return dict.fromkeys(await self._query(f"sum by ({_BY}, le) ({selector})", end, *labels), 0.0)
        window = max(1, round((end - start) * 1000))
        now, before = await asyncio.gather(
            self._query(f"sum by ({_BY}, le) (last_over_time({selector}[{window}ms]))", end, *labels),
            self._query(f"sum by ({_BY}, le) ({selector})", start, *labels),
        )
        return {
            key: value if value < before.get(key, 0.0) else value - before.get(key, 0.0) for key, value in now.items()
        }

    async def _query(self, expression: str, at: float, *labels: str) -> Values:
        """Return the values of an instant query by labels; raises Unmeasured when there is no answer."""
        try:
            answer = await self._client.post(
                f"{self._url}/api/v1/query", data={"query": expression, "time": f"{at:.3f}"}, timeout=_SECONDS
            )
            answer.raise_for_status()
            return {
                tuple(series["metric"].get(label, "") for label in labels): float(series["value"][1])
                for series in answer.json()["data"]["result"]
            }
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("Prometheus gives no answer: %r", error)
            raise Unmeasured(str(error)) from error


async def _or_none(figure: Awaitable[float | None]) -> float | None:
    try:
        return await figure
    except Unmeasured:
        return None


def _counted(service: str, everything: Values, errors: Values, buckets: Values) -> TrackCounts | None:
    """Return the counts of a service; None unless each of the three is measured."""
    mine = [
        {key: value for key, value in values.items() if key[2] == service} for values in (everything, errors, buckets)
    ]
    if not all(mine):
        return None
    requests, failed, durations = mine
    by_bound: dict[str, float] = {}
    for key, value in durations.items():
        by_bound[key[4]] = by_bound.get(key[4], 0.0) + value
    return TrackCounts(sum(requests.values()), sum(failed.values()), by_bound)


def _worst(values: Values) -> Values:
    """Return what is furthest from 0 of what several replicas say of the same, without the last label."""
    found: dict[Key, float] = {}
    for key, value in values.items():
        found[key[:-1]] = max(value, found.get(key[:-1], 0.0), key=_distance)
    return found


def _distance(value: float) -> float:
    return math.inf if math.isnan(value) else abs(value)


def _largest(values: Iterable[float]) -> float:
    """Return the largest; NaN if one of them is."""
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)

"""Reads the outcomes of requests and transactions from Prometheus."""

import asyncio
from collections.abc import Iterable, Mapping

from app.analysis.model import OutcomeCounts
from app.analysis.queries import AnalysisWindow, Prometheus, Values, summed

_LEDGER = "account-service"
_POSTED, _REFUSED = "posted", "refused"
_REQUEST = 'job="services", handler=~"/api/.*|unmatched"'
# NGINX's time limit for a canary, in seconds, which is a bound of the services' buckets; its status for a canary that
# does not respond in time, or not with valid HTTP.
_TIME_LIMIT = "5"
_UNANSWERED_STATUSES = ("502", "504")


async def read_outcomes(
    prometheus: Prometheus, window: AnalysisWindow, services: Iterable[str]
) -> tuple[OutcomeCounts, ...]:
    """Return the outcomes of the step. Raises MetricsUnavailable if Prometheus does not answer.

    An earlier version, which does not export these labels yet, has no outcomes or clients; they are not compared then.
    """
    step, before = (window.step, window.now), (window.before, window.step)
    labels = ("handler", "method", "status", "code")
    requests, transactions, retries, durations, clients, clients_before = await asyncio.gather(
        prometheus.increase(f"http_requests_total{{{_REQUEST}}}", *step, *labels),
        prometheus.increase('bank_transactions_total{job="services"}', *step, "type", "status"),
        prometheus.increase(
            'http_canary_retries_total{job="services", track="stable"}',
            *step,
            *("handler", "method", "status", "canary_status"),
        ),
        prometheus.increase(
            f'http_request_duration_seconds_bucket{{{_REQUEST}, track="stable", le=~"{_TIME_LIMIT}(\\\\.0)?|[+]Inf"}}',
            *step,
            "le",
        ),
        prometheus.increase('bank_client_outcomes_total{job="services"}', *step, "bucket", "outcome"),
        prometheus.increase('bank_client_outcomes_total{job="services", track="stable"}', *before, "bucket", "outcome"),
    )
    clients_by_period = (clients, clients_before)
    by_service = [_of_requests(service, requests, retries, durations, clients_by_period) for service in services]
    return (*by_service, _of_transactions(transactions, clients_by_period))


def _of_requests(
    service: str, requests: Values, retries: Values, durations: Values, clients_by_period: tuple[Values, Values]
) -> OutcomeCounts:
    """Return the outcomes of a service's requests; NGINX's retries of the canary's requests do not count for stable."""
    own_retries = {key: value for key, value in retries.items() if key[2] == service}
    retried, by_status = summed(own_retries, 4, 5, 6), summed(own_retries, 6, 7)
    canary, stable = (_by_outcome(requests, service, track) for track in ("canary", "stable"))
    stable_totals = summed(stable, 0, 1, 2)
    without_retries = {
        key: value * max(0.0, 1 - retried.get(key[:3], 0.0) / stable_totals[key[:3]]) if stable_totals[key[:3]] else 0.0
        for key, value in stable.items()
    }
    return OutcomeCounts(
        name=service,
        canary_total=sum(canary.values()),
        stable_total=sum(without_retries.values()),
        canary=_unsuccessful(canary),
        stable=_unsuccessful(without_retries),
        canary_clients=_clients(clients_by_period[:1], service, "canary"),
        stable_clients=_clients(clients_by_period, service, "stable"),
        # The test of errors counts the canary's 5xx.
        retried=sum(
            value
            for (status, canary_status), value in by_status.items()
            if status.startswith("2") and not canary_status.startswith("5")
        ),
        unanswered=sum(
            value
            for (status, canary_status), value in by_status.items()
            if canary_status in _UNANSWERED_STATUSES and not status.startswith("5")
        ),
        stable_slow=_slow(service, durations),
    )


def _slow(service: str, durations: Values) -> float:
    """Return the requests of a service above the time limit, from its cumulative buckets."""
    counts = summed({key: value for key, value in durations.items() if key[2] == service}, 4)
    total = counts.pop(("+Inf",), 0.0)
    return max(0.0, total - sum(counts.values())) if counts else 0.0


def _of_transactions(transactions: Values, clients_by_period: tuple[Values, Values]) -> OutcomeCounts:
    tracks = {}
    for track in ("canary", "stable"):
        counts = summed({key: value for key, value in transactions.items() if key[3] == track}, 5, 4)
        refused = {f"{status} {type_}": value for (status, type_), value in counts.items() if status == _REFUSED}
        tracks[track] = sum(counts.values()), refused
    return OutcomeCounts(
        name="transactions",
        canary_total=tracks["canary"][0],
        stable_total=tracks["stable"][0],
        canary=tracks["canary"][1],
        stable=tracks["stable"][1],
        canary_clients=_clients(clients_by_period[:1], _LEDGER, "canary", (_POSTED, _REFUSED)),
        stable_clients=_clients(clients_by_period, _LEDGER, "stable", (_POSTED, _REFUSED)),
    )


def _by_outcome(requests: Values, service: str, track: str) -> dict[tuple[str, ...], float]:
    """Return the requests of a track by handler, method, status and code."""
    return summed({key: value for key, value in requests.items() if key[2:4] == (service, track)}, 4, 5, 6, 7)


def _unsuccessful(requests: Values) -> dict[str, float]:
    """Return the requests with a 4xx by outcome; the test of errors counts those with a 5xx."""
    return {
        " ".join(part for part in (status, code, method, handler) if part): value
        for (handler, method, status, code), value in requests.items()
        if status.startswith("4") and value
    }


def _clients(
    periods: Iterable[Values], service: str, track: str, only: tuple[str, ...] = ()
) -> Mapping[str, Mapping[str, float]]:
    """Return outcomes by bucket of clients: those of transactions (`only`), or those of requests."""
    by_outcome: dict[str, dict[str, float]] = {}
    for period in periods:
        counts = {key: value for key, value in period.items() if key[2:4] == (service, track) and value}
        for (bucket, outcome), value in summed(counts, 4, 5).items():
            if (outcome in only) if only else outcome not in (_POSTED, _REFUSED):
                buckets = by_outcome.setdefault(outcome, {})
                buckets[bucket] = buckets.get(bucket, 0.0) + value
    return by_outcome

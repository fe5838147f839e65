"""Metrics of HTTP requests; `handler` is the route's template, never a raw path."""

import re
from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

from shared.prometheus.registry import REGISTRY

REQUESTS = Counter(
    "http_requests",
    "Number of completed HTTP requests; `code` is that of the problem, empty without one.",
    ["handler", "method", "status", "code"],
    registry=REGISTRY,
)
DURATION = Histogram(
    "http_request_duration_seconds",
    "Time from the request headers to the last byte of the response, in seconds.",
    ["handler", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
CPU = Histogram(
    "http_request_cpu_seconds",
    "CPU time of the event loop during requests that no other request overlapped, in seconds.",
    ["handler", "method"],
    buckets=(0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.128),
    registry=REGISTRY,
)
CLIENT_OUTCOMES = Counter(
    "bank_client_outcomes",
    "Outcomes by bucket of clients: statuses of requests (2xx, 3xx and 5xx together), posted and refused transactions.",
    ["bucket", "outcome"],
    registry=REGISTRY,
)
IN_PROGRESS = Gauge("http_requests_in_progress", "Number of HTTP requests in progress.", registry=REGISTRY)

CANARY_RETRIES = Counter(
    "http_canary_retries",
    "Requests that NGINX sent to this replica after a canary did not succeed; `canary_status` is the canary's status,"
    " 502 or 504 if it did not respond, 503 if NGINX could not connect, and `status` this replica's.",
    ["handler", "method", "canary_status", "status"],
    registry=REGISTRY,
)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@lru_cache(maxsize=1024)
def _children(handler: str, method: str, status: int, code: str) -> tuple[Counter, Histogram]:
    # Failures start at 0, so that `increase` sees the first one.
    for failure, problem in (("500", "internal-error"), ("503", "unavailable")):
        REQUESTS.labels(handler, method, failure, problem)
    return REQUESTS.labels(handler, method, str(status), code), DURATION.labels(handler, method)


def observe(handler: str, method: str, status: int, seconds: float, code: str = "") -> None:
    """Record one completed request; `code` must be that of a known problem type."""
    requests, duration = _children(handler, _known(method), status, code)
    requests.inc()
    duration.observe(seconds)


def observe_cpu(handler: str, method: str, seconds: float) -> None:
    """Record the CPU time of a request that no other one overlapped."""
    CPU.labels(handler, _known(method)).observe(seconds)


def count_outcome(bucket: str, status: int) -> None:
    """Count the outcome of a request for the clients of a bucket."""
    _outcome(bucket, str(status) if 400 <= status < 500 else f"{status // 100}xx").inc()


@lru_cache(maxsize=1024)
def _outcome(bucket: str, outcome: str) -> Counter:
    return CLIENT_OUTCOMES.labels(bucket, outcome)


def _known(method: str) -> str:
    return method if method in _METHODS else "OTHER"


def count_canary_retry(handler: str, method: str, canary_status: bytes, status: int) -> None:
    """Count a request that a canary was asked before; a header that NGINX does not send (300 to 599) is ignored."""
    if re.fullmatch(rb"[345][0-9]{2}", canary_status):
        CANARY_RETRIES.labels(handler, _known(method), canary_status.decode(), str(status)).inc()

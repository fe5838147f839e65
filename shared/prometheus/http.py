"""Metrics of HTTP requests; `handler` is the route's template, never a raw path."""

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

from shared.prometheus.registry import REGISTRY

REQUESTS = Counter(
    "http_requests", "Number of completed HTTP requests.", ["handler", "method", "status"], registry=REGISTRY
)
DURATION = Histogram(
    "http_request_duration_seconds",
    "Time from the request headers to the last byte of the response, in seconds.",
    ["handler", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
IN_PROGRESS = Gauge("http_requests_in_progress", "Number of HTTP requests in progress.", registry=REGISTRY)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@lru_cache(maxsize=1024)
def _children(handler: str, method: str, status: int) -> tuple[Counter, Histogram]:
    # Failures start at 0, so that `increase` sees the first one.
    for failure in ("500", "503"):
        REQUESTS.labels(handler, method, failure)
    return REQUESTS.labels(handler, method, str(status)), DURATION.labels(handler, method)


def observe(handler: str, method: str, status: int, seconds: float) -> None:
    """Record one completed request."""
    requests, duration = _children(handler, method if method in _METHODS else "OTHER", status)
    requests.inc()
    duration.observe(seconds)

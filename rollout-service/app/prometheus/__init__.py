"""Metrics of rollout-service."""

from prometheus_client import Counter, Gauge, Histogram

from shared.prometheus.registry import REGISTRY

STATE = Gauge(
    "rollout_state", "1 for the phase that the rollout is in, 0 for the others.", ["state"], registry=REGISTRY
)
WEIGHT = Gauge("rollout_weight", "Percentage of clients that NGINX sends to the canary.", registry=REGISTRY)
VERDICTS = Counter("rollout_verdicts", "Verdicts about a canary.", ["verdict", "reason"], registry=REGISTRY)
LAST_VERDICT = Gauge(
    "rollout_last_verdict_timestamp_seconds",
    "When this verdict was last given, in seconds since 1970.",
    ["verdict", "reason"],
    registry=REGISTRY,
)
DURATION = Histogram(
    "rollout_duration_seconds",
    "From the beginning of a rollout until it was promoted or rolled back.",
    ["outcome"],
    buckets=(30, 60, 120, 300, 600, 1200, 1800, 3600, 7200),
    registry=REGISTRY,
)
FAILURES = Counter(
    "rollout_failures",
    "What rollout-service could not do, and tries again: state, nginx, docker, notify.",
    ["operation"],
    registry=REGISTRY,
)
for _operation in ("state", "nginx", "docker", "notify"):
    FAILURES.labels(_operation)

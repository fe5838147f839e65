"""Metrics of rollout-service."""

from prometheus_client import Counter, Gauge, Histogram

from shared.prometheus.registry import REGISTRY

STATE = Gauge(
    "rollout_state", "1 for the current phase of the rollout, 0 for the others.", ["state"], registry=REGISTRY
)
WEIGHT = Gauge(
    "rollout_weight", "Canary weight: percentage of clients that NGINX sends to the canary.", registry=REGISTRY
)
VERDICTS = Counter("rollout_verdicts", "Verdicts of the canary analysis.", ["verdict", "reason"], registry=REGISTRY)
LAST_VERDICT = Gauge(
    "rollout_last_verdict_timestamp_seconds",
    "Unix time of the last verdict with these labels.",
    ["verdict", "reason"],
    registry=REGISTRY,
)
DURATION = Histogram(
    "rollout_duration_seconds",
    "Duration of a rollout until its promotion or rollback.",
    ["outcome"],
    buckets=(30, 60, 120, 300, 600, 1200, 1800, 3600, 7200),
    registry=REGISTRY,
)
FAILURES = Counter(
    "rollout_failures",
    "Failed operations of rollout-service: state, nginx, docker and notify, which are retried, and record.",
    ["operation"],
    registry=REGISTRY,
)
for _operation in ("state", "nginx", "docker", "notify", "record"):
    FAILURES.labels(_operation)
CONTRACT_FAILURES = Counter(
    "bank_contract_probe_failures",
    "Responses that differ from the recorded ones of the contract probe; `track` is that of the probed replica.",
    ["service", "track", "probe"],
    registry=REGISTRY,
)

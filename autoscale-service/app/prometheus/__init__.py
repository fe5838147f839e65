"""Metrics of autoscale-service; `service` is the one that is scaled."""

from prometheus_client import Counter, Gauge

from shared.prometheus.registry import REGISTRY

REPLICAS = Gauge("autoscale_replicas", "Stable replicas: current, desired.", ["service", "kind"], registry=REGISTRY)
DECISIONS = Counter(
    "autoscale_decisions",
    "Decisions, also those to change nothing.",
    ["service", "direction", "reason"],
    registry=REGISTRY,
)
FAILURES = Counter(
    "autoscale_failures",
    "Operations that failed; service is `all` where none can be named.",
    ["service", "operation"],
    registry=REGISTRY,
)
FAILURES.labels("all", "observe")
WEBHOOKS = Counter("autoscale_webhooks", "Webhooks: accepted, or why not.", ["outcome"], registry=REGISTRY)
LEADER = Gauge("autoscale_leader", "1 where this instance acts, 0 where it only watches.", registry=REGISTRY)
PAUSED = Gauge("autoscale_paused", "1 while an operator has paused scaling.", registry=REGISTRY)

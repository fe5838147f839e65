"""Metrics of autoscale-service; `service` is the one that is scaled."""

from prometheus_client import Counter, Gauge

from shared.prometheus.registry import REGISTRY

REPLICAS = Gauge("autoscale_replicas", "Stable replicas: current and desired.", ["service", "kind"], registry=REGISTRY)
DECISIONS = Counter(
    "autoscale_decisions",
    "Scaling decisions, including those without a change; dry_run is `true` for those that only a dry run made.",
    ["service", "direction", "reason", "dry_run"],
    registry=REGISTRY,
)
DRY_RUN_REPLICAS = Gauge(
    "autoscale_dry_run_replicas",
    "Number of replicas that a dry run would set; not exported without a dry run.",
    ["service"],
    registry=REGISTRY,
)
FAILURES = Counter(
    "autoscale_failures",
    "Failed scaling operations; service is `all` for failures that are not specific to one service.",
    ["service", "operation"],
    registry=REGISTRY,
)
FAILURES.labels("all", "observe")
WEBHOOKS = Counter(
    "autoscale_webhooks",
    "Webhooks by outcome: accepted, or the reason for the rejection.",
    ["outcome"],
    registry=REGISTRY,
)
LEADER = Gauge("autoscale_leader", "1 if this instance is the leader, 0 if it is on standby.", registry=REGISTRY)
PAUSED = Gauge("autoscale_paused", "1 while an operator has paused scaling.", registry=REGISTRY)

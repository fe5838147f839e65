"""Metrics of transaction-service."""

from prometheus_client import Counter, Gauge

from shared.prometheus.registry import REGISTRY

FLAGS = Counter("bank_flags", "Findings of the fraud rules.", ["rule"], registry=REGISTRY)
ENTRIES = Counter(
    "bank_history_entries",
    "Events of a canary's dry run whose entry was in the history afterwards, as the event describes it.",
    ["type"],
    registry=REGISTRY,
)
WEBHOOK_DELIVERIES = Counter(
    "bank_webhook_deliveries", "Attempts to deliver an event to a webhook.", ["result"], registry=REGISTRY
)
WEBHOOK_OLDEST_PENDING = Gauge(
    "bank_webhook_oldest_pending_seconds",
    "Age of the oldest event that a webhook without failures waits for.",
    registry=REGISTRY,
)
WEBHOOKS = Gauge("bank_webhooks", "Webhooks by state: healthy, failing or disabled.", ["state"], registry=REGISTRY)
MISMATCHES = Gauge(
    "bank_reconciliation_mismatches",
    "Accounts whose history differs from account-service's balance.",
    registry=REGISTRY,
)

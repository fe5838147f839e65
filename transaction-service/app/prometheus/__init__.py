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
MISMATCHES = Gauge(
    "bank_reconciliation_mismatches",
    "Accounts whose history differs from account-service's balance.",
    registry=REGISTRY,
)

"""Metrics of account-service."""

from prometheus_client import Counter, Gauge, Histogram

from shared.prometheus.registry import REGISTRY

TRANSACTIONS = Counter(
    "bank_transactions", "Money movements decided, by outcome.", ["type", "status", "currency"], registry=REGISTRY
)
AMOUNT = Counter(
    "bank_transaction_amount_minor", "Money moved, in minor units.", ["type", "currency"], registry=REGISTRY
)
BATCH_SIZE = Histogram(
    "bank_group_commit_batch_size",
    "Requests in one database transaction.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    registry=REGISTRY,
)
VIOLATIONS = Counter(
    "bank_ledger_violations",
    "Batches that the database refused because no sound ledger can hold them.",
    ["constraint"],
    registry=REGISTRY,
)
# From nothing to the first one would be no increase.
for _constraint in ("double_entry", "balance_of_last_entry", "customer_balance_not_negative"):
    VIOLATIONS.labels(_constraint)
IMBALANCE = Gauge(
    "bank_ledger_imbalance", "Sum of all balances; anything but 0 is a broken ledger.", ["currency"], registry=REGISTRY
)

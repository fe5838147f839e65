"""Metrics of account-service."""

from prometheus_client import Counter, Gauge, Histogram

from shared.prometheus.registry import REGISTRY

TRANSACTIONS = Counter(
    "bank_transactions",
    "Transactions by type, status (posted or refused) and currency.",
    ["type", "status", "currency"],
    registry=REGISTRY,
)
AMOUNT = Counter(
    "bank_transaction_amount_minor",
    "Amount of posted transactions, in minor units.",
    ["type", "currency"],
    registry=REGISTRY,
)
BATCH_SIZE = Histogram(
    "bank_group_commit_batch_size",
    "Requests per database transaction; a transfer batch is one request.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    registry=REGISTRY,
)
VIOLATIONS = Counter(
    "bank_ledger_violations",
    "Batches rejected by a trigger or constraint because they would have made the ledger inconsistent.",
    ["constraint"],
    registry=REGISTRY,
)
# Of the triggers and of the tables (app.models). Initialized to 0, so that increase() sees the first violation of each.
CONSTRAINTS = (
    *("double_entry", "balance_of_last_entry", "append_only", "reversals_within_original"),
    *("balance_within_overdraft", "held_is_covered"),
    *("known_kind", "known_status", "amount_is_positive", "two_accounts", "seq_starts_at_one", "hold_is_positive"),
    *("capture_within_hold", "known_hold_status"),
)
for _constraint in CONSTRAINTS:
    VIOLATIONS.labels(_constraint)
EVENT_MISMATCHES = Counter(
    "bank_event_mismatches",
    "Transactions whose events in the outbox are missing or different, of those that a stable replica compared.",
    ["kind"],
    registry=REGISTRY,
)
for _kind in ("missing", "different"):
    EVENT_MISMATCHES.labels(_kind)
HOLD_MISMATCHES = Counter(
    "bank_hold_mismatches",
    "Accounts whose held money differs from their active holds, of those that a stable replica compared.",
    registry=REGISTRY,
)
IMBALANCE = Gauge(
    "bank_ledger_imbalance",
    "Sum of all balances, in minor units; not 0 if the ledger is inconsistent.",
    ["currency"],
    registry=REGISTRY,
)
SEALED = Counter(
    "bank_ledger_sealed_transactions",
    "Posted transactions that were added to the ledger's Merkle tree.",
    registry=REGISTRY,
)

"""Privileges of transaction-service's database role (shared/db/grants.py)."""

from shared.db.grants import Grants

# The history can be rebuilt from events; its rows are never updated.
_PROJECTION = "SELECT, INSERT, TRUNCATE"
# Without refusals, it can be rebuilt from the ledger.
_PROJECTION_WITH_REFUSALS = f"{_PROJECTION}, DELETE"

GRANTS: Grants = {
    "accounts": _PROJECTION,
    "transactions": _PROJECTION_WITH_REFUSALS,
    "entries": _PROJECTION_WITH_REFUSALS,
    "checkpoints": _PROJECTION,
    "flags": "SELECT, INSERT",
    # Old events are deleted.
    "outbox": "SELECT, INSERT, UPDATE (position), DELETE",
    "outbox_progress": "SELECT, INSERT, UPDATE (position)",
    "consumed_positions": "SELECT, INSERT, UPDATE (ranges), TRUNCATE",
    # Used by replicas of earlier releases during an upgrade.
    "inbox": _PROJECTION,
    "consumer_positions": "SELECT, INSERT, UPDATE (position)",
    "dead_letters": "SELECT, INSERT",
    "webhooks": "SELECT, INSERT, UPDATE, DELETE",
    "webhook_events": "SELECT, INSERT, DELETE",
    "webhook_deliveries": "SELECT, INSERT, DELETE",
}

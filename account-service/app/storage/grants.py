"""Privileges of the service's role in its database (shared/db/grants.py)."""

from app.storage.triggers import TRANSPARENCY_LOG
from shared.db.grants import Grants

GRANTS: Grants = {
    "accounts": "SELECT, INSERT, UPDATE (status, balance, held, seq, updated_at, overdraft_limit, daily_debit_limit,"
    " debited, debited_since)",
    # Posted transactions and entries are immutable.
    "transactions": "SELECT, INSERT",
    "entries": "SELECT, INSERT",
    # So are audit entries.
    "audit_log": "SELECT, INSERT",
    # So is the transparency log.
    **dict.fromkeys(TRANSPARENCY_LOG, "SELECT, INSERT"),
    "holds": "SELECT, INSERT, UPDATE (status, amount, placed_amount, captured_amount, transaction_id, expires_at)",
    # Old keys are deleted.
    "idempotency_keys": "SELECT, INSERT, DELETE",
    # The position of an event is assigned after the commit; old events are deleted.
    "outbox": "SELECT, INSERT, UPDATE (position), DELETE",
    "outbox_progress": "SELECT, INSERT, UPDATE (position)",
    "consumed_positions": "SELECT, INSERT, UPDATE (ranges)",
    # Used by replicas of earlier releases during an upgrade.
    "consumer_positions": "SELECT, INSERT, UPDATE (position)",
    "dead_letters": "SELECT, INSERT",
}

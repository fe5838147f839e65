"""What account-service's own role may do in its database (shared/db/grants.py)."""

from shared.db.grants import Grants

GRANTS: Grants = {
    "accounts": "SELECT, INSERT, UPDATE (status, balance, held, seq, updated_at)",
    # What was posted stays.
    "transactions": "SELECT, INSERT",
    "entries": "SELECT, INSERT",
    # Who did what stays, too.
    "audit_log": "SELECT, INSERT",
    "holds": "SELECT, INSERT, UPDATE (status, captured_amount, transaction_id)",
    # Old keys are forgotten.
    "idempotency_keys": "SELECT, INSERT, DELETE",
    # An event is numbered once it is committed, and stays.
    "outbox": "SELECT, INSERT, UPDATE (position)",
    "outbox_progress": "SELECT, INSERT, UPDATE (position)",
    "consumer_positions": "SELECT, INSERT, UPDATE (position)",
    "dead_letters": "SELECT, INSERT",
}
